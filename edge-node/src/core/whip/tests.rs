//! Publishers and players, as dialogues.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "tests pick out what they look for"
)]

use std::sync::Arc;
use std::time::Instant;

use media::packet::Codec;
use media::router::{LAYERS_MAX, TrackKey};
use proto::ParticipantSid;

use super::fragment::{self, Fragment};
use super::headers::{IfMatch, accepts, entity_tag, if_match, is_type};
use super::player::{Config, Player, Selection};
use super::publisher::Publisher;
use super::*;
use crate::core::room::{FromSession, ToSession};
use crate::core::sdp::{Direction, LocalTransport, Setup};
use crate::core::session::{self, Input, Now, Output, Peer};
use crate::core::token::Claims;
use crate::core::track::{Backup, Track};

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
        fingerprint: format!("sha-256 {}", ["AB"; 32].join(":")),
        candidates: vec!["1 1 udp 2130706431 127.0.0.1 7882 typ host".to_owned()],
    }
}

/// An offer with one section per entry: kind, direction, further lines.
fn offer(sections: &[(&str, &str, &str)]) -> String {
    let mut text =
        String::from("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE");
    for index in 0..sections.len() {
        text.push_str(&format!(" {index}"));
    }
    text.push_str("\r\n");
    for (index, (kind, direction, lines)) in sections.iter().enumerate() {
        let codec = if *kind == "audio" {
            "opus/48000/2"
        } else {
            "VP8/90000"
        };
        text.push_str(&format!(
            "m={kind} 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:{index}\r\na=ice-ufrag:cli1\r\n\
             a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 {}\r\na=setup:actpass\r\n\
             a=rtcp-mux\r\na={direction}\r\na=rtpmap:96 {codec}\r\n{lines}",
            ["CD"; 32].join(":"),
        ));
    }
    text
}

const SENDS: [(&str, &str, &str); 2] = [("audio", "sendonly", ""), ("video", "sendonly", "")];
const RECEIVES: [(&str, &str, &str); 2] = [("audio", "recvonly", ""), ("video", "recvonly", "")];

fn permissions(video: &serde_json::Value) -> Permissions {
    let claims: Claims = serde_json::from_value(serde_json::json!({
        "iss": "devkey", "sub": "obs", "video": video,
    }))
    .unwrap();
    claims.join_grants().unwrap().permissions
}

fn anything() -> Permissions {
    permissions(&serde_json::json!({"roomJoin": true, "room": "lounge"}))
}

fn publisher(text: &str) -> Result<(Vec<Output>, String), Error> {
    let config = session::Config {
        sid: "PA_obs".into(),
        identity: "obs".into(),
        permissions: anything(),
        dual: false,
        seed: 42,
        server_info: lk::ServerInfo::default(),
    };
    let keys = std::cell::Cell::new(0);
    let next_key = || {
        keys.set(keys.get() + 1);
        TrackKey(keys.get())
    };
    let offer = Box::new(read_offer(text)?);
    let (mut publisher, answer) = Publisher::new(now(), config, offer, local(), next_key)?;
    publisher.handle_input(now(), Input::Connected(Peer::Publisher));
    let outputs = std::iter::from_fn(|| publisher.poll_output()).collect();
    Ok((outputs, answer))
}

fn published(outputs: &[Output]) -> Vec<Arc<Track>> {
    let track = |output: &Output| match output {
        Output::Room(FromSession::Published(track)) => Some(Arc::clone(track)),
        _ => None,
    };
    outputs.iter().filter_map(track).collect()
}

#[test]
fn an_offer_alone_publishes_microphone_and_camera() {
    let (outputs, answer) = publisher(&offer(&SENDS)).unwrap();
    let answer = sdp::parse(&answer).unwrap();
    let tracks = published(&outputs);
    let sources: Vec<_> = tracks
        .iter()
        .map(|t| (t.info.source(), t.info.name.as_str(), t.codec))
        .collect();
    assert_eq!(
        sources,
        [
            (lk::TrackSource::Microphone, "microphone", Codec::Opus),
            (lk::TrackSource::Camera, "camera", Codec::Vp8),
        ]
    );
    assert!(answer.media.iter().all(|m| {
        m.direction == Direction::RecvOnly && m.transport.setup == Some(Setup::Passive)
    }));
    let count = |wanted: fn(&Output) -> bool| outputs.iter().filter(|o| wanted(o)).count();
    assert_eq!(count(|o| matches!(o, Output::Publish { .. })), 2);
    assert_eq!(count(|o| matches!(o, Output::Receive(_))), 1);
    assert_eq!(count(|o| matches!(o, Output::SetRemote { .. })), 1);
    assert_eq!(count(|o| matches!(o, Output::Room(FromSession::Active))), 1);
    assert_eq!(count(|o| matches!(o, Output::Signal(_))), 0);
}

