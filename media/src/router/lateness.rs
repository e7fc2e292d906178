//! How late repaired packets come, and what that asks of the receivers' jitter buffers.
//!
//! A receiver sizes its jitter buffer by its own round trip to us. A packet that an earlier hop lost and repaired comes a round
//! trip of that hop later, which on a long hop is more than any receiver keeps, so every repair would show as a freeze. A packet that
//! the receiver itself lost may come as late: the loss of a frame's last packet shows only when the next frame begins. The playout
//! delay extension tells receivers to wait that long while it is needed.

use std::time::{Duration, Instant};

/// Receivers' own jitter buffers cope with packets up to this late.
const LATE_MIN: Duration = Duration::from_millis(60);
/// Longer waits spoil a conversation more than freezes do.
const LATE_MAX: Duration = Duration::from_millis(800);
/// What comes on top of the latest packet.
const MARGIN: Duration = Duration::from_millis(20);
/// Late packets that are remembered.
const RECENT: usize = 16;
/// Receivers wait for this many of them; the latest, which a hop had to repair twice, are left out.
const COVERED: usize = 13;
/// How long a delay is kept after the packet that asked for it.
const HOLD: Duration = Duration::from_secs(30);
/// Unit of the playout delay extension, milliseconds.
const UNIT_MS: u128 = 10;
/// Largest value of its 12-bit fields.
const FIELD_MAX: u32 = 0xfff;

/// Lateness of the packets of one stream, or of the repairs of one subscription.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    /// Arrival and timestamp of the newest packet in order.
    newest: Option<(Instant, u32)>,
    /// How late the last late packets were, a ring.
    recent: [Duration; RECENT],
    late_packets: usize,
    /// What receivers should wait, and until when.
    wait: Option<(Duration, Instant)>,
    /// A delay was ever asked for: receivers keep the last value they got, so they have to be told when it ends.
    told: bool,
}

impl Lateness {
    /// Notes one packet. `clock_rate` in Hz, not 0.
    #[inline]
    pub(super) fn note(&mut self, now: Instant, timestamp: u32, clock_rate: u32, in_order: bool) {
        if in_order {
            self.newest = Some((now, timestamp));
            return;
        }
        let Some((arrived, newest)) = self.newest else {
            return;
        };
        let behind = u64::from(newest.wrapping_sub(timestamp));
        // Half the range: a timestamp ahead of the newest is no late packet.
        if behind > u64::from(u32::MAX / 2) {
            return;
        }
        let behind = Duration::from_micros(behind * 1_000_000 / u64::from(clock_rate.max(1)));
        self.note_late(now, now.saturating_duration_since(arrived) + behind);
    }

    /// Notes a packet that comes so late for repair.
    pub(super) fn note_late(&mut self, now: Instant, late: Duration) {
        if !(LATE_MIN..=LATE_MAX).contains(&late) {
            return;
        }
        if self.wait.is_none_or(|(_, until)| now >= until) {
            self.late_packets = 0;
        }
        if let Some(oldest) = self.recent.get_mut(self.late_packets % RECENT) {
            *oldest = late;
        }
        self.late_packets += 1;
        self.wait = Some((self.covering() + MARGIN, now + HOLD));
        self.told = true;
    }

    /// The lateness that covers most of the last late packets.
    fn covering(&self) -> Duration {
        let mut recent = self.recent;
        let known = self.late_packets.min(RECENT);
        let Some(recent) = recent.get_mut(..known) else {
            return Duration::ZERO;
        };
        recent.sort_unstable();
        let index = (known * COVERED).div_ceil(RECENT).saturating_sub(1);
        recent.get(index).copied().unwrap_or_default()
    }

    /// The value of the playout delay extension, when one is needed: minimum, then a maximum that limits nothing.
    #[inline]
    pub(super) fn playout_delay(&self, now: Instant) -> Option<[u8; 3]> {
        if !self.told {
            return None;
        }
        let wait = self
            .wait
            .filter(|&(_, until)| now < until)
            .map_or(Duration::ZERO, |(wait, _)| wait);
        let units = u32::try_from(wait.as_millis().div_ceil(UNIT_MS)).unwrap_or(FIELD_MAX);
        let [_, high, middle, low] = (units.min(FIELD_MAX) << 12 | FIELD_MAX).to_be_bytes();
        Some([high, middle, low])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn a_late_repair_asks_receivers_to_wait_as_long() {
        let start = Instant::now();
        let mut lateness = Lateness::default();
        lateness.note(start, 90_000, 90_000, true);
        assert_eq!(lateness.playout_delay(start), None);
        lateness.note(start + 40 * MS, 93_600, 90_000, true);
        // The packet of time 0 comes 250 ms after the newest, whose timestamp is 40 ms later.
        let now = start + 290 * MS;
        lateness.note(now, 90_000, 90_000, false);
        // 290 ms + 20 ms in units of 10 ms, and the largest maximum.
        assert_eq!(lateness.playout_delay(now), Some([0x01, 0xff, 0xff]));
        let later = now + HOLD;
        assert_eq!(lateness.playout_delay(later), Some([0x00, 0x0f, 0xff]));
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn reordering_asks_for_nothing() {
        let start = Instant::now();
        let mut lateness = Lateness::default();
        lateness.note(start, 90_000, 90_000, true);
        lateness.note(start + 5 * MS, 89_000, 90_000, false);
        assert_eq!(lateness.playout_delay(start + 5 * MS), None);
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn a_packet_repaired_twice_does_not_set_the_delay() {
        let start = Instant::now();
        let mut lateness = Lateness::default();
        lateness.note(start, 90_000, 90_000, true);
        for round in 0..200 {
            let late = if round % 20 == 19 { 600 * MS } else { 290 * MS };
            lateness.note(start + late, 90_000, 90_000, false);
        }
        let wait = lateness.wait.map(|(wait, _)| wait).unwrap();
        assert_eq!(wait, 310 * MS);
    }
}
