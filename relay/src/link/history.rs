//! The sending half of repair: what was sent during the last second, and how much may be sent again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::header::{Class, PacketMeta};

/// How long packets are kept: the repair deadline of a 400 ms hop.
const KEEP: Duration = Duration::from_secs(1);
/// Most packets kept: one second at 32,000 packets per second.
const KEEP_MAX: usize = 32_768;
/// Repairs may cost this share of what is sent, in percent.
const BUDGET_PERCENT: usize = 15;
/// Most budget saved up, in bytes: a burst of a hundred packets.
const BUDGET_MAX: usize = 128 << 10;

/// A packet that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) flow: u32,
    pub(crate) class: Class,
    pub(crate) meta: PacketMeta,
    pub(crate) rtp: Bytes,
    at: Instant,
    repaired_at: Option<Instant>,
}

/// Why a packet is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Never sent, or too long ago.
    Unknown,
    /// An answer is on its way already.
    Recent,
    /// Too much was sent again lately.
    Budget,
}

/// Packets by hop sequence number.
#[derive(Debug)]
pub(crate) struct History {
    /// Number of the front packet.
    first: u64,
    packets: VecDeque<Sent>,
    budget: usize,
}

impl History {
    pub(crate) fn new() -> Self {
        Self {
            first: 0,
            packets: VecDeque::new(),
            budget: BUDGET_MAX / 2,
        }
    }

    /// The number that the next packet gets.
    pub(crate) fn next_seq(&self) -> u32 {
        ((self.first + self.packets.len() as u64) & 0xffff_ffff) as u32
    }

    /// Assigns the next number to a packet and keeps it.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        flow: (u32, Class),
        meta: PacketMeta,
        rtp: Bytes,
    ) -> u32 {
        let seq = self.next_seq();
        self.budget = (self.budget + rtp.len() * BUDGET_PERCENT / 100).min(BUDGET_MAX);
        let (flow, class) = flow;
        self.packets.push_back(Sent {
            flow,
            class,
            meta,
            rtp,
            at: now,
            repaired_at: None,
        });
        while self.packets.len() > KEEP_MAX
            || self
                .packets
                .front()
                .is_some_and(|oldest| now.saturating_duration_since(oldest.at) > KEEP)
        {
            self.packets.pop_front();
            self.first += 1;
        }
        seq
    }

    /// Allows or refuses to send a packet again; charges the budget.
    pub(crate) fn request(
        &mut self,
        now: Instant,
        rtt: Duration,
        seq: u32,
    ) -> Result<Class, Refusal> {
        let budget = self.budget;
        let sent = self.get_mut(seq).ok_or(Refusal::Unknown)?;
        if sent.repaired_at.is_some_and(|at| now < at + rtt / 2) {
            return Err(Refusal::Recent);
        }
        let left = budget.checked_sub(sent.rtp.len()).ok_or(Refusal::Budget)?;
        sent.repaired_at = Some(now);
        let class = sent.class;
        self.budget = left;
        Ok(class)
    }

    /// The packet with this number, if it is still kept.
    pub(crate) fn get(&self, seq: u32) -> Option<&Sent> {
        self.packets.get(self.index(seq)?)
    }

    fn get_mut(&mut self, seq: u32) -> Option<&mut Sent> {
        let index = self.index(seq)?;
        self.packets.get_mut(index)
    }

    fn index(&self, seq: u32) -> Option<usize> {
        usize::try_from(seq.wrapping_sub((self.first & 0xffff_ffff) as u32)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    fn push(history: &mut History, now: Instant) -> u32 {
        let rtp = Bytes::from(vec![0; 1000]);
        history.push(now, (1, Class::Base), PacketMeta::default(), rtp)
    }

    #[test]
    fn packets_are_kept_for_a_second_and_repaired_within_budget() {
        let start = Instant::now();
        let mut history = History {
            budget: 2500,
            ..History::new()
        };
        for seq in 0..10 {
            assert_eq!(push(&mut history, start), seq);
        }
        assert_eq!(history.request(start, RTT, 3), Ok(Class::Base));
        assert_eq!(
            history.request(start + RTT / 4, RTT, 3),
            Err(Refusal::Recent)
        );
        assert_eq!(history.request(start + RTT, RTT, 3), Ok(Class::Base));
        assert_eq!(history.request(start, RTT, 10), Err(Refusal::Unknown));
        // 2,500 and 10 times 150 bytes allow four packets of 1,000.
        assert_eq!(history.request(start, RTT, 4), Ok(Class::Base));
        assert_eq!(history.request(start, RTT, 5), Ok(Class::Base));
        assert_eq!(history.request(start, RTT, 6), Err(Refusal::Budget));
        push(&mut history, start + KEEP + RTT);
        assert_eq!(history.request(start, RTT, 4), Err(Refusal::Unknown));
        assert_eq!(history.next_seq(), 11);
    }
}
