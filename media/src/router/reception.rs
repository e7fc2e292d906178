//! What a reception report says about a stream (RFC 3550 sections 6.4.1 and A.3, A.8).

use std::time::{Duration, Instant};

use crate::rtcp::ReportBlock;

/// Statistics of one received stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reception {
    clock_rate: u32,
    base: u64,
    highest: u64,
    received: u64,
    expected_before: u64,
    received_before: u64,
    /// Jitter in 1/16 of a timestamp tick.
    jitter_16: u32,
    transit: Option<u32>,
    /// Middle of the last sender report's NTP time, and when it came.
    last_sr: Option<(u32, Instant)>,
}

impl Reception {
    pub(super) fn new(clock_rate: u32) -> Self {
        Self {
            clock_rate,
            base: 0,
            highest: 0,
            received: 0,
            expected_before: 0,
            received_before: 0,
            jitter_16: 0,
            transit: None,
            last_sr: None,
        }
    }

    /// A packet of the stream itself (not a retransmission) arrived `elapsed_us` after any fixed
    /// origin.
    pub(super) fn receive(&mut self, seq: u64, timestamp: u32, elapsed_us: u64) {
        if self.received == 0 {
            self.base = seq;
            self.highest = seq;
        }
        self.received += 1;
        self.highest = self.highest.max(seq);
        let ticks = elapsed_us.wrapping_mul(u64::from(self.clock_rate)) / 1_000_000;
        let transit = ((ticks & 0xffff_ffff) as u32).wrapping_sub(timestamp);
        if let Some(before) = self.transit {
            let change = transit.wrapping_sub(before).cast_signed().unsigned_abs();
            let smoothed = (self.jitter_16 + 8) >> 4;
            self.jitter_16 = self
                .jitter_16
                .saturating_add(change)
                .saturating_sub(smoothed);
        }
        self.transit = Some(transit);
    }

    /// Packets expected and received since the start.
    pub(super) fn totals(&self) -> (u64, u64) {
        let expected = if self.received == 0 {
            0
        } else {
            (self.highest + 1).saturating_sub(self.base)
        };
        (expected, self.received)
    }

    /// Interarrival jitter (RFC 3550 section 6.4.1).
    pub(super) fn jitter(&self) -> Duration {
        let ticks = u64::from(self.jitter_16 >> 4);
        Duration::from_micros(ticks * 1_000_000 / u64::from(self.clock_rate.max(1)))
    }

    pub(super) fn sender_report(&mut self, ntp: u64, now: Instant) {
        self.last_sr = Some((crate::rtcp::ntp_middle(ntp), now));
    }

    /// The report block for `ssrc`; starts the next interval. `None` before the first packet.
    pub(super) fn report(&mut self, ssrc: u32, now: Instant) -> Option<ReportBlock> {
        if self.received == 0 {
            return None;
        }
        let expected = (self.highest + 1).saturating_sub(self.base);
        let expected_interval = expected.saturating_sub(self.expected_before);
        let received_interval = self.received.saturating_sub(self.received_before);
        self.expected_before = expected;
        self.received_before = self.received;
        let lost_interval = expected_interval.saturating_sub(received_interval);
        let fraction = (lost_interval * 256)
            .checked_div(expected_interval)
            .unwrap_or(0);
        let lost = i64::try_from(expected).unwrap_or(i64::MAX)
            - i64::try_from(self.received).unwrap_or(i64::MAX);
        let (last_sr, delay_since_last_sr) = match self.last_sr {
            Some((middle, at)) => {
                let delay = now.saturating_duration_since(at).as_micros() * 65_536 / 1_000_000;
                (middle, u32::try_from(delay).unwrap_or(u32::MAX))
            }
            None => (0, 0),
        };
        Some(ReportBlock {
            ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(u8::MAX),
            lost: i32::try_from(lost).unwrap_or(i32::MAX),
            highest_seq: (self.highest & 0xffff_ffff) as u32,
            jitter: self.jitter_16 >> 4,
            last_sr,
            delay_since_last_sr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn loss_is_counted_per_interval() {
        let now = Instant::now();
        let mut reception = Reception::new(90_000);
        assert_eq!(reception.report(1, now), None);
        for seq in [100, 101, 103, 104, 106, 107, 108, 109] {
            let frame = seq - 100;
            reception.receive(seq, u32::try_from(frame * 3000).unwrap(), frame * 33_333);
        }
        let block = reception.report(1, now).unwrap();
        assert_eq!(
            (block.fraction_lost, block.lost, block.highest_seq),
            (51, 2, 109)
        );
        assert!(block.jitter < 2);
        let block = reception.report(1, now).unwrap();
        assert_eq!((block.fraction_lost, block.lost), (0, 2));
    }
}
