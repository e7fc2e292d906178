//! What a relay may know about a packet's place in its stream.

/// Layer ids and frame flags; travels in the hop header so that relays never parse a codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LayerMeta {
    /// Spatial layer inside the stream (SVC), 0 to 7.
    pub spatial: u8,
    /// Temporal layer, 0 to 7.
    pub temporal: u8,
    /// The packet belongs to a keyframe.
    pub key: bool,
    /// No other frame refers to this one.
    pub discardable: bool,
    /// First packet of a frame.
    pub frame_start: bool,
    /// Last packet of a frame.
    pub frame_end: bool,
    /// A receiver may start to take this temporal layer here: the frame refers to no frame above temporal layer 0.
    pub switch_point: bool,
    /// A receiver may start to take this spatial layer here: the frame refers to no earlier picture.
    pub independent: bool,
}

impl LayerMeta {
    /// Hop header layout, most significant bit first: spatial:3 temporal:3 key discardable
    /// `frame_start` `frame_end` `switch_point` independent reserved:4.
    #[must_use]
    pub fn to_bits(self) -> u16 {
        u16::from(self.spatial & 7) << 13
            | u16::from(self.temporal & 7) << 10
            | u16::from(self.key) << 9
            | u16::from(self.discardable) << 8
            | u16::from(self.frame_start) << 7
            | u16::from(self.frame_end) << 6
            | u16::from(self.switch_point) << 5
            | u16::from(self.independent) << 4
    }

    /// The inverse of [`Self::to_bits`]; reserved bits are ignored.
    #[must_use]
    pub fn from_bits(bits: u16) -> Self {
        Self {
            spatial: (bits >> 13 & 7) as u8,
            temporal: (bits >> 10 & 7) as u8,
            key: bits & 1 << 9 != 0,
            discardable: bits & 1 << 8 != 0,
            frame_start: bits & 1 << 7 != 0,
            frame_end: bits & 1 << 6 != 0,
            switch_point: bits & 1 << 5 != 0,
            independent: bits & 1 << 4 != 0,
        }
    }
}
