//! The receiving half of repair: which hop sequence numbers are missing and when to ask for them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};

/// How long a gap may be mere reordering.
const REORDER_HOLD: Duration = Duration::from_millis(4);
/// Added to 1.1 round trips between two requests for the same packet.
const RETRY_SLACK: Duration = Duration::from_millis(3);
/// Shortest time that a packet is asked for.
const DEADLINE_MIN: Duration = Duration::from_millis(150);
/// Most packets missing at a time; beyond it the oldest are given up.
const MISSING_MAX: usize = 4096;
/// Missing packets that every datagram heard allows for: a hop that loses more than that is of no use anyway, and numbers that
/// jump about cost no more than others.
const CREDIT: usize = 8;
/// Requests in one datagram, 8 bytes each, each for up to 33 packets.
const ENTRIES_MAX: usize = 128;

/// What a hop sequence number turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Not seen before.
    New,
    /// It was missing.
    Filled,
    /// Seen before, or given up long ago.
    Duplicate,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    since: Instant,
    ask_at: Instant,
    asked: u32,
}

/// Gaps in the hop sequence of one connection, which starts at 0.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// One above the highest number known to have been sent, extended to 64 bits.
    next: u64,
    missing: BTreeMap<u64, Missing>,
    /// Entries of `missing` used beyond what the datagrams heard allow for.
    debt: usize,
    /// Found missing after the reordering hold.
    lost: u64,
    /// Lost, then repaired.
    repaired: u64,
}

impl Gaps {
    /// A media datagram with this number arrived.
    pub(crate) fn arrived(&mut self, now: Instant, seq: u32) -> Arrival {
        let seq = self.extend(seq);
        self.debt = self.debt.saturating_sub(CREDIT);
        if seq >= self.next {
            self.reach(now, seq);
            self.next = seq + 1;
            return Arrival::New;
        }
        match self.missing.remove(&seq) {
            Some(missing) => {
                self.repaired += u64::from(missing.asked > 0);
                Arrival::Filled
            }
            None => Arrival::Duplicate,
        }
    }

    /// The peer says which number it will use next.
    pub(crate) fn announced(&mut self, now: Instant, next: u32) {
        let next = self.extend(next);
        self.debt = self.debt.saturating_sub(CREDIT);
        if next > self.next {
            self.reach(now, next);
            self.next = next;
        }
    }

    /// All numbers ever expected.
    pub(crate) fn expected(&self) -> u64 {
        self.next
    }

    /// Numbers found missing after the reordering hold, and those of them that were repaired.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.lost, self.repaired)
    }

    /// When the next request is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.missing.values().map(|missing| missing.ask_at).min()
    }

    /// Writes the body of a request for everything due; false when nothing is. Entries: first number u32, bitmap u32 of the
    /// 32 after it.
    pub(crate) fn poll_nack(&mut self, now: Instant, rtt: Duration, out: &mut impl BufMut) -> bool {
        let retry = rtt.mul_f32(1.1) + RETRY_SLACK;
        let deadline = DEADLINE_MIN.max(rtt.mul_f32(2.5));
        // A last answer may still be on its way when no more is asked.
        self.missing
            .retain(|_, missing| now < missing.since + deadline + retry || now < missing.ask_at);
        let mut entry: Option<(u64, u32)> = None;
        let mut entries = 0;
        for (&seq, missing) in &mut self.missing {
            if missing.ask_at > now || entries >= ENTRIES_MAX {
                continue;
            }
            self.lost += u64::from(missing.asked == 0);
            missing.asked += 1;
            missing.ask_at = now + retry;
            if now >= missing.since + deadline {
                // Waits for its last answer only.
                continue;
            }
            entry = match entry {
                Some((first, bits)) if seq - first <= 32 => {
                    Some((first, bits | 1 << (seq - first - 1)))
                }
                Some(full) => {
                    put(full, out);
                    entries += 1;
                    Some((seq, 0))
                }
                None => Some((seq, 0)),
            };
        }
        if let Some(last) = entry {
            put(last, out);
        }
        entry.is_some()
    }

    /// Marks everything from what is next up to `end` (exclusive) as missing.
    fn reach(&mut self, now: Instant, end: u64) {
        let most = MISSING_MAX.saturating_sub(self.debt).max(CREDIT) as u64;
        let first = self.next.max(end.saturating_sub(most));
        self.lost += first - self.next;
        self.debt += usize::try_from(end - first).unwrap_or(MISSING_MAX);
        let missing = Missing {
            since: now,
            ask_at: now + REORDER_HOLD,
            asked: 0,
        };
        self.missing.extend((first..end).map(|seq| (seq, missing)));
        while self.missing.len() > MISSING_MAX {
            if let Some((_, oldest)) = self.missing.pop_first() {
                self.lost += u64::from(oldest.asked == 0);
            }
        }
    }

    /// The 64-bit number closest to what is expected.
    fn extend(&self, seq: u32) -> u64 {
        let expected = (self.next & 0xffff_ffff) as u32;
        let ahead = i64::from(seq.wrapping_sub(expected).cast_signed());
        self.next.saturating_add_signed(ahead)
    }
}

