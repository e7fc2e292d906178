//! Header extensions in canonical form and one side's numbering of them.

/// Absolute capture time (WebRTC `abs-capture-time` extension).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbsCaptureTime {
    /// Capture time of the frame as 32.32 NTP in the capturer's clock.
    pub timestamp: u64,
    /// Estimated offset of the capturer's clock to the sender's, 32.32 seconds, when sent.
    pub offset: Option<i64>,
}

impl AbsCaptureTime {
    /// Reads the 8- or 16-byte form.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (timestamp, rest) = value.split_first_chunk::<8>()?;
        let offset = match rest {
            [] => None,
            rest => Some(i64::from_be_bytes(<[u8; 8]>::try_from(rest).ok()?)),
        };
        Some(Self {
            timestamp: u64::from_be_bytes(*timestamp),
            offset,
        })
    }

    /// The wire form and how many of its bytes count: 8 or 16.
    #[must_use]
    pub fn to_bytes(self) -> ([u8; 16], usize) {
        let mut bytes = [0; 16];
        let (head, tail) = bytes.split_at_mut(8);
        head.copy_from_slice(&self.timestamp.to_be_bytes());
        tail.copy_from_slice(&self.offset.unwrap_or(0).to_be_bytes());
        (bytes, if self.offset.is_some() { 16 } else { 8 })
    }
}

/// Canonical header extensions, free of any side's id numbering. The dependency descriptor stays
/// in the slot: see [`super::Packet::dependency_descriptor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions {
    /// Raw RFC 6464 byte: voice flag in the top bit, level 0 (loud) to 127 in -dBov.
    pub audio_level: Option<u8>,
    /// Raw video orientation byte (3GPP TS 26.114 section 7.4.5).
    pub orientation: Option<u8>,
    /// Raw playout delay: minimum and maximum, 12 bits each, in units of 10 ms.
    pub playout_delay: Option<[u8; 3]>,
    /// Absolute capture time.
    pub abs_capture_time: Option<AbsCaptureTime>,
}

/// One side's header-extension ids (RFC 8285 `a=extmap`); `None` = not negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExtensionIds {
    /// Media identification (RFC 9143).
    pub mid: Option<u8>,
    /// RTP stream id (RFC 8852).
    pub rid: Option<u8>,
    /// Repaired RTP stream id (RFC 8852).
    pub repaired_rid: Option<u8>,
    /// Transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions).
    pub transport_cc: Option<u8>,
    /// Absolute send time, 24 bits of 6.18 fixed-point seconds.
    pub abs_send_time: Option<u8>,
    /// Absolute capture time.
    pub abs_capture_time: Option<u8>,
    /// Client-to-mixer audio level (RFC 6464).
    pub audio_level: Option<u8>,
    /// Video orientation.
    pub orientation: Option<u8>,
    /// Playout delay.
    pub playout_delay: Option<u8>,
    /// Dependency descriptor (AV1 RTP specification, appendix A).
    pub dependency_descriptor: Option<u8>,
}

impl Extensions {
    /// Takes in one element by the sender's numbering; what is not passed on is ignored.
    pub(crate) fn absorb(&mut self, ids: &ExtensionIds, id: u8, value: &[u8]) {
        let id = Some(id);
        if id == ids.audio_level {
            self.audio_level = value.first().copied();
        } else if id == ids.orientation {
            self.orientation = value.first().copied();
        } else if id == ids.playout_delay {
            self.playout_delay = value.first_chunk().copied();
        } else if id == ids.abs_capture_time {
            self.abs_capture_time = AbsCaptureTime::parse(value);
        }
    }
}