#[test]
fn the_second_picture_is_a_screen_and_equal_msids_do_no_harm() {
    let msid = "a=msid:stream same\r\n";
    let sections = [("video", "sendonly", msid), ("video", "sendonly", msid)];
    let (outputs, _) = publisher(&offer(&sections)).unwrap();
    let sources: Vec<_> = published(&outputs)
        .iter()
        .map(|t| t.info.source())
        .collect();
    assert_eq!(
        sources,
        [lk::TrackSource::Camera, lk::TrackSource::ScreenShare]
    );
}

#[test]
fn simulcast_is_taken_as_offered() {
    let lines = "a=rid:q send\r\na=rid:h send\r\na=rid:f send\r\na=simulcast:send q;h;f\r\n";
    let (outputs, answer) = publisher(&offer(&[("video", "sendonly", lines)])).unwrap();
    let answer = sdp::parse(&answer).unwrap();
    assert_eq!(published(&outputs)[0].streams, 3);
    assert_eq!(published(&outputs)[0].info.codecs[0].layers.len(), 3);
    assert_eq!(answer.media[0].simulcast_recv, ["q", "h", "f"]);
}

#[test]
fn what_the_token_does_not_grant_is_refused() {
    let refused = |grants: &serde_json::Value| {
        let mut description = read_offer(&offer(&SENDS)).unwrap();
        announce(&mut description, &permissions(grants)).unwrap_err()
    };
    let none = serde_json::json!({"roomJoin": true, "room": "lounge", "canPublish": false});
    assert!(matches!(refused(&none), Error::NotGranted(_)));
    let sound =
        serde_json::json!({"roomJoin": true, "room": "l", "canPublishSources": ["microphone"]});
    assert!(matches!(refused(&sound), Error::NotGranted(_)));
}

#[test]
fn unusable_offers_are_told_from_unreadable_ones() {
    assert!(matches!(read_offer("hello"), Err(Error::Unreadable(_))));
    let good = offer(&SENDS);
    for (cut, with) in [
        ("a=ice-ufrag:cli1\r\n", ""),
        ("a=fingerprint:sha-256", "a=x:"),
        ("a=group:BUNDLE 0 1\r\n", ""),
        ("a=rtcp-mux\r\n", ""),
    ] {
        let text = good.replace(cut, with);
        assert!(
            matches!(read_offer(&text), Err(Error::Unusable(_))),
            "without {cut}"
        );
    }
    let silent = offer(&RECEIVES);
    assert!(matches!(publisher(&silent), Err(Error::Unusable(_))));
    let foreign = good.replace("opus", "speex").replace("VP8", "theora");
    assert!(matches!(publisher(&foreign), Err(Error::Unusable(_))));
}

fn track(owner: &str, sid: &str, source: lk::TrackSource) -> Arc<Track> {
    let audio = source == lk::TrackSource::Microphone;
    let kind = if audio {
        lk::TrackType::Audio
    } else {
        lk::TrackType::Video
    };
    let key = sid
        .bytes()
        .skip(3)
        .fold(0, |key, byte| key * 256 + u32::from(byte));
    Arc::new(Track {
        sid: sid.into(),
        mesh_sid: sid.into(),
        key: TrackKey(key),
        owner: owner.into(),
        info: lk::TrackInfo {
            sid: sid.to_owned(),
            r#type: kind as i32,
            source: source as i32,
            ..Default::default()
        },
        codec: if audio { Codec::Opus } else { Codec::Vp8 },
        fmtp: String::new(),
        streams: 1,
        spatial: 1,
        bitrates_bps: [0; LAYERS_MAX],
        backup: Backup::None,
        regressed: false,
    })
}

fn muted(track: &Arc<Track>) -> Arc<Track> {
    let info = lk::TrackInfo {
        muted: true,
        ..track.info.clone()
    };
    Arc::new(Track {
        info,
        ..Track::clone(track)
    })
}

/// A player and what is sent to it: section's SSRC by track.
struct Scene {
    player: Player,
    sent: Vec<(TrackKey, u32)>,
}

