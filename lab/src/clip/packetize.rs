//! Encoded frames cut into RTP payloads.

use super::Codec;

/// Largest payload: 1,200-byte packets less RTP header, extensions and SRTP tag, as libwebrtc does.
const PAYLOAD_MAX: usize = 1150;

/// `sequence_header_obu` (AV1 specification, section 6.2.2).
pub(super) const OBU_SEQUENCE_HEADER: u8 = 1;
const OBU_TEMPORAL_DELIMITER: u8 = 2;
const OBU_TILE_LIST: u8 = 8;

/// What descriptors say of a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Picture {
    /// 15 bits.
    pub(super) id: u16,
    pub(super) tl0_index: u8,
    pub(super) temporal: u8,
    pub(super) key: bool,
    /// Refers to nothing but the base layer.
    pub(super) sync: bool,
    pub(super) width: u16,
    pub(super) height: u16,
    /// Whether the stream has temporal layers at all.
    pub(super) layered: bool,
}

/// The payloads of a frame, in order.
pub(super) fn payloads(codec: Codec, frame: &[u8], picture: Picture) -> Vec<Vec<u8>> {
    match codec {
        Codec::Vp8 => split(frame, |first, _| vp8_descriptor(picture, first)),
        Codec::Vp9 => split(frame, |first, last| vp9_descriptor(picture, first, last)),
        Codec::Av1 => av1(frame, picture.key),
    }
}

/// Near-equal parts, each behind what `descriptor(first, last)` gives.
fn split(frame: &[u8], descriptor: impl Fn(bool, bool) -> Vec<u8>) -> Vec<Vec<u8>> {
    let room = PAYLOAD_MAX - descriptor(true, true).len();
    let count = frame.len().div_ceil(room).max(1);
    let part = frame.len().div_ceil(count).max(1);
    let count = frame.len().div_ceil(part);
    frame
        .chunks(part)
        .enumerate()
        .map(|(index, part)| {
            let mut payload = descriptor(index == 0, index + 1 == count);
            payload.extend_from_slice(part);
            payload
        })
        .collect()
}

/// RFC 7741 section 4.2 with a 15-bit picture id, TL0PICIDX and TID.
fn vp8_descriptor(picture: Picture, first: bool) -> Vec<u8> {
    let [high, low] = picture.id.to_be_bytes();
    // N: nobody refers to frames of the highest of three layers.
    let unreferenced = picture.temporal == 2;
    let sync = u8::from(picture.sync && picture.temporal > 0);
    vec![
        0x80 | u8::from(unreferenced) << 5 | u8::from(first) << 4,
        0xe0,
        0x80 | high,
        low,
        picture.tl0_index,
        picture.temporal << 6 | sync << 5,
    ]
}

/// RFC 9628 section 4.2, non-flexible mode, one spatial layer; keyframes carry the scalability structure.
fn vp9_descriptor(picture: Picture, first: bool, last: bool) -> Vec<u8> {
    let [high, low] = picture.id.to_be_bytes();
    let flags = |bits: [bool; 8]| {
        bits.into_iter()
            .fold(0, |byte, bit| byte << 1 | u8::from(bit))
    };
    let structure = picture.key && first;
    let mut out = vec![
        // I, P, L, F, B, E, V, Z.
        flags([
            true,
            !picture.key,
            picture.layered,
            false,
            first,
            last,
            structure,
            false,
        ]),
        0x80 | high,
        low,
    ];
    if picture.layered {
        // TID, U, SID, D.
        out.extend_from_slice(&[
            picture.temporal << 5 | u8::from(picture.sync) << 4,
            picture.tl0_index,
        ]);
    }
    if structure {
        // N_S = 0 (one layer), Y = 1 (its size follows), G = 0.
        out.push(0x10);
        out.extend_from_slice(&picture.width.to_be_bytes());
        out.extend_from_slice(&picture.height.to_be_bytes());
    }
    out
}

/// An open bitstream unit without its size field.
pub(super) struct Obu<'a> {
    pub(super) kind: u8,
    header: Vec<u8>,
    payload: &'a [u8],
}

