//! The clock: tokens are valid by it. Compared with a time server (SNTP, RFC 4330), or with the control plane's `Date`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::UdpSocket;

use super::Finding;

const CHECK: &str = "clock";
/// How long a time server may take.
const TIMEOUT: Duration = Duration::from_millis(1_500);
/// From 1900 to 1970 (RFC 4330 section 3).
const NTP_TO_UNIX_S: u64 = 2_208_988_800;
/// Beyond this tokens that were just made are refused elsewhere.
const OFFSET_ERROR_S: f64 = 5.0;
/// A clock that is kept in time is never so far off.
const OFFSET_WARNING_S: f64 = 0.5;
/// `Date` counts whole seconds, and its answer was on its way.
const COARSE_WARNING_S: f64 = 2.0;
const FIX: &str = "have the clock kept in time: `timedatectl set-ntp true`, or install chrony";

/// Looks at the clock. `control_s` is how far the control plane's is ahead, by its `Date`.
pub(super) async fn look(server: &str, control_s: Option<f64>) -> Finding {
    let mut failed = "no time server asked".to_owned();
    if !server.is_empty() {
        match tokio::time::timeout(TIMEOUT, ask(server)).await {
            Ok(Ok(ahead_s)) => return judge(ahead_s, OFFSET_WARNING_S, server),
            Ok(Err(error)) => failed = format!("{server}: {error}"),
            Err(_) => failed = format!("{server} does not answer"),
        }
    }
    match control_s {
        Some(ahead_s) => judge(ahead_s, COARSE_WARNING_S, "the control plane"),
        None => Finding::warning(
            CHECK,
            format!("not compared: {failed}"),
            "let UDP 123 out, or name a server of yours with --ntp",
        ),
    }
}

fn judge(ahead_s: f64, warning_s: f64, by: &str) -> Finding {
    let says = match ahead_s {
        late if late > 0.0 => format!("{late:.3} s behind {by}"),
        early => format!("{:.3} s ahead of {by}", -early),
    };
    match ahead_s.abs() {
        off if off > OFFSET_ERROR_S => Finding::error(CHECK, says, FIX),
        off if off > warning_s => Finding::warning(CHECK, says, FIX),
        _ => Finding::ok(CHECK, says),
    }
}

/// How far a time server is ahead of us, in seconds.
async fn ask(server: &str) -> std::io::Result<f64> {
    let wrong = |text: &'static str| std::io::Error::other(text);
    let mut addresses = tokio::net::lookup_host((server, 123)).await?;
    let address = addresses.next().ok_or_else(|| wrong("no address"))?;
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    let sent = SystemTime::now();
    let stamp = to_ntp(sent);
    socket.send(&request(stamp)).await?;
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer).await?;
    let arrived = SystemTime::now();
    let heard = answer.get(..length).unwrap_or_default();
    let (received, answered) =
        read(heard, stamp).ok_or_else(|| wrong("no answer of a time server"))?;
    let (sent, arrived) = (unix(sent), unix(arrived));
    Ok(f64::midpoint(received - sent, answered - arrived))
}

/// Version 4, mode client; the transmit timestamp comes back as the originate one.
fn request(stamp: u64) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[0] = 0x23;
    bytes[40..].copy_from_slice(&stamp.to_be_bytes());
    bytes
}

/// When the server received and answered, Unix seconds; `None` when it is no answer to us, or the server is not in time itself.
fn read(bytes: &[u8], stamp: u64) -> Option<(f64, f64)> {
    let field = |at: usize| -> Option<u64> {
        let bytes: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_be_bytes(bytes))
    };
    let (&first, &stratum) = (bytes.first()?, bytes.get(1)?);
    let (leap, mode) = (first >> 6, first & 7);
    let sound = mode == 4 && leap != 3 && (1..16).contains(&stratum) && field(24)? == stamp;
    sound.then_some((from_ntp(field(32)?), from_ntp(field(40)?)))
}

fn unix(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// Seconds since 1900 in 32 bits, which wrap, and 32 bits of fraction.
fn to_ntp(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    ((since.as_secs() + NTP_TO_UNIX_S) << 32) | fraction
}

fn from_ntp(stamp: u64) -> f64 {
    // Seconds below the era's first half are of the era from 2036 on (RFC 4330 section 3).
    let seconds = stamp >> 32;
    let era = if seconds < 1 << 31 { 1 << 32 } else { 0 };
    let whole = seconds + era - NTP_TO_UNIX_S;
    let nanos = ((stamp & 0xffff_ffff) * 1_000_000_000) >> 32;
    Duration::new(whole, u32::try_from(nanos).unwrap_or(0)).as_secs_f64()
}

/// A `Date` header (RFC 9110 section 5.6.7, IMF-fixdate) as Unix seconds.
pub(super) fn date(text: &str) -> Option<f64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut fields = text.split_whitespace().skip(1);
    let day: i64 = fields.next()?.parse().ok()?;
    let month = fields.next().filter(|name| name.len() == 3)?;
    let month = i64::try_from(MONTHS.find(month)? / 3 + 1).ok()?;
    let year: i64 = fields.next()?.parse().ok()?;
    let mut time = fields
        .next()?
        .split(':')
        .map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    if !(1970..10_000).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 of a date in the Gregorian calendar; years begin in March here, so that leap days come last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(Duration::from_secs(u64::try_from(seconds).ok()?).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn dates_are_read() {
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777.0));
        assert_eq!(date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800.0));
        assert_eq!(date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0.0));
        for bad in [
            "",
            "yesterday",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49",
        ] {
            assert_eq!(date(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off() {
        assert_eq!(judge(0.02, OFFSET_WARNING_S, "x").level, Level::Ok);
        assert_eq!(judge(-1.2, OFFSET_WARNING_S, "x").level, Level::Warning);
        assert_eq!(judge(1.2, COARSE_WARNING_S, "x").level, Level::Ok);
        let late = judge(61.0, COARSE_WARNING_S, "the control plane");
        assert_eq!(
            (late.level, late.says.as_str()),
            (Level::Error, "61.000 s behind the control plane")
        );
    }

    #[test]
    fn answers_of_time_servers_are_read_and_others_refused() {
        let now = UNIX_EPOCH + Duration::from_millis(1_790_000_000_250);
        let stamp = to_ntp(now);
        assert!((from_ntp(stamp) - unix(now)).abs() < 1e-6);
        assert!(
            (from_ntp(1 << 32) - 2_085_978_497.0).abs() < 1e-6,
            "of the next era"
        );
        let mut answer = request(to_ntp(now + Duration::from_secs(3)));
        answer[0] = 0x24;
        answer[1] = 2;
        answer[24..32].copy_from_slice(&stamp.to_be_bytes());
        answer[32..40].copy_from_slice(&to_ntp(now + Duration::from_secs(2)).to_be_bytes());
        let (received, answered) = read(&answer, stamp).unwrap();
        assert!((received - unix(now) - 2.0).abs() < 1e-6);
        assert!((answered - unix(now) - 3.0).abs() < 1e-6);
        assert_eq!(read(&answer, stamp + 1), None, "not to what we asked");
        assert_eq!(read(&answer[..40], stamp), None);
        answer[0] |= 0xc0;
        assert_eq!(read(&answer, stamp), None, "not in time itself");
    }

    #[tokio::test]
    async fn without_anything_to_compare_with_it_says_so() {
        let alone = look("", None).await;
        assert_eq!(alone.level, Level::Warning);
        assert_eq!(look("", Some(-0.4)).await.level, Level::Ok);
    }
}
