//! The rate that the delay allows: additive or multiplicative increase, multiplicative decrease
//! (draft-ietf-rmcat-gcc-02 section 5.5; libwebrtc's `AimdRateControl` and `LinkCapacityEstimator`).

use super::cluster::UTILIZATION;
use super::{Micros, seconds};

/// Share of the measured rate after overuse (draft section 5.5: `beta`).
const BACK_OFF: f64 = 0.85;

/// Growth per second far from the capacity (draft section 5.5: `eta`).
const GROWTH: f64 = 1.08;

/// The estimate may be this much above what arrives, in ratio and bit/s. The draft (section 5.5) has 1.5 for an encoder that soon fills
/// it; layers leave it unfilled for long, and it would drift to where the path never was.
const ABOVE_ACKED: (f64, f64) = (1.2, 10e3);

/// How long a probe that filled the path says where the estimate ends: two intervals of probes.
const FILLED_VALID_US: Micros = 10_000_000;

/// Slowest additive increase in bit/s per second: libwebrtc's `kMinIncreaseRateBpsPerSecond`.
const ADDITIVE_MIN_BPS: f64 = 4_000.0;

/// Smallest step of the multiplicative increase in bit/s (draft section 5.5).
const STEP_MIN_BPS: f64 = 1_000.0;

/// What the estimator needs to react to a change besides the round trip (draft section 5.5).
const REACTION: f64 = 0.1;

/// Bounds of the time between two decreases: libwebrtc's `TimeToReduceFurther`.
const DECREASE_US: (Micros, Micros) = (10_000, 200_000);

/// The next decrease does not wait when less than this share of the estimate arrives:
/// libwebrtc's `TimeToReduceFurther`.
const FAR_BELOW: f64 = 0.5;

/// A probe that filled the path explains overuse found this long after it: a feedback interval and the
/// detector's lag.
const FILLED_US: Micros = 500_000;

/// Packet and frame that the additive increase is made of (draft section 5.5: 1200 bytes, 30 frames/s).
const PACKET_BITS: f64 = 1200.0 * 8.0;
const FRAMES_PER_S: f64 = 30.0;

/// What one update of the estimate goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) now: Micros,
    /// Rate measured at the receiver in bit/s, corrected by losses that are not the rate's fault.
    pub(super) acked_bps: Option<f64>,
    /// Round trip.
    pub(super) rtt_us: Micros,
    /// The sender has less to send than it may.
    pub(super) limited: bool,
}

/// The estimate and its state machine.
#[derive(Debug)]
pub(super) struct Aimd {
    bps: f64,
    range: (f64, f64),
    capacity: LinkCapacity,
    /// When the estimate was last changed or held.
    changed_at: Option<Micros>,
    decreased_at: Option<Micros>,
    /// Overuse while the sender was limited took the headroom, at this time.
    headroom_taken_at: Option<Micros>,
    /// A probe filled the path and measured this rate, at this time.
    filled: Option<(f64, Micros)>,
    /// No increase before the first signal after a decrease.
    hold: bool,
}

impl Aimd {
    /// Starts at `bps`, within `range`.
    pub(super) fn new(bps: f64, range: (f64, f64)) -> Self {
        Self {
            bps,
            range,
            capacity: LinkCapacity::default(),
            changed_at: None,
            decreased_at: None,
            headroom_taken_at: None,
            filled: None,
            hold: false,
        }
    }

    /// The estimate in bit/s.
    pub(super) fn bps(&self) -> f64 {
        self.bps
    }

    /// A probe measured this rate.
    pub(super) fn probed(&mut self, now: Micros, bps: f64) {
        self.capacity.probed(bps);
        self.set(now, bps);
    }

    /// A probe filled the path and measured this rate.
    pub(super) fn filled(&mut self, now: Micros, bps: f64) {
        self.filled = Some((bps, now));
    }

    /// Sets the estimate.
    pub(super) fn set(&mut self, now: Micros, bps: f64) {
        let (min, max) = self.range;
        self.bps = bps.clamp(min, max);
        self.changed_at = Some(now);
    }

