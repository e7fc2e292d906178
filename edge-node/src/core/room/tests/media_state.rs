//! Demand, backup codecs, paused streams and connection quality between sessions and edges.

use super::*;
use media::router::{SubscriptionReport, Target, TransportKey, TransportReport, UplinkReport};

/// A VP9 camera that could come as VP8 too.
fn vp9(backup: Backup) -> Arc<Track> {
    let info = lk::TrackInfo {
        backup_codec_policy: lk::BackupCodecPolicy::Simulcast as i32,
        ..camera("TR_a", "PA_a").info.clone()
    };
    Arc::new(Track {
        info,
        codec: Codec::Vp9,
        streams: 1,
        spatial: 3,
        bitrates_bps: [100, 400, 1600],
        backup,
        ..Track::clone(&camera("TR_a", "PA_a"))
    })
}

fn vp8() -> Backup {
    let track = Track {
        mesh_sid: "TR_a8".into(),
        key: TrackKey(2),
        ..Track::clone(&camera("TR_a", "PA_a"))
    };
    Backup::Live(Arc::new(track))
}

/// What a session is told of a kind, in order.
fn told<T>(out: &[Output], to: &str, pick: impl Fn(&ToSession) -> Option<T>) -> Vec<T> {
    let messages = out.iter().filter_map(|o| match o {
        Output::Session(sid, message) if sid.as_str() == to => Some(message),
        _ => None,
    });
    messages.filter_map(pick).collect()
}

fn backup_wanted(out: &[Output], to: &str) -> Vec<bool> {
    told(out, to, |message| match message {
        ToSession::BackupWanted(_, wanted) => Some(*wanted),
        _ => None,
    })
}

fn qualities(out: &[Output], to: &str) -> Vec<(String, lk::ConnectionQuality)> {
    let updates = told(out, to, |message| match message {
        ToSession::Signal(response) => match response.as_ref() {
            Response::ConnectionQuality(update) => Some(update.updates.clone()),
            _ => None,
        },
        _ => None,
    });
    let infos = updates.into_iter().flatten();
    infos
        .map(|info| (info.participant_sid.clone(), info.quality()))
        .collect()
}

fn states(out: &[Output], to: &str) -> Vec<lk::StreamState> {
    let updates = told(out, to, |message| match message {
        ToSession::Signal(response) => match response.as_ref() {
            Response::StreamStateUpdate(update) => Some(update.stream_states.clone()),
            _ => None,
        },
        _ => None,
    });
    updates.into_iter().flatten().map(|s| s.state()).collect()
}

/// Ann publishes at fra, Bob is at syd.
fn two_edges(track: Arc<Track>) -> (Room, Room) {
    let (mut fra, mut syd) = (room("fra"), room("syd"));
    fra.handle_input(now(0), join("PA_a", "ann"));
    syd.handle_input(now(0), join("PA_b", "bob"));
    outputs(&mut syd);
    fra.handle_input(now(100), said("PA_a", FromSession::Published(track)));
    carry(&mut fra, &mut syd, 150);
    outputs(&mut syd);
    (fra, syd)
}

/// Brings the newest state of one edge to the other; what `from` did.
fn carry(from: &mut Room, to: &mut Room, ms: u64) -> Vec<Output> {
    from.handle_input(now(ms), Input::Tick);
    let out = outputs(from);
    if let Some(state) = state(&out) {
        to.handle_input(now(ms), Input::State(state));
    }
    out
}

#[test]
fn demand_goes_to_the_publisher_by_codec() {
    let mut room = room("fra");
    room.handle_input(now(0), join("PA_a", "ann"));
    room.handle_input(now(1), said("PA_a", FromSession::Published(vp9(vp8()))));
    outputs(&mut room);
    for (key, streams) in [(1, 0b111), (2, 0b001), (3, 0b111)] {
        room.handle_input(now(2), Input::Demand(TrackKey(key), streams));
    }
    let demands = told(&outputs(&mut room), "PA_a", |message| match message {
        ToSession::Demand(key, streams) => Some((key.0, *streams)),
        _ => None,
    });
    assert_eq!(demands, [(1, 0b111), (2, 0b001)]);
}

#[test]
fn a_track_keeps_its_layers_on_the_way_to_another_edge() {
    let (_, syd) = two_edges(vp9(Backup::Announced));
    let replica = &syd.participants[&ParticipantSid::from("PA_a")].tracks[&TrackSid::from("TR_a")];
    assert_eq!((replica.streams, replica.spatial), (1, 3));
    assert_eq!(replica.bitrates_bps, [100, 400, 1600]);
    assert_eq!(replica.backup, Backup::Announced);
}

