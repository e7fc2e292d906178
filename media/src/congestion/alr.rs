//! Whether the sender has less to send than it may: libwebrtc's `AlrDetector` and `IntervalBudget`.

use super::Micros;

/// A sender below this share of its rate is limited by the application: libwebrtc's
/// `bandwidth_usage_ratio`.
const USAGE_PERCENT: i64 = 65;

/// The budget holds this much time: libwebrtc's `IntervalBudget` window.
const WINDOW_US: Micros = 500_000;

/// Limited from this share of unused budget on, and not limited below that one: libwebrtc's
/// `start_budget_level_ratio` and `stop_budget_level_ratio`.
const START_PERCENT: i64 = 80;
const STOP_PERCENT: i64 = 50;

/// A bucket that fills at a part of the rate and empties by what is sent. Counted in bits times 10^6,
/// so that bit/s times microseconds need no division.
#[derive(Debug)]
pub(super) struct AppLimited {
    /// Rate that fills it, in bit/s.
    fill_bps: i64,
    full: i64,
    /// The level above which the sender is limited, when it was not and when it was.
    start: i64,
    stop: i64,
    level: i64,
    at: Micros,
    limited: bool,
}

impl AppLimited {
    pub(super) fn new(now: Micros, bps: i64) -> Self {
        let mut budget = Self {
            fill_bps: 0,
            full: 0,
            start: 0,
            stop: 0,
            level: 0,
            at: now,
            limited: false,
        };
        budget.set_rate(bps);
        budget
    }

    /// The sender may now send at this rate.
    pub(super) fn set_rate(&mut self, bps: i64) {
        self.fill_bps = bps / 100 * USAGE_PERCENT;
        self.full = self.fill_bps * WINDOW_US;
        self.start = self.full / 100 * START_PERCENT;
        self.stop = self.full / 100 * STOP_PERCENT;
        self.level = self.level.clamp(-self.full, self.full);
    }

    /// Something was sent.
    #[inline]
    pub(super) fn sent(&mut self, now: Micros, bytes: u16) {
        let filled = self.level + self.fill_bps * (now - self.at).clamp(0, 2 * WINDOW_US);
        self.at = now;
        self.level = (filled.min(self.full) - i64::from(bytes) * 8_000_000).max(-self.full);
        let threshold = if self.limited { self.stop } else { self.start };
        self.limited = self.level > threshold;
    }

    /// Whether the application limits the sender.
    pub(super) fn is_limited(&self, now: Micros) -> bool {
        self.limited || now - self.at > WINDOW_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_at_half_its_rate_is_limited() {
        let mut budget = AppLimited::new(0, 1_000_000);
        let mut at = 0;
        let mut send = |budget: &mut AppLimited, packets: usize, gap_us: Micros| {
            for _ in 0..packets {
                at += gap_us;
                budget.sent(at, 1250);
            }
            budget.is_limited(at)
        };
        assert!(!send(&mut budget, 300, 10_000));
        assert!(send(&mut budget, 300, 20_000));
        assert!(!send(&mut budget, 300, 10_000));
        budget.set_rate(3_000_000);
        assert!(send(&mut budget, 200, 10_000));
        assert!(budget.is_limited(100_000_000));
    }
}
