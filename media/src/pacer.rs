//! Spreads what one peer is sent over time, so that a keyframe does not fill the narrowest queue of the path at once.
//!
//! A token bucket at the pacing rate of congestion control. A packet that finds credit and nobody waiting goes out at once; the
//! others wait in two bounded lanes, repairs before media. Audio never waits: it is thin, and what it takes is taken from the
//! others' credit. The order within a lane is kept, so the packets of a stream never overtake each other.
//!
//! The pacing rate is well above what the path carries, so that a frame is not late; what is sent in excess of the target rate
//! waits somewhere on the path instead. A second bucket counts it ([`Pacer::excess`]), so that no frame begins while much of it
//! does.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much may go out at once, as time at the pacing rate. Also the least time between two looks at the lanes: the pacing
/// interval of libwebrtc's pacer, and what a millisecond timer can serve.
pub const BURST: Duration = Duration::from_millis(5);

/// Packets that wait in one lane at most: a keyframe of 1.2 MB.
const LANE_MAX: usize = 1024;

/// Bits times microseconds per second in a byte: credit counts in bits per second times microseconds.
const BYTE: i64 = 8_000_000;

/// Longest time that credit is computed over; beyond that the bucket is full anyway.
const REFILL_MAX: Duration = Duration::from_secs(1);

/// What a packet is to the pacer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Goes out at once, always.
    Audio,
    /// A retransmission: before media.
    Repair,
    /// Video.
    Media,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<(u32, T)>,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
        }
    }
}

/// The pacer of one peer; `T` is what waits. Lanes take memory only once something waits.
#[derive(Debug)]
pub struct Pacer<T> {
    /// `None`: nothing is known about the path, everything goes out at once.
    rate_bps: Option<u64>,
    /// What may be sent, in units of [`BYTE`]; negative after a packet larger than what was left.
    credit: i64,
    refilled: Instant,
    repairs: Lane<T>,
    media: Lane<T>,
    /// In both lanes.
    bytes: u64,
    target_bps: u64,
    /// Sent in excess of the target rate as of `settled`, in units of [`BYTE`].
    excess: i64,
    settled: Instant,
}

