//! One queue of deadlines per router; idle transports and tracks are not in it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// What a deadline is for, by position in the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Feedback and reports of a transport.
    Transport(usize),
    /// Packets that wait, probes and missing feedback of a transport.
    Pacer(usize),
    /// Keyframe requests and stalled streams of a track.
    Track(usize),
}

/// The earliest deadline that an owner has in the queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Armed(Option<Instant>);

/// Deadlines, earliest first. An owner that re-arms earlier leaves its old entry behind, which is
/// ignored when it comes up.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    /// Makes sure that `timer` comes up at `at` or earlier.
    #[inline]
    pub(super) fn arm(&mut self, armed: &mut Armed, timer: Timer, at: Instant) {
        if armed.0.is_none_or(|earlier| at < earlier) {
            armed.0 = Some(at);
            self.heap.push(Reverse((at, timer)));
        }
    }

    /// Deadlines in the queue, outdated ones included.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the earliest deadline that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, Timer)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

impl Armed {
    /// Whether this entry is the one that counts; disarms if so.
    pub(super) fn take(&mut self, at: Instant) -> bool {
        let current = self.0 == Some(at);
        if current {
            self.0 = None;
        }
        current
    }
}
