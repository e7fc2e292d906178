//! What was sent: eight bytes per packet, until feedback tells what became of it.

use super::Micros;
use crate::rtp::extend;

/// Packets remembered at first: 100 ms of feedback interval and 300 ms of round trip at 7 Mbit/s.
const PACKETS_MIN: usize = 256;

/// Packets remembered at most, 16 kB: the same at 50 Mbit/s.
const PACKETS_MAX: usize = 2048;

/// Bits of `mark` that hold the probe.
const PROBE_BITS: u16 = 0x3fff;

/// What is known about a packet, in the two upper bits of `mark`.
mod state {
    pub(super) const UNKNOWN: u16 = 0;
    pub(super) const IN_FLIGHT: u16 = 1 << 14;
    pub(super) const LOST: u16 = 2 << 14;
    pub(super) const RECEIVED: u16 = 3 << 14;
}

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    /// Time sent in microseconds, modulo 2^32: 71 minutes.
    at: u32,
    bytes: u16,
    /// State and probe.
    mark: u16,
}

const _: () = assert!(size_of::<Record>() == 8, "16 kB per transport at most");

/// What a feedback told about a packet for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) sent_at: Micros,
    pub(super) bytes: usize,
    /// Lower bits of the probe's id; 0 for none.
    pub(super) probe: u16,
    /// It had been reported lost before and came late.
    pub(super) was_lost: bool,
    /// No later packet was reported before.
    pub(super) is_newest: bool,
}

/// A ring of the packets sent.
#[derive(Debug)]
pub(super) struct History {
    ring: Box<[Record]>,
    /// One past the highest sequence number sent; 0 when nothing was sent.
    next: u64,
    /// One past the highest sequence number reported on.
    reported: u64,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            ring: vec![Record::default(); PACKETS_MIN].into_boxed_slice(),
            next: 0,
            reported: 0,
        }
    }

    /// The mark of a probe's packets.
    pub(super) fn probe_mark(id: u32) -> u16 {
        // 0 is no probe; 16383 probes later an id has long been forgotten.
        u16::try_from(id % u32::from(PROBE_BITS)).unwrap_or(0) + 1
    }

    /// Remembers a packet in place of the oldest.
    #[inline]
    pub(super) fn push(&mut self, now: Micros, seq: u16, bytes: u16, probe: u16) {
        if self.next == 0 {
            self.next = 0x1_0000 + u64::from(seq);
            self.reported = self.next;
        }
        let seq = extend(self.next - 1, seq);
        if seq > self.next {
            self.skip(seq);
        }
        let record = Record {
            at: low32(now),
            bytes,
            mark: state::IN_FLIGHT | probe & PROBE_BITS,
        };
        let place = self.place(seq);
        if let Some(slot) = self.ring.get_mut(place) {
            *slot = record;
        }
        self.next = self.next.max(seq + 1);
    }

    /// Sequence numbers that were not used are unknown.
    #[cold]
    fn skip(&mut self, seq: u64) {
        let first = self.next.max(seq.saturating_sub(self.ring.len() as u64));
        for skipped in first..seq {
            let place = self.place(skipped);
            if let Some(slot) = self.ring.get_mut(place) {
                *slot = Record::default();
            }
        }
    }

    /// Whether something was sent after what the last feedback covers.
    pub(super) fn is_waiting(&self) -> bool {
        self.next > self.reported
    }

    /// Bytes of the packets before `base` that no feedback told of, because it got lost. They are
    /// not counted again.
    pub(super) fn passed_over(&mut self, base: u16) -> usize {
        let Some(newest) = self.next.checked_sub(1) else {
            return 0;
        };
        let base = extend(newest, base).min(self.next);
        let first = self
            .reported
            .max(self.next.saturating_sub(self.ring.len() as u64));
        let bytes = (first..base)
            .filter_map(|seq| self.ring.get(self.place(seq)))
            .filter(|record| record.mark & !PROBE_BITS == state::IN_FLIGHT)
            .map(|record| usize::from(record.bytes))
            .sum();
        self.reported = self.reported.max(base);
        bytes
    }

    /// Takes one packet's status from a feedback. `None` when it tells nothing new, or when the
    /// packet is not known (any more).
    pub(super) fn report(&mut self, now: Micros, seq: u16, received: bool) -> Option<Reported> {
        let seq = extend(self.next.checked_sub(1)?, seq);
        if seq >= self.next || seq + (self.ring.len() as u64) < self.next {
            return None;
        }
        let place = self.place(seq);
        let record = self.ring.get_mut(place)?;
        let before = record.mark & !PROBE_BITS;
        let after = match (before, received) {
            (state::UNKNOWN | state::RECEIVED, _) | (state::LOST, false) => return None,
            (_, true) => state::RECEIVED,
            (_, false) => state::LOST,
        };
        record.mark = after | record.mark & PROBE_BITS;
        let is_newest = seq >= self.reported;
        self.reported = self.reported.max(seq + 1);
        Some(Reported {
            sent_at: now - Micros::from(low32(now).wrapping_sub(record.at)),
            bytes: usize::from(record.bytes),
            probe: record.mark & PROBE_BITS,
            was_lost: before == state::LOST,
            is_newest,
        })
    }

    /// Makes room when more than half of it waits for feedback. Not to be called per packet sent.
    pub(super) fn make_room(&mut self) {
        let len = self.ring.len();
        let waiting = self.next.saturating_sub(self.reported);
        if waiting <= len as u64 / 2 || len >= PACKETS_MAX {
            return;
        }
        let grown = vec![Record::default(); len * 2].into_boxed_slice();
        let old = std::mem::replace(&mut self.ring, grown);
        for seq in self.next.saturating_sub(len as u64)..self.next {
            let record = usize::try_from(seq)
                .ok()
                .and_then(|seq| old.get(seq & (len - 1)));
            let place = self.place(seq);
            if let (Some(slot), Some(record)) = (self.ring.get_mut(place), record) {
                *slot = *record;
            }
        }
    }

    #[inline]
    fn place(&self, seq: u64) -> usize {
        // The length is a power of two of at most 2048, so the lower bits are enough.
        usize::from((seq & 0xffff) as u16) & (self.ring.len() - 1)
    }
}

