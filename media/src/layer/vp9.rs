//! The VP9 payload descriptor (RFC 9628 section 4.2).

use crate::packet::LayerMeta;

/// A parsed descriptor, as far as forwarding needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vp9 {
    /// Spatial layer.
    pub spatial: u8,
    /// Temporal layer.
    pub temporal: u8,
    /// P: predicted from other pictures.
    pub predicted: bool,
    /// B: first packet of a layer frame.
    pub start: bool,
    /// E: last packet of a layer frame.
    pub end: bool,
    /// Z: no higher spatial layer refers to it.
    pub not_reference: bool,
    /// U: a receiver may switch up to this temporal layer.
    pub switch_point: bool,
}

impl Vp9 {
    /// Parses a payload; `None` when the descriptor is truncated.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (&first, mut rest) = payload.split_first()?;
        let mut vp9 = Self {
            predicted: first & 0x40 != 0,
            start: first & 0x08 != 0,
            end: first & 0x04 != 0,
            not_reference: first & 0x01 != 0,
            ..Self::default()
        };
        if first & 0x80 != 0 {
            let wide = *rest.first()? & 0x80 != 0;
            rest = rest.get(if wide { 2 } else { 1 }..)?;
        }
        if first & 0x20 != 0 {
            let layer = *rest.first()?;
            vp9.temporal = layer >> 5;
            vp9.switch_point = layer & 0x10 != 0;
            vp9.spatial = layer >> 1 & 7;
        }
        Some(vp9)
    }

    pub(super) fn meta(&self) -> LayerMeta {
        LayerMeta {
            spatial: self.spatial,
            temporal: self.temporal,
            key: !self.predicted && self.start && self.spatial == 0,
            discardable: self.not_reference && self.spatial > 0,
            frame_start: self.start,
            frame_end: self.end,
            switch_point: self.switch_point,
        }
    }
}
