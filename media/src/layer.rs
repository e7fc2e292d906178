//! What a payload says about itself: layers, keyframes, frame boundaries.
//!
//! Only descriptors are read, which stay in the clear when clients encrypt end to end.

use crate::packet::{Codec, LayerMeta};
use dependency::is_newer;

mod dependency;
mod h26x;
mod red;
mod selection;
mod vp8;
mod vp9;

pub use dependency::Dependencies;
pub use red::primary_block;
pub use selection::{Limits, Selection};
pub use vp8::{PictureId, Vp8};
pub use vp9::{Pictures, References, Vp9};

/// Reads layer information of one stream's packets; keeps what spans packets.
#[derive(Debug, Default)]
pub struct Reader {
    dependencies: Dependencies,
    vp9: Pictures,
    /// Timestamp of the newest frame seen.
    frame: Option<u32>,
    /// Timestamp of the newest keyframe seen.
    key_frame: Option<u32>,
}

/// One packet's facts beside its payload.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// RTP timestamp: packets of a frame share it.
    pub timestamp: u32,
    /// RTP marker bit.
    pub marker: bool,
    /// Raw dependency descriptor, empty for none.
    pub descriptor: &'a [u8],
}

impl Reader {
    /// Describes a packet.
    pub fn read(&mut self, codec: Codec, payload: &[u8], context: Context<'_>) -> LayerMeta {
        if codec.is_audio() {
            return LayerMeta {
                key: true,
                frame_start: true,
                frame_end: true,
                switch_point: true,
                ..LayerMeta::default()
            };
        }
        let first_of_frame = self
            .frame
            .is_none_or(|frame| is_newer(context.timestamp, frame));
        let from_descriptor = self
            .dependencies
            .read(context.descriptor, context.timestamp);
        let mut meta = match codec {
            Codec::Vp8 => Vp8::parse(payload)
                .map(|vp8| vp8.meta())
                .unwrap_or_default(),
            Codec::Vp9 => self.vp9.read(payload).unwrap_or_default(),
            Codec::Av1 => from_descriptor.unwrap_or_else(|| av1(payload, first_of_frame)),
            Codec::H264 | Codec::H265 => {
                let key = if codec == Codec::H264 {
                    h26x::h264_key(payload)
                } else {
                    h26x::h265_key(payload)
                };
                let begins_key = key && self.key_frame != Some(context.timestamp);
                LayerMeta {
                    key,
                    frame_start: first_of_frame || begins_key,
                    temporal: from_descriptor.map_or(0, |meta| meta.temporal),
                    discardable: from_descriptor.is_some_and(|meta| meta.discardable),
                    switch_point: from_descriptor.is_some_and(|meta| meta.switch_point),
                    ..LayerMeta::default()
                }
            }
            Codec::Opus | Codec::Red | Codec::Pcmu | Codec::Pcma => LayerMeta::default(),
        };
        meta.frame_end |= context.marker;
        meta.switch_point |= meta.key || meta.temporal == 0;
        if meta.key {
            self.key_frame = Some(context.timestamp);
        }
        meta.key |= self.key_frame == Some(context.timestamp);
        if first_of_frame {
            self.frame = Some(context.timestamp);
        }
        meta
    }
}

/// From the aggregation header: `Z Y W W N` (AV1 RTP specification section 4.4).
fn av1(payload: &[u8], first_of_frame: bool) -> LayerMeta {
    let header = payload.first().copied().unwrap_or(0);
    LayerMeta {
        key: header & 0x08 != 0,
        frame_start: first_of_frame && header & 0x80 == 0,
        ..LayerMeta::default()
    }
}

#[cfg(test)]
mod tests;
