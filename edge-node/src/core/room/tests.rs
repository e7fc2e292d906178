//! Rooms on two edges, as dialogues.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "tests pick out what they look for"
)]

mod commands;
mod media_state;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use livekit_protocol as lk;
use media::packet::Codec;
use media::router::TrackKey;
use proto::{NodeId, ParticipantSid, TrackSid};

use super::*;
use crate::core::token::Claims;
use crate::core::track::Backup;

fn now(ms: u64) -> Now {
    thread_local!(static START: Instant = Instant::now());
    Now {
        instant: START.with(|start| *start + Duration::from_millis(ms)),
        unix_ms: 1_700_000_000_000 + i64::try_from(ms).unwrap(),
    }
}

fn room(node: &str) -> Room {
    let keys = Arc::new(AtomicU32::new(1000));
    Room::new(Config {
        name: "lounge".into(),
        sid: "RM_1".into(),
        created_at_ms: 1_700_000_000_000,
        node: node.into(),
        incarnation: 7,
        region: node.to_owned(),
        server_info: lk::ServerInfo {
            version: "1".to_owned(),
            ..Default::default()
        },
        next_key: Box::new(move || TrackKey(keys.fetch_add(1, Ordering::Relaxed))),
    })
}

fn join(sid: &str, identity: &str) -> Input {
    let claims: Claims = serde_json::from_value(serde_json::json!({
        "iss": "devkey", "sub": identity, "video": {"roomJoin": true, "room": "lounge"},
    }))
    .unwrap();
    Input::Join(Box::new(Join {
        sid: sid.into(),
        grants: claims.join_grants().unwrap(),
        dual: false,
        auto_subscribe: true,
        client: lk::ClientInfo::default(),
        ice_servers: Vec::new(),
        signals: true,
        moved: None,
    }))
}

fn camera(sid: &str, owner: &str) -> Arc<Track> {
    Arc::new(Track {
        sid: sid.into(),
        mesh_sid: sid.into(),
        key: TrackKey(1),
        owner: owner.into(),
        info: lk::TrackInfo {
            sid: sid.to_owned(),
            r#type: lk::TrackType::Video as i32,
            ..Default::default()
        },
        codec: Codec::Vp8,
        fmtp: String::new(),
        streams: 3,
        spatial: 1,
        bitrates_bps: [0; 3],
        backup: Backup::None,
        regressed: false,
    })
}

fn outputs(room: &mut Room) -> Vec<Output> {
    std::iter::from_fn(|| room.poll_output()).collect()
}

fn state(outputs: &[Output]) -> Option<proto::link::RoomState> {
    outputs.iter().rev().find_map(|o| match o {
        Output::State(state) => Some(state.clone()),
        _ => None,
    })
}

/// Tracks that a session was told to subscribe to.
fn subscribed(outputs: &[Output], to: &str) -> Vec<String> {
    outputs
        .iter()
        .filter_map(|o| match o {
            Output::Session(sid, ToSession::Subscribe(track)) if sid.as_str() == to => {
                Some(track.sid.to_string())
            }
            _ => None,
        })
        .collect()
}

/// Participants that a session heard of in updates.
fn updates(outputs: &[Output], to: &str) -> Vec<lk::ParticipantInfo> {
    let mut heard = Vec::new();
    for output in outputs {
        let Output::Session(sid, ToSession::Signal(response)) = output else {
            continue;
        };
        if let (true, Response::Update(update)) = (sid.as_str() == to, response.as_ref()) {
            heard.extend(update.participants.clone());
        }
    }
    heard
}

fn said(sid: &str, message: FromSession) -> Input {
    Input::Session(ParticipantSid::from(sid), message)
}

#[test]
fn a_later_participant_gets_what_is_published() {
    let mut room = room("fra");
    room.handle_input(now(0), join("PA_a", "ann"));
    room.handle_input(
        now(1),
        said("PA_a", FromSession::Published(camera("TR_a", "PA_a"))),
    );
    outputs(&mut room);
    room.handle_input(now(200), join("PA_b", "bob"));
    let out = outputs(&mut room);
    let Some(Output::Session(_, ToSession::Signal(first))) = out.first() else {
        panic!("{out:?}")
    };
    let Response::Join(response) = first.as_ref() else {
        panic!("{first:?}")
    };
    assert_eq!(response.other_participants.len(), 1);
    assert_eq!(response.other_participants[0].tracks.len(), 1);
    assert_eq!(subscribed(&out, "PA_b"), ["TR_a"]);
    assert_eq!(updates(&out, "PA_a")[0].identity, "bob");
}

