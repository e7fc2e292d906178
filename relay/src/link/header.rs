//! The header of every datagram on a link:
//! `flow varint | kind:3 class:2 flags:3 | hop_seq u32 | send_time u16 | meta u16 | left_out varint if flag 0 | body`, integers
//! big-endian, varints as in RFC 9000 section 16, flags from the least significant bit. A relay forwards by it; of the body of
//! media, which is RTP, it reads nothing but the sequence number, and that only where it leaves packets out.
//!
//! Flag 0 and the loudness of audio came with version 2 of the link; a peer of version 1 neither sends nor gets them.

use bytes::{Buf, BufMut};
use media::packet::{AudioMeta, LayerMeta};

/// Longest header in bytes: a four-byte flow id, the nine bytes after it, and a run of packets left out in four.
pub const LEN_MAX: usize = 17;

/// Flag: a varint with the number of packets left out follows.
const LEFT_OUT: u8 = 1;

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
    /// [`LayerMeta`] of video, [`AudioMeta`] of audio; 0 for other kinds.
    pub meta: u16,
    /// How many packets right before this one of the same stream were left out on purpose.
    pub left_out: u16,
}

/// What every hop may know of a media packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketMeta {
    /// Layer and frame flags.
    pub layer: LayerMeta,
    /// Loudness, of audio.
    pub audio: AudioMeta,
    /// How many packets right before this one were left out on purpose.
    pub left_out: u16,
}

/// Every audio packet is a frame that a receiver may begin with.
const AUDIO_LAYER: LayerMeta = LayerMeta {
    spatial: 0,
    temporal: 0,
    key: true,
    discardable: false,
    frame_start: true,
    frame_end: true,
    switch_point: true,
    independent: true,
};

impl PacketMeta {
    /// Reads what a header of a peer says.
    pub(crate) fn read(header: &Header, version: u32) -> Self {
        let (layer, audio) = match header.class {
            Class::Audio if version < 2 => (AUDIO_LAYER, AudioMeta::default()),
            Class::Audio => (AUDIO_LAYER, AudioMeta::from_bits(header.meta)),
            Class::Base | Class::Upper => (LayerMeta::from_bits(header.meta), AudioMeta::default()),
        };
        Self {
            layer,
            audio,
            left_out: header.left_out,
        }
    }

    /// What a header for a peer says: the bits of [`Header::meta`], and the packets left out.
    pub(crate) fn bits(&self, class: Class, version: u32) -> (u16, u16) {
        if version < 2 {
            return (self.layer.to_bits(), 0);
        }
        let bits = match class {
            Class::Audio => self.audio.to_bits(),
            Class::Base | Class::Upper => self.layer.to_bits(),
        };
        (bits, self.left_out)
    }
}

impl Header {
    /// Appends the header.
    pub fn write(&self, out: &mut impl BufMut) {
        put_varint(self.flow, out);
        let flags = if self.left_out > 0 { LEFT_OUT } else { 0 };
        out.put_u8(self.kind.to_bits() << 5 | self.class.to_bits() << 3 | flags);
        out.put_u32(self.hop_seq);
        out.put_u16(self.send_time);
        out.put_u16(self.meta);
        if self.left_out > 0 {
            put_varint(u32::from(self.left_out), out);
        }
    }

    /// Takes a header from the front of `datagram`; `None` when it is too short, its kind is unknown or a varint too long. A run
    /// longer than 65,535 counts as that.
    pub fn read(datagram: &mut impl Buf) -> Option<Self> {
        let flow = get_varint(datagram)?;
        let bits = datagram.try_get_u8().ok()?;
        let mut header = Self {
            flow,
            kind: Kind::from_bits(bits >> 5)?,
            class: Class::from_bits(u32::from(bits >> 3 & 3))?,
            hop_seq: datagram.try_get_u32().ok()?,
            send_time: datagram.try_get_u16().ok()?,
            meta: datagram.try_get_u16().ok()?,
            left_out: 0,
        };
        if bits & LEFT_OUT != 0 {
            header.left_out = u16::try_from(get_varint(datagram)?).unwrap_or(u16::MAX);
        }
        Some(header)
    }
}

/// Writes a number below [`FLOW_END`].
fn put_varint(value: u32, out: &mut impl BufMut) {
    if value < 1 << 6 {
        out.put_u8((value & 0x3f) as u8);
    } else if value < 1 << 14 {
        out.put_u16(0x4000 | (value & 0x3fff) as u16);
    } else {
        out.put_u32(0x8000_0000 | (value & (FLOW_END - 1)));
    }
}

/// Reads a number below [`FLOW_END`].
fn get_varint(bytes: &mut impl Buf) -> Option<u32> {
    let first = bytes.try_get_u8().ok()?;
    let low = u32::from(first & 0x3f);
    Some(match first >> 6 {
        0 => low,
        1 => low << 8 | u32::from(bytes.try_get_u8().ok()?),
        2 => low << 24 | u32::try_from(bytes.try_get_uint(3).ok()?).ok()?,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_is_read_back(
            flow in 0..FLOW_END, kind in 0_u8..6, class in 0_u32..3, hop_seq: u32, send_time: u16,
            meta: u16, left_out: u16,
        ) {
            let header = Header {
                flow,
                kind: Kind::from_bits(kind).unwrap(),
                class: Class::from_bits(class).unwrap(),
                hop_seq,
                send_time,
                meta,
                left_out,
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
        fn what_a_hop_knows_is_read_back(class in 0_u32..3, layer: u16, level: Option<u8>, left_out: u16) {
            let class = Class::from_bits(class).unwrap();
            let audio = class == Class::Audio;
            let meta = PacketMeta {
                layer: if audio { AUDIO_LAYER } else { LayerMeta::from_bits(layer) },
                audio: AudioMeta { level: level.filter(|_| audio) },
                left_out,
            };
            for version in [1, 2] {
                let (bits, told) = meta.bits(class, version);
                let header = Header {
                    flow: 1, kind: Kind::Media, class, hop_seq: 0, send_time: 0, meta: bits, left_out: told,
                };
                let read = PacketMeta::read(&header, version);
                if version == 2 {
                    prop_assert_eq!(read, meta);
                } else {
                    prop_assert_eq!(read, PacketMeta { layer: meta.layer, ..PacketMeta::default() });
                }
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _header = Header::read(&mut bytes.as_slice());
        }
    }
}
