//! Losses on either side and their repair.

use super::*;

#[test]
fn a_subscribers_loss_is_repaired_from_the_cache() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &[]);
    call.subscribe(bob, 1, high());
    let mut camera = Encoder::new(alice, 11, "v", "");
    camera.frame(&mut call, true, 0);
    (0..9).for_each(|_| camera.frame(&mut call, false, 0));
    let seen = call.peers[bob].take_media();
    let lost = [seq_of(&seen, 3), seq_of(&seen, 8)];
    call.advance(60);
    call.report(bob, |writer| writer.nack(1, 0x2001, &lost).unwrap());
    let repairs = call.peers[bob].take_media();
    assert_eq!(repairs.len(), 2);
    for (repair, original) in repairs.iter().zip([&seen[3], &seen[8]]) {
        assert_eq!(
            (repair.header.ssrc, repair.header.payload_type),
            (0x2801, 101)
        );
        assert_eq!(repair.payload[..2], original.header.seq.to_be_bytes());
        assert_eq!(repair.payload[2..], original.payload);
        assert_eq!(repair.header.timestamp, original.header.timestamp);
        assert_eq!(repair.header.marker, original.header.marker);
    }
    assert!(is_gap_free(&repairs));
    // At once again, or never sent: refused.
    call.report(bob, |writer| {
        writer.nack(1, 0x2001, &[lost[0], 65_000]).unwrap()
    });
    assert!(call.peers[bob].take_media().is_empty());
    assert_eq!(call.router.stats().rtx_refused, 2);
    assert_eq!(call.router.stats().rtx_sent, 2);
}

fn seq_of(media: &[Received], index: usize) -> u16 {
    media[index].header.seq
}

#[test]
fn repairs_after_a_switch_carry_what_was_sent_then() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &["q", "h"]);
    call.subscribe(
        bob,
        1,
        Some(Target {
            layer: 0,
            temporal: 7,
        }),
    );
    let mut low = Encoder::new(alice, 11, "v", "q");
    let mut top = Encoder::new(alice, 12, "v", "h");
    low.frame(&mut call, true, 0);
    low.frame(&mut call, false, 0);
    call.target(bob, 1, high());
    top.frame(&mut call, true, 0);
    let seen = call.peers[bob].take_media();
    call.advance(60);
    let lost = seqs(&seen);
    call.report(bob, |writer| writer.nack(1, 0x2001, &lost).unwrap());
    let repairs = call.peers[bob].take_media();
    assert_eq!(repairs.len(), 6);
    for (repair, original) in repairs.iter().zip(&seen) {
        assert_eq!(repair.payload[2..], original.payload);
    }
}

#[test]
fn a_publishers_loss_is_asked_for_and_the_repair_takes_its_place() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &["q"]);
    call.subscribe(bob, 1, high());
    call.command(Command::Export {
        track: TrackKey(1),
        streams: 1,
    });
    let mut camera = Encoder::new(alice, 11, "v", "q");
    camera.frame(&mut call, true, 0);
    let (lost, _) = camera.vp8(false, 0, 1).remove(0);
    let lost_seq = u16::from_be_bytes([lost[2], lost[3]]);
    camera.frame(&mut call, false, 0);
    assert!(call.peers[alice].nacked().is_empty());
    call.advance(10);
    assert_eq!(call.peers[alice].nacked(), [lost_seq]);
    call.advance(40);
    camera.rtx(&mut call, &lost);
    let seen = call.peers[bob].take_media();
    let first = seen[0].header.seq;
    assert_eq!(seqs(&seen), [0, 1, 3, 4, 2].map(|i| first.wrapping_add(i)));
    assert_eq!(seen[4].picture_id(), seen[1].picture_id() + 1);
    assert_eq!(call.exported.len(), 5);
    // The same again is probing: tolerated and dropped.
    camera.rtx(&mut call, &lost);
    assert!(call.peers[bob].take_media().is_empty());
    let stats = call.router.stats();
    assert_eq!(stats.recovered_packets, 1);
    assert_eq!(stats.dropped(DropReason::Duplicate), 1);
    call.advance(2000);
    assert_eq!(call.peers[alice].nacked(), [lost_seq]);
}

#[test]
fn a_loss_that_nobody_misses_is_not_asked_for() {
    let mut call = Call::new();
    let alice = call.join();
    publish_video(&mut call, alice, 1, &[]);
    let mut camera = Encoder::new(alice, 11, "v", "");
    camera.frame(&mut call, true, 0);
    camera.vp8(false, 0, 1);
    camera.frame(&mut call, false, 0);
    call.advance(500);
    assert!(call.peers[alice].nacked().is_empty());
}

#[test]
fn padding_is_dropped_and_its_number_closed() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &[]);
    call.subscribe(bob, 1, high());
    let mut camera = Encoder::new(alice, 11, "v", "");
    camera.frame(&mut call, true, 0);
    let (mut padding, index) = camera.vp8(false, 0, 1).remove(0);
    let payload_len = rtp::View::parse(&padding).unwrap().payload().len();
    padding[0] |= 0x20;
    *padding.last_mut().unwrap() = u8::try_from(payload_len).unwrap();
    call.send(alice, padding, index);
    camera.picture -= 1;
    camera.frame(&mut call, false, 0);
    let seen = call.peers[bob].take_media();
    assert_eq!(seen.len(), 4);
    assert!(is_gap_free(&seen));
    assert_eq!(call.router.stats().dropped(DropReason::Padding), 1);
}

#[test]
fn without_rtx_only_counter_mode_sends_again() {
    for (profile, repaired) in [
        (Profile::AeadAes128Gcm, 0),
        (Profile::Aes128CmHmacSha1_80, 1),
    ] {
        let mut call = Call::with_profile(profile);
        let (alice, bob) = (call.join(), call.join());
        publish_audio(&mut call, alice, 7);
        call.subscribe(bob, 7, high());
        let mut voice = Encoder::new(alice, 5, "a", "");
        call.peers[bob].deaf = true;
        voice.opus(&mut call, 111, b"talk");
        call.peers[bob].deaf = false;
        let lost = call.peers[bob].lost[0];
        call.advance(60);
        call.report(bob, |writer| writer.nack(1, 0x2007, &[lost]).unwrap());
        assert_eq!(call.router.stats().rtx_sent, repaired);
        assert_eq!(call.peers[bob].media.len() as u64, repaired);
    }
}