#[test]
fn state_makes_a_replica_on_the_other_edge() {
    let (mut fra, mut syd) = (room("fra"), room("syd"));
    fra.handle_input(now(0), join("PA_a", "ann"));
    syd.handle_input(now(0), join("PA_b", "bob"));
    outputs(&mut syd);
    fra.handle_input(
        now(100),
        said("PA_a", FromSession::Published(camera("TR_a", "PA_a"))),
    );
    let sent = state(&outputs(&mut fra)).unwrap();
    syd.handle_input(now(200), Input::State(sent.clone()));
    let out = outputs(&mut syd);
    assert_eq!(subscribed(&out, "PA_b"), ["TR_a"]);
    assert!(out.iter().any(
        |o| matches!(o, Output::AddRemoteTrack { origin, .. } if *origin == NodeId::from("fra"))
    ));
    // The same state again changes nothing.
    syd.handle_input(now(201), Input::State(sent));
    assert!(updates(&outputs(&mut syd), "PA_b").is_empty());
    // She leaves: the track ends and everybody hears.
    fra.handle_input(
        now(400),
        said(
            "PA_a",
            FromSession::Leave(lk::DisconnectReason::ClientInitiated),
        ),
    );
    let sent = state(&outputs(&mut fra)).unwrap();
    syd.handle_input(now(500), Input::State(sent));
    let out = outputs(&mut syd);
    assert!(
        out.iter()
            .any(|o| matches!(o, Output::RemoveRemoteTrack(_)))
    );
    assert_eq!(
        updates(&out, "PA_b")[0].state(),
        lk::participant_info::State::Disconnected
    );
}

#[test]
fn the_same_identity_elsewhere_ends_the_older_session() {
    let (mut fra, mut syd) = (room("fra"), room("syd"));
    fra.handle_input(now(0), join("PA_old", "ann"));
    outputs(&mut fra);
    syd.handle_input(now(500), join("PA_new", "ann"));
    let sent = state(&outputs(&mut syd)).unwrap();
    fra.handle_input(now(600), Input::State(sent));
    let closed = outputs(&mut fra).into_iter().any(|o| {
        matches!(o, Output::Session(sid, ToSession::Close { reason, .. })
            if sid.as_str() == "PA_old" && reason == lk::DisconnectReason::DuplicateIdentity)
    });
    assert!(closed);
    assert!(fra.is_empty());
}

#[test]
fn a_publisher_restricts_who_may_have_its_tracks() {
    let mut room = room("fra");
    for (sid, identity) in [("PA_a", "ann"), ("PA_b", "bob"), ("PA_c", "cy")] {
        room.handle_input(now(0), join(sid, identity));
    }
    room.handle_input(
        now(1),
        said("PA_a", FromSession::Published(camera("TR_a", "PA_a"))),
    );
    outputs(&mut room);
    let permission = lk::SubscriptionPermission {
        all_participants: false,
        track_permissions: vec![lk::TrackPermission {
            participant_identity: "bob".to_owned(),
            all_tracks: true,
            ..Default::default()
        }],
    };
    room.handle_input(
        now(2),
        said("PA_a", FromSession::SubscriptionPermission(permission)),
    );
    let out = outputs(&mut room);
    let ended = |to: &str| {
        out.iter().any(|o| {
            matches!(o, Output::Session(sid, ToSession::Unsubscribe(track))
            if sid.as_str() == to && *track == TrackSid::from("TR_a"))
        })
    };
    assert!(ended("PA_c") && !ended("PA_b"));
}

