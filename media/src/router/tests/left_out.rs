//! Packets that a hop before left out are no loss, however many they are.

use super::call::{Call, high};
use super::*;
use crate::packet::{Extensions, Head, LayerMeta, Pool};

fn deliver(call: &mut Call, pool: &mut Pool, seq: u16, left_out: u16) {
    let layer = LayerMeta {
        key: true,
        frame_start: true,
        frame_end: true,
        ..LayerMeta::default()
    };
    let head = Head {
        arrival: call.now,
        codec: Codec::Opus,
        marker: false,
        seq,
        left_out,
        timestamp: u32::from(seq) * 960,
        layer,
        ext: Extensions::default(),
    };
    let packet = pool.build(head, b"talk", &[]).unwrap();
    call.router
        .handle_packet(call.now, TrackKey(7), 0, &packet, &mut call.out);
    call.drain();
    call.advance(20);
}

fn listener() -> (Call, usize, Pool) {
    let mut call = Call::new();
    let bob = call.join();
    call.command(Command::AddTrack {
        track: TrackKey(7),
        config: TrackConfig::new(Codec::Opus, Source::Remote, 1),
    });
    call.subscribe(bob, 7, high());
    (call, bob, Pool::new(8))
}

#[test]
fn a_pause_of_thousands_is_neither_loss_nor_a_new_beginning() {
    for pause in [1, 40, 900, 5000, 40_000, 65_534] {
        let (mut call, bob, mut pool) = listener();
        deliver(&mut call, &mut pool, 60_000, 0);
        let next = 60_001_u16.wrapping_add(pause);
        deliver(&mut call, &mut pool, next, pause);
        deliver(&mut call, &mut pool, next.wrapping_add(1), 0);
        let heard = call.peers[bob].take_media();
        assert_eq!(heard.len(), 3, "pause of {pause}");
        assert!(is_gap_free(&heard), "pause of {pause}: {:?}", seqs(&heard));
        assert_eq!(call.router.stats().dropped(DropReason::Duplicate), 0);
    }
}

#[test]
fn what_is_missing_before_a_pause_keeps_its_place() {
    let (mut call, bob, mut pool) = listener();
    deliver(&mut call, &mut pool, 100, 0);
    // 101 is under way, 102 was left out; 104 is lost, 105 to 4,201 were left out.
    deliver(&mut call, &mut pool, 103, 1);
    deliver(&mut call, &mut pool, 101, 0);
    // So long after it is of no use, but no new beginning either.
    deliver(&mut call, &mut pool, 4202, 4097);
    deliver(&mut call, &mut pool, 104, 0);
    deliver(&mut call, &mut pool, 4203, 0);
    let heard = call.peers[bob].take_media();
    let first = heard[0].header.seq;
    let places = [0, 2, 1, 4, 5].map(|place: u16| first.wrapping_add(place));
    assert_eq!(seqs(&heard), places);
    // A jump that nothing explains is a new beginning still.
    deliver(&mut call, &mut pool, 9000, 3);
    let heard = call.peers[bob].take_media();
    assert_eq!(seqs(&heard), [first.wrapping_add(6)]);
}
