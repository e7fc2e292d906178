//! Layers that are asked for, and second codecs.

use std::time::Duration;

use super::*;

/// A subscriber's or publisher's session in which time passes.
struct Scene {
    session: Session,
    start: Now,
}

impl Scene {
    fn new() -> Self {
        Self {
            session: session(&anything()),
            start: now(),
        }
    }

    fn at(&self, ms: u64) -> Now {
        Now {
            instant: self.start.instant + Duration::from_millis(ms),
            ..self.start
        }
    }

    /// What comes of an input.
    fn does(&mut self, ms: u64, input: Input) -> Vec<Output> {
        let now = self.at(ms);
        if self.session.needs_key() {
            let key = TrackKey(u32::try_from(ms).unwrap() + 10);
            self.session.reserve_key(key);
        }
        self.session.handle_input(now, input);
        self.session.settle(now);
        std::iter::from_fn(|| self.session.poll_output()).collect()
    }

    fn offers(&mut self, ms: u64, sections: &[(&str, &str, Option<&str>)]) -> Vec<Output> {
        let description = offer(sections);
        self.does(ms, Input::Offer { id: 1, description })
    }

    /// A publisher of VP9 with VP8 as its backup; its track's id.
    fn publishes(&mut self, policy: lk::BackupCodecPolicy) -> TrackSid {
        let codec = |codec: &str, cid: &str| lk::SimulcastCodec {
            codec: codec.to_owned(),
            cid: cid.to_owned(),
            ..Default::default()
        };
        let layers = [(lk::VideoQuality::Low, 320), (lk::VideoQuality::High, 1280)];
        let layers = layers.map(|(quality, width)| lk::VideoLayer {
            quality: quality as i32,
            width,
            height: width / 2,
            bitrate: width * 1000,
            ..Default::default()
        });
        let request = lk::AddTrackRequest {
            cid: "cam".to_owned(),
            r#type: lk::TrackType::Video as i32,
            source: lk::TrackSource::Camera as i32,
            layers: layers.to_vec(),
            simulcast_codecs: vec![codec("vp9", "cam"), codec("vp8", "")],
            backup_codec_policy: policy as i32,
            ..Default::default()
        };
        self.does(0, Input::Request(Box::new(Request::AddTrack(request))));
        let out = self.offers(1, &[("vp9", "sendonly", Some("cam"))]);
        let track = published(&out).expect("a track");
        assert_eq!((track.codec, track.spatial), (Codec::Vp9, 2));
        assert_eq!(track.backup, Backup::Announced);
        track.sid.clone()
    }

