//! Talkers by the script, and what a listener makes of them.

use super::*;
use crate::client::{Arrival, Observer};
use crate::synthetic::Stamp;

const MS: u64 = 1_000_000;

fn turn(talker: u32, from_ms: u64, to_ms: u64) -> Turn {
    Turn {
        talker,
        from_ms,
        to_ms,
    }
}

fn voice() -> Arc<Voice> {
    let packets = (0..10_u8)
        .map(|at| Bytes::from(vec![0x78, at, at]))
        .collect();
    Arc::new(Voice::new(packets, &[80, 80, 30, 25, 20, 20, 25, 30, 20, 20]).unwrap())
}

#[test]
fn a_voice_has_speech_and_background() {
    let voice = voice();
    assert_eq!((voice.quiet.len(), voice.speech.len()), (2, 8));
    let packets = || {
        (0..10_u8)
            .map(|_| Bytes::from_static(&[0x78]))
            .collect::<Vec<_>>()
    };
    assert!(Voice::new(packets(), &[20; 10]).is_err(), "no background");
    assert!(Voice::new(packets(), &[20, 80]).is_err(), "too few levels");
}

#[test]
fn a_talker_keeps_to_the_script() {
    let start = Instant::now();
    let script = Arc::new(Script::new(vec![turn(0, 1000, 2000), turn(1, 0, 9000)]));
    script.begin(start);
    let mut talker = Talker::new(Arc::clone(&script), voice(), 0, true, start);
    let mut spoken = Vec::new();
    let mut sent = Vec::new();
    for _ in 0..150 {
        let due = talker.due();
        let Some((payload, level)) = talker.next_packet(due) else {
            continue;
        };
        let at_ms = (due - start).as_millis();
        assert_eq!(u128::from(payload.timestamp), at_ms * 48);
        sent.push(at_ms);
        if level & 0x80 != 0 {
            assert_eq!(payload.marker, at_ms == 1000);
            spoken.push(at_ms);
        }
    }
    assert_eq!(spoken, (1000..2000).step_by(20).collect::<Vec<_>>());
    let pauses: Vec<_> = sent
        .into_iter()
        .filter(|at| !(1000..2000).contains(at))
        .collect();
    assert_eq!(pauses, [0, 400, 800, 2000, 2400, 2800]);
}

#[test]
fn a_stamp_fits_into_the_padding_of_an_opus_packet() {
    let start = Instant::now();
    let script = Arc::new(Script::new(Vec::new()));
    let mut talker = Talker::new(script, voice(), 0, false, start);
    let (mut payload, level) = talker.next_packet(start).unwrap();
    let stamp = Stamp {
        source: 3,
        counter: 4,
        sent_ns: 5,
    };
    stamp.write(&mut payload.bytes);
    assert_eq!(Stamp::read(&payload.bytes), Some(stamp));
    // TOC with code 3; padding and one frame; length of the padding; the frame; a zero; the stamp.
    assert_eq!(payload.bytes.len(), 3 + 2 + 25);
    assert_eq!(payload.bytes[..3], [0x7b, 0x41, 25]);
    assert_eq!(payload.bytes[5], 0);
    assert_eq!(level, 80);
}

/// Tells `hearing` of the packets of a turn that `arrives`, 100 ms after they were sent.
fn hear(hearing: &Hearing, turn: &Turn, arrives: impl Fn(u64) -> bool) {
    for (counter, at_ms) in (turn.from_ms..turn.to_ms).step_by(20).enumerate() {
        let mut payload = [0; Stamp::LEN];
        let stamp = Stamp {
            source: turn.talker,
            counter: turn.from_ms + counter as u64,
            sent_ns: at_ms * MS,
        };
        stamp.write(&mut payload);
        if arrives(at_ms) {
            let arrival = Arrival {
                marker: false,
                sequence_number: 0,
                timestamp: 0,
                ssrc: 1,
                payload: &payload,
            };
            hearing.received((at_ms + 100) * MS, &arrival);
        }
    }
}

#[test]
fn a_listener_tells_late_cut_and_missed_turns() {
    let turns = vec![turn(0, 0, 1000), turn(1, 500, 2500), turn(2, 1000, 2000)];
    let script = Script::new(turns.clone());
    let hearing = Hearing::default();
    hear(&hearing, &turns[0], |at| at >= 60);
    hear(&hearing, &turns[1], |at| !(1000..1240).contains(&at));
    let listened = hearing.judge(&script, 0, "t");
    assert_eq!((listened.turns, listened.missed), (3, 1));
    assert_eq!((listened.admitted_max, listened.heard_max), (60, 160));
    assert_eq!((listened.cut_max, listened.cut_turns), (240, 1));
    assert_eq!(listened.streams_max, 2);
    assert!(
        (2.0..=2.2).contains(&listened.rate_max),
        "{}",
        listened.rate_max
    );
    assert_eq!(listened.untold, 2);
}

#[test]
fn the_end_of_a_turn_can_be_missing_too() {
    let turns = vec![turn(0, 0, 2000)];
    let hearing = Hearing::default();
    hear(&hearing, &turns[0], |at| at < 1500);
    let listened = hearing.judge(&Script::new(turns), 0, "t");
    assert_eq!(listened.cut_max, 500);
}

#[test]
fn news_of_speakers_are_timed() {
    use livekit_protocol as livekit;
    let turns = vec![turn(0, 1000, 2000), turn(0, 3000, 4000)];
    let hearing = Hearing::default();
    let who = livekit::ParticipantInfo {
        sid: "PA_x".to_owned(),
        identity: "t0".to_owned(),
        ..Default::default()
    };
    hearing.told(
        0,
        &livekit::signal_response::Message::Update(livekit::ParticipantUpdate {
            participants: vec![who],
        }),
    );
    for turn in &turns {
        hear(&hearing, turn, |_| true);
    }
    for at_ms in [900, 1250, 1700] {
        let speaker = livekit::SpeakerInfo {
            sid: "PA_x".to_owned(),
            level: 0.5,
            active: true,
        };
        let news = livekit::SpeakersChanged {
            speakers: vec![speaker],
        };
        hearing.told(
            at_ms * MS,
            &livekit::signal_response::Message::SpeakersChanged(news),
        );
    }
    let listened = hearing.judge(&Script::new(turns), 0, "t");
    assert_eq!(
        (listened.told_p50, listened.told_max, listened.untold),
        (250, 250, 0)
    );
}