#[test]
fn a_backup_is_asked_for_across_the_mesh_and_comes_as_a_track_of_its_own() {
    let (mut fra, mut syd) = two_edges(vp9(Backup::Announced));
    let needed = FromSession::NeedsBackup("TR_a".into(), true);
    syd.handle_input(now(200), said("PA_b", needed));
    carry(&mut syd, &mut fra, 300);
    assert_eq!(backup_wanted(&outputs(&mut fra), "PA_a"), [true]);

    fra.handle_input(now(400), said("PA_a", FromSession::Published(vp9(vp8()))));
    carry(&mut fra, &mut syd, 500);
    let out = outputs(&mut syd);
    let added: Vec<&str> = out
        .iter()
        .filter_map(|o| match o {
            Output::AddRemoteTrack { track, .. } => Some(track.mesh_sid.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(added, ["TR_a8"], "the first codec was there");
    let changed = told(&out, "PA_b", |message| match message {
        ToSession::TrackChanged(track) => track.live_backup().map(|t| t.codec),
        _ => None,
    });
    assert_eq!(changed, [Codec::Vp8]);

    // Bob leaves: nobody needs it any more.
    let reason = lk::DisconnectReason::ClientInitiated;
    syd.handle_input(now(600), said("PA_b", FromSession::Leave(reason)));
    let last = state(&outputs(&mut syd)).unwrap();
    assert!(last.backup_wanted.is_empty());
    fra.handle_input(now(700), Input::State(last));
    assert_eq!(backup_wanted(&outputs(&mut fra), "PA_a"), [false]);
}

#[test]
fn a_backup_that_ends_leaves_the_first_codec_alone() {
    let (mut fra, mut syd) = two_edges(vp9(vp8()));
    fra.handle_input(
        now(400),
        said("PA_a", FromSession::Published(vp9(Backup::Announced))),
    );
    carry(&mut fra, &mut syd, 500);
    let out = outputs(&mut syd);
    let removed = out
        .iter()
        .filter(|o| matches!(o, Output::RemoveRemoteTrack(_)));
    assert_eq!(removed.count(), 1);
    assert!(
        told(&out, "PA_b", |message| match message {
            ToSession::Unsubscribe(sid) => Some(sid.clone()),
            _ => None,
        })
        .is_empty()
    );
}

#[test]
fn a_receiver_hears_that_a_stream_is_paused_and_again_after_a_resume() {
    let mut room = room("fra");
    room.handle_input(now(0), join("PA_a", "ann"));
    room.handle_input(now(0), join("PA_b", "bob"));
    let track = camera("TR_a", "PA_a");
    room.handle_input(now(1), said("PA_a", FromSession::Published(track)));
    outputs(&mut room);
    let state = |paused| Input::StreamState {
        participant: "PA_b".into(),
        track: TrackKey(1),
        paused,
    };
    room.handle_input(now(2), state(true));
    room.handle_input(now(3), state(true));
    let out = outputs(&mut room);
    assert_eq!(states(&out, "PA_b"), [lk::StreamState::Paused]);
    assert!(states(&out, "PA_a").is_empty());
    room.handle_input(now(4), said("PA_b", FromSession::Resync));
    assert_eq!(
        states(&outputs(&mut room), "PA_b"),
        [lk::StreamState::Paused]
    );
    room.handle_input(now(5), state(false));
    assert_eq!(
        states(&outputs(&mut room), "PA_b"),
        [lk::StreamState::Active]
    );
}

/// Ann sends her camera with a loss, Bob gets it in a layer.
fn reports(loss: f32, layer: u8) -> Input {
    let transport = |key| TransportReport {
        transport: TransportKey(key),
        estimate_bps: None,
        sent_bps: 0,
        padding_bps: 0,
        queue: Duration::ZERO,
        rtt: Duration::from_millis(40),
        loss: 0.0,
        subscriptions: Vec::new(),
        uplinks: Vec::new(),
    };
    let target = |layer| Some(Target { layer, temporal: 7 });
    let sends = TransportReport {
        uplinks: vec![UplinkReport {
            track: TrackKey(1),
            stream: 0,
            bps: 1_000_000,
            loss,
            repaired: 0,
            nacks: 0,
            plis: 0,
            jitter: Duration::from_millis(3),
            fps: 30.0,
        }],
        ..transport(1)
    };
    let receives = TransportReport {
        subscriptions: vec![SubscriptionReport {
            track: TrackKey(1),
            wanted: target(2),
            sent: target(layer),
            paused: false,
            bps: 1_000_000,
            loss: 0.0,
            rtx_packets: 0,
            nacks: 0,
            plis: 0,
            paused_for: Duration::ZERO,
        }],
        ..transport(2)
    };
    Input::Reports(vec![("PA_a".into(), sends), ("PA_b".into(), receives)])
}

#[test]
fn everybody_hears_how_everybody_is_connected_when_it_changes() {
    use lk::ConnectionQuality::{Excellent, Poor};
    let (mut fra, mut syd) = (room("fra"), room("syd"));
    for (sid, identity) in [("PA_a", "ann"), ("PA_b", "bob")] {
        fra.handle_input(now(0), join(sid, identity));
    }
    syd.handle_input(now(0), join("PA_c", "cy"));
    let track = camera("TR_a", "PA_a");
    fra.handle_input(now(1), said("PA_a", FromSession::Published(track)));
    fra.handle_input(now(100), Input::Tick);
    outputs(&mut fra);
    for second in 1..=3 {
        fra.handle_input(now(second * 1000), reports(0.0, 2));
    }
    let out = carry(&mut fra, &mut syd, 3200);
    let both = [
        ("PA_a".to_owned(), Excellent),
        ("PA_b".to_owned(), Excellent),
    ];
    assert_eq!(qualities(&out, "PA_b"), both);
    assert_eq!(qualities(&outputs(&mut syd), "PA_c"), both);

    for second in 4..=6 {
        fra.handle_input(now(second * 1000), reports(0.3, 2));
    }
    let out = carry(&mut fra, &mut syd, 6400);
    assert_eq!(qualities(&out, "PA_b"), [("PA_a".to_owned(), Poor)]);
    assert_eq!(
        qualities(&outputs(&mut syd), "PA_c"),
        [("PA_a".to_owned(), Poor)]
    );
    // Who comes later hears all of it.
    syd.handle_input(now(6500), join("PA_d", "dee"));
    let late = qualities(&outputs(&mut syd), "PA_d");
    assert_eq!(
        late,
        [("PA_a".to_owned(), Poor), ("PA_b".to_owned(), Excellent)]
    );
}

#[test]
fn missed_layers_are_the_receivers_trouble() {
    let mut room = room("fra");
    for (sid, identity) in [("PA_a", "ann"), ("PA_b", "bob")] {
        room.handle_input(now(0), join(sid, identity));
    }
    let track = camera("TR_a", "PA_a");
    room.handle_input(now(1), said("PA_a", FromSession::Published(track)));
    room.handle_input(now(2), Input::Tick);
    room.handle_input(now(1000), reports(0.0, 0));
    outputs(&mut room);
    room.handle_input(now(4000), Input::Tick);
    let heard = qualities(&outputs(&mut room), "PA_a");
    assert_eq!(
        heard,
        [
            ("PA_a".to_owned(), lk::ConnectionQuality::Excellent),
            ("PA_b".to_owned(), lk::ConnectionQuality::Poor)
        ]
    );
}

#[test]
fn a_silent_connection_is_lost_to_the_others_only() {
    let mut room = room("fra");
    for (sid, identity) in [("PA_a", "ann"), ("PA_b", "bob")] {
        room.handle_input(now(0), join(sid, identity));
    }
    let track = camera("TR_a", "PA_a");
    room.handle_input(now(1), said("PA_a", FromSession::Published(track)));
    room.handle_input(now(2), Input::Tick);
    room.handle_input(now(1000), reports(0.0, 2));
    room.handle_input(now(3100), Input::Tick);
    outputs(&mut room);
    room.handle_input(now(3200), said("PA_a", FromSession::MediaLost(true)));
    room.handle_input(now(6200), Input::Tick);
    let out = outputs(&mut room);
    assert_eq!(
        qualities(&out, "PA_b"),
        [("PA_a".to_owned(), lk::ConnectionQuality::Lost)]
    );
    assert!(qualities(&out, "PA_a").is_empty());
    room.handle_input(now(6300), said("PA_a", FromSession::MediaLost(false)));
    room.handle_input(now(9300), Input::Tick);
    assert_eq!(
        qualities(&outputs(&mut room), "PA_b"),
        [("PA_a".to_owned(), lk::ConnectionQuality::Excellent)]
    );
}
