//! A VP8 encoder's packets without an encoder.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Payload, Stamp};

/// RTP clock of video (RFC 7741, section 4.1), Hz.
const CLOCK_RATE: u32 = 90_000;
/// Largest payload: 1,200-byte packets less RTP header, extensions and SRTP tag, as libwebrtc does.
const PAYLOAD_MAX: usize = 1150;
/// VP8 payload descriptor with 15-bit picture id, TL0PICIDX and TID (RFC 7741, section 4.2).
const DESCRIPTOR_LEN: usize = 6;
/// VP8 frame header of a keyframe: tag, start code, dimensions (RFC 6386, section 9.1).
const KEYFRAME_HEADER_LEN: usize = 10;
/// A keyframe of a talking head is five to eight times a mean frame.
const KEYFRAME_FACTOR: f64 = 6.0;
/// Share of the budget by which delta frames shrink until a keyframe's excess is paid back.
const PAY_BACK: f64 = 0.2;

/// What the encoder is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VideoConfig {
    /// Target rate of the payload, bits per second.
    pub bitrate_bps: u64,
    /// Frames per second.
    pub frames_per_second: u32,
    /// Width in pixels, as keyframes announce it.
    pub width: u16,
    /// Height in pixels, as keyframes announce it.
    pub height: u16,
    /// Seed of the frame sizes.
    pub seed: u64,
}

impl Default for VideoConfig {
    /// 720p at 30 frames per second and 2 Mbit/s.
    fn default() -> Self {
        Self {
            bitrate_bps: 2_000_000,
            frames_per_second: 30,
            width: 1280,
            height: 720,
            seed: 1,
        }
    }
}

/// Sizes and headers of an endless VP8 stream.
#[derive(Debug, Clone)]
pub struct Video {
    config: VideoConfig,
    rng: StdRng,
    timestamp: u32,
    picture_id: u16,
    tl0_picture_index: u8,
    /// Bytes sent above the target so far; paid back by smaller frames.
    excess: f64,
    keyframe_wanted: bool,
}

impl Video {
    /// A stream that starts with a keyframe.
    pub fn new(config: VideoConfig) -> Self {
        Self {
            config,
            rng: StdRng::seed_from_u64(config.seed),
            timestamp: 0,
            picture_id: 0,
            tl0_picture_index: 0,
            excess: 0.0,
            keyframe_wanted: true,
        }
    }

    /// Time between frames.
    pub fn frame_interval(&self) -> Duration {
        Duration::from_secs(1) / self.config.frames_per_second.max(1)
    }

    /// Makes the next frame a keyframe (a PLI or FIR came).
    pub fn request_keyframe(&mut self) {
        self.keyframe_wanted = true;
    }

    /// The packets of the next frame, near-equal in size, into `out` (cleared first). Returns
    /// whether it is a keyframe.
    pub fn next_frame(&mut self, out: &mut Vec<Payload>) -> bool {
        out.clear();
        let key = std::mem::take(&mut self.keyframe_wanted);
        let frame_len = self.frame_len(key);
        let room = PAYLOAD_MAX - DESCRIPTOR_LEN;
        let count = frame_len.div_ceil(room).max(1);
        for index in 0..count {
            // Spread the remainder so that no packet is more than a byte larger than another.
            let len = frame_len / count + usize::from(index < frame_len % count);
            let bytes = self.packet(len, key, index == 0);
            out.push(Payload {
                bytes,
                timestamp: self.timestamp,
                marker: index + 1 == count,
            });
        }
        let ticks = CLOCK_RATE / self.config.frames_per_second.max(1);
        self.timestamp = self.timestamp.wrapping_add(ticks);
        self.picture_id = (self.picture_id + 1) & 0x7fff;
        self.tl0_picture_index = self.tl0_picture_index.wrapping_add(1);
        key
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a frame is some kilobytes, and the value is clamped to a positive range"
    )]
    fn frame_len(&mut self, key: bool) -> usize {
        let mean =
            self.config.bitrate_bps as f64 / 8.0 / f64::from(self.config.frames_per_second.max(1));
        let wanted = if key {
            mean * KEYFRAME_FACTOR
        } else {
            // Sum of uniforms: near normal, mean 1, deviation 0.29, as rate-controlled deltas are.
            let spread: f64 = (0..4)
                .map(|_| self.rng.random_range(0.25..0.75))
                .sum::<f64>()
                / 2.0;
            let pay_back = self.excess.clamp(-mean * PAY_BACK, mean * PAY_BACK);
            mean * (1.0 + (spread - 1.0) * 2.0) - pay_back
        };
        let len = wanted.clamp((Stamp::LEN + KEYFRAME_HEADER_LEN) as f64, 1e6);
        self.excess += len - mean;
        len as usize
    }

    /// Payload descriptor, frame header on the first packet, filler, room for the stamp.
    fn packet(&self, len: usize, key: bool, first: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DESCRIPTOR_LEN + len);
        let [id_high, id_low] = self.picture_id.to_be_bytes();
        bytes.extend_from_slice(&[
            // X, and S on the first packet; partition 0.
            if first { 0x90 } else { 0x80 },
            // I, L, T.
            0xe0,
            // M: a 15-bit picture id.
            0x80 | id_high,
            id_low,
            self.tl0_picture_index,
            // TID 0, Y 0.
            0x00,
        ]);
        if first {
            // Frame tag: P bit 0 = keyframe, version 0, show_frame; first partition 1,000 bytes.
            let tag = u32::from(!key) | 1 << 4 | 1000 << 5;
            bytes.extend_from_slice(
                tag.to_le_bytes()
                    .split_last_chunk::<1>()
                    .map_or(&[], |x| x.0),
            );
            if key {
                bytes.extend_from_slice(&[0x9d, 0x01, 0x2a]);
                bytes.extend_from_slice(&(self.config.width & 0x3fff).to_le_bytes());
                bytes.extend_from_slice(&(self.config.height & 0x3fff).to_le_bytes());
            }
        }
        bytes.resize(DESCRIPTOR_LEN + len.max(Stamp::LEN), 0xa5);
        bytes
    }
}
