//! A session and its client, as dialogues.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "tests pick out what they look for"
)]

mod codecs;

use std::time::Instant;

use livekit_protocol as lk;
use media::packet::Codec;

use super::*;
use crate::core::sdp;
use crate::core::token::Claims;
use crate::core::track::Backup;
use crate::core::track::Track;

fn now() -> Now {
    Now {
        instant: Instant::now(),
        unix_ms: 1_700_000_000_000,
    }
}

fn local() -> LocalTransport {
    LocalTransport {
        ufrag: "edge".to_owned(),
        pwd: "0123456789abcdef01234567".to_owned(),
        fingerprint: format!("sha-256 {}", vec!["AB"; 32].join(":")),
        candidates: vec!["1 1 udp 2130706431 127.0.0.1 7882 typ host".to_owned()],
    }
}

fn session(video: &serde_json::Value) -> Session {
    let claims: Claims = serde_json::from_value(serde_json::json!({
        "iss": "devkey", "sub": "ann", "video": video,
    }))
    .unwrap();
    let grants = claims.join_grants().unwrap();
    let config = Config {
        sid: "PA_a".into(),
        identity: grants.identity.clone(),
        permissions: grants.permissions,
        dual: false,
        seed: 42,
        server_info: lk::ServerInfo::default(),
    };
    let mut session = Session::new(config, [(Peer::Publisher, local())].into());
    session.reserve_key(TrackKey(1));
    session
}

fn anything() -> serde_json::Value {
    serde_json::json!({"roomJoin": true, "room": "lounge"})
}

/// An offer with one section per entry: kind or video codec, direction, msid track.
fn offer(sections: &[(&str, &str, Option<&str>)]) -> Box<Description> {
    let mut text =
        String::from("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE");
    for index in 0..sections.len() {
        text.push_str(&format!(" {index}"));
    }
    text.push_str("\r\n");
    for (index, (kind, direction, track)) in sections.iter().enumerate() {
        let (kind, codec) = match *kind {
            "audio" => ("audio", "opus/48000/2"),
            "vp9" => ("video", "VP9/90000"),
            _ => ("video", "VP8/90000"),
        };
        let msid = track
            .map(|t| format!("a=msid:- {t}\r\n"))
            .unwrap_or_default();
        text.push_str(&format!(
            "m={kind} 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:{index}\r\na=ice-ufrag:cli\r\n\
             a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 {}\r\na=setup:actpass\r\n\
             a=rtcp-mux\r\na={direction}\r\n{msid}a=rtpmap:96 {codec}\r\n",
            vec!["CD"; 32].join(":"),
        ));
    }
    Box::new(sdp::parse(&text).unwrap())
}

fn track(sid: &str, kind: lk::TrackType) -> Arc<Track> {
    let audio = kind == lk::TrackType::Audio;
    Arc::new(Track {
        sid: sid.into(),
        mesh_sid: sid.into(),
        key: TrackKey(50),
        owner: "PA_b".into(),
        info: lk::TrackInfo {
            sid: sid.to_owned(),
            r#type: kind as i32,
            ..Default::default()
        },
        codec: if audio { Codec::Opus } else { Codec::Vp8 },
        fmtp: String::new(),
        streams: 1,
        spatial: 1,
        bitrates_bps: [0; 3],
        backup: Backup::None,
        regressed: false,
    })
}

fn outputs(session: &mut Session) -> Vec<Output> {
    session.settle(now());
    std::iter::from_fn(|| session.poll_output()).collect()
}

fn signals(outputs: Vec<Output>) -> Vec<Response> {
    let signal = |o| {
        if let Output::Signal(response) = o {
            Some(*response)
        } else {
            None
        }
    };
    outputs.into_iter().filter_map(signal).collect()
}

fn answer(outputs: &[Output]) -> (Description, std::collections::HashMap<String, String>) {
    let found = outputs.iter().find_map(|o| match o {
        Output::Signal(response) => match response.as_ref() {
            Response::Answer(answer) => Some(answer.clone()),
            _ => None,
        },
        _ => None,
    });
    let answer = found.expect("an answer");
    (sdp::parse(&answer.sdp).unwrap(), answer.mid_to_track_id)
}

fn add_track(cid: &str) -> Input {
    Input::Request(Box::new(Request::AddTrack(lk::AddTrackRequest {
        cid: cid.to_owned(),
        r#type: lk::TrackType::Video as i32,
        source: lk::TrackSource::Camera as i32,
        ..Default::default()
    })))
}

