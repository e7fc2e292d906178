//! The VP8 payload descriptor (RFC 7741 section 4.2).

use crate::packet::LayerMeta;

/// A picture id and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureId {
    /// 7 or 15 bits.
    pub value: u16,
    /// The 15-bit form.
    pub wide: bool,
    /// Offset in the payload in bytes.
    pub offset: usize,
}

impl PictureId {
    /// Bits of the form in use.
    #[must_use]
    pub fn bits(self) -> u32 {
        if self.wide { 15 } else { 7 }
    }
}

/// A parsed descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vp8 {
    /// Picture id.
    pub picture_id: Option<PictureId>,
    /// TL0PICIDX as `(value, offset in the payload)`.
    pub tl0_picture: Option<(u8, usize)>,
    /// Temporal layer.
    pub temporal: u8,
    /// Y: depends on the base layer only.
    pub layer_sync: bool,
    /// N: nobody refers to this frame.
    pub non_reference: bool,
    /// First packet of the frame.
    pub start: bool,
    /// First packet of a keyframe.
    pub key: bool,
}

impl Vp8 {
    /// Parses a payload; `None` when the descriptor is truncated.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (&first, _) = payload.split_first()?;
        let mut vp8 = Self {
            non_reference: first & 0x20 != 0,
            start: first & 0x10 != 0 && first & 0x07 == 0,
            ..Self::default()
        };
        let mut at = 1;
        if first & 0x80 != 0 {
            let flags = *payload.get(at)?;
            at += 1;
            if flags & 0x80 != 0 {
                let high = *payload.get(at)?;
                let wide = high & 0x80 != 0;
                let value = if wide {
                    u16::from_be_bytes([high & 0x7f, *payload.get(at + 1)?])
                } else {
                    u16::from(high)
                };
                vp8.picture_id = Some(PictureId {
                    value,
                    wide,
                    offset: at,
                });
                at += if wide { 2 } else { 1 };
            }
            if flags & 0x40 != 0 {
                vp8.tl0_picture = Some((*payload.get(at)?, at));
                at += 1;
            }
            if flags & 0x30 != 0 {
                let layer = *payload.get(at)?;
                if flags & 0x20 != 0 {
                    vp8.temporal = layer >> 6;
                    vp8.layer_sync = layer & 0x20 != 0;
                }
                at += 1;
            }
        }
        // P of the VP8 payload header is inverse (RFC 7741 section 4.3).
        vp8.key = vp8.start && payload.get(at).is_some_and(|header| header & 1 == 0);
        Some(vp8)
    }

    pub(super) fn meta(&self) -> LayerMeta {
        LayerMeta {
            temporal: self.temporal,
            key: self.key,
            discardable: self.non_reference,
            frame_start: self.start,
            switch_point: self.layer_sync,
            ..LayerMeta::default()
        }
    }
}
