//! Transport-wide congestion control feedback
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use std::time::Instant;

use crate::rtcp;
use crate::rtp::{extend, low16};

/// Packets remembered between two feedbacks; a transport at 20 Mbit/s sends 200 in 100 ms.
const WINDOW: usize = 2048;

/// Packets that one feedback covers, so that it fits a datagram at two bytes of delta each.
const STATUSES_MAX: usize = 400;

/// Bytes of the body before the chunks: base, count, reference time, feedback count.
const FIXED_LEN: usize = 8;

/// Longest body in bytes.
const BODY_MAX: usize = FIXED_LEN + STATUSES_MAX.div_ceil(7) * 2 + STATUSES_MAX * 2 + 4;

/// Unit of receive deltas in microseconds.
const DELTA_US: i64 = 250;

/// Unit of the reference time in microseconds.
const REFERENCE_US: i64 = 64_000;

/// Records arrivals of one transport and writes feedback about them.
#[derive(Debug)]
pub struct Receiver {
    origin: Instant,
    /// Arrival in microseconds after the origin by sequence number modulo the window; -1: none.
    arrivals: Box<[i64; WINDOW]>,
    /// First sequence number that the next feedback covers.
    base: u64,
    /// One past the highest received.
    end: u64,
    /// Something arrived since the last feedback.
    fresh: bool,
    feedback_count: u8,
}

impl Receiver {
    /// Nothing received yet. `origin` is any instant not later than the first arrival.
    #[must_use]
    pub fn new(origin: Instant) -> Self {
        Self {
            origin,
            arrivals: Box::new([-1; WINDOW]),
            base: 0,
            end: 0,
            fresh: false,
            feedback_count: 0,
        }
    }

    /// A packet with transport-wide sequence number `seq` arrived.
    pub fn record(&mut self, seq: u16, now: Instant) {
        if self.end == 0 {
            // Leave room below for reordering.
            self.base = 0x1_0000 + u64::from(seq);
            self.end = self.base;
        }
        let seq = extend(self.end - 1, seq);
        if seq + WINDOW as u64 / 2 < self.end {
            return;
        }
        if seq >= self.end {
            if seq - self.end >= WINDOW as u64 {
                self.arrivals.fill(-1);
                self.base = seq;
            } else {
                (self.end..seq).for_each(|skipped| self.set(skipped, -1));
            }
            self.end = seq + 1;
            self.base = self.base.max(self.end.saturating_sub(WINDOW as u64 / 2));
        } else if self.get(seq) >= 0 {
            return;
        }
        let elapsed = now.saturating_duration_since(self.origin).as_micros();
        self.set(seq, i64::try_from(elapsed).unwrap_or(i64::MAX));
        self.base = self.base.min(seq);
        self.fresh = true;
    }

    /// Whether there is something to report.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.fresh
    }

    /// Writes one feedback packet and returns whether more is left to report.
    pub fn write(&mut self, out: &mut rtcp::Writer<'_>, ssrcs: (u32, u32)) -> bool {
        // The base is the first packet received: what was lost before it is in the count of the
        // next one's gap.
        let mut body = [0u8; BODY_MAX];
        let Some((len, next)) = self.body(&mut body) else {
            self.fresh = false;
            return false;
        };
        self.feedback_count = self.feedback_count.wrapping_add(1);
        self.base = next;
        self.fresh = next < self.end;
        let body = body.get(..len).unwrap_or_default();
        out.transport_feedback(ssrcs, body).is_some() && self.fresh
    }

    /// Fills a body from the base on; returns its length in bytes and the next base.
    fn body(&self, body: &mut [u8; BODY_MAX]) -> Option<(usize, u64)> {
        let limit = self.end.min(self.base + STATUSES_MAX as u64);
        let first = (self.base..self.end)
            .map(|seq| self.get(seq))
            .find(|&at| at >= 0)?;
        let reference = first / REFERENCE_US;
        let mut symbols = [0u8; STATUSES_MAX];
        let mut deltas = [0i16; STATUSES_MAX];
        let mut count = 0;
        let mut last = reference * REFERENCE_US;
        for ((symbol, delta), seq) in symbols
            .iter_mut()
            .zip(deltas.iter_mut())
            .zip(self.base..limit)
        {
            let at = self.get(seq);
            if at >= 0 {
                let ticks = (at - last).div_euclid(DELTA_US);
                let Ok(ticks) = i16::try_from(ticks) else {
                    break;
                };
                last += i64::from(ticks) * DELTA_US;
                *delta = ticks;
                *symbol = if (0..=255).contains(&ticks) { 1 } else { 2 };
            }
            count += 1;
        }
        let mut len = FIXED_LEN;
        for chunk in symbols.get(..count)?.chunks(7) {
            // Status vector chunk of two-bit symbols (section 3.1.4).
            let bits = chunk.iter().enumerate().fold(0xc000, |bits, (i, &symbol)| {
                bits | u16::from(symbol) << (12 - 2 * i)
            });
            put(body, &mut len, &bits.to_be_bytes())?;
        }
        for (&symbol, &delta) in symbols.get(..count)?.iter().zip(&deltas) {
            let [high, low] = delta.to_be_bytes();
            match symbol {
                1 => put(body, &mut len, &[low])?,
                2 => put(body, &mut len, &[high, low])?,
                _ => {}
            }
        }
        let [b1, b0] = low16(self.base).to_be_bytes();
        let [c1, c0] = u16::try_from(count).ok()?.to_be_bytes();
        let [.., r2, r1, r0] = reference.to_be_bytes();
        let fixed = [b1, b0, c1, c0, r2, r1, r0, self.feedback_count];
        body.get_mut(..FIXED_LEN)?.copy_from_slice(&fixed);
        Some((len.next_multiple_of(4), self.base + count as u64))
    }

    fn place(seq: u64) -> usize {
        usize::from(low16(seq)) % WINDOW
    }

    fn get(&self, seq: u64) -> i64 {
        self.arrivals.get(Self::place(seq)).copied().unwrap_or(-1)
    }

    fn set(&mut self, seq: u64, at: i64) {
        if let Some(arrival) = self.arrivals.get_mut(Self::place(seq)) {
            *arrival = at;
        }
    }
}

