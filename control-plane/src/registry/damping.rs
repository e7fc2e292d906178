//! Holds back nodes that come and go: each change moves clients and plans, so a node that flaps is trusted less and less.

use std::time::{Duration, Instant};

/// So often within [`MEMORY`] a node may be lost without being held back: a restart or two are no flapping.
const FREE: u32 = 2;
/// How long the first node too much is held back; doubles with every further loss.
const HOLD: Duration = Duration::from_secs(10);
/// Longest time that a node is held back.
const HOLD_MAX: Duration = Duration::from_mins(2);
/// After so long without a loss nothing is held against a node.
const MEMORY: Duration = Duration::from_mins(5);

/// How often a node was lost lately.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Damping {
    losses: u32,
    last: Option<Instant>,
}

impl Damping {
    /// The node is suspect from now on.
    pub(super) fn lost(&mut self, now: Instant) {
        self.forget(now);
        self.losses = self.losses.saturating_add(1);
        self.last = Some(now);
    }

    /// The node is back: until when it is to be held back all the same, if it is.
    pub(super) fn back(&mut self, now: Instant) -> Option<Instant> {
        self.forget(now);
        let doublings = self.losses.checked_sub(FREE + 1)?;
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let until = self.last? + HOLD.saturating_mul(factor).min(HOLD_MAX);
        (until > now).then_some(until)
    }

    fn forget(&mut self, now: Instant) {
        let old = |last: Instant| now.saturating_duration_since(last) >= MEMORY;
        if self.last.is_some_and(old) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_flaps_is_held_back_longer_and_longer_and_forgiven_at_last() {
        let mut damping = Damping::default();
        let mut now = Instant::now();
        let mut holds = Vec::new();
        for _ in 0..9 {
            damping.lost(now);
            let until = damping.back(now);
            holds.push(until.map_or(0, |until| (until - now).as_secs()));
            now += Duration::from_secs(1);
        }
        assert_eq!(holds, [0, 0, 10, 20, 40, 80, 120, 120, 120]);
        assert!(
            damping.back(now + HOLD_MAX).is_none(),
            "it stayed long enough"
        );
        now += MEMORY;
        damping.lost(now);
        assert_eq!(damping.back(now), None);
    }
}
