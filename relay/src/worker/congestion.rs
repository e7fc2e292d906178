//! How much may be in flight to a peer. Media must not stop for random loss, which every long path has; delay is what shows
//! that a path is full.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// Queueing that a path may show before it counts as full; below it may be jitter or a late acknowledgement.
const QUEUE_MAX: Duration = Duration::from_millis(30);
/// Added to the round trip when in-flight bytes are worked out, so that batching of packets and acknowledgements does not
/// limit the rate.
const SLACK: Duration = Duration::from_millis(10);
/// Loss above this share is congestion (a policer, say) even if delay does not rise.
const LOSS_MAX: f64 = 0.15;
/// The rate is never cut below this, in bytes per second: audio and a base layer go on.
const RATE_MIN: f64 = 250_000.0;
/// How long a minimum round trip is believed; paths change.
const MIN_RTT_KEEP: Duration = Duration::from_secs(10);
/// Shortest round that is judged.
const ROUND_MIN: Duration = Duration::from_millis(20);
/// Before the first measurement.
const RTT_INITIAL: Duration = Duration::from_millis(100);

/// Makes a [`DelayBased`] for every connection.
#[derive(Debug)]
pub(super) struct Factory {
    /// Highest rate, in bits per second.
    pub(super) rate_bps_max: u64,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(DelayBased::new(now, self.rate_bps_max, current_mtu))
    }
}

/// Smallest round trip over the last 10 to 20 seconds.
#[derive(Clone, Debug)]
struct MinRtt {
    current: Duration,
    former: Duration,
    since: Instant,
}

impl MinRtt {
    fn get(&self) -> Duration {
        match self.current.min(self.former) {
            Duration::MAX => RTT_INITIAL,
            rtt => rtt,
        }
    }

    fn sample(&mut self, now: Instant, rtt: Duration) {
        if now.saturating_duration_since(self.since) > MIN_RTT_KEEP {
            self.former = std::mem::replace(&mut self.current, Duration::MAX);
            self.since = now;
        }
        self.current = self.current.min(rtt);
    }
}

/// Sends at the configured rate until delay rises; then at what is delivered; then more again, step by step.
#[derive(Clone, Debug)]
struct DelayBased {
    /// Bytes per second.
    rate: f64,
    rate_max: f64,
    mtu: u64,
    min_rtt: MinRtt,
    srtt: Duration,
    round_start: Instant,
    acked: u64,
    lost: u64,
}

impl DelayBased {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn new(now: Instant, rate_bps_max: u64, mtu: u16) -> Self {
        let rate_max = (rate_bps_max as f64 / 8.0).max(RATE_MIN);
        Self {
            rate: rate_max,
            rate_max,
            mtu: u64::from(mtu),
            min_rtt: MinRtt {
                current: Duration::MAX,
                former: Duration::MAX,
                since: now,
            },
            srtt: RTT_INITIAL,
            round_start: now,
            acked: 0,
            lost: 0,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn end_round(&mut self, now: Instant) {
        let round = now.saturating_duration_since(self.round_start);
        if round < self.srtt.max(ROUND_MIN) {
            return;
        }
        let (acked, lost) = (self.acked as f64, self.lost as f64);
        let delivered = acked / round.as_secs_f64();
        let min_rtt = self.min_rtt.get();
        let queue = self.srtt.saturating_sub(min_rtt);
        let full = queue > QUEUE_MAX.max(min_rtt / 4);
        if full || lost > (acked + lost) * LOSS_MAX {
            self.rate = (self.rate.min(delivered) * 0.9).max(RATE_MIN);
        } else {
            self.rate = (self.rate * 1.25).min(self.rate_max);
        }
        self.round_start = now;
        self.acked = 0;
        self.lost = 0;
    }
}

impl Controller for DelayBased {
    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.min_rtt
            .sample(now, now.saturating_duration_since(sent));
        self.srtt = rtt.get();
        self.acked += bytes;
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        _in_flight: u64,
        _app_limited: bool,
        _largest: Option<u64>,
    ) {
        self.end_round(now);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        _sent: Instant,
        _persistent: bool,
        lost_bytes: u64,
    ) {
        self.lost += lost_bytes;
        self.end_round(now);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
    }

    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    #[expect(clippy::cast_sign_loss, reason = "rate and time are positive")]
    fn window(&self) -> u64 {
        let in_flight = self.rate * (self.min_rtt.get() + SLACK).as_secs_f64();
        (in_flight as u64).max(self.initial_window())
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        32 * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acknowledges `bytes` over one second of 50 ms round trips in `queue` more, losing `loss` percent.
    fn second(
        controller: &mut DelayBased,
        now: &mut Instant,
        bytes: u64,
        queue: Duration,
        loss: u64,
    ) {
        let rtt = Duration::from_millis(50) + queue;
        for _ in 0..100 {
            let sent = *now;
            *now += Duration::from_millis(10);
            controller.min_rtt.sample(*now, rtt);
            controller.srtt = rtt;
            controller.acked += bytes / 100 * (100 - loss) / 100;
            if loss > 0 {
                controller.on_congestion_event(*now, sent, false, bytes / 100 * loss / 100);
            }
            controller.end_round(*now);
        }
    }

    #[test]
    fn random_loss_is_ignored_and_a_queue_is_not() {
        let mut now = Instant::now();
        let mut controller = DelayBased::new(now, 100_000_000, 1350);
        second(&mut controller, &mut now, 6_000_000, Duration::ZERO, 10);
        assert!(
            (controller.rate - 12_500_000.0).abs() < 1.0,
            "loss cut the rate"
        );
        // 100 Mbps for 60 ms.
        assert_eq!(controller.window(), 750_000);

        second(
            &mut controller,
            &mut now,
            5_000_000,
            Duration::from_millis(80),
            0,
        );
        assert!(
            controller.rate < 5_000_000.0,
            "a queue did not cut the rate: {}",
            controller.rate
        );
        assert!(controller.rate >= RATE_MIN);

        second(&mut controller, &mut now, 5_000_000, Duration::ZERO, 0);
        assert!((controller.rate - 12_500_000.0).abs() < 1.0, "no recovery");

        second(&mut controller, &mut now, 5_000_000, Duration::ZERO, 30);
        assert!(
            controller.rate < 5_000_000.0,
            "heavy loss did not cut the rate"
        );
    }
}
