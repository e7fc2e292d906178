//! What a relay may know of an audio packet.

/// How loud an audio packet is; travels in the hop header in place of the layer, which audio does not have, so that relays
/// choose whom to forward without reading the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AudioMeta {
    /// Raw RFC 6464 byte: voice flag in the top bit, level 0 (loud) to 127 in -dBov. `None` when the publisher does not say:
    /// such a track counts as speaking all the time.
    pub level: Option<u8>,
}

/// Bit that says that a level follows.
const KNOWN: u16 = 1 << 15;

impl AudioMeta {
    /// Hop header layout, most significant bit first: known reserved:7 voice level:7.
    #[must_use]
    pub fn to_bits(self) -> u16 {
        self.level.map_or(0, |level| KNOWN | u16::from(level))
    }

    /// The inverse of [`Self::to_bits`]; reserved bits are ignored.
    #[must_use]
    pub fn from_bits(bits: u16) -> Self {
        Self {
            level: (bits & KNOWN != 0).then_some((bits & 0xff) as u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_survives_and_an_unknown_one_stays_unknown() {
        for level in (0..=u8::MAX).map(Some).chain([None]) {
            let meta = AudioMeta { level };
            assert_eq!(AudioMeta::from_bits(meta.to_bits()), meta);
        }
        assert_eq!(AudioMeta::from_bits(0x7fff), AudioMeta::default());
    }
}
