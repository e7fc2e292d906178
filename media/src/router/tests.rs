//! Dialogues of publishers and subscribers with real SRTP contexts, in virtual time.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::packet::Codec;
use crate::rtcp;
use crate::srtp::Profile;
use call::{Call, Encoder, Received, high, is_pli, key, publish_audio, publish_video};

mod allocate;
mod audio;
mod bottleneck;
mod call;
mod capacity;
mod left_out;
mod repair;
mod report;
mod svc;
mod switching;

fn seqs(media: &[Received]) -> Vec<u16> {
    media.iter().map(|packet| packet.header.seq).collect()
}

/// Whether sequence numbers go up by one each.
fn is_gap_free(media: &[Received]) -> bool {
    media
        .windows(2)
        .all(|pair| pair[1].header.seq == pair[0].header.seq.wrapping_add(1))
}

#[test]
fn audio_reaches_a_subscriber_in_its_own_numbering() {
    for profile in [
        Profile::AeadAes128Gcm,
        Profile::AeadAes256Gcm,
        Profile::Aes128CmHmacSha1_80,
    ] {
        let mut call = Call::with_profile(profile);
        let (alice, bob) = (call.join(), call.join());
        publish_audio(&mut call, alice, 7);
        call.subscribe(bob, 7, high());
        let mut voice = Encoder::new(alice, 5, "a", "");
        for _ in 0..3 {
            voice.opus(&mut call, 111, b"talk");
            call.advance(20);
        }
        let heard = call.peers[bob].take_media();
        assert_eq!(heard.len(), 3);
        assert!(is_gap_free(&heard));
        let first = &heard[0];
        assert_eq!(
            (first.header.ssrc, first.header.payload_type),
            (0x2007, 120)
        );
        assert_eq!(first.payload, b"talk");
        assert_eq!(first.elements[&6], [0x7f]);
        assert_eq!(first.elements[&9], b"m7");
        assert_eq!(first.elements[&5], [0, 0]);
        let events = call.take_events();
        let track = TrackKey(7);
        assert!(events.contains(&Event::StreamStarted { track, stream: 0 }));
        assert!(events.contains(&Event::SubscriptionStarted {
            transport: key(bob),
            track
        }));
        assert!(events.contains(&Event::AudioLevel {
            track,
            level_dbov: 127,
            voice: false
        }));
        assert!(events.contains(&Event::Demand { track, streams: 1 }));
    }
}

#[test]
fn red_is_opened_for_a_receiver_without_it() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_audio(&mut call, alice, 7);
    call.subscribe(bob, 7, high());
    let mut voice = Encoder::new(alice, 5, "a", "");
    voice.opus(&mut call, 63, &[0x80 | 111, 0, 0, 2, 111, 1, 2, 8, 9]);
    let heard = call.peers[bob].take_media();
    assert_eq!(
        (heard[0].header.payload_type, &heard[0].payload[..]),
        (120, &[8, 9][..])
    );
}

#[test]
fn video_begins_with_a_keyframe_that_is_asked_for_at_once() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &[]);
    let mut camera = Encoder::new(alice, 11, "v", "");
    camera.frame(&mut call, true, 0);
    camera.frame(&mut call, false, 0);
    call.advance(10);
    call.subscribe(bob, 1, high());
    assert_eq!(call.peers[alice].count(is_pli), 1);
    camera.frame(&mut call, false, 0);
    assert!(call.peers[bob].take_media().is_empty());
    camera.frame(&mut call, true, 0);
    camera.frame(&mut call, false, 0);
    let seen = call.peers[bob].take_media();
    assert_eq!(seen.len(), 4);
    assert!(seen[0].vp8().key && is_gap_free(&seen));
    assert_eq!(
        (seen[0].header.ssrc, seen[0].header.payload_type),
        (0x2001, 100)
    );
}

