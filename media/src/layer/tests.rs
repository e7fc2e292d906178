use proptest::prelude::*;

use super::*;

fn context(timestamp: u32) -> Context<'static> {
    Context {
        timestamp,
        marker: false,
        descriptor: &[],
    }
}

#[test]
fn vp8_descriptor_with_everything() {
    // X N=0 S; I L T K; 15-bit picture id 0x1234; TL0 9; TID 2 Y; keyframe header.
    let payload = [0x90, 0xf0, 0x92, 0x34, 9, 0xa0, 0x00];
    let vp8 = Vp8::parse(&payload).unwrap();
    assert_eq!(
        vp8.picture_id,
        Some(PictureId {
            value: 0x1234,
            wide: true,
            offset: 2
        })
    );
    assert_eq!(vp8.tl0_picture, Some((9, 4)));
    assert_eq!(
        (vp8.temporal, vp8.layer_sync, vp8.start, vp8.key),
        (2, true, true, true)
    );
    let narrow = Vp8::parse(&[0x80, 0x80, 0x55, 0x01]).unwrap();
    assert_eq!(
        narrow.picture_id,
        Some(PictureId {
            value: 0x55,
            wide: false,
            offset: 2
        })
    );
    assert!(!narrow.start && !narrow.key);
}

#[test]
fn all_packets_of_a_vp8_keyframe_are_key() {
    let mut reader = Reader::default();
    let first = reader.read(Codec::Vp8, &[0x10, 0x00], context(1));
    assert!(first.key && first.frame_start);
    let second = reader.read(
        Codec::Vp8,
        &[0x00, 0xff],
        Context {
            marker: true,
            ..context(1)
        },
    );
    assert!(second.key && !second.frame_start && second.frame_end);
    let next = reader.read(Codec::Vp8, &[0x10, 0x01], context(2));
    assert!(!next.key && next.frame_start);
}

#[test]
fn h264_keyframes_by_nal_types() {
    let mut reader = Reader::default();
    let mut key = |payload: &[u8], timestamp| {
        let meta = reader.read(Codec::H264, payload, context(timestamp));
        (meta.key, meta.frame_start)
    };
    // STAP-A of SPS and PPS, then an IDR slice in fragments, then a plain slice.
    assert_eq!(key(&[24, 0, 2, 0x67, 1, 0, 2, 0x68, 1], 1), (true, true));
    assert_eq!(key(&[0x7c, 0x85, 1], 1), (true, false));
    assert_eq!(key(&[0x7c, 0x05, 1], 1), (true, false));
    assert_eq!(key(&[0x41, 1], 2), (false, true));
    // An access unit delimiter before the parameter sets.
    assert_eq!(key(&[0x09, 0xf0], 3), (false, true));
    assert_eq!(key(&[0x67, 1], 3), (true, true));
}

#[test]
fn h265_keyframes_by_nal_types() {
    assert!(h26x::h265_key(&[32 << 1, 1, 0]));
    assert!(h26x::h265_key(&[49 << 1, 1, 0x80 | 19]));
    assert!(!h26x::h265_key(&[49 << 1, 1, 19]));
    assert!(!h26x::h265_key(&[1 << 1, 1, 0]));
}

#[test]
fn vp9_layers_and_keyframes() {
    // I L B, not predicted; 15-bit picture id; TID 0 SID 0; TL0.
    let key = Vp9::parse(&[0xa8, 0x81, 0x23, 0x00, 7]).unwrap();
    assert_eq!(key.picture_id, Some((0x123, true)));
    let mut pictures = Pictures::default();
    assert!(pictures.read(&[0xa8, 0x81, 0x23, 0x00, 7]).unwrap().key);
    // I P L E: TID 2 U SID 1.
    let delta = Vp9::parse(&[0xe4, 0x05, 0x52, 7]).unwrap();
    assert_eq!(
        (delta.temporal, delta.spatial, delta.switch_point),
        (2, 1, true)
    );
    let meta = pictures.read(&[0xe4, 0x05, 0x52, 7]).unwrap();
    assert!(!meta.key && meta.frame_end && meta.switch_point);
}