impl<T> Pacer<T> {
    /// A pacer that lets everything through until [`Self::set_rate`].
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            rate_bps: None,
            credit: 0,
            refilled: now,
            repairs: Lane::default(),
            media: Lane::default(),
            bytes: 0,
            target_bps: 0,
            excess: 0,
            settled: now,
        }
    }

    /// From now on at most `rate_bps` bit/s, and `target_bps` in the long run; `None`: no limit.
    pub fn set_rate(&mut self, now: Instant, rate_bps: Option<u64>, target_bps: u64) {
        self.refill(now);
        self.settle(now);
        self.target_bps = target_bps;
        let began = self.rate_bps.is_none() && rate_bps.is_some();
        self.rate_bps = rate_bps;
        self.credit = if began {
            self.burst()
        } else {
            self.credit.min(self.burst())
        };
    }

    /// Whether a packet of this class may go out at once. What goes out is to be counted by [`Self::spend`].
    #[inline]
    pub fn is_open(&mut self, now: Instant, class: Class) -> bool {
        match class {
            Class::Audio => true,
            Class::Repair => self.repairs.waiting.is_empty() && self.has_credit(now),
            Class::Media => self.is_idle() && self.has_credit(now),
        }
    }

    /// A packet of `bytes` went out.
    #[inline]
    pub fn spend(&mut self, bytes: usize) {
        let cost = i64::try_from(bytes)
            .unwrap_or(i64::MAX)
            .saturating_mul(BYTE);
        self.credit = self.credit.saturating_sub(cost);
        self.excess = self.excess.saturating_add(cost);
    }

    /// What was spent does not count as excess: a probe is meant to be.
    pub fn forgive(&mut self, bytes: usize) {
        let cost = i64::try_from(bytes)
            .unwrap_or(i64::MAX)
            .saturating_mul(BYTE);
        self.excess = self.excess.saturating_sub(cost);
    }

    /// How long the path needs at the target rate for what was sent in excess of it and what waits here.
    pub fn excess(&mut self, now: Instant) -> Duration {
        if self.rate_bps.is_none() {
            return Duration::ZERO;
        }
        self.settle(now);
        let target_bps = self.target_bps.max(1);
        let path = self.excess.max(0).unsigned_abs() / target_bps;
        let here = self.bytes.saturating_mul(BYTE.unsigned_abs()) / target_bps;
        Duration::from_micros(path.saturating_add(here))
    }

    /// Puts a packet of about `bytes` behind those that wait; gives it back when the lane is full. Audio has no lane: it waits as
    /// a repair would.
    ///
    /// # Errors
    /// When 1024 packets wait already.
    pub fn push(&mut self, class: Class, bytes: usize, item: T) -> Result<(), T> {
        let lane = match class {
            Class::Audio | Class::Repair => &mut self.repairs,
            Class::Media => &mut self.media,
        };
        if lane.waiting.len() >= LANE_MAX {
            return Err(item);
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        lane.waiting.push_back((bytes, item));
        self.bytes += u64::from(bytes);
        Ok(())
    }

    /// The next packet that may go out now.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        if self.is_idle() || !self.has_credit(now) {
            return None;
        }
        let (bytes, item) = self
            .repairs
            .waiting
            .pop_front()
            .or_else(|| self.media.waiting.pop_front())?;
        self.bytes = self.bytes.saturating_sub(u64::from(bytes));
        Some(item)
    }

    /// Forgets what waits and does not satisfy `keep`.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for lane in [&mut self.repairs, &mut self.media] {
            lane.waiting.retain(|(_, item)| keep(item));
        }
        let lanes = self.repairs.waiting.iter().chain(&self.media.waiting);
        self.bytes = lanes.map(|(bytes, _)| u64::from(*bytes)).sum();
    }

    /// Whether there is a rate.
    #[must_use]
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.rate_bps.is_some()
    }

    /// Whether nothing waits.
    #[must_use]
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.bytes == 0
    }

    /// Whether there is credit for another packet.
    #[inline]
    pub fn has_credit(&mut self, now: Instant) -> bool {
        if self.credit <= 0 {
            self.refill(now);
        }
        self.credit > 0 || self.rate_bps.is_none()
    }

    /// How long what waits takes at the pacing rate.
    #[must_use]
    #[inline]
    pub fn queue(&self) -> Duration {
        match self.rate_bps {
            Some(rate_bps) if self.bytes > 0 => {
                Duration::from_micros(self.bytes.saturating_mul(8_000_000) / rate_bps.max(1))
            }
            Some(_) | None => Duration::ZERO,
        }
    }

    /// When [`Self::pop`] has something, given that it had nothing just now; `None` while nothing waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_idle()).then(|| self.refilled + BURST.max(self.until_credit()))
    }

    /// How long after the last refill there is credit.
    fn until_credit(&self) -> Duration {
        match self.rate_bps {
            Some(rate_bps) if self.credit <= 0 => {
                let us = self.credit.unsigned_abs() / rate_bps.max(1) + 1;
                Duration::from_micros(us).min(REFILL_MAX)
            }
            Some(_) | None => Duration::ZERO,
        }
    }

    /// The path has carried some of the excess meanwhile.
    fn settle(&mut self, now: Instant) {
        let us = now.saturating_duration_since(self.settled).as_micros();
        self.settled = self.settled.max(now);
        let us = i64::try_from(us).unwrap_or(i64::MAX);
        let target_bps = i64::try_from(self.target_bps).unwrap_or(i64::MAX);
        let carried = target_bps.saturating_mul(us);
        self.excess = self.excess.max(0).saturating_sub(carried).max(0);
        if self.rate_bps.is_none() {
            self.excess = 0;
        }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled).min(REFILL_MAX);
        self.refilled = self.refilled.max(now);
        let rate_bps = self.rate_bps.unwrap_or(0);
        let us = i64::try_from(elapsed.as_micros()).unwrap_or(0);
        let earned = i64::try_from(rate_bps)
            .unwrap_or(i64::MAX)
            .saturating_mul(us);
        self.credit = self.credit.saturating_add(earned).min(self.burst());
    }

    fn burst(&self) -> i64 {
        let us = i64::try_from(BURST.as_micros()).unwrap_or(0);
        let rate_bps = i64::try_from(self.rate_bps.unwrap_or(0)).unwrap_or(i64::MAX);
        rate_bps.saturating_mul(us)
    }
}

#[cfg(test)]
mod tests;