    /// The queue drains: keep the rate until it is empty.
    pub(super) fn drain(&mut self) {
        self.hold = true;
    }

    /// The queue stays: room for more.
    pub(super) fn increase(&mut self, sample: Sample) {
        if std::mem::take(&mut self.hold) {
            self.changed_at = Some(sample.now);
        }
        let now = sample.now;
        let Some(since) = self.changed_at.replace(now) else {
            return;
        };
        let Some(acked) = sample.acked_bps else {
            return;
        };
        if self.capacity.is_above(acked) {
            self.capacity.forget();
        }
        let elapsed = seconds(now - since).clamp(0.0, 1.0);
        let step = if self.capacity.bps.is_some() {
            elapsed * self.additive(sample.rtt_us)
        } else {
            (self.bps * (GROWTH.powf(elapsed) - 1.0)).max(STEP_MIN_BPS * elapsed)
        };
        let (ratio, more) = ABOVE_ACKED;
        let known = self
            .filled
            .filter(|(_, at)| now - at < FILLED_VALID_US)
            .map_or(f64::INFINITY, |(bps, _)| bps / UTILIZATION);
        let limit = acked.mul_add(ratio, more).min(known);
        // Who sends less than the estimate does not try whether there is more: that is for probes.
        if self.bps < limit && !sample.limited {
            self.set(now, (self.bps + step).min(limit));
        }
    }

    /// Bit/s per second near the capacity: a packet per response time.
    fn additive(&self, rtt_us: Micros) -> f64 {
        let frame = self.bps / FRAMES_PER_S;
        let packet = frame / (frame / PACKET_BITS).ceil().max(1.0);
        (packet / (seconds(rtt_us) + REACTION)).max(ADDITIVE_MIN_BPS)
    }

    /// The queue grows. Returns whether the estimate fell.
    pub(super) fn decrease(&mut self, sample: Sample) -> bool {
        let (min, max) = DECREASE_US;
        let pause = sample.rtt_us.clamp(min, max);
        let acked = sample.acked_bps;
        let waited = self.decreased_at.is_none_or(|at| sample.now - at >= pause);
        if !waited && acked.is_none_or(|acked| acked >= FAR_BELOW * self.bps) {
            return false;
        }
        let before = self.bps;
        // Nothing is measured yet: half, as libwebrtc does.
        let acked = acked.unwrap_or(before * 0.5 / BACK_OFF);
        let filled = self.filled;
        let target = if let Some((bps, at)) = filled
            && sample.now - at < FILLED_US
        {
            // Our own probe made the queue, and measured what to go by.
            bps
        } else if self.takes_headroom(sample, acked) {
            self.headroom_taken_at = Some(sample.now);
            acked
        } else {
            self.measured(acked)
        };
        self.set(sample.now, target.min(before));
        self.decreased_at = Some(sample.now);
        self.hold = true;
        self.bps < before
    }

    /// A sender that has little to send did not fill the queue that grows. So the first overuse takes
    /// the room above what it sends; only the next one within a few round trips says that even
    /// this is too much. A layer is not dropped for one burst of somebody else's traffic.
    fn takes_headroom(&self, sample: Sample, acked: f64) -> bool {
        let (_, pause) = DECREASE_US;
        let recent = 3 * sample.rtt_us.max(pause);
        sample.limited
            && acked < self.bps
            && self
                .headroom_taken_at
                .is_none_or(|at| sample.now - at > recent)
    }

    fn measured(&mut self, acked: f64) -> f64 {
        let mut target = BACK_OFF * acked;
        if target > self.bps
            && let Some(capacity) = self.capacity.bps
        {
            // More arrives than is estimated: the backlog of a queue. Go by the capacity known.
            target = BACK_OFF * capacity;
        }
        if self.capacity.is_below(acked) {
            self.capacity.forget();
        }
        self.capacity.overused(acked);
        target
    }

    /// What is known of the path's capacity in bit/s.
    pub(super) fn capacity_bps(&self) -> Option<f64> {
        self.capacity.bps
    }
}