/// Writes descriptors bit by bit.
#[derive(Default)]
struct Descriptor(Vec<bool>);

impl Descriptor {
    /// The mandatory fields of a frame in one packet.
    fn new(template: u8, number: u16) -> Self {
        Self::default()
            .bits(0b11, 2)
            .bits(template.into(), 6)
            .bits(number, 16)
    }

    fn bits(mut self, value: u16, count: u32) -> Self {
        self.0
            .extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
        self
    }

    /// A frame that other frames refer to by `fdiffs`, custom.
    fn custom(self, fdiffs: &[u16]) -> Vec<u8> {
        let begun = self.bits(0b00010, 5);
        let all = fdiffs
            .iter()
            .fold(begun, |bits, fdiff| bits.bits(2, 2).bits(fdiff - 1, 8));
        all.bits(0, 2).bytes()
    }

    fn bytes(self) -> Vec<u8> {
        self.0
            .chunks(8)
            .map(|byte| {
                let bit = |at: usize| u8::from(byte.get(at).copied().unwrap_or(false)) << (7 - at);
                (0..8).map(bit).sum()
            })
            .collect()
    }

    /// Two spatial and two temporal layers (`L2T2`), four decode targets, two chains, template ids from 10:
    /// key S0T0, key S1T0 come first in their layer, then S0T0, S0T1, S1T0, S1T1.
    fn structure(self) -> Vec<u8> {
        // (spatial, temporal, decode target indications, fdiffs)
        let templates: [(u8, u8, [u16; 4], &[u16]); 6] = [
            (0, 0, [2, 2, 2, 2], &[]),
            (0, 0, [2, 2, 3, 3], &[4]),
            (0, 1, [0, 1, 0, 3], &[2]),
            (1, 0, [0, 0, 2, 2], &[1]),
            (1, 0, [0, 0, 2, 2], &[4, 1]),
            (1, 1, [0, 0, 0, 1], &[2, 1]),
        ];
        let mut bits = self.bits(0b10000, 5).bits(10, 6).bits(3, 5);
        for pair in templates.windows(2) {
            let next = match pair {
                [a, b] if (a.0, a.1) == (b.0, b.1) => 0,
                [a, b] if a.0 == b.0 => 1,
                _ => 2,
            };
            bits = bits.bits(next, 2);
        }
        bits = bits.bits(3, 2);
        for (_, _, indications, _) in templates {
            bits = indications.iter().fold(bits, |bits, &i| bits.bits(i, 2));
        }
        for (_, _, _, fdiffs) in templates {
            bits = fdiffs
                .iter()
                .fold(bits, |bits, &fdiff| bits.bits(1, 1).bits(fdiff - 1, 4));
            bits = bits.bits(0, 1);
        }
        // chain_cnt 2 of ns(5): 2 is 10. Protected by 0 0 1 1 of ns(2), then 6 * 2 chain fdiffs.
        bits = bits.bits(2, 2).bits(0b0011, 4);
        bits = (0..12).fold(bits, |bits, _| bits.bits(4, 4));
        // Resolutions of two spatial layers.
        bits = bits.bits(1, 1);
        (0..4).fold(bits, |bits, _| bits.bits(639, 16)).bytes()
    }
}

