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
    assert!(key.meta().key);
    // I P L E: TID 2 U SID 1.
    let delta = Vp9::parse(&[0xe4, 0x05, 0x52, 7]).unwrap();
    assert_eq!(
        (delta.temporal, delta.spatial, delta.switch_point),
        (2, 1, true)
    );
    assert!(!delta.meta().key && delta.meta().frame_end);
}

#[test]
fn dependency_descriptor_templates_give_layers() {
    let mut dependencies = Dependencies::default();
    // Start of frame, template 10; structure present: offset 10, 1 decode target, layers
    // (0,0) same (0,0) next temporal (0,1) end: bits 10000 001010 00000 00 01 11.
    let key = [0x80 | 10, 0, 1, 0b1000_0001, 0b0100_0000, 0b0001_1100];
    let meta = dependencies.read(&key).unwrap();
    assert!(meta.key && meta.frame_start && !meta.frame_end);
    let delta = dependencies.read(&[0xc0 | 12, 0, 2]).unwrap();
    assert_eq!(
        (delta.temporal, delta.frame_start, delta.frame_end),
        (1, true, true)
    );
    assert!(!delta.key);
    assert_eq!(dependencies.read(&[]), None);
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