/// The lower 32 bits of a time.
#[inline]
fn low32(at: Micros) -> u32 {
    (at & 0xffff_ffff) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_each_packet_once_and_late_ones_twice() {
        let mut history = History::new();
        history.push(1000, 65535, 1200, 0);
        history.push(2000, 0, 100, History::probe_mark(9));
        assert!(history.is_waiting());
        assert_eq!(history.report(5000, 7, true), None);
        let lost = history.report(5000, 65535, false).unwrap();
        assert_eq!(
            (lost.sent_at, lost.bytes, lost.was_lost),
            (1000, 1200, false)
        );
        assert!(history.is_waiting());
        let probe = history.report(5000, 0, true).unwrap();
        assert_eq!(
            (probe.probe, probe.is_newest),
            (History::probe_mark(9), true)
        );
        assert_eq!(history.report(6000, 0, false), None);
        assert_eq!(history.report(6000, 65535, false), None);
        let late = history.report(6000, 65535, true).unwrap();
        assert!(late.was_lost && !late.is_newest);
        assert!(!history.is_waiting());
    }

    #[test]
    fn forgets_the_oldest_and_grows_between_packets() {
        let mut history = History::new();
        let seq = |i: usize| u16::try_from(i & 0xffff).unwrap();
        for i in 0..PACKETS_MIN + 1 {
            history.push(0, seq(i), 1, 0);
        }
        assert_eq!(history.report(1, 0, true), None);
        history.make_room();
        assert_eq!(history.ring.len(), 2 * PACKETS_MIN);
        assert!(history.report(1, 1, true).is_some());
        assert_eq!(history.report(1, 0, true), None);
        for i in 0..70_000 {
            history.push(0, seq(i + PACKETS_MIN + 1), 1, 0);
            history.make_room();
        }
        assert_eq!(history.ring.len(), PACKETS_MAX);
    }

    #[test]
    fn numbers_that_were_left_out_are_not_reported() {
        let mut history = History::new();
        history.push(0, 10, 1, 0);
        history.push(0, 13, 1, 0);
        assert_eq!(history.report(1, 11, false), None);
        history.push(0, 9000, 1, 0);
        assert_eq!(history.report(1, 10, true), None);
        assert!(history.report(1, 9000, true).is_some());
    }

    #[test]
    fn what_lost_feedback_was_about_is_counted_once() {
        let mut history = History::new();
        for seq in 65530..65535 {
            history.push(0, seq, 100, 0);
        }
        assert!(history.report(1, 65530, true).is_some());
        assert_eq!(history.passed_over(65533), 200);
        assert_eq!(history.passed_over(65533), 0);
        assert!(history.report(1, 65531, true).is_some());
        assert_eq!(history.passed_over(9), 200);
        assert!(!history.is_waiting());
    }

    #[test]
    fn times_survive_71_minutes() {
        let mut history = History::new();
        let at = 5_000_000_000;
        history.push(at, 1, 1, 0);
        assert_eq!(history.report(at + 300_000, 1, true).unwrap().sent_at, at);
    }
}