#[test]
fn dependency_descriptor_templates_give_layers_and_references() {
    let mut dependencies = Dependencies::default();
    let mut read = |timestamp, descriptor: &[u8]| {
        let meta = dependencies.read(descriptor, timestamp).unwrap();
        assert!(meta.frame_start && meta.frame_end);
        (
            (meta.spatial, meta.temporal),
            [
                meta.key,
                meta.switch_point,
                meta.independent,
                meta.discardable,
            ],
        )
    };
    let plain = |template, number| Descriptor::new(template, number).bytes();
    let key = Descriptor::new(10, 0xffff).structure();
    assert_eq!(read(1, &key), ((0, 0), [true, true, true, false]));
    assert_eq!(read(1, &plain(13, 0)), ((1, 0), [false, true, true, false]));
    // T1 of both spatial layers refers to T0 only.
    assert_eq!(
        read(2, &plain(12, 1)),
        ((0, 1), [false, true, false, false])
    );
    assert_eq!(read(2, &plain(15, 2)), ((1, 1), [false, true, false, true]));
    assert_eq!(
        read(3, &plain(11, 3)),
        ((0, 0), [false, true, false, false])
    );
    // The upper layer begins anew, and a T1 refers to the T1 before.
    let anew = Descriptor::new(14, 4).custom(&[1]);
    assert_eq!(read(3, &anew), ((1, 0), [false, true, true, false]));
    let chained = Descriptor::new(12, 5).custom(&[4, 2]);
    assert_eq!(read(4, &chained), ((0, 1), [false, false, false, false]));
    assert_eq!(dependencies.read(&[], 4), None);
}

#[test]
fn vp9_references_tell_where_layers_may_be_taken_up() {
    let mut pictures = Pictures::default();
    // I P L F B E; 7-bit picture id; layers; P_DIFFs.
    let mut flexible = |id: u8, layers: u8, diffs: &[u8]| {
        let predicted = if diffs.is_empty() { 0 } else { 0x40 };
        let mut payload = vec![0xbc | predicted, id, layers];
        let more = |at: usize| u8::from(at + 1 < diffs.len());
        payload.extend(diffs.iter().enumerate().map(|(at, &d)| d << 1 | more(at)));
        let meta = pictures.read(&payload).unwrap();
        (meta.switch_point, meta.independent)
    };
    assert_eq!(flexible(126, 0 << 5, &[]), (true, true));
    assert_eq!(flexible(127, 2 << 5, &[1]), (true, false));
    assert_eq!(flexible(0, 1 << 5, &[2]), (true, false));
    assert_eq!(flexible(1, 2 << 5, &[1, 2]), (false, false));
    assert_eq!(flexible(2, 1 << 1, &[4]), (true, false));
    // A key picture with a group: T0, T2 of T0, T1 of T0, T2 of T1 and T2.
    let mut pictures = Pictures::default();
    let key = [
        0xae, 10, 0, 7, 0x08, 4, 0x04, 4, 0x44, 1, 0x24, 2, 0x48, 1, 2,
    ];
    assert!(pictures.read(&key).unwrap().switch_point);
    let mut next = |id: u8, temporal: u8| {
        let meta = pictures.read(&[0xec, id, temporal << 5, 7]).unwrap();
        (meta.temporal, meta.switch_point)
    };
    assert_eq!(next(11, 2), (2, true));
    assert_eq!(next(12, 1), (1, true));
    assert_eq!(next(13, 2), (2, false));
    assert_eq!(next(14, 0), (0, true));
    assert_eq!(next(15, 2), (2, true));
}

#[test]
fn av1_without_descriptor_goes_by_the_aggregation_header() {
    let mut reader = Reader::default();
    let first = reader.read(Codec::Av1, &[0x18], context(1));
    assert!(first.key && first.frame_start);
    let continued = reader.read(Codec::Av1, &[0x90], context(1));
    assert!(continued.key && !continued.frame_start);
}

#[test]
fn red_yields_its_primary_block() {
    let payload = [0x80 | 111, 0, 0, 2, 111, 1, 2, 8, 9, 10];
    assert_eq!(primary_block(&payload), Some((111, &[8, 9, 10][..])));
    assert_eq!(primary_block(&[0x80 | 111, 0, 3, 255, 111, 1]), None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        payload in proptest::collection::vec(any::<u8>(), 0..40),
        descriptor in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut reader = Reader::default();
        for codec in Codec::ALL {
            reader.read(codec, &payload, Context { timestamp: 1, marker: true, descriptor: &descriptor });
        }
        if let Some((_, block)) = primary_block(&payload) {
            prop_assert!(block.len() < payload.len());
        }
    }
}
