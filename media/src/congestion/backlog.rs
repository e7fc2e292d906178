//! The standing queue: how far the least delay of late is above the least that was seen.
//!
//! The slope of the delay says whether a queue grows, not how long it is. After the capacity fell, it is
//! full, and 85 % of the new capacity takes seconds to drain it. libwebrtc's congestion window (trial
//! `WebRTC-CongestionWindow`) answers by less than the estimate for as long as too much is in flight; here the
//! delay itself says how much.

use super::Micros;

/// The least delay is that of this many periods of this length: a route may change, clocks drift.
const PERIODS: usize = 4;
const PERIOD_US: Micros = 10_000_000;

/// A packet that waited less than this met no queue: jitter, and the end of the packet before it.
const NONE_US: Micros = 8_000;

/// Queues up to this length are left to the slope: frames make them, and other flows.
const TOLERATED_US: Micros = 100_000;

/// A longer queue shall be gone after about this time.
const DRAIN_US: f64 = 1e6;

/// Least share of the estimate that may be sent meanwhile.
const SHARE_MIN: f64 = 0.7;

/// Follows the least delay.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Least difference of the arrival's and the sender's clock per period, the current one first.
    least: [Micros; PERIODS],
    since: Micros,
    queue_us: Micros,
}

impl Backlog {
    pub(super) fn new() -> Self {
        Self {
            least: [Micros::MAX; PERIODS],
            since: Micros::MIN,
            queue_us: 0,
        }
    }

    /// Takes the least difference between the times received and sent of one feedback's packets: jitter only
    /// adds to it.
    pub(super) fn add(&mut self, now: Micros, delay: Micros) {
        if now.saturating_sub(self.since) > PERIOD_US {
            self.since = now;
            self.least.rotate_right(1);
            if let Some(current) = self.least.first_mut() {
                *current = delay;
            }
        }
        if let Some(current) = self.least.first_mut() {
            *current = delay.min(*current);
        }
        let least = self.least.iter().copied().min().unwrap_or(delay);
        self.queue_us = delay - least;
    }

    /// What waited is gone after a pause.
    pub(super) fn forget_queue(&mut self) {
        self.queue_us = 0;
    }

    /// Whether some packet of the last feedback hardly waited.
    pub(super) fn is_none(&self) -> bool {
        self.queue_us < NONE_US
    }

    /// Whether there is more than other traffic and frames explain.
    pub(super) fn is_long(&self) -> bool {
        self.queue_us > TOLERATED_US
    }

    /// Share of the estimate to send, so that the queue drains.
    pub(super) fn share(&self) -> f64 {
        let above = (self.queue_us - TOLERATED_US).max(0) as f64;
        (1.0 - above / DRAIN_US).max(SHARE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_queue_takes_a_share_until_it_is_the_normal_delay() {
        let mut backlog = Backlog::new();
        backlog.add(0, -5_000_000);
        backlog.add(100_000, -4_950_000);
        assert!(!backlog.is_long());
        assert!((backlog.share() - 1.0).abs() < 1e-9);
        backlog.add(200_000, -4_700_000);
        assert!(backlog.is_long());
        assert!((backlog.share() - 0.8).abs() < 1e-9);
        for second in 1..60 {
            backlog.add(second * 1_000_000, -4_700_000);
        }
        assert!(!backlog.is_long());
    }
}
