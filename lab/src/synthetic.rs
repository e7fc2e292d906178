//! Media that looks like an encoder's output to an SFU and carries its own measurement.
//!
//! [`Video`] is VP8 (RFC 7741) with the sizes and bursts of a conferencing encoder at a constant
//! target rate; [`Audio`] is Opus-like. Every packet ends in a [`Stamp`], which says who sent it, as
//! which packet, and when, so that a receiver on the same machine measures loss and delay end to
//! end whatever was rewritten in between.

mod video;

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

pub use video::{Video, VideoConfig};

/// Distance of Opus packets: 20 ms, what every browser sends.
pub const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
/// RTP ticks per Opus packet at 48 kHz (RFC 7587, section 4.1).
pub const AUDIO_TICKS: u32 = 960;
/// Opus payload at 32 kbit/s: 80 bytes per 20 ms.
const AUDIO_BYTES: usize = 80;
/// Opus TOC byte: hybrid full band, 20 ms, mono, one frame (RFC 6716, section 3.1).
const OPUS_TOC: u8 = 0x78;

/// Nanoseconds of the machine's monotonic clock: the same for every process on it.
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
    })
}

/// The last [`Stamp::LEN`] bytes of every synthetic payload, big endian:
/// magic u32, source u32, counter u64, monotonic send time in ns u64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which track sent it, unique in a run.
    pub source: u32,
    /// Number of the packet within the track, from 0, without gaps.
    pub counter: u64,
    /// When it was sent, [`monotonic_ns`].
    pub sent_ns: u64,
}

impl Stamp {
    /// Bytes of a stamp.
    pub const LEN: usize = 24;
    const MAGIC: [u8; 4] = *b"AnLb";

    /// Overwrites the end of `payload`; too short a payload stays as it is.
    pub fn write(&self, payload: &mut [u8]) {
        let Some(tail) = payload.last_chunk_mut::<{ Self::LEN }>() else {
            return;
        };
        let (magic, rest) = tail.split_at_mut(4);
        let (source, rest) = rest.split_at_mut(4);
        let (counter, sent) = rest.split_at_mut(8);
        magic.copy_from_slice(&Self::MAGIC);
        source.copy_from_slice(&self.source.to_be_bytes());
        counter.copy_from_slice(&self.counter.to_be_bytes());
        sent.copy_from_slice(&self.sent_ns.to_be_bytes());
    }

    /// Reads the stamp at the end of `payload`; `None` when it is somebody else's media.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let tail = payload.last_chunk::<{ Self::LEN }>()?;
        let rest = tail.strip_prefix(&Self::MAGIC)?;
        let (source, rest) = rest.split_first_chunk::<4>()?;
        let (counter, rest) = rest.split_first_chunk::<8>()?;
        let (sent_ns, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            source: u32::from_be_bytes(*source),
            counter: u64::from_be_bytes(*counter),
            sent_ns: u64::from_be_bytes(*sent_ns),
        })
    }
}

/// One payload that is due, without its stamp: the sender writes that when it sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// RTP payload; the last [`Stamp::LEN`] bytes are left for the stamp.
    pub bytes: Vec<u8>,
    /// RTP timestamp in the codec's clock.
    pub timestamp: u32,
    /// Last packet of a frame (video), or first of a talk spurt (audio).
    pub marker: bool,
}

/// Opus-like audio: constant size, one packet per [`AUDIO_INTERVAL`].
#[derive(Debug, Clone, Default)]
pub struct Audio {
    timestamp: u32,
    started: bool,
}

impl Audio {
    /// The next packet of the talk spurt.
    pub fn next_packet(&mut self) -> Payload {
        let mut bytes = vec![0x55; AUDIO_BYTES];
        if let Some(toc) = bytes.first_mut() {
            *toc = OPUS_TOC;
        }
        let payload = Payload {
            bytes,
            timestamp: self.timestamp,
            marker: !self.started,
        };
        self.started = true;
        self.timestamp = self.timestamp.wrapping_add(AUDIO_TICKS);
        payload
    }
}

#[cfg(test)]
mod tests;