    /// The client adds the second codec and offers it.
    fn adds_backup(&mut self, ms: u64, sid: &TrackSid) -> Vec<Output> {
        let request = lk::AddTrackRequest {
            cid: "cam2".to_owned(),
            sid: sid.to_string(),
            r#type: lk::TrackType::Video as i32,
            source: lk::TrackSource::Camera as i32,
            simulcast_codecs: vec![lk::SimulcastCodec {
                codec: "vp8".to_owned(),
                cid: "cam2".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut out = self.does(ms, Input::Request(Box::new(Request::AddTrack(request))));
        let sections = [
            ("vp9", "sendonly", Some("cam")),
            ("video", "sendonly", Some("cam2")),
        ];
        out.extend(self.offers(ms + 1, &sections));
        out
    }
}

fn published(out: &[Output]) -> Option<Arc<Track>> {
    out.iter().rev().find_map(|o| match o {
        Output::Room(FromSession::Published(track)) => Some(Arc::clone(track)),
        _ => None,
    })
}

/// `vp9:LMH vp8:...` of the last quality update.
fn asked(out: &[Output]) -> Option<String> {
    let update = out.iter().rev().find_map(|o| match o {
        Output::Signal(response) => match response.as_ref() {
            Response::SubscribedQualityUpdate(update) => Some(update.clone()),
            _ => None,
        },
        _ => None,
    })?;
    let codecs = update.subscribed_codecs.iter().map(|codec| {
        let letters = codec.qualities.iter().zip("LMH".chars());
        let shown: String = letters
            .map(|(q, letter)| if q.enabled { letter } else { '.' })
            .collect();
        format!("{}:{shown}", codec.codec)
    });
    Some(codecs.collect::<Vec<_>>().join(" "))
}

#[test]
fn layers_that_nobody_wants_are_paused_and_asked_for_again() {
    let mut scene = Scene::new();
    scene.publishes(lk::BackupCodecPolicy::Simulcast);
    let key = scene.session.published_keys()[0];
    let demand = |streams| Input::Room(ToSession::Demand(key, streams));
    assert_eq!(asked(&scene.does(100, demand(0b11))), None, "all is on");
    assert_eq!(asked(&scene.does(1000, demand(0))), None);
    assert_eq!(asked(&scene.does(5499, Input::Tick)), None);
    let paused = scene.does(5500, Input::Tick);
    assert_eq!(asked(&paused).as_deref(), Some("vp9:... vp8:..."));
    let resumed = scene.does(7000, demand(0b01));
    assert_eq!(asked(&resumed).as_deref(), Some("vp9:L.. vp8:..."));
    let back = Input::Resumed {
        ice_servers: Vec::new(),
    };
    let repeated = scene.does(8000, back);
    assert_eq!(asked(&repeated).as_deref(), Some("vp9:L.. vp8:..."));
}

#[test]
fn a_backup_codec_is_asked_for_published_and_withdrawn() {
    let mut scene = Scene::new();
    let sid = scene.publishes(lk::BackupCodecPolicy::Simulcast);
    let wanted = |wanted| Input::Room(ToSession::BackupWanted(sid.clone(), wanted));
    let out = scene.does(100, wanted(true));
    assert_eq!(asked(&out).as_deref(), Some("vp9:LMH vp8:LMH"));
    let out = scene.adds_backup(200, &sid);
    let answered = out.iter().any(|o| {
        matches!(o, Output::Signal(r) if matches!(r.as_ref(), Response::TrackPublished(p)
            if p.cid == "cam2" && p.track.as_ref().is_some_and(|t| t.sid == sid.as_str())))
    });
    assert!(answered);
    let track = published(&out).unwrap();
    let backup = Arc::clone(track.live_backup().unwrap());
    assert_eq!((backup.codec, &backup.sid), (Codec::Vp8, &sid));
    assert_ne!(backup.mesh_sid, sid);
    assert_eq!(track.choices().next().unwrap().codec, Codec::Vp9);
    assert!(
        out.iter()
            .any(|o| matches!(o, Output::Publish { track, sid, .. }
        if *track == backup.key && *sid == backup.mesh_sid))
    );
    assert_eq!(scene.session.published_keys(), [track.key, backup.key]);

    // Only the first codec is still offered.
    let sections = [
        ("vp9", "sendonly", Some("cam")),
        ("video", "inactive", Some("cam2")),
    ];
    let out = scene.offers(300, &sections);
    assert!(
        out.iter()
            .any(|o| matches!(o, Output::Unpublish(key) if *key == backup.key))
    );
    assert_eq!(published(&out).unwrap().backup, Backup::Announced);
}

#[test]
fn a_regression_turns_everybody_to_the_backup_and_ends_some_time_after() {
    let mut scene = Scene::new();
    let sid = scene.publishes(lk::BackupCodecPolicy::PreferRegression);
    let wanted = |wanted| Input::Room(ToSession::BackupWanted(sid.clone(), wanted));
    scene.does(100, wanted(true));
    let track = published(&scene.adds_backup(200, &sid)).unwrap();
    assert!(track.regressed);
    assert_eq!(track.choices().next().unwrap().codec, Codec::Vp8);
    assert!(published(&scene.does(300, wanted(false))).is_none());
    assert!(published(&scene.does(9000, Input::Tick)).is_none(), "held");
    let track = published(&scene.does(11_000, Input::Tick)).unwrap();
    assert!(!track.regressed);
}

#[test]
fn what_makes_no_sense_as_a_second_codec_is_refused() {
    use lk::request_response::Reason;
    let mut scene = Scene::new();
    let sid = scene.publishes(lk::BackupCodecPolicy::Simulcast);
    let add = |sid: &str, codec: &str| {
        Input::Request(Box::new(Request::AddTrack(lk::AddTrackRequest {
            cid: "other".to_owned(),
            sid: sid.to_owned(),
            r#type: lk::TrackType::Video as i32,
            simulcast_codecs: vec![lk::SimulcastCodec {
                codec: codec.to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        })))
    };
    let table = [
        (add("TR_none", "vp8"), Reason::NotFound),
        (add(sid.as_str(), "mpeg2"), Reason::NotFound),
        (add(sid.as_str(), "vp9"), Reason::InvalidRequest),
    ];
    for (input, expected) in table {
        let said = signals(scene.does(50, input));
        assert!(
            matches!(said.as_slice(), [Response::RequestResponse(r)] if r.reason() == expected),
            "{said:?}"
        );
    }
}

/// A track in VP9, with its backup as given.
fn remote(backup: Backup, regressed: bool) -> Arc<Track> {
    Arc::new(Track {
        codec: Codec::Vp9,
        backup,
        regressed,
        ..Track::clone(&track("TR_1", lk::TrackType::Video))
    })
}

fn vp8() -> Backup {
    let track = Track {
        key: TrackKey(51),
        mesh_sid: "TR_1b".into(),
        ..Track::clone(&track("TR_1", lk::TrackType::Video))
    };
    Backup::Live(Arc::new(track))
}

fn needs(out: &[Output]) -> Option<bool> {
    out.iter().find_map(|o| match o {
        Output::Room(FromSession::NeedsBackup(_, needed)) => Some(*needed),
        _ => None,
    })
}

fn given_up(out: &[Output]) -> bool {
    out.iter().any(|o| {
        matches!(o, Output::Signal(r) if matches!(r.as_ref(), Response::SubscriptionResponse(s)
            if s.err() == lk::SubscriptionError::SeCodecUnsupported))
    })
}

fn subscribes(out: &[Output]) -> Vec<u32> {
    let keys = out.iter().filter_map(|o| match o {
        Output::Subscribe(key, _) => Some(key.0),
        _ => None,
    });
    keys.collect()
}

#[test]
fn a_receiver_without_the_codec_waits_for_the_backup() {
    let mut scene = Scene::new();
    let subscribe = ToSession::Subscribe(remote(Backup::Announced, false));
    scene.does(0, Input::Room(subscribe));
    let sections = [("video", "recvonly", None)];
    let out = scene.offers(10, &sections);
    assert_eq!(needs(&out), Some(true));
    assert!(!given_up(&out) && subscribes(&out).is_empty());
    // While it waits the client is not asked for sections over and over.
    assert!(signals(scene.does(4000, Input::Tick)).is_empty());
    let changed = ToSession::TrackChanged(remote(vp8(), false));
    let out = scene.does(4100, Input::Room(changed));
    assert!(matches!(
        signals(out).as_slice(),
        [Response::MediaSectionsRequirement(_)]
    ));
    let out = scene.offers(4200, &sections);
    assert_eq!(subscribes(&out), [51]);
    assert!(!given_up(&scene.does(20_000, Input::Tick)));
}

#[test]
fn a_backup_that_never_comes_is_given_up() {
    let mut scene = Scene::new();
    let subscribe = ToSession::Subscribe(remote(Backup::Announced, false));
    scene.does(0, Input::Room(subscribe));
    scene.offers(10, &[("video", "recvonly", None)]);
    assert!(!given_up(&scene.does(7000, Input::Tick)));
    let out = scene.does(8010, Input::Tick);
    assert!(given_up(&out));
    assert_eq!(needs(&out), Some(false));
}

#[test]
fn without_a_backup_it_is_given_up_at_once() {
    let mut scene = Scene::new();
    scene.does(
        0,
        Input::Room(ToSession::Subscribe(remote(Backup::None, false))),
    );
    let out = scene.offers(10, &[("video", "recvonly", None)]);
    assert!(given_up(&out));
    assert_eq!(needs(&out), None);
}

#[test]
fn a_regression_moves_a_subscription_to_the_backup_with_a_new_ssrc() {
    let mut scene = Scene::new();
    let subscribe = ToSession::Subscribe(remote(vp8(), false));
    scene.does(0, Input::Room(subscribe));
    let both = |scene: &mut Scene, ms| {
        let mut description = offer(&[("video", "recvonly", None)]);
        let mut vp9 = description.media[0].codecs[0].clone();
        (vp9.pt, vp9.name) = (97, "VP9".to_owned());
        description.media[0].codecs.push(vp9);
        scene.does(ms, Input::Offer { id: 1, description })
    };
    let ssrc = |out: &[Output]| {
        out.iter().find_map(|o| match o {
            Output::Subscribe(_, config) => Some(config.ssrc),
            _ => None,
        })
    };
    let first = both(&mut scene, 10);
    assert_eq!(subscribes(&first), [50], "VP9 while there is no regression");
    let changed = ToSession::TrackChanged(remote(vp8(), true));
    let out = scene.does(100, Input::Room(changed));
    assert!(matches!(
        signals(out).as_slice(),
        [Response::MediaSectionsRequirement(r)] if (r.num_audios, r.num_videos) == (0, 0)
    ));
    let second = both(&mut scene, 200);
    assert_eq!(subscribes(&second), [51]);
    assert!(
        second
            .iter()
            .any(|o| matches!(o, Output::Unsubscribe(TrackKey(50))))
    );
    assert_ne!(ssrc(&first), ssrc(&second));
    assert_eq!(needs(&second), None, "it could decode the first");
}