/// The OBUs of a temporal unit (low-overhead format, AV1 specification section 5.2); ends at the first malformed one.
pub(super) fn obus(mut unit: &[u8]) -> impl Iterator<Item = Obu<'_>> {
    std::iter::from_fn(move || {
        let (&first, rest) = unit.split_first()?;
        let mut header = vec![first & !0x02];
        let mut rest = rest;
        if first & 0x04 != 0 {
            let (&extension, after) = rest.split_first()?;
            header.push(extension);
            rest = after;
        }
        let len = if first & 0x02 != 0 {
            leb128(&mut rest)?
        } else {
            rest.len()
        };
        let (payload, after) = rest.split_at_checked(len)?;
        unit = after;
        Some(Obu {
            kind: first >> 3 & 0x0f,
            header,
            payload,
        })
    })
}

fn leb128(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in 0..5 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 0x7f) << (shift * 7);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// AV1 RTP specification, section 4.4: aggregation header, and one element per packet (W = 1), split where it is too long.
fn av1(unit: &[u8], key: bool) -> Vec<Vec<u8>> {
    const ROOM: usize = PAYLOAD_MAX - 1;
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    for obu in obus(unit) {
        if [OBU_TEMPORAL_DELIMITER, OBU_TILE_LIST].contains(&obu.kind) {
            continue;
        }
        let mut element = obu.header;
        element.extend_from_slice(obu.payload);
        let parts = element.chunks(ROOM).count();
        for (index, part) in element.chunks(ROOM).enumerate() {
            let (continues, continued) = (index > 0, index + 1 < parts);
            let starts = key && payloads.is_empty();
            // Z, Y, W = 1, N.
            let header = u8::from(continues) << 7
                | u8::from(continued) << 6
                | 1 << 4
                | u8::from(starts) << 3;
            payloads.push([&[header], part].concat());
        }
    }
    payloads
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Picture {
        Picture {
            id: 0x1234,
            tl0_index: 9,
            temporal: 2,
            key: true,
            sync: true,
            width: 640,
            height: 360,
            layered: true,
        }
    }

    #[test]
    fn frames_come_apart_evenly_and_together_again() {
        let frame: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let payloads = payloads(Codec::Vp8, &frame, picture());
        assert_eq!(payloads.len(), 5);
        assert!(payloads.iter().all(|payload| payload.len() <= PAYLOAD_MAX));
        let joined: Vec<u8> = payloads
            .iter()
            .flat_map(|payload| payload[6..].to_vec())
            .collect();
        assert_eq!(joined, frame);
        assert_eq!(payloads[0][..6], [0xb0, 0xe0, 0x92, 0x34, 9, 0xa0]);
        assert_eq!(payloads[1][0], 0xa0, "only the first starts the partition");
    }

    #[test]
    fn a_vp9_keyframe_says_its_size() {
        let payloads = payloads(Codec::Vp9, &[1; 2000], picture());
        assert_eq!(
            payloads[0][..10],
            [0b1010_1010, 0x92, 0x34, 0x50, 9, 0x10, 2, 128, 1, 104]
        );
        assert_eq!(payloads[1][0], 0b1010_0100);
    }

    #[test]
    fn av1_units_lose_delimiter_and_sizes() {
        // Temporal delimiter, sequence header of 2 bytes, frame of 1,300.
        let mut unit = vec![0x12, 0x00, 0x0a, 0x02, 7, 8, 0x32, 0x94, 0x0a];
        unit.extend(std::iter::repeat_n(3, 1300));
        assert!(Codec::Av1.is_key(&unit));
        let payloads = payloads(Codec::Av1, &unit, picture());
        assert_eq!(payloads.len(), 3);
        assert_eq!(payloads[0], [0x18, 0x08, 7, 8]);
        assert_eq!(payloads[1][..3], [0x50, 0x30, 3]);
        assert_eq!(payloads[2][0], 0x90);
        assert_eq!(payloads[1].len() + payloads[2].len(), 1300 + 3);
        assert!(!Codec::Av1.is_key(&[0x32, 1, 0]));
        assert_eq!(obus(&[0x32, 200]).count(), 0, "cut off");
    }
}
