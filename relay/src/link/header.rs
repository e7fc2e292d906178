//! The header of every datagram on a link:
//! `flow varint | kind:3 class:2 flags:3 | hop_seq u32 | send_time u16 | layer u16 | body`, integers big-endian, the varint as
//! in RFC 9000 section 16. A relay forwards by it alone; the body of media is RTP that no relay reads.

use bytes::{Buf, BufMut};
use media::packet::LayerMeta;

/// Longest header in bytes: a four-byte flow id and the nine bytes after it.
pub const LEN_MAX: usize = 13;

/// Flow ids are below this: the four-byte form of a varint.
pub const FLOW_END: u32 = 1 << 30;

/// What the body of a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RTP, sent for the first time.
    Media,
    /// RTP, sent again under the hop sequence number it had.
    Repair,
    /// Hop sequence numbers to send again.
    Nack,
    /// The receiver of a flow needs a keyframe; empty body.
    Keyframe,
    /// Proof of life and the hop's clock.
    Heartbeat,
    /// A lossy data message (`proto::link::Data`).
    Data,
}

impl Kind {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Media,
            1 => Self::Repair,
            2 => Self::Nack,
            3 => Self::Keyframe,
            4 => Self::Heartbeat,
            5 => Self::Data,
            _ => return None,
        })
    }

    fn to_bits(self) -> u8 {
        match self {
            Self::Media => 0,
            Self::Repair => 1,
            Self::Nack => 2,
            Self::Keyframe => 3,
            Self::Heartbeat => 4,
            Self::Data => 5,
        }
    }
}

/// How urgent the media of a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Audio.
    Audio,
    /// The lowest simulcast stream of a video track.
    Base,
    /// Higher simulcast streams.
    Upper,
}

impl Class {
    /// Reads the two bits of a header, or the number in a `BindFlow`.
    pub fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            0 => Some(Self::Audio),
            1 => Some(Self::Base),
            2 => Some(Self::Upper),
            _ => None,
        }
    }

    /// The reverse of [`Class::from_bits`].
    pub fn to_bits(self) -> u8 {
        match self {
            Self::Audio => 0,
            Self::Base => 1,
            Self::Upper => 2,
        }
    }
}

/// A datagram's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The flow: bound by the sender for media, the receiver's name for it in [`Kind::Keyframe`]; 0 for others.
    pub flow: u32,
    /// What follows.
    pub kind: Kind,
    /// Urgency, of media.
    pub class: Class,
    /// Number of the media packet on this connection, assigned when it was handed to QUIC; 0 for other kinds.
    pub hop_seq: u32,
    /// When it was sent, in units of 64 µs of the sender's clock, modulo 2^16.
    pub send_time: u16,
    /// Layer and frame flags, of media.
    pub layer: LayerMeta,
}

impl Header {
    /// Appends the header.
    pub fn write(&self, out: &mut impl BufMut) {
        let flow = self.flow;
        if flow < 1 << 6 {
            out.put_u8((flow & 0x3f) as u8);
        } else if flow < 1 << 14 {
            out.put_u16(0x4000 | (flow & 0x3fff) as u16);
        } else {
            out.put_u32(0x8000_0000 | (flow & (FLOW_END - 1)));
        }
        out.put_u8(self.kind.to_bits() << 5 | self.class.to_bits() << 3);
        out.put_u32(self.hop_seq);
        out.put_u16(self.send_time);
        out.put_u16(self.layer.to_bits());
    }

    /// Takes a header from the front of `datagram`; `None` when it is too short, its kind is unknown or the flow id too long.
    pub fn read(datagram: &mut impl Buf) -> Option<Self> {
        let first = datagram.try_get_u8().ok()?;
        let low = u32::from(first & 0x3f);
        let flow = match first >> 6 {
            0 => low,
            1 => low << 8 | u32::from(datagram.try_get_u8().ok()?),
            2 => low << 24 | u32::try_from(datagram.try_get_uint(3).ok()?).ok()?,
            _ => return None,
        };
        let bits = datagram.try_get_u8().ok()?;
        Some(Self {
            flow,
            kind: Kind::from_bits(bits >> 5)?,
            class: Class::from_bits(u32::from(bits >> 3 & 3))?,
            hop_seq: datagram.try_get_u32().ok()?,
            send_time: datagram.try_get_u16().ok()?,
            layer: LayerMeta::from_bits(datagram.try_get_u16().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_is_read_back(
            flow in 0..FLOW_END, kind in 0_u8..6, class in 0_u32..3, hop_seq: u32, send_time: u16, layer: u16,
        ) {
            let header = Header {
                flow,
                kind: Kind::from_bits(kind).unwrap(),
                class: Class::from_bits(class).unwrap(),
                hop_seq,
                send_time,
                layer: LayerMeta::from_bits(layer),
            };
            let mut bytes = Vec::new();
            header.write(&mut bytes);
            prop_assert!(bytes.len() <= LEN_MAX);
            bytes.extend_from_slice(b"body");
            let mut rest = bytes.as_slice();
            prop_assert_eq!(Header::read(&mut rest), Some(header));
            prop_assert_eq!(rest, b"body");
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _header = Header::read(&mut bytes.as_slice());
        }
    }
}
