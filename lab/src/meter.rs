//! What a receiver got: unique packets, loss and delay, by the stamps in the payload.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;

use crate::synthetic::{Stamp, monotonic_ns};

/// Packets that a duplicate may lag behind: 30 s of a 2 Mbit/s stream.
const SEEN: u64 = 8192;
/// Longest delay told apart, microseconds.
const DELAY_US_MAX: u64 = 60_000_000;
/// Tracks one receiver keeps apart; packets of more are counted as strangers.
const TRACKS_MAX: usize = 4096;

/// The span of send times that counts, shared by senders and receivers of a run.
#[derive(Debug)]
pub struct Window {
    start_ns: AtomicU64,
    end_ns: AtomicU64,
}

impl Default for Window {
    /// Everything counts.
    fn default() -> Self {
        Self {
            start_ns: AtomicU64::new(0),
            end_ns: AtomicU64::new(u64::MAX),
        }
    }
}

impl Window {
    /// A window that counts nothing yet.
    pub fn closed() -> Self {
        Self {
            start_ns: AtomicU64::new(u64::MAX),
            end_ns: AtomicU64::new(u64::MAX),
        }
    }

    /// Sets the span, nanoseconds of [`monotonic_ns`], start inclusive and end exclusive.
    pub fn set(&self, start_ns: u64, end_ns: u64) {
        self.end_ns.store(end_ns, Ordering::Relaxed);
        self.start_ns.store(start_ns, Ordering::Relaxed);
    }

    /// Whether a packet that was sent then counts.
    pub fn contains(&self, sent_ns: u64) -> bool {
        (self.start_ns.load(Ordering::Relaxed)..self.end_ns.load(Ordering::Relaxed))
            .contains(&sent_ns)
    }
}

/// What a sender sent within the window.
#[derive(Debug, Default)]
pub struct Sent {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Sent {
    /// Counts a packet of `len` payload bytes.
    pub fn count(&self, len: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// Packets and payload bytes.
    pub fn totals(&self) -> (u64, u64) {
        (
            self.packets.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }
}

/// Totals of one receiver within the window.
#[derive(Debug, Clone)]
pub struct Received {
    /// Packets, duplicates not counted.
    pub packets: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Packets without a stamp of ours, window or not.
    pub strangers: u64,
    /// Packets missing between the first and the last that came, summed over tracks. Loss before
    /// the first and after the last shows only against the senders' totals.
    pub gaps: u64,
    /// Tracks that something came from.
    pub tracks: usize,
    /// Delay from send to receive, microseconds.
    pub delay_us: Histogram<u64>,
}

#[derive(Debug)]
struct Track {
    first: u64,
    highest: u64,
    unique: u64,
    /// Bit `counter % SEEN`: whether the packet came; bits ahead of `highest` are clear.
    seen: Vec<u64>,
}

impl Track {
    fn new(counter: u64) -> Self {
        let words = usize::try_from(SEEN / 64).unwrap_or(0);
        Self {
            first: counter,
            highest: counter,
            unique: 0,
            seen: vec![0; words],
        }
    }

    /// False for a duplicate (or a packet too old to tell).
    fn insert(&mut self, counter: u64) -> bool {
        if counter + SEEN <= self.highest {
            return false;
        }
        if counter > self.highest {
            let clear = (counter - self.highest).min(SEEN);
            for ahead in 0..clear {
                self.bit(counter - ahead, false);
            }
            self.highest = counter;
        }
        self.first = self.first.min(counter);
        let new = !self.bit(counter, true);
        self.unique += u64::from(new);
        new
    }

    /// Writes the packet's bit and returns what it was.
    fn bit(&mut self, counter: u64, value: bool) -> bool {
        let at = counter % SEEN;
        let mask = 1_u64 << (at % 64);
        let Some(word) = usize::try_from(at / 64)
            .ok()
            .and_then(|word| self.seen.get_mut(word))
        else {
            return false;
        };
        let was = *word & mask != 0;
        if value {
            *word |= mask;
        } else {
            *word &= !mask;
        }
        was
    }
}

#[derive(Debug)]
struct Inner {
    tracks: BTreeMap<u32, Track>,
    bytes: u64,
    duplicates: u64,
    strangers: u64,
    delay_us: Histogram<u64>,
}

/// Counts what one receiver gets. Shared between its tasks; the lock is never contended for long.
#[derive(Debug)]
pub struct Meter {
    window: Arc<Window>,
    inner: Mutex<Inner>,
}

impl Meter {
    /// A meter that counts packets sent within `window`.
    ///
    /// # Panics
    /// Never: the histogram's bounds are constants that it accepts.
    #[expect(
        clippy::expect_used,
        reason = "constant bounds: 1 < 60 s and 2 digits are accepted"
    )]
    pub fn new(window: Arc<Window>) -> Self {
        let delay_us = Histogram::new_with_bounds(1, DELAY_US_MAX, 2)
            .expect("1 us..60 s with two digits is a valid histogram");
        let inner = Inner {
            tracks: BTreeMap::new(),
            bytes: 0,
            duplicates: 0,
            strangers: 0,
            delay_us,
        };
        Self {
            window,
            inner: Mutex::new(inner),
        }
    }

    /// Counts a packet that arrives now.
    pub fn receive(&self, payload: &[u8]) {
        self.receive_at(payload, monotonic_ns());
    }

    /// Counts a packet that arrives at `now_ns`.
    pub fn receive_at(&self, payload: &[u8], now_ns: u64) {
        let stamp = Stamp::read(payload);
        let mut inner = self.lock();
        let Some(stamp) = stamp else {
            inner.strangers += 1;
            return;
        };
        if !self.window.contains(stamp.sent_ns) {
            return;
        }
        if inner.tracks.len() >= TRACKS_MAX && !inner.tracks.contains_key(&stamp.source) {
            inner.strangers += 1;
            return;
        }
        let track = inner
            .tracks
            .entry(stamp.source)
            .or_insert_with(|| Track::new(stamp.counter));
        if !track.insert(stamp.counter) {
            inner.duplicates += 1;
            return;
        }
        inner.bytes += payload.len() as u64;
        let delay_us = now_ns.saturating_sub(stamp.sent_ns) / 1000;
        inner.delay_us.saturating_record(delay_us.max(1));
    }

    /// Totals so far.
    pub fn received(&self) -> Received {
        let inner = self.lock();
        Received {
            packets: inner.tracks.values().map(|track| track.unique).sum(),
            bytes: inner.bytes,
            duplicates: inner.duplicates,
            strangers: inner.strangers,
            gaps: inner
                .tracks
                .values()
                .map(|track| (track.highest - track.first + 1).saturating_sub(track.unique))
                .sum(),
            tracks: inner.tracks.len(),
            delay_us: inner.delay_us.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
