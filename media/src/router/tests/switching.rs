//! Layers, pauses and what a receiver sees of them.

use super::*;
use crate::rtp::{Header, low16};

fn target(stream: u8, temporal: u8) -> Option<Target> {
    Some(Target {
        layer: stream,
        temporal,
    })
}

/// Timestamps go on with time, picture ids and TL0PICIDX one by one.
fn assert_continuous(seen: &[Received]) {
    assert!(is_gap_free(seen), "{:?}", seqs(seen));
    for pair in seen.windows(2) {
        let step = pair[1]
            .header
            .timestamp
            .wrapping_sub(pair[0].header.timestamp);
        let pictures = pair[1].picture_id().wrapping_sub(pair[0].picture_id()) & 0x7fff;
        if pair[0].header.marker {
            assert!(
                (1..=4 * 3000).contains(&step),
                "timestamp went on by {step}"
            );
            assert_eq!(pictures, 1);
        } else {
            assert_eq!((step, pictures), (0, 0));
        }
        let (before, after) = (pair[0].vp8(), pair[1].vp8());
        let tl0 = after
            .tl0_picture
            .unwrap()
            .0
            .wrapping_sub(before.tl0_picture.unwrap().0);
        assert_eq!(tl0, u8::from(after.temporal == 0 && pair[0].header.marker));
    }
}

struct Simulcast {
    layers: [Encoder; 3],
}

impl Simulcast {
    fn new(peer: usize) -> Self {
        Self {
            layers: [
                Encoder::new(peer, 11, "v", "q"),
                Encoder::new(peer, 12, "v", "h"),
                Encoder::new(peer, 13, "v", "f"),
            ],
        }
    }

    /// One picture of all layers up to `top`, 33 ms apart; `keys` is a bitmask of keyframes.
    fn picture(&mut self, call: &mut Call, keys: u8, top: usize) {
        for (stream, layer) in self.layers.iter_mut().enumerate().take(top + 1) {
            layer.frame(call, keys & (1 << stream) != 0, 0);
        }
        call.advance(33);
    }
}

#[test]
fn a_layer_switch_is_invisible_to_the_receiver() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &["q", "h", "f"]);
    call.subscribe(bob, 1, target(0, 7));
    let mut camera = Simulcast::new(alice);
    camera.picture(&mut call, 0b111, 2);
    (0..5).for_each(|_| camera.picture(&mut call, 0, 2));
    // libwebrtc stops to send mid and rid.
    for layer in &mut camera.layers {
        (layer.mid, layer.rid) = ("", "");
    }
    let before = call.peers[alice].count(is_pli);
    call.target(bob, 1, high());
    assert_eq!(call.peers[alice].count(is_pli), before + 1);
    (0..3).for_each(|_| camera.picture(&mut call, 0, 2));
    camera.picture(&mut call, 0b100, 2);
    (0..5).for_each(|_| camera.picture(&mut call, 0, 2));
    call.target(bob, 1, target(1, 7));
    camera.picture(&mut call, 0b010, 2);
    (0..5).for_each(|_| camera.picture(&mut call, 0, 2));
    let seen = call.peers[bob].take_media();
    // At the first switch up the low layer's last picture comes before the high one's first.
    assert_eq!(seen.len(), 2 * 22);
    assert_continuous(&seen);
    assert_eq!(call.router.stats().layer_switches, 3);
    let demands: Vec<u8> = call
        .take_events()
        .into_iter()
        .filter_map(|event| {
            if let Event::Demand { streams, .. } = event {
                Some(streams)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(demands, [0b001, 0b111, 0b100, 0b111, 0b010]);
}

/// The dependency descriptor that a subscriber gets with the frame after the first, of a publisher with these streams.
fn described(rids: &[&'static str]) -> Option<Vec<u8>> {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, rids);
    call.subscribe(bob, 1, target(0, 7));
    let mut layer = Encoder::new(alice, 11, "v", rids.first().copied().unwrap_or_default());
    layer.frame(&mut call, true, 0);
    let (packet, index) = layer.vp8(false, 0, 1).remove(0);
    let header = Header {
        marker: true,
        payload_type: 96,
        seq: low16(index),
        timestamp: layer.timestamp,
        ssrc: layer.ssrc,
    };
    let payload = packet[packet.len() - 11..].to_vec();
    layer.mid = "";
    // Of template 1, frame number 2.
    let id = call::PUBLISHER_IDS.dependency_descriptor.unwrap();
    let packet = layer.rtp(&header, (id, "\u{41}\0\u{2}"), &payload);
    call.send(alice, packet, index);
    let seen = call.peers[bob].take_media();
    assert_eq!(seen.len(), 3);
    let id = call::SUBSCRIBER_IDS.dependency_descriptor.unwrap();
    seen[2].elements.get(&id).cloned()
}

#[test]
fn frame_numbers_that_streams_share_are_not_passed_on() {
    assert_eq!(described(&["q", "h"]), None);
    assert_eq!(described(&[]), Some(vec![0x41, 0, 2]));
}

#[test]
fn sender_reports_align_the_layers_timestamps() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &["q", "h"]);
    call.subscribe(bob, 1, target(0, 7));
    let mut layers = [
        Encoder::new(alice, 11, "v", "q"),
        Encoder::new(alice, 12, "v", "h"),
    ];
    for layer in &mut layers {
        layer.frame(&mut call, true, 0);
        let info = rtcp::SenderInfo {
            ssrc: layer.ssrc,
            ntp: 5 << 32,
            rtp_timestamp: layer.timestamp,
            packets: 2,
            octets: 20,
        };
        call.report(alice, |writer| writer.sender_report(&info, &[]).unwrap());
    }
    let first = call.peers[bob].take_media();
    call.target(bob, 1, target(1, 7));
    // The next picture's higher layer arrives 20 ms late; its capture time is 33.3 ms later.
    call.advance(53);
    layers[1].frame(&mut call, true, 0);
    let second = call.peers[bob].take_media();
    let step = second[0]
        .header
        .timestamp
        .wrapping_sub(first[0].header.timestamp);
    assert_eq!(step, 3000);
}

#[test]
fn a_layer_that_stops_is_replaced_by_a_lower_one() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &["q", "h", "f"]);
    call.subscribe(bob, 1, high());
    let mut camera = Simulcast::new(alice);
    camera.picture(&mut call, 0b111, 2);
    (0..10).for_each(|_| camera.picture(&mut call, 0, 2));
    call.peers[bob].take_media();
    let before = call.peers[alice].count(is_pli);
    // The publisher's uplink got weak: no top layer any more.
    (0..60).for_each(|_| camera.picture(&mut call, 0, 1));
    assert!(call.peers[alice].count(is_pli) > before);
    assert!(call.peers[bob].take_media().is_empty());
    camera.picture(&mut call, 0b010, 1);
    camera.picture(&mut call, 0, 1);
    assert_eq!(call.peers[bob].take_media().len(), 4);
}