fn put(body: &mut [u8], len: &mut usize, bytes: &[u8]) -> Option<()> {
    body.get_mut(*len..*len + bytes.len())?
        .copy_from_slice(bytes);
    *len += bytes.len();
    Some(())
}

/// A parsed feedback body.
#[derive(Debug, Clone, Copy)]
pub struct Feedback<'a> {
    /// First sequence number covered.
    pub base: u16,
    /// Sequence numbers covered.
    pub count: u16,
    /// Reference time in units of 64 ms, 24 bits.
    pub reference: u32,
    /// Counts feedback packets, modulo 256.
    pub feedback_count: u8,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl<'a> Feedback<'a> {
    /// Parses what follows the two SSRCs; `None` when it is malformed.
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (&[b1, b0, c1, c0, r2, r1, r0, feedback_count], rest) =
            body.split_first_chunk::<FIXED_LEN>()?;
        let count = u16::from_be_bytes([c1, c0]);
        let mut covered = 0usize;
        let mut chunks = 0;
        while covered < usize::from(count) {
            let chunk = rest.get(chunks..chunks + 2)?;
            covered += Chunk::new(chunk)?.len();
            chunks += 2;
        }
        let (chunks, deltas) = rest.split_at_checked(chunks)?;
        Some(Self {
            base: u16::from_be_bytes([b1, b0]),
            count,
            reference: u32::from_be_bytes([0, r2, r1, r0]),
            feedback_count,
            chunks,
            deltas,
        })
    }

    /// `(seq, arrival)` per covered packet: microseconds from the reference time to the arrival,
    /// or `None` for a lost packet. Ends early when deltas are missing.
    pub fn arrivals(&self) -> impl Iterator<Item = (u16, Option<i64>)> + 'a {
        let mut deltas = self.deltas;
        let mut at = 0;
        let base = self.base;
        self.chunks
            .chunks_exact(2)
            .filter_map(Chunk::new)
            .flat_map(|chunk| (0..chunk.len()).map(move |i| chunk.symbol(i)))
            .take(usize::from(self.count))
            .zip(0u16..)
            .map_while(move |(symbol, offset)| {
                let ticks = match symbol {
                    1 => {
                        let (&delta, rest) = deltas.split_first()?;
                        deltas = rest;
                        i64::from(delta)
                    }
                    2 => {
                        let (delta, rest) = deltas.split_first_chunk::<2>()?;
                        deltas = rest;
                        i64::from(i16::from_be_bytes(*delta))
                    }
                    // 3 is reserved: nothing is known of such a packet's arrival.
                    _ => return Some((base.wrapping_add(offset), None)),
                };
                at += ticks * DELTA_US;
                Some((base.wrapping_add(offset), Some(at)))
            })
    }
}

/// Follows the reference times of one receiver over their wrap-around (every 12.4 days) and in any
/// order.
#[derive(Debug, Default)]
pub struct ReferenceClock {
    /// The latest reference time in units of 64 ms since the epoch of the first one.
    latest: Option<i64>,
}

impl ReferenceClock {
    /// The feedback's reference time in microseconds on the receiver's clock, which starts anywhere.
    pub fn micros(&mut self, feedback: &Feedback<'_>) -> i64 {
        let reference = i64::from(feedback.reference);
        let latest = self.latest.unwrap_or(reference);
        // The nearest of the values that have these 24 bits (section 3.1: a signed field).
        let distance = (reference - latest) & 0xff_ffff;
        let distance = if distance < 1 << 23 {
            distance
        } else {
            distance - (1 << 24)
        };
        let extended = latest + distance;
        self.latest = Some(latest.max(extended));
        extended * REFERENCE_US
    }
}

/// A packet status chunk (section 3.1.2).
#[derive(Debug, Clone, Copy)]
enum Chunk {
    RunLength { symbol: u8, len: usize },
    OneBit(u16),
    TwoBit(u16),
}

impl Chunk {
    fn new(bytes: &[u8]) -> Option<Self> {
        let bits = u16::from_be_bytes(<[u8; 2]>::try_from(bytes).ok()?);
        Some(match bits >> 14 {
            0 | 1 => Self::RunLength {
                symbol: (bits >> 13 & 3) as u8,
                len: usize::from(bits & 0x1fff),
            },
            2 => Self::OneBit(bits),
            _ => Self::TwoBit(bits),
        })
    }

    fn len(self) -> usize {
        match self {
            Self::RunLength { len, .. } => len,
            Self::OneBit(_) => 14,
            Self::TwoBit(_) => 7,
        }
    }

    fn symbol(self, index: usize) -> u8 {
        match self {
            Self::RunLength { symbol, .. } => symbol,
            Self::OneBit(bits) => (bits >> (13 - index.min(13)) & 1) as u8,
            Self::TwoBit(bits) => (bits >> (12 - 2 * index.min(6)) & 3) as u8,
        }
    }
}

#[cfg(test)]
mod tests;