#[test]
fn a_subscription_takes_a_placeholder_and_gives_it_back_through_inactive() {
    let mut session = session(&anything());
    let sections = [("audio", "recvonly", None), ("video", "recvonly", None)];
    let offered = |session: &mut Session| {
        session.handle_input(
            now(),
            Input::Offer {
                id: 1,
                description: offer(&sections),
            },
        );
        outputs(session)
    };
    let (first, _) = answer(&offered(&mut session));
    assert!(
        first
            .media
            .iter()
            .all(|m| m.direction == sdp::Direction::Inactive)
    );

    session.handle_input(
        now(),
        Input::Room(ToSession::Subscribe(track("TR_1", lk::TrackType::Video))),
    );
    let asked = signals(outputs(&mut session));
    assert!(matches!(
        asked.as_slice(),
        [Response::MediaSectionsRequirement(r)] if (r.num_audios, r.num_videos) == (0, 0)
    ));
    let (second, mids) = answer(&offered(&mut session));
    assert_eq!(second.media[1].direction, sdp::Direction::SendOnly);
    assert_eq!(mids.get("1").map(String::as_str), Some("TR_1"));

    session.handle_input(now(), Input::Room(ToSession::Unsubscribe("TR_1".into())));
    session.handle_input(
        now(),
        Input::Room(ToSession::Subscribe(track("TR_2", lk::TrackType::Video))),
    );
    let asked = signals(outputs(&mut session));
    assert!(matches!(
        asked.as_slice(),
        [Response::MediaSectionsRequirement(r)] if (r.num_audios, r.num_videos) == (0, 1)
    ));
    let (third, _) = answer(&offered(&mut session));
    assert_eq!(third.media[1].direction, sdp::Direction::Inactive);
    let (fourth, mids) = answer(&offered(&mut session));
    assert_eq!(fourth.media[1].direction, sdp::Direction::SendOnly);
    assert_eq!(mids.get("1").map(String::as_str), Some("TR_2"));
}

#[test]
fn announcement_and_offer_may_come_in_either_order() {
    for announced_first in [true, false] {
        let mut session = session(&anything());
        let sends = [("video", "sendonly", Some("cam"))];
        if announced_first {
            session.handle_input(now(), add_track("cam"));
        }
        session.handle_input(
            now(),
            Input::Offer {
                id: 3,
                description: offer(&sends),
            },
        );
        if !announced_first {
            assert!(signals(outputs(&mut session)).is_empty(), "the offer waits");
            session.handle_input(now(), add_track("cam"));
        }
        let out = outputs(&mut session);
        let (description, _) = answer(&out);
        assert_eq!(description.media[0].direction, sdp::Direction::RecvOnly);
        assert!(out.iter().any(|o| matches!(
            o,
            Output::Publish {
                track: TrackKey(1),
                ..
            }
        )));
        assert!(
            out.iter()
                .any(|o| matches!(o, Output::Room(FromSession::Published(_))))
        );
    }
}

#[test]
fn without_the_grant_nothing_is_published() {
    let mut session =
        session(&serde_json::json!({"roomJoin": true, "room": "lounge", "canPublish": false}));
    session.handle_input(now(), add_track("cam"));
    let said = signals(outputs(&mut session));
    assert!(matches!(
        said.as_slice(),
        [Response::RequestResponse(r)] if r.reason() == lk::request_response::Reason::NotAllowed
    ));
}

#[test]
fn a_section_that_falls_silent_ends_the_publication() {
    let mut session = session(&anything());
    session.handle_input(now(), add_track("cam"));
    for direction in ["sendonly", "inactive"] {
        let sections = [("video", direction, Some("cam"))];
        session.handle_input(
            now(),
            Input::Offer {
                id: 1,
                description: offer(&sections),
            },
        );
    }
    let out = outputs(&mut session);
    assert!(
        out.iter()
            .any(|o| matches!(o, Output::Unpublish(TrackKey(1))))
    );
    assert!(
        out.iter()
            .any(|o| matches!(o, Output::Room(FromSession::Unpublished(_))))
    );
}

#[test]
fn replayed_reliable_messages_are_dropped() {
    use prost::Message as _;
    let mut session = session(&anything());
    let packet = lk::DataPacket {
        sequence: 5,
        ..Default::default()
    };
    for _ in 0..2 {
        let payload = packet.encode_to_vec().into();
        session.handle_input(
            now(),
            Input::Data {
                label: "_reliable".into(),
                payload,
            },
        );
    }
    let delivered = outputs(&mut session);
    let data = |o: &&Output| matches!(o, Output::Room(FromSession::Data { .. }));
    assert_eq!(delivered.iter().filter(data).count(), 1);
}
