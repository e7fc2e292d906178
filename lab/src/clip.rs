//! Pre-encoded pictures and sound from files: publishers that replay them cost next to no CPU, and what they send decodes.

mod ivf;
mod ogg;
mod packetize;
mod player;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

pub use ogg::OpusFile;
pub use player::{Player, Schedule};

/// Frames that a clip may have: half an hour at 30 per second.
const FRAMES_MAX: usize = 54_000;

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {reason}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The layers do not fit together.
    #[error("layers of one clip must {0}")]
    Layers(&'static str),
}

/// Codecs that can be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// RFC 7741.
    Vp8,
    /// RFC 9628, one spatial layer.
    Vp9,
    /// AV1 RTP specification, one spatial layer.
    Av1,
}

impl Codec {
    /// Name in SDP and signalling.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vp8 => "vp8",
            Self::Vp9 => "vp9",
            Self::Av1 => "av1",
        }
    }

    fn of_fourcc(fourcc: [u8; 4]) -> Option<Self> {
        match &fourcc {
            b"VP80" => Some(Self::Vp8),
            b"VP90" => Some(Self::Vp9),
            b"AV01" => Some(Self::Av1),
            _ => None,
        }
    }

    /// Whether an encoded frame starts anew (RFC 6386 section 9.1, VP9 bitstream section 6.2, AV1: a sequence header comes
    /// with every keyframe and only there).
    fn is_key(self, frame: &[u8]) -> bool {
        let Some(&first) = frame.first() else {
            return false;
        };
        match self {
            Self::Vp8 => first & 1 == 0,
            // frame_marker 0b10, profile below 3, show_existing_frame 0, frame_type 0.
            Self::Vp9 => first & 0xcc == 0x80,
            Self::Av1 => {
                packetize::obus(frame).any(|obu| obu.kind == packetize::OBU_SEQUENCE_HEADER)
            }
        }
    }
}

/// One encoded frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// What the encoder wrote.
    pub bytes: Bytes,
    /// Decodes without an earlier one.
    pub key: bool,
}

/// One simulcast stream of a clip.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Width in pixels.
    pub width: u16,
    /// Height in pixels.
    pub height: u16,
    /// In order; the first is a keyframe.
    pub frames: Vec<Frame>,
}

/// A video in one to three sizes, smallest first, whose keyframes are at the same places.
#[derive(Debug, Clone)]
pub struct Clip {
    /// Codec of all layers.
    pub codec: Codec,
    /// Frames per second.
    pub frames_per_second: u32,
    /// Smallest first.
    pub layers: Vec<Layer>,
    /// Temporal layer of frame `n` at `n % len`; empty: all frames are of layer 0.
    pub temporal: &'static [u8],
}

impl Clip {
    /// Reads one IVF file per layer, in any order.
    ///
    /// `temporal_layers` says in which pattern they were encoded: 1, 2 (0 1) or 3 (0 2 1 2); keyframes must be on layer 0, and
    /// frames must refer to the last ones of lower layers only, as with ffmpeg's `ts_layering_mode` 2 and 3.
    ///
    /// # Errors
    /// When a file cannot be read, is not IVF, or the files do not fit together.
    pub fn open(paths: &[PathBuf], temporal_layers: u8) -> Result<Self, Error> {
        let mut files = Vec::new();
        for path in paths {
            files.push(ivf::parse(path, &read(path)?)?);
        }
        let first = files.first().ok_or(Error::Layers("be at least one"))?;
        let (codec, frames_per_second) = (first.codec, first.frames_per_second);
        let alike = files
            .iter()
            .all(|file| file.codec == codec && file.frames_per_second == frames_per_second);
        if !alike {
            return Err(Error::Layers("have one codec and one frame rate"));
        }
        let mut layers: Vec<Layer> = files.into_iter().map(|file| file.layer).collect();
        layers.sort_by_key(|layer| layer.width);
        let clip = Self {
            codec,
            frames_per_second,
            layers,
            temporal: match temporal_layers {
                0 | 1 => &[],
                2 => &[0, 1],
                _ => &[0, 2, 1, 2],
            },
        };
        clip.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        let (first, others) = self
            .layers
            .split_first()
            .ok_or(Error::Layers("be at least one"))?;
        if self.layers.len() > 3 || (self.layers.len() > 1 && self.codec != Codec::Vp8) {
            return Err(Error::Layers(
                "be at most three, and one with a codec other than VP8",
            ));
        }
        if !first.frames.first().is_some_and(|frame| frame.key) || first.frames.len() > FRAMES_MAX {
            return Err(Error::Layers(
                "start with a keyframe and last less than half an hour",
            ));
        }
        let keys =
            |layer: &Layer| -> Vec<bool> { layer.frames.iter().map(|frame| frame.key).collect() };
        let places = keys(first);
        if others.iter().any(|layer| keys(layer) != places) {
            return Err(Error::Layers("have their keyframes at the same places"));
        }
        let upper = |at: usize| self.temporal_layer(at) > 0;
        let period = self.temporal.len().max(1);
        if !places.len().is_multiple_of(period)
            || places.iter().enumerate().any(|(at, &key)| key && upper(at))
        {
            return Err(Error::Layers(
                "end with a whole temporal period and have keyframes on temporal layer 0",
            ));
        }
        Ok(self)
    }

    /// Temporal layer of a frame.
    pub fn temporal_layer(&self, frame: usize) -> u8 {
        let at = frame.checked_rem(self.temporal.len()).unwrap_or(0);
        self.temporal.get(at).copied().unwrap_or(0)
    }

    /// Whether the layers have a keyframe there.
    fn is_key(&self, frame: usize) -> bool {
        let first = self
            .layers
            .first()
            .and_then(|layer| layer.frames.get(frame));
        first.is_some_and(|frame| frame.key)
    }

    /// Mean payload rate of a layer, bits per second.
    pub fn bitrate_bps(&self, layer: usize) -> u64 {
        let Some(layer) = self.layers.get(layer) else {
            return 0;
        };
        let bytes: usize = layer.frames.iter().map(|frame| frame.bytes.len()).sum();
        let frames = layer.frames.len().max(1) as u64;
        bytes as u64 * 8 * u64::from(self.frames_per_second) / frames
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::Io {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests;
