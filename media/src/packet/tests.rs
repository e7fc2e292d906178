use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn head(now: Instant) -> Head {
    Head {
        arrival: now,
        codec: Codec::Vp8,
        marker: true,
        seq: 7,
        left_out: 3,
        timestamp: 9,
        layer: LayerMeta::default(),
        ext: Extensions::default(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
fn start() -> Instant {
    Instant::now()
}

#[test]
fn a_slot_is_reused_once_nobody_holds_it() {
    let mut pool = Pool::new(4);
    let held = pool.build(head(start()), &[1; 100], &[]).unwrap();
    for _ in 0..100 {
        drop(pool.build(head(start()), &[2; 100], &[]).unwrap());
    }
    assert_eq!(pool.allocated(), 2);
    assert_eq!(held.payload(), [1; 100]);
}

#[test]
fn a_full_pool_lets_held_slots_go() {
    let mut pool = Pool::new(2);
    let held: Vec<_> = (0..10)
        .map(|i| pool.build(head(start()), &[i; 10], &[]).unwrap())
        .collect();
    assert_eq!(pool.allocated(), 10);
    assert!(
        held.iter()
            .zip(0u8..)
            .all(|(packet, i)| packet.payload() == [i; 10])
    );
}

#[test]
fn a_packet_larger_than_a_slot_is_refused() {
    let refused = Pool::new(1).build(head(start()), &[0; 1490], &[0; 20]);
    assert_eq!(refused.unwrap_err(), Error::TooLarge { len: 1510 });
}

#[test]
fn codecs_keep_their_names_and_payload_types() {
    for codec in Codec::ALL {
        assert_eq!(Codec::from_name(codec.name()), Some(codec));
        assert_eq!(Codec::from_payload_type(codec.payload_type()), Some(codec));
    }
    assert_eq!(Codec::from_name("vp8"), Some(Codec::Vp8));
}

proptest! {
    #[test]
    fn layer_meta_survives_the_hop_header(bits in any::<u16>()) {
        let meta = LayerMeta::from_bits(bits);
        prop_assert_eq!(meta.to_bits(), bits & !0x0f);
    }

    #[test]
    fn canonical_form_round_trips(
        payload in proptest::collection::vec(any::<u8>(), 0..1300),
        descriptor in proptest::collection::vec(any::<u8>(), 0..60),
        audio_level in any::<Option<u8>>(),
        orientation in any::<Option<u8>>(),
        playout_delay in any::<Option<[u8; 3]>>(),
        capture in any::<Option<(u64, Option<i64>)>>(),
    ) {
        let ext = Extensions {
            audio_level,
            orientation,
            playout_delay,
            abs_capture_time: capture.map(|(timestamp, offset)| AbsCaptureTime { timestamp, offset }),
        };
        let now = start();
        let mut pool = Pool::new(4);
        let packet = pool.build(Head { ext, ..head(now) }, &payload, &descriptor).unwrap();
        let mut wire = [0; 1600];
        let len = packet.write_canonical(&mut wire).unwrap();
        let read = pool.from_canonical(&wire[..len], (packet.layer, 3), now).unwrap();
        prop_assert_eq!(read.payload(), &payload[..]);
        prop_assert_eq!(read.ext, ext);
        prop_assert_eq!(read.dependency_descriptor(), packet.dependency_descriptor());
        prop_assert_eq!((read.codec, read.marker, read.seq, read.timestamp, read.left_out),
            (packet.codec, packet.marker, packet.seq, packet.timestamp, packet.left_out));
    }

    #[test]
    fn arbitrary_canonical_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        drop(Pool::new(1).from_canonical(&bytes, (LayerMeta::default(), 0), start()));
    }
}
