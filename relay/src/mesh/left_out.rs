//! Which packets of a stream one receiver is not sent, so that the next one sent can say so.

/// A jump by more than this, not explained by what was left out, is a new beginning of the stream.
const JUMP_MAX: u16 = 1000;

/// How a packet's sequence number goes on from what was before.
enum Place {
    /// Nothing is missing in between; so many numbers were left out by hops before.
    Next(u16),
    /// Something is missing in between; so many numbers lie there in all.
    Hole(u16),
    /// It comes after packets with higher numbers.
    Late,
    /// The first, or of another numbering.
    First,
}

/// The run of packets left out right before the next one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LeftOut {
    /// The number after the last one seen.
    next: Option<u16>,
    len: u16,
}

impl LeftOut {
    /// A packet is not sent on. With `dense` everything missing before it counts as left out too: it would not have been sent
    /// either.
    pub(super) fn skip(&mut self, seq: u16, left_out: u16, dense: bool) {
        self.len = match self.place(seq, left_out) {
            Place::Late => return,
            Place::Next(between) => self.len.saturating_add(between),
            Place::Hole(between) if dense && self.len > 0 => self.len.saturating_add(between),
            Place::Hole(_) | Place::First => left_out,
        }
        .saturating_add(1);
        self.next = Some(seq.wrapping_add(1));
    }

    /// A packet is sent on; returns what it has to say. `left_out` is what it said when it came.
    pub(super) fn send(&mut self, seq: u16, left_out: u16, dense: bool) -> u16 {
        let run = match self.place(seq, left_out) {
            Place::Late => return left_out,
            Place::Next(between) => self.len.saturating_add(between),
            Place::Hole(between) if dense && self.len > 0 => self.len.saturating_add(between),
            Place::Hole(_) | Place::First => left_out,
        };
        self.len = 0;
        self.next = Some(seq.wrapping_add(1));
        run
    }

    fn place(&self, seq: u16, left_out: u16) -> Place {
        let Some(next) = self.next else {
            return Place::First;
        };
        let ahead = seq.wrapping_sub(next);
        if ahead <= left_out {
            Place::Next(ahead)
        } else if next.wrapping_sub(seq) <= JUMP_MAX {
            Place::Late
        } else if ahead - left_out <= JUMP_MAX {
            Place::Hole(ahead)
        } else {
            Place::First
        }
    }
}

/// The sequence number of an RTP packet (RFC 3550 section 5.1).
pub(super) fn sequence_number(rtp: &[u8]) -> Option<u16> {
    rtp.get(2..4)?
        .first_chunk()
        .copied()
        .map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_add_up_and_wrap() {
        let mut run = LeftOut::default();
        assert_eq!(run.send(65_500, 0, false), 0);
        for seq in 65_501..=65_535 {
            run.skip(seq, 0, false);
        }
        // The hop before left 10 out.
        run.skip(10, 10, false);
        assert_eq!(run.send(13, 2, false), 35 + 11 + 2);
        assert_eq!(run.send(14, 0, false), 0);
        // A pause longer than the numbers.
        for seq in 15..=70_014_u32 {
            run.skip((seq & 0xffff) as u16, 0, true);
        }
        assert_eq!(run.send(4479, 0, true), u16::MAX);
    }

    #[test]
    fn what_is_missing_is_not_left_out_unless_nobody_would_get_it() {
        for dense in [false, true] {
            let mut run = LeftOut::default();
            assert_eq!(run.send(59, 0, dense), 0);
            run.skip(60, 0, dense);
            run.skip(62, 0, dense);
            run.skip(61, 0, dense);
            assert_eq!(run.send(63, 0, dense), if dense { 3 } else { 1 });
            // Lost while it is wanted: it may still come.
            assert_eq!(run.send(65, 0, dense), 0);
            assert_eq!(run.send(64, 0, dense), 0);
        }
    }

    #[test]
    fn another_numbering_begins_anew() {
        let mut run = LeftOut::default();
        run.skip(40_000, 0, true);
        assert_eq!(run.send(10_000, 0, true), 0);
        run.skip(10_001, 0, true);
        assert_eq!(run.send(10_002, 0, true), 1);
    }
}