/// The rate at which the path was full, with its spread: libwebrtc's `LinkCapacityEstimator`.
#[derive(Debug)]
struct LinkCapacity {
    bps: Option<f64>,
    /// Variance over the rate in kbit/s.
    spread: f64,
}

/// Spread at first and its bounds, in kbit/s: libwebrtc's values.
const SPREAD: f64 = 0.4;
const SPREAD_RANGE: (f64, f64) = (0.4, 2.5);

/// Weights of a rate at overuse and of a probed rate: libwebrtc's values.
const OVERUSE_WEIGHT: f64 = 0.05;
const PROBE_WEIGHT: f64 = 0.5;

/// Rates within this many deviations are the same capacity (draft section 5.5).
const DEVIATIONS: f64 = 3.0;

impl Default for LinkCapacity {
    fn default() -> Self {
        Self {
            bps: None,
            spread: SPREAD,
        }
    }
}

impl LinkCapacity {
    fn forget(&mut self) {
        self.bps = None;
    }

    fn overused(&mut self, bps: f64) {
        self.update(bps, OVERUSE_WEIGHT);
    }

    fn probed(&mut self, bps: f64) {
        self.update(bps, PROBE_WEIGHT);
    }

    fn update(&mut self, bps: f64, weight: f64) {
        let before = self.bps.unwrap_or(bps);
        let after = before + weight * (bps - before);
        let error = (after - bps) / 1e3;
        let spread = error * error / (after / 1e3).max(1.0);
        let (min, max) = SPREAD_RANGE;
        self.spread = (self.spread + weight * (spread - self.spread)).clamp(min, max);
        self.bps = Some(after);
    }

    /// Whether a rate is beyond what was the capacity.
    fn is_above(&self, bps: f64) -> bool {
        self.bps
            .is_some_and(|capacity| bps > capacity + self.deviation(capacity))
    }

    fn is_below(&self, bps: f64) -> bool {
        self.bps
            .is_some_and(|capacity| bps < capacity - self.deviation(capacity))
    }

    fn deviation(&self, capacity: f64) -> f64 {
        DEVIATIONS * (self.spread * capacity / 1e3).sqrt() * 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(now: Micros, acked_bps: f64, limited: bool) -> Sample {
        Sample {
            now,
            acked_bps: Some(acked_bps),
            rtt_us: 100_000,
            limited,
        }
    }

    #[test]
    fn grows_by_eight_percent_a_second_and_by_packets_near_the_capacity() {
        let mut aimd = Aimd::new(1e6, (1e4, 1e8));
        for i in 0..=10 {
            aimd.increase(sample(i * 100_000, 1e6, false));
        }
        assert!((1.079e6..1.081e6).contains(&aimd.bps()), "{}", aimd.bps());
        assert!(aimd.decrease(sample(1_100_000, 1e6, false)));
        assert!((0.849e6..0.851e6).contains(&aimd.bps()));
        // Too early for another.
        assert!(!aimd.decrease(sample(1_150_000, 0.8e6, false)));
        let before = aimd.bps();
        for i in 12..=22 {
            aimd.increase(sample(i * 100_000, before, false));
        }
        // A packet of 7 kbit per 200 ms.
        assert!(
            (30e3..50e3).contains(&(aimd.bps() - before)),
            "{}",
            aimd.bps()
        );
    }

    #[test]
    fn stays_within_reach_of_what_arrives() {
        let mut aimd = Aimd::new(0.8e6, (1e4, 1e8));
        for i in 0..200 {
            aimd.increase(sample(i * 100_000, 0.8e6, false));
        }
        assert!((0.96e6..0.98e6).contains(&aimd.bps()), "{}", aimd.bps());
    }

    #[test]
    fn a_limited_sender_loses_its_headroom_first() {
        let mut aimd = Aimd::new(3e6, (1e4, 1e8));
        assert!(aimd.decrease(sample(0, 0.6e6, true)));
        assert!((aimd.bps() - 0.6e6).abs() < 1.0);
        assert!(aimd.decrease(sample(250_000, 0.6e6, true)));
        assert!((aimd.bps() - 0.51e6).abs() < 1.0);
    }
}