#[test]
fn an_edge_that_is_away_too_long_is_forgotten() {
    let (mut fra, mut syd) = (room("fra"), room("syd"));
    fra.handle_input(now(0), join("PA_a", "ann"));
    let sent = state(&outputs(&mut fra)).unwrap();
    syd.handle_input(now(0), join("PA_b", "bob"));
    syd.handle_input(now(1), Input::State(sent));
    syd.handle_input(
        now(2),
        Input::Link {
            peer: "fra".into(),
            up: false,
        },
    );
    syd.handle_input(now(9_000), Input::Tick);
    outputs(&mut syd);
    assert_eq!(syd.visible_to(&"PA_b".into(), false).len(), 1);
    syd.handle_input(now(10_100), Input::Tick);
    assert!(syd.visible_to(&"PA_b".into(), false).is_empty());
}

#[test]
fn a_room_that_ended_on_an_edge_and_began_anew_is_seen_by_the_others() {
    let mut syd = room("syd");
    syd.handle_input(now(0), join("PA_b", "bob"));
    let mut fra = room("fra");
    for (ms, sid) in [(0, "PA_a"), (10, "PA_c"), (100, "PA_d")] {
        fra.handle_input(now(ms), join(sid, sid));
        fra.handle_input(now(ms + 60), Input::Tick);
        if let Some(state) = state(&outputs(&mut fra)) {
            syd.handle_input(now(ms), Input::State(state));
        }
    }
    syd.handle_input(now(4000), Input::Gone("fra".into()));
    outputs(&mut syd);
    let mut again = room("fra");
    again.handle_input(now(4500), join("PA_e", "eve"));
    let fresh = state(&outputs(&mut again)).expect("its first state");
    syd.handle_input(now(4600), Input::State(fresh));
    let seen = updates(&outputs(&mut syd), "PA_b");
    assert!(seen.iter().any(|p| p.identity == "eve"), "{seen:?}");
}