#[test]
fn higher_temporal_layers_are_left_out_without_a_gap() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &[]);
    call.subscribe(bob, 1, target(0, 1));
    let mut camera = Encoder::new(alice, 11, "v", "");
    for i in 0..40u8 {
        camera.frame(&mut call, i == 0, [0, 2, 1, 2][usize::from(i % 4)]);
        call.advance(33);
    }
    let seen = call.peers[bob].take_media();
    assert_eq!(seen.len(), 40);
    assert_continuous(&seen);
    assert!(seen.iter().all(|packet| packet.vp8().temporal < 2));
    call.target(bob, 1, target(0, 0));
    for i in 0..8u8 {
        camera.frame(&mut call, false, [0, 2, 1, 2][usize::from(i % 4)]);
    }
    assert_eq!(call.peers[bob].take_media().len(), 4);
}

#[test]
fn hiding_and_showing_leaves_no_gap() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &[]);
    call.subscribe(bob, 1, high());
    let mut camera = Encoder::new(alice, 11, "v", "");
    camera.frame(&mut call, true, 0);
    call.target(bob, 1, None);
    call.advance(1000);
    let before = call.peers[alice].count(is_pli);
    (0..3).for_each(|_| camera.frame(&mut call, false, 0));
    assert_eq!(call.peers[bob].media.len(), 2);
    call.target(bob, 1, high());
    assert_eq!(call.peers[alice].count(is_pli), before + 1);
    camera.frame(&mut call, false, 0);
    camera.frame(&mut call, true, 0);
    let seen = call.peers[bob].take_media();
    assert_eq!(seen.len(), 4);
    assert!(is_gap_free(&seen));
    // Real time went on meanwhile: five frames.
    let step = seen[2]
        .header
        .timestamp
        .wrapping_sub(seen[1].header.timestamp);
    assert_eq!(step, 5 * 3000);
    assert_eq!(seen[2].picture_id(), seen[1].picture_id() + 1);
}

#[test]
fn muting_stops_everybody_and_leaves_no_gap() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_audio(&mut call, alice, 7);
    call.subscribe(bob, 7, high());
    call.command(Command::Export {
        track: TrackKey(7),
        streams: 1,
    });
    let mut voice = Encoder::new(alice, 5, "a", "");
    voice.opus(&mut call, 111, b"one");
    call.command(Command::SetMuted {
        track: TrackKey(7),
        muted: true,
    });
    call.advance(20);
    voice.opus(&mut call, 111, b"not to be heard");
    call.command(Command::SetMuted {
        track: TrackKey(7),
        muted: false,
    });
    call.advance(20);
    voice.opus(&mut call, 111, b"two");
    let heard = call.peers[bob].take_media();
    assert_eq!(
        heard
            .iter()
            .map(|packet| &packet.payload[..])
            .collect::<Vec<_>>(),
        [b"one", b"two"]
    );
    assert!(is_gap_free(&heard));
    assert_eq!(call.exported.len(), 2);
    assert_eq!(call.router.stats().dropped(DropReason::Muted), 1);
}

#[test]
fn a_publisher_that_changes_its_ssrc_goes_on() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &["q"]);
    call.subscribe(bob, 1, high());
    let mut camera = Encoder::new(alice, 11, "v", "q");
    camera.frame(&mut call, true, 0);
    call.advance(33);
    let mut again = Encoder::new(alice, 44, "v", "q");
    again.frame(&mut call, false, 0);
    again.frame(&mut call, true, 0);
    let seen = call.peers[bob].take_media();
    assert_eq!(seen.len(), 4);
    assert_continuous(&seen);
}

#[test]
fn a_stream_that_never_comes_is_asked_for_less_and_less_often() {
    let mut call = Call::new();
    let bob = call.join();
    let track = TrackKey(900);
    let config = TrackConfig::new(Codec::Vp8, Source::Remote, 1);
    call.command(Command::AddTrack { track, config });
    call.subscribe(bob, 900, high());
    let mut served = 0;
    let end = call.now + Duration::from_secs(10);
    while let Some(at) = call.router.poll_timeout().filter(|&at| at <= end) {
        call.now = call.now.max(at);
        call.router.handle_timeout(call.now, &mut call.out);
        call.drain();
        served += 1;
        assert!(served < 100, "deadlines make no progress");
    }
    let asked = Event::KeyframeNeeded { track, stream: 0 };
    let times = call
        .take_events()
        .into_iter()
        .filter(|event| *event == asked)
        .count();
    // At once, then every two seconds.
    assert_eq!(times, 6);
}