impl Scene {
    fn new(query: &str) -> (Self, Description) {
        let config = Config {
            sid: "PA_v".into(),
            seed: 7,
            selection: Selection::parse(query),
        };
        let description = read_offer(&offer(&RECEIVES)).unwrap();
        let (player, answer) = Player::new(config, &description, &local()).unwrap();
        let mut scene = Self {
            player,
            sent: Vec::new(),
        };
        scene.drain();
        (scene, sdp::parse(&answer.to_sdp()).unwrap())
    }

    fn room(&mut self, message: ToSession) {
        self.player.handle_input(Input::Room(message));
        self.drain();
    }

    fn offer(&mut self, tracks: &[&Arc<Track>]) {
        for track in tracks {
            self.room(ToSession::Subscribe(Arc::clone(track)));
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.player.poll_output() {
            match output {
                Output::Subscribe(key, config) => {
                    assert!(
                        !self
                            .sent
                            .iter()
                            .any(|(k, s)| *k == key || *s == config.ssrc),
                        "one track per section, one section per track"
                    );
                    self.sent.push((key, config.ssrc));
                }
                Output::Unsubscribe(key) => self.sent.retain(|(known, _)| *known != key),
                _ => {}
            }
        }
    }

    fn plays(&self, track: &Arc<Track>) -> Option<u32> {
        let found = self.sent.iter().find(|(key, _)| *key == track.key);
        found.map(|(_, ssrc)| *ssrc)
    }
}

#[test]
fn a_player_is_answered_before_anything_is_published_and_attached_then() {
    let (mut scene, answer) = Scene::new("");
    let ssrcs: Vec<u32> = answer.media.iter().map(|m| m.ssrcs[0].ssrc).collect();
    assert!(
        answer
            .media
            .iter()
            .all(|m| m.direction == Direction::SendOnly)
    );
    assert!(scene.sent.is_empty());
    let camera = track("PA_a", "TR_a1", lk::TrackSource::Camera);
    let voice = track("PA_a", "TR_a2", lk::TrackSource::Microphone);
    scene.offer(&[&camera, &voice]);
    assert_eq!(scene.plays(&voice), Some(ssrcs[0]));
    assert_eq!(scene.plays(&camera), Some(ssrcs[1]));
}

#[test]
fn the_next_publisher_takes_over_when_the_shown_one_mutes_or_leaves() {
    let (mut scene, _) = Scene::new("");
    let first = track("PA_a", "TR_a1", lk::TrackSource::Camera);
    let voice = track("PA_a", "TR_a2", lk::TrackSource::Microphone);
    let second = track("PA_b", "TR_b1", lk::TrackSource::Camera);
    scene.offer(&[&first, &voice, &second]);
    let ssrc = scene.plays(&first);
    assert!(ssrc.is_some());
    scene.room(ToSession::TrackChanged(muted(&first)));
    assert_eq!((scene.plays(&second), scene.plays(&first)), (ssrc, None));
    assert_eq!(scene.plays(&voice), None, "sound goes with its picture");
    // It does not jump back as long as the second one has a picture.
    scene.room(ToSession::TrackChanged(Arc::clone(&first)));
    assert_eq!(scene.plays(&second), ssrc);
    scene.room(ToSession::Unsubscribe(second.sid.clone()));
    assert_eq!(scene.plays(&first), ssrc);
    assert!(scene.plays(&voice).is_some());
}

#[test]
fn the_loudest_of_several_is_shown_first() {
    let (mut scene, _) = Scene::new("");
    let speakers = lk::SpeakersChanged {
        speakers: vec![lk::SpeakerInfo {
            sid: "PA_b".to_owned(),
            level: 0.5,
            active: true,
        }],
    };
    let heard = lk::signal_response::Message::SpeakersChanged(speakers);
    let quiet = muted(&track("PA_a", "TR_a1", lk::TrackSource::Camera));
    let first = track("PA_b", "TR_b1", lk::TrackSource::Camera);
    scene.room(ToSession::Signal(Box::new(heard)));
    scene.offer(&[&quiet, &first]);
    assert!(scene.plays(&first).is_some());
}

#[test]
fn a_named_participant_or_track_is_shown_and_no_other() {
    let join = lk::JoinResponse {
        other_participants: ["a", "b"]
            .map(|name| lk::ParticipantInfo {
                sid: format!("PA_{name}"),
                identity: name.to_owned(),
                ..Default::default()
            })
            .to_vec(),
        ..Default::default()
    };
    let other = track("PA_a", "TR_a1", lk::TrackSource::Camera);
    let camera = track("PA_b", "TR_b1", lk::TrackSource::Camera);
    let screen = track("PA_b", "TR_b2", lk::TrackSource::ScreenShare);
    let voice = track("PA_b", "TR_b3", lk::TrackSource::Microphone);
    for (query, shown) in [("identity=b", &camera), ("x=1&track=TR_b2", &screen)] {
        let (mut scene, _) = Scene::new(query);
        let welcome = lk::signal_response::Message::Join(join.clone());
        scene.room(ToSession::Signal(Box::new(welcome)));
        scene.offer(&[&other]);
        assert!(scene.sent.is_empty());
        scene.offer(&[&camera, &screen, &voice]);
        assert!(scene.plays(shown).is_some(), "{query}");
        assert!(scene.plays(&voice).is_some(), "{query}");
        assert_eq!(scene.sent.len(), 2, "{query}");
    }
}

#[test]
fn a_player_that_cannot_decode_a_track_does_not_get_it() {
    let (mut scene, _) = Scene::new("");
    let foreign = Arc::new(Track {
        codec: Codec::Av1,
        ..Track::clone(&track("PA_a", "TR_a1", lk::TrackSource::Camera))
    });
    scene.offer(&[&foreign]);
    assert!(scene.sent.is_empty());
    let sends = read_offer(&offer(&SENDS)).unwrap();
    let config = Config {
        sid: ParticipantSid::from("PA_v"),
        seed: 1,
        selection: Selection::Automatic,
    };
    assert!(matches!(
        Player::new(config, &sends, &local()),
        Err(Error::Unusable(_))
    ));
}

#[test]
fn fragments_say_which_ice_session_they_are_about() {
    let text = "a=ice-options:trickle\r\na=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
                m=audio 9 RTP/AVP 0\r\na=mid:0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n\
                a=end-of-candidates\r\n";
    let expected = Fragment {
        ufrag: "EsAw".to_owned(),
        pwd: "P2uYro0UCOQ4zxjKXaWCBui1".to_owned(),
        candidates: 1,
        end_of_candidates: true,
    };
    assert_eq!(fragment::parse(text), Ok(expected));
    assert_eq!(
        fragment::parse("a=mid:0"),
        Err(fragment::Error::NoCredentials)
    );
    assert_eq!(
        fragment::parse("\r\nnonsense"),
        Err(fragment::Error::Line(2))
    );
    let short = text.replace("EsAw", "E");
    assert_eq!(fragment::parse(&short), Err(fragment::Error::Credentials));
    let two = format!("{text}a=ice-ufrag:other\r\n");
    assert_eq!(fragment::parse(&two), Err(fragment::Error::Credentials));
    let long = "a=x\n".repeat(fragment::MAX_FRAGMENT_BYTES);
    assert_eq!(fragment::parse(&long), Err(fragment::Error::TooLarge));
}

#[test]
fn our_fragment_can_be_read_and_carries_candidates() {
    let description = read_offer(&offer(&SENDS)).unwrap();
    let text = fragment::restarted(description.media.first(), &local());
    let read = fragment::parse(&text).unwrap();
    assert_eq!((read.ufrag, read.candidates), (local().ufrag, 1));
    assert!(
        read.end_of_candidates && text.contains("m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n")
    );
}

#[test]
fn header_fields_mean_what_http_says() {
    assert!(is_type("Application/SDP; charset=utf-8", "application/sdp"));
    assert!(!is_type("application/sdpfrag", "application/sdp"));
    for (accept, taken) in [
        ("*/*", true),
        ("application/*;q=0.1", true),
        ("text/html, application/sdp", true),
        ("application/sdp;q=0", false),
        ("application/json", false),
    ] {
        assert_eq!(accepts(accept, "application/sdp"), taken, "{accept}");
    }
    let tag = entity_tag("aBc+/");
    assert_eq!(if_match(None, &tag), IfMatch::Missing);
    assert_eq!(if_match(Some("*"), &tag), IfMatch::Any);
    assert_eq!(if_match(Some("\"x\", \"aBc+/\""), &tag), IfMatch::Current);
    assert_eq!(if_match(Some("W/\"aBc+/\""), &tag), IfMatch::Other);
}
