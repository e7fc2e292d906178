//! Top-N audio: who is not heard is no loss for anybody.

use super::call::{Call, Encoder, high, publish_audio};
use super::*;
use crate::rtp::Header;

const ROOM: u32 = 3;

/// Three publishers of one room with one place, and a listener.
fn room(places: u16) -> (Call, Vec<Encoder>, usize) {
    let mut call = Call::new();
    call.command(Command::SetAudioLimit {
        room: ROOM,
        streams: places,
    });
    let mut voices = Vec::new();
    for track in 1..=3 {
        let publisher = call.join();
        publish_audio(&mut call, publisher, track);
        let config = TrackConfig {
            room: ROOM,
            ..TrackConfig::new(Codec::Opus, Source::Local(key(publisher)), 1)
        };
        let track = TrackKey(track);
        call.command(Command::RemoveTrack { track });
        call.command(Command::AddTrack { track, config });
        voices.push(Encoder::new(publisher, 100 + track.0, "a", ""));
    }
    let listener = call.join();
    for track in 1..=3 {
        call.subscribe(listener, track, high());
    }
    (call, voices, listener)
}

/// Sends a packet with this level.
fn say(call: &mut Call, voice: &mut Encoder, level: &str) {
    voice.timestamp = voice.timestamp.wrapping_add(960);
    let header = Header {
        marker: false,
        payload_type: 111,
        seq: rtp::low16(voice.seq),
        timestamp: voice.timestamp,
        ssrc: voice.ssrc,
    };
    let packet = voice.rtp(&header, (1, level), b"talk");
    let index = voice.seq;
    voice.seq += 1;
    call.send(voice.peer, packet, index);
}

/// Everybody sends a second of packets, `talker` speaks.
fn second(call: &mut Call, voices: &mut [Encoder], talker: usize) {
    for _ in 0..50 {
        for (index, voice) in voices.iter_mut().enumerate() {
            say(
                call,
                voice,
                if index == talker { "\u{19}" } else { "\u{5a}" },
            );
        }
        call.advance(20);
    }
}

fn by_track(call: &Call, listener: usize, track: u32) -> Vec<Received> {
    let first = 0x1000 * (u32::try_from(listener).unwrap() + 1);
    let all = call.peers[listener].media.iter();
    let of_track = all.filter(|packet| packet.header.ssrc == first + track);
    of_track.cloned().collect()
}

#[test]
fn only_who_speaks_is_forwarded_and_nobody_misses_a_packet() {
    let (mut call, mut voices, listener) = room(1);
    for talker in [0, 1, 2, 0] {
        second(&mut call, &mut voices, talker);
    }
    let stats = call.router.stats().clone();
    assert_eq!(call.router.stats().audio_selected, 1);
    assert_eq!(
        stats.forwarded_packets + stats.audio_suppressed_packets,
        600
    );
    assert!(stats.audio_changes >= 4);
    let expected = [(1, 100), (2, 50), (3, 50)];
    for (track, packets) in expected {
        let heard = by_track(&call, listener, track);
        // Admission costs 40 ms; a change at once shows in the two packets before it.
        assert!(
            heard.len().abs_diff(packets) <= 6,
            "{track}: {}",
            heard.len()
        );
        assert!(is_gap_free(&heard), "{track}: {:?}", seqs(&heard));
    }
    // The publishers are asked for nothing.
    assert_eq!(stats.nacks_sent, 0);
}

#[test]
fn without_a_limit_all_is_forwarded() {
    for places in [0, 3] {
        let (mut call, mut voices, _) = room(places);
        second(&mut call, &mut voices, 1);
        let stats = call.router.stats();
        assert_eq!(
            (stats.forwarded_packets, stats.audio_suppressed_packets),
            (150, 0)
        );
    }
}

#[test]
fn a_place_is_free_once_its_track_is_gone() {
    let (mut call, mut voices, listener) = room(1);
    second(&mut call, &mut voices, 0);
    call.command(Command::RemoveTrack { track: TrackKey(1) });
    call.peers[listener].take_media();
    second(&mut call, &mut voices[1..], 5);
    assert_eq!(call.peers[listener].take_media().len(), 50);
    for track in [2, 3] {
        let track = TrackKey(track);
        call.command(Command::RemoveTrack { track });
    }
    assert_eq!(call.router.stats().audio_selected, 0);
}
