//! Finding gaps in a publisher's stream and asking for what is missing (RFC 4585 section 6.2.1).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::rtp::low16;
use crate::srtp::ReplayWindow;

/// Gaps followed at a time; the oldest are given up beyond that.
const MISSING_MAX: usize = 512;

/// How often one packet is asked for.
const TRIES_MAX: u8 = 10;

/// Least time between two requests for a packet.
const RETRY_MIN: Duration = Duration::from_millis(20);

/// Round trip assumed before one is measured.
const RTT_INITIAL: Duration = Duration::from_millis(100);

/// How a packet fits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// In order, or it opens a gap.
    New,
    /// It closes a gap, early enough that it was mere reordering or after we asked.
    Late {
        /// We asked for it.
        asked: bool,
    },
    /// It was there already.
    Duplicate,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    seq: u64,
    due: Instant,
    asked: Option<Instant>,
    tries: u8,
}

/// Follows one stream by extended sequence numbers.
#[derive(Debug)]
pub struct NackGenerator {
    received: ReplayWindow,
    missing: VecDeque<Missing>,
    /// Reordering tolerance.
    hold: Duration,
    rtt: Duration,
}

impl NackGenerator {
    /// Gaps younger than `hold` may be mere reordering.
    #[must_use]
    pub fn new(hold: Duration) -> Self {
        Self {
            received: ReplayWindow::default(),
            missing: VecDeque::with_capacity(MISSING_MAX),
            hold,
            rtt: RTT_INITIAL,
        }
    }

    /// Smoothed time from request to repair.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.rtt
    }

    /// A packet arrived.
    pub fn receive(&mut self, seq: u64, now: Instant) -> Receipt {
        if !self.received.is_fresh(seq) {
            return Receipt::Duplicate;
        }
        let highest = self.received.highest();
        self.received.accept(seq);
        let Some(highest) = highest else {
            return Receipt::New;
        };
        if seq < highest {
            return self.close(seq, now);
        }
        let first = (highest + 1).max(seq.saturating_sub(MISSING_MAX as u64));
        for missing in first..seq {
            if self.missing.len() == MISSING_MAX {
                self.missing.pop_front();
            }
            let due = now + self.hold;
            self.missing.push_back(Missing {
                seq: missing,
                due,
                asked: None,
                tries: 0,
            });
        }
        Receipt::New
    }

    fn close(&mut self, seq: u64, now: Instant) -> Receipt {
        let Ok(index) = self
            .missing
            .binary_search_by_key(&seq, |missing| missing.seq)
        else {
            return Receipt::Late { asked: false };
        };
        let Some(missing) = self.missing.remove(index) else {
            return Receipt::Late { asked: false };
        };
        if let (Some(asked), 1) = (missing.asked, missing.tries) {
            let sample = now.saturating_duration_since(asked);
            self.rtt = (self.rtt * 7 + sample) / 8;
        }
        Receipt::Late {
            asked: missing.asked.is_some(),
        }
    }

    /// When [`Self::collect`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.missing.iter().map(|missing| missing.due).min()
    }

    /// Fills `lost` with what to ask for now, ascending, and returns how many there are. Packets
    /// asked for ten times are given up.
    pub fn collect(&mut self, now: Instant, lost: &mut [u16]) -> usize {
        let retry = (self.rtt + self.rtt / 10).max(RETRY_MIN);
        self.missing
            .retain(|missing| missing.tries < TRIES_MAX || now < missing.due);
        let due = self
            .missing
            .iter_mut()
            .filter(|missing| missing.due <= now && missing.tries < TRIES_MAX);
        let mut count = 0;
        for (missing, slot) in due.zip(lost) {
            *slot = low16(missing.seq);
            missing.tries += 1;
            missing.asked = Some(now);
            missing.due = now + retry;
            count += 1;
        }
        count
    }
}
