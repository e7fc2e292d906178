//! How fast an edge that drains sends its clients elsewhere: gradually, so that the edges that take them, and the rooms that see
//! them go and come, have it easy; yet a small edge does not make its operator wait.

use std::time::{Duration, Instant};

/// Share of the time that clients are spread over: the rest is for those that are slow to go. One in so many.
const SHARE: u32 = 2;
/// Longest time between two clients.
const INTERVAL_MAX: Duration = Duration::from_millis(500);
/// Shortest: an edge that takes them sets up this many sessions a second without a noticeable wait (join storms are measured at
/// hundreds).
const INTERVAL_MIN: Duration = Duration::from_millis(20);

/// When which client is told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    begun: Instant,
    interval: Duration,
}

impl Pace {
    /// A pace for so many clients that have `within` to go.
    pub fn new(now: Instant, clients: usize, within: Duration) -> Self {
        let clients = u32::try_from(clients).unwrap_or(u32::MAX).max(1);
        let interval = (within / SHARE / clients).clamp(INTERVAL_MIN, INTERVAL_MAX);
        Self {
            begun: now,
            interval,
        }
    }

    /// How many clients may have been told by now.
    pub fn due(&self, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.begun).as_micros();
        let told = passed / self.interval.as_micros().max(1);
        usize::try_from(told)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the last of so many clients is told, in milliseconds.
    fn last_ms(clients: usize, within: Duration) -> usize {
        let now = Instant::now();
        let pace = Pace::new(now, clients, within);
        let told = |ms: &usize| pace.due(now + Duration::from_millis(*ms as u64)) >= clients;
        (0..1_000_000).step_by(10).find(told).unwrap()
    }

    #[test]
    fn few_go_at_once_and_many_in_half_of_the_time() {
        let five_minutes = Duration::from_mins(5);
        assert_eq!(last_ms(1, five_minutes), 0);
        assert_eq!(last_ms(20, five_minutes), 9_500);
        assert_eq!(last_ms(1_000, five_minutes), 149_850);
        let soon = Duration::from_secs(10);
        assert_eq!(last_ms(20, soon), 4_750);
        assert_eq!(
            last_ms(1_000, soon),
            19_980,
            "never more than 50 per second"
        );
        assert_eq!(last_ms(3, Duration::ZERO), 40);
    }
}
