//! What congestion control costs in CPU time: per packet sent, and per packet reported on. Prints one line of
//! JSON last.

use std::hint::black_box;
use std::time::{Duration, Instant};

use media::congestion::{Config, Controller};
use media::twcc::Feedback;
use nix::time::{ClockId, clock_gettime};

/// Packets between two feedbacks: 50 ms at 10 Mbit/s.
const PACKETS: u16 = 50;
/// Feedbacks per run.
const ROUNDS: u32 = 10_000;
/// Packets sent per run.
const PACKETS_SENT: u32 = 1_000_000;
/// Runs; the median counts.
const RUNS: usize = 7;
/// Time between packets.
const GAP: Duration = Duration::from_millis(1);

type Failure = Box<dyn std::error::Error>;

/// CPU time of this thread, which other load on the machine does not lengthen much.
fn cpu_time() -> Result<Duration, Failure> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(Duration::from(time))
}

/// Feedback that all packets from `base` on arrived a millisecond apart, except every tenth when `lossy`.
fn feedback(base: u16, lossy: bool) -> Vec<u8> {
    let reference = u32::from(base) * 1000 / 64_000;
    let mut body = Vec::new();
    body.extend(base.to_be_bytes());
    body.extend(PACKETS.to_be_bytes());
    body.extend(&reference.to_be_bytes()[1..]);
    body.push(0);
    let lost = |i: u16| lossy && i % 10 == 9;
    let indices: Vec<u16> = (0..PACKETS.next_multiple_of(7)).collect();
    for chunk in indices.chunks(7) {
        let bits = chunk
            .iter()
            .enumerate()
            .fold(0xc000u16, |bits, (place, &i)| {
                bits | u16::from(!lost(i)) << (12 - 2 * place)
            });
        body.extend(bits.to_be_bytes());
    }
    body.extend((0..PACKETS).filter(|&i| !lost(i)).map(|_| 4));
    body
}

/// Nanoseconds per packet sent.
fn send(controller: &mut Controller, mut now: Instant) -> Result<f64, Failure> {
    let start = cpu_time()?;
    let mut seq = 0u16;
    for _ in 0..PACKETS_SENT {
        now += GAP;
        controller.packet_sent(black_box(now), black_box(seq), black_box(1200), None);
        seq = seq.wrapping_add(1);
    }
    Ok(per_packet(cpu_time()?.saturating_sub(start), PACKETS_SENT))
}

/// Nanoseconds per packet reported on.
fn report(controller: &mut Controller, mut now: Instant, lossy: bool) -> Result<f64, Failure> {
    let mut reporting = Duration::ZERO;
    let mut seq = 0u16;
    for _ in 0..ROUNDS {
        let body = feedback(seq, lossy);
        for _ in 0..PACKETS {
            now += GAP;
            controller.packet_sent(now, seq, 1200, None);
            seq = seq.wrapping_add(1);
        }
        let start = cpu_time()?;
        let parsed = Feedback::parse(black_box(&body)).ok_or("malformed")?;
        controller.feedback(now, &parsed);
        reporting += cpu_time()?.saturating_sub(start);
    }
    if controller.stats().feedbacks != u64::from(ROUNDS) {
        return Err("feedback was not taken".into());
    }
    Ok(per_packet(reporting, ROUNDS * u32::from(PACKETS)))
}

fn per_packet(time: Duration, packets: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(packets)
}

/// The median of some runs, each with a new controller.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of the run starts somewhere"
)]
fn median(
    mut run: impl FnMut(&mut Controller, Instant) -> Result<f64, Failure>,
) -> Result<f64, Failure> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let now = Instant::now();
        let mut controller = Controller::new(&Config::default(), now);
        times.push(run(&mut controller, now)?);
        black_box(controller.target_bps());
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get(RUNS / 2).copied().ok_or("no run")?)
}

#[expect(clippy::print_stdout, reason = "the result")]
fn main() -> Result<(), Failure> {
    let sent = median(send)?;
    let reported = median(|controller, now| report(controller, now, false))?;
    let lossy = median(|controller, now| report(controller, now, true))?;
    println!(
        "{{\"ns_per_packet_sent\":{sent:.1},\"ns_per_packet_reported\":{reported:.1},\"ns_per_packet_reported_at_10_percent_loss\":{lossy:.1}}}"
    );
    Ok(())
}