#[test]
fn two_hundred_requests_make_one_pli_per_interval() {
    let mut call = Call::new();
    let alice = call.join();
    publish_video(&mut call, alice, 1, &[]);
    let mut camera = Encoder::new(alice, 11, "v", "");
    camera.frame(&mut call, true, 0);
    call.advance(10);
    let viewers: Vec<usize> = (0..200).map(|_| call.join()).collect();
    for &viewer in &viewers {
        call.subscribe(viewer, 1, high());
    }
    camera.frame(&mut call, true, 0);
    assert_eq!(call.peers[alice].count(is_pli), 1);
    for &viewer in &viewers {
        assert_eq!(call.peers[viewer].take_media().len(), 2);
        let ssrc = 0x1000 * (u32::try_from(viewer).unwrap() + 1) + 1;
        call.report(viewer, |writer| writer.pli(1, ssrc).unwrap());
    }
    assert_eq!(call.peers[alice].count(is_pli), 1);
    call.advance(489);
    assert_eq!(call.peers[alice].count(is_pli), 1);
    call.advance(20);
    assert_eq!(call.peers[alice].count(is_pli), 2);
    camera.frame(&mut call, true, 0);
    call.advance(2000);
    assert_eq!(call.peers[alice].count(is_pli), 2);
    assert_eq!(call.router.stats().plis_received, 200);
}

#[test]
fn the_rollover_counter_wraps_on_both_sides() {
    for profile in [Profile::AeadAes128Gcm, Profile::Aes128CmHmacSha1_80] {
        let mut call = Call::with_profile(profile);
        let (alice, bob) = (call.join(), call.join());
        publish_audio(&mut call, alice, 7);
        call.subscribe(bob, 7, high());
        let mut voice = Encoder::new(alice, 5, "a", "");
        voice.seq = 0xff00;
        let mut heard = 0;
        for i in 0..70_000u32 {
            voice.opus(&mut call, 111, &i.to_be_bytes());
            let media = call.peers[bob].take_media();
            assert_eq!(media[0].payload, i.to_be_bytes());
            heard += media.len();
        }
        assert_eq!(heard, 70_000);
    }
}

#[test]
fn a_replayed_datagram_is_dropped_and_counted() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &[]);
    call.subscribe(bob, 1, high());
    let mut camera = Encoder::new(alice, 11, "v", "");
    let (packet, index) = camera.vp8(true, 0, 1).remove(0);
    call.send(alice, packet.clone(), index);
    call.send(alice, packet.clone(), index);
    assert_eq!(call.peers[bob].take_media().len(), 1);
    assert_eq!(call.router.stats().dropped(DropReason::Replay), 1);
    let mut forged = packet;
    let sealed = call.seal(alice, &mut forged, index + 1);
    forged[20] ^= 1;
    let now = call.now;
    call.router
        .handle_datagram(now, key(alice), &mut forged[..sealed], &mut call.out);
    call.router
        .handle_datagram(now, TransportKey(99), &mut [0x80; 40], &mut call.out);
    let stats = call.router.stats();
    assert_eq!(
        stats.dropped(DropReason::Replay) + stats.dropped(DropReason::Authentication),
        2
    );
    assert_eq!(stats.dropped(DropReason::UnknownTransport), 1);
}

#[test]
fn sender_reports_carry_the_publishers_clock() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_audio(&mut call, alice, 7);
    call.subscribe(bob, 7, high());
    let mut voice = Encoder::new(alice, 5, "a", "");
    voice.opus(&mut call, 111, b"talk");
    let heard = call.peers[bob].take_media();
    let timestamp = voice.timestamp;
    let info = rtcp::SenderInfo {
        ssrc: 5,
        ntp: 1000 << 32,
        rtp_timestamp: timestamp,
        packets: 1,
        octets: 4,
    };
    call.report(alice, |writer| writer.sender_report(&info, &[]).unwrap());
    call.advance(1);
    let first = sender_reports(&call, bob);
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].ssrc, first[0].ntp), (0x2007, 1000 << 32));
    assert_eq!(first[0].rtp_timestamp, heard[0].header.timestamp);
    for _ in 0..60 {
        call.advance(20);
        voice.opus(&mut call, 111, b"talk");
    }
    let both = sender_reports(&call, bob);
    assert_eq!(both.len(), 2);
    assert_eq!(both[1].ntp, 1001 << 32);
    assert_eq!(
        both[1].rtp_timestamp,
        heard[0].header.timestamp.wrapping_add(48_000)
    );
    assert!(both[1].packets >= 50);
}