fn put((first, bits): (u64, u32), out: &mut impl BufMut) {
    out.put_u32((first & 0xffff_ffff) as u32);
    out.put_u32(bits);
}

/// The numbers in the body of a request; stops at the first bytes that are no entry.
pub(crate) fn requested(mut body: impl Buf) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || Some((body.try_get_u32().ok()?, body.try_get_u32().ok()?)))
        .take(ENTRIES_MAX + 1)
        .flat_map(|(first, bits)| {
            let after = (0..32).filter(move |bit| bits >> bit & 1 == 1);
            std::iter::once(first).chain(after.map(move |bit| first.wrapping_add(bit + 1)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    fn ask(gaps: &mut Gaps, now: Instant) -> Vec<u32> {
        let mut body = Vec::new();
        gaps.poll_nack(now, RTT, &mut body);
        requested(body.as_slice()).collect()
    }

    #[test]
    fn reordering_is_not_asked_for_and_loss_is_until_the_deadline() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut gaps = Gaps::default();
        assert_eq!(gaps.arrived(at(0), 0), Arrival::New);
        assert_eq!(gaps.arrived(at(0), 40), Arrival::New);
        assert_eq!(gaps.arrived(at(1), 2), Arrival::Filled);
        assert_eq!(gaps.arrived(at(1), 2), Arrival::Duplicate);
        assert_eq!(ask(&mut gaps, at(3)), Vec::<u32>::new());
        let asked = ask(&mut gaps, at(4));
        assert_eq!(asked, (1..40).filter(|&seq| seq != 2).collect::<Vec<_>>());
        assert_eq!(gaps.counts(), (38, 0));
        for seq in 3..40 {
            assert_eq!(gaps.arrived(at(44), seq), Arrival::Filled);
        }
        // 1.1 round trips and 3 ms after the first request.
        assert_eq!(gaps.due(), Some(at(4 + 47)));
        assert_eq!(ask(&mut gaps, at(51)), [1]);
        assert_eq!(ask(&mut gaps, at(98)), [1]);
        assert_eq!(ask(&mut gaps, at(145)), [1]);
        assert_eq!(ask(&mut gaps, at(192)), Vec::<u32>::new());
        assert_eq!(ask(&mut gaps, at(250)), Vec::<u32>::new());
        assert_eq!(gaps.due(), None);
        assert_eq!(gaps.arrived(at(260), 1), Arrival::Duplicate);
        assert_eq!(gaps.counts(), (38, 37));
    }

    #[test]
    fn the_first_and_the_last_packets_are_missed_too() {
        let start = Instant::now();
        let mut gaps = Gaps::default();
        gaps.announced(start, 3);
        assert_eq!(gaps.arrived(start, 1), Arrival::Filled);
        assert_eq!(ask(&mut gaps, start + REORDER_HOLD), [0, 2]);
    }

    #[test]
    fn numbers_wrap_and_jumps_are_bounded() {
        let start = Instant::now();
        let mut gaps = Gaps {
            next: (1 << 32) - 1,
            ..Gaps::default()
        };
        assert_eq!(gaps.arrived(start, u32::MAX), Arrival::New);
        assert_eq!(gaps.arrived(start, 1), Arrival::New);
        assert_eq!(ask(&mut gaps, start + REORDER_HOLD), [0]);
        assert_eq!(gaps.arrived(start, 1_000_000), Arrival::New);
        assert!(gaps.missing.len() <= MISSING_MAX);
    }

    #[test]
    fn a_burst_is_followed_and_endless_jumps_are_not() {
        let start = Instant::now();
        let mut gaps = Gaps::default();
        assert_eq!(gaps.arrived(start, 3000), Arrival::New);
        assert_eq!(gaps.missing.len(), 3000);
        for packet in 0..1000 {
            gaps.arrived(start, 3000 + 5000 * (packet + 1));
        }
        assert!(gaps.debt <= MISSING_MAX + CREDIT);
        assert!(gaps.counts().0 > 4_900_000);
        // Loss as it happens is followed as before.
        for packet in 0..2000 {
            gaps.arrived(start, 5_003_002 + 8 * packet);
        }
        assert_eq!(gaps.missing.len(), MISSING_MAX);
    }
}