#[test]
fn data_reaches_only_those_it_is_for() {
    let mut room = room("fra");
    for (sid, identity) in [("PA_a", "ann"), ("PA_b", "bob"), ("PA_c", "cy")] {
        room.handle_input(now(0), join(sid, identity));
    }
    outputs(&mut room);
    let message = FromSession::Data {
        reliable: true,
        destinations: vec!["cy".to_owned()],
        payload: Bytes::from_static(b"x"),
    };
    room.handle_input(now(1), said("PA_a", message));
    let to: Vec<String> = outputs(&mut room)
        .into_iter()
        .filter_map(|o| match o {
            Output::Session(sid, ToSession::Data { .. }) => Some(sid.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(to, ["PA_c"]);
}

/// Everything that ours were told about speakers, with the time.
fn told(room: &mut Room, ms: u64) -> Vec<(u64, String, String, bool)> {
    let mut told = Vec::new();
    for output in outputs(room) {
        let Output::Session(to, ToSession::Signal(response)) = output else {
            continue;
        };
        if let Response::SpeakersChanged(changed) = *response {
            let ordered = changed.speakers.is_sorted_by(|a, b| a.level >= b.level);
            assert!(ordered, "the loudest first");
            let all = changed.speakers.into_iter();
            told.extend(all.map(|s| (ms, to.to_string(), s.sid, s.active)));
        }
    }
    told
}

fn microphone(key: u32, owner: &str) -> Arc<Track> {
    let mut track = Track::clone(&camera(&format!("TR_{owner}"), owner));
    track.key = TrackKey(key);
    track.info.r#type = lk::TrackType::Audio as i32;
    Arc::new(track)
}

/// One participant per name, each with a microphone.
fn talkers(names: &[&str]) -> Room {
    let mut room = room("fra");
    for (key, name) in (1..).zip(names) {
        let sid = format!("PA_{name}");
        room.handle_input(now(0), join(&sid, name));
        let message = FromSession::Published(microphone(key, &sid));
        room.handle_input(now(1), said(&sid, message));
    }
    outputs(&mut room);
    room
}

#[test]
fn a_change_of_speakers_is_told_within_300_ms_and_once() {
    let mut room = talkers(&["a", "b"]);
    let mut heard = Vec::new();
    for ms in (0..4000).step_by(20) {
        // A speaks for a second, then B, who pauses between words; then nobody.
        let levels = match ms {
            0..1000 => [20, 127],
            1000..2000 if ms % 200 < 160 => [127, 25],
            _ => [127, 80],
        };
        for (track, level_dbov) in (1..).map(TrackKey).zip(levels) {
            room.handle_input(now(ms), Input::AudioLevel { track, level_dbov });
        }
        if ms % 100 == 0 {
            room.handle_input(now(ms), Input::Tick);
        }
        heard.extend(told(&mut room, ms));
    }
    let mut to_b = heard.into_iter().filter(|(_, to, ..)| to == "PA_b");
    let mut next = |sid: &str, is_active: bool, within: std::ops::Range<u64>| {
        let (ms, _, of, active) = to_b.next().unwrap();
        assert_eq!((of.as_str(), active), (sid, is_active), "at {ms}");
        assert!(within.contains(&ms), "{sid} at {ms}");
    };
    next("PA_a", true, 0..101);
    next("PA_b", true, 1000..1101);
    next("PA_a", false, 1100..1301);
    next("PA_b", false, 2000..2301);
    assert_eq!(to_b.next(), None);
}

#[test]
fn a_click_makes_no_speaker_and_newcomers_hear_who_speaks() {
    let mut room = talkers(&["a"]);
    let say = |room: &mut Room, from: u64, to: u64| {
        for ms in (from..to).step_by(20) {
            let (track, level_dbov) = (TrackKey(1), 20);
            room.handle_input(now(ms), Input::AudioLevel { track, level_dbov });
        }
    };
    say(&mut room, 0, 60);
    room.handle_input(now(300), Input::Tick);
    assert_eq!(told(&mut room, 300), []);
    say(&mut room, 400, 500);
    outputs(&mut room);
    room.handle_input(now(500), join("PA_n", "new"));
    let heard = told(&mut room, 500);
    assert_eq!(heard, [(500, "PA_n".to_owned(), "PA_a".to_owned(), true)]);
}

#[test]
fn speakers_go_to_other_edges_at_once_and_come_from_there_as_changes() {
    let mut fra = talkers(&["a"]);
    let mut syd = room("syd");
    syd.handle_input(now(0), join("PA_s", "sam"));
    fra.handle_input(now(100), Input::Tick);
    fra.handle_input(now(200), said("PA_a", FromSession::Active));
    let state = outputs(&mut fra)
        .into_iter()
        .find_map(|output| match output {
            Output::State(state) => Some(state),
            _ => None,
        });
    syd.handle_input(now(200), Input::State(state.unwrap()));
    outputs(&mut syd);
    let (mut messages, mut focus) = (Vec::new(), Vec::new());
    for ms in (200..3500).step_by(20) {
        let level_dbov = if ms < 600 { 20 } else { 127 };
        let track = TrackKey(1);
        fra.handle_input(now(ms), Input::AudioLevel { track, level_dbov });
        if ms % 100 == 0 {
            fra.handle_input(now(ms), Input::Tick);
        }
        for output in outputs(&mut fra) {
            match output {
                Output::Speakers(speakers) => messages.push((ms, speakers)),
                Output::Speaking { track, speaking } => focus.push((ms, track, speaking)),
                Output::State(_) => panic!("speakers do not need the whole state"),
                _ => {}
            }
        }
    }
    let times: Vec<u64> = messages.iter().map(|(ms, _)| *ms).collect();
    assert_eq!(times, [280, 800]);
    // The allocator is told at once, and two seconds after the last word.
    assert_eq!(focus.len(), 2);
    assert_eq!(focus[0], (280, TrackKey(1), true));
    assert!(focus[1].0 >= 2700 && !focus[1].2);
    for (index, (_, speakers)) in messages.iter().enumerate() {
        for round in 0..2 {
            syd.handle_input(now(900), Input::Speakers(speakers.clone()));
            let heard = told(&mut syd, 900);
            let expected = (900, "PA_s".to_owned(), "PA_a".to_owned(), index == 0);
            assert_eq!(heard.first(), (round == 0).then_some(&expected));
            assert!(heard.len() <= 1);
        }
    }
    // An older message changes nothing.
    syd.handle_input(now(950), Input::Speakers(messages[0].1.clone()));
    assert_eq!(told(&mut syd, 950), []);
}