fn sender_reports(call: &Call, peer: usize) -> Vec<rtcp::SenderInfo> {
    let packets = call.peers[peer]
        .reports
        .iter()
        .flat_map(|bytes| rtcp::Packets::new(bytes));
    packets
        .filter_map(|packet| {
            if let rtcp::Packet::SenderReport { info, .. } = packet {
                Some(info)
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn publishers_get_feedback_on_arrivals_and_reports() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &[]);
    call.subscribe(bob, 1, high());
    let mut camera = Encoder::new(alice, 11, "v", "");
    for _ in 0..60 {
        camera.frame(&mut call, true, 0);
        call.advance(33);
    }
    let feedback =
        |packet: &rtcp::Packet<'_>| matches!(packet, rtcp::Packet::TransportFeedback { .. });
    let report = |packet: &rtcp::Packet<'_>| matches!(packet, rtcp::Packet::ReceiverReport { blocks, .. } if blocks.clone().count() == 1);
    let remb = |packet: &rtcp::Packet<'_>| matches!(packet, rtcp::Packet::Remb { .. });
    // Two seconds: a feedback packet per 50 ms to 83 ms, a report per second.
    assert!((24..=40).contains(&call.peers[alice].count(feedback)));
    assert_eq!(call.peers[alice].count(report), 1);
    assert_eq!(call.peers[alice].count(remb), 0);
    // When nothing comes any more, all timers run out.
    call.advance(10_000);
    assert_eq!(call.router.poll_timeout(), None);
}

#[test]
fn a_publisher_without_transport_feedback_gets_remb() {
    let mut call = Call::new();
    let alice = call.join();
    publish_audio(&mut call, alice, 7);
    let mut receive = ReceiveConfig::default();
    receive.media.push(ReceiveMedia {
        mid: "a".to_owned(),
        track: TrackKey(7),
        payloads: vec![ReceivePayload {
            pt: 111,
            codec: Codec::Opus,
            rtx: None,
            nack: false,
            pli: false,
            clock_rate: 48_000,
        }],
        rids: Vec::new(),
        ssrcs: Vec::new(),
    });
    call.command(Command::SetReceive {
        transport: key(alice),
        receive: Box::new(receive),
    });
    let mut voice = Encoder::new(alice, 5, "", "");
    voice.opus(&mut call, 111, b"talk");
    call.advance(1000);
    let offered = |packet: &rtcp::Packet<'_>| matches!(packet, rtcp::Packet::Remb { bitrate, .. } if *bitrate >= 499_000);
    assert_eq!(call.peers[alice].count(offered), 1);
}

#[test]
fn exported_packets_feed_another_router() {
    let (mut home, mut away) = (Call::new(), Call::new());
    let alice = home.join();
    publish_video(&mut home, alice, 1, &["q", "h"]);
    home.command(Command::Export {
        track: TrackKey(1),
        streams: 0b10,
    });
    let bob = away.join();
    let config = TrackConfig::new(Codec::Vp8, Source::Remote, 2);
    let track = TrackKey(900);
    away.command(Command::AddTrack { track, config });
    away.subscribe(bob, 900, high());
    let events = away.take_events();
    assert!(events.contains(&Event::Demand {
        track,
        streams: 0b11
    }));
    assert!(events.contains(&Event::KeyframeNeeded { track, stream: 1 }));
    let mut quarter = Encoder::new(alice, 11, "v", "q");
    let mut half = Encoder::new(alice, 12, "v", "h");
    for i in 0..10 {
        quarter.frame(&mut home, i == 0, 0);
        half.frame(&mut home, i == 0, 0);
        let now = away.now;
        for exported in home.exported.drain(..) {
            assert_eq!(exported.stream, 1);
            away.router
                .handle_packet(now, track, 1, &exported.packet, &mut away.out);
            away.router
                .handle_packet(now, track, 1, &exported.packet, &mut away.out);
        }
        away.drain();
        away.advance(1);
    }
    let seen = away.peers[bob].take_media();
    assert_eq!(seen.len(), 20);
    assert!(is_gap_free(&seen));
    assert_eq!(
        away.take_events().last(),
        Some(&Event::Demand {
            track,
            streams: 0b10
        })
    );
    assert_eq!(away.router.stats().dropped(DropReason::Duplicate), 20);
}

#[test]
fn a_subscription_that_comes_back_never_repeats_an_index() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_audio(&mut call, alice, 7);
    let mut voice = Encoder::new(alice, 5, "a", "");
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..4 {
        call.subscribe(bob, 7, high());
        for _ in 0..50 {
            voice.opus(&mut call, 111, b"talk");
        }
        for packet in call.peers[bob].take_media() {
            assert!(used.insert(packet.header.seq));
        }
        call.command(Command::Unsubscribe {
            transport: key(bob),
            track: TrackKey(7),
        });
    }
    assert_eq!(used.len(), 200);
}

#[test]
fn everything_can_go_in_any_order() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_audio(&mut call, alice, 7);
    call.subscribe(bob, 7, high());
    let mut voice = Encoder::new(alice, 5, "a", "");
    voice.opus(&mut call, 111, b"talk");
    call.command(Command::RemoveTrack { track: TrackKey(7) });
    voice.opus(&mut call, 111, b"talk");
    assert_eq!(call.router.stats().dropped(DropReason::UnknownTrack), 1);
    publish_audio(&mut call, alice, 8);
    call.subscribe(bob, 8, high());
    voice.opus(&mut call, 111, b"talk");
    call.command(Command::RemoveTransport {
        transport: key(bob),
    });
    voice.opus(&mut call, 111, b"talk");
    call.command(Command::RemoveTransport {
        transport: key(alice),
    });
    voice.opus(&mut call, 111, b"talk");
    call.advance(5000);
    assert_eq!(call.peers[bob].take_media().len(), 2);
    assert_eq!(call.router.poll_timeout(), None);
}

proptest! {
    #[test]
    fn no_authentic_bytes_can_panic(
        payloads in proptest::collection::vec(
            (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..80), any::<[u8; 4]>()),
            1..40,
        ),
    ) {
        let mut call = Call::new();
        let (alice, bob) = (call.join(), call.join());
        publish_video(&mut call, alice, 1, &["q", "h", "f"]);
        call.subscribe(bob, 1, high());
        let rids = ["q", "h", "f"];
        for (i, (marker, payload, choice)) in payloads.iter().enumerate() {
            let mut encoder = Encoder::new(alice, u32::from(choice[0] % 5) + 1, "v", rids[i % 3]);
            encoder.seq = u64::from(u16::from_be_bytes([choice[1], choice[2]]));
            encoder.opus(&mut call, if *marker { 96 } else { 97 }, payload);
            let mut report = vec![0x80 | choice[3] & 0x1f, 200 + choice[0] % 8, 0];
            report.push(u8::try_from(payload.len() / 4).unwrap());
            report.extend_from_slice(payload);
            report.resize(report.len().max(8), 0);
            let mut buffer = [0; 200];
            buffer[..report.len()].copy_from_slice(&report);
            call.raw_report(bob, &mut buffer, report.len());
            call.now += Duration::from_millis(10);
        }
        call.advance(3000);
    }

    /// Whatever happens, deadlines lie ahead: a router never keeps its shard busy for nothing.
    #[test]
    fn deadlines_always_make_progress(
        steps in proptest::collection::vec((0u8..9, 0u8..3, 0u64..3000), 1..60),
    ) {
        let mut call = Call::new();
        let (alice, bob) = (call.join(), call.join());
        publish_video(&mut call, alice, 1, &["q", "h", "f"]);
        call.subscribe(bob, 1, high());
        let mut layers = ["q", "h", "f"].map(|rid| {
            Encoder::new(alice, 11 + u32::from(rid.as_bytes()[0]), "v", rid)
        });
        let track = TrackKey(1);
        for (what, stream, pause) in steps {
            let layer = &mut layers[usize::from(stream)];
            match what {
                0..=2 => layer.frame(&mut call, what == 0, 0),
                3 => drop(layer.vp8(false, 0, 3)),
                4 => call.target(bob, 1, Some(Target { layer: stream, temporal: 7 })),
                5 => call.target(bob, 1, None),
                6 => call.command(Command::SetMuted { track, muted: stream == 0 }),
                7 => call.command(Command::Export { track, streams: stream }),
                _ => call.report(bob, |writer| writer.pli(1, 0x2001).unwrap()),
            }
            let end = call.now + Duration::from_millis(pause);
            let mut served = 0;
            while let Some(at) = call.router.poll_timeout().filter(|&at| at <= end) {
                call.now = call.now.max(at);
                call.router.handle_timeout(call.now, &mut call.out);
                call.drain();
                served += 1;
                prop_assert!(served < 400, "{served} deadlines within {pause} ms");
            }
            call.now = end;
        }
    }
}
