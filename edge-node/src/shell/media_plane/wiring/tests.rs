use super::*;
use media::packet::Codec;
use media::router::Event;
use relay::MeshEvent;

const PUBLISHER: TransportKey = TransportKey(1);
const NEAR: TransportKey = TransportKey(2);
const FAR: TransportKey = TransportKey(3);
const TRACK: TrackKey = TrackKey(10);

/// Publisher and NEAR on shard 0, FAR on shard 1; all have keys.
fn scene() -> Wiring {
    let mut wiring = Wiring::default();
    for (transport, shard) in [(PUBLISHER, 0), (NEAR, 0), (FAR, 1)] {
        wiring.open_transport(transport, shard);
        wiring.transport_ready(transport, keys());
    }
    wiring.take_actions();
    wiring
}

fn keys() -> SessionKeys {
    let profile = media::srtp::Profile::AeadAes128Gcm;
    let material = vec![1; profile.keying_material_len()];
    SessionKeys::from_keying_material(profile, &material, true).unwrap()
}

fn video() -> TrackConfig {
    TrackConfig::new(Codec::Vp8, Source::Remote, 3)
}

fn subscription() -> SubscriptionConfig {
    SubscriptionConfig {
        mid: "0".to_owned(),
        ssrc: 1,
        rtx_ssrc: None,
        payloads: Vec::new(),
        extensions: media::router::ExtensionIds::default(),
        target: None,
        red: false,
    }
}

fn publish(wiring: &mut Wiring) {
    let name = (RoomId::from("room"), TrackSid::from("TR_1"));
    wiring.publish(TRACK, PUBLISHER, name, video());
}

fn remote(wiring: &mut Wiring) {
    let name = RemoteName {
        room: RoomId::from("room"),
        track_sid: TrackSid::from("TR_9"),
        origin: NodeId::from("edge-syd-0"),
    };
    wiring.add_remote_track(TRACK, name, video());
}

/// Actions in short: enough to read a test as a dialogue.
fn told(wiring: &mut Wiring) -> Vec<String> {
    let short = |action| match action {
        Action::Router(shard, command) => format!("{shard}: {}", verb(&command)),
        Action::Fan(shard, _, fan) => {
            let all: Vec<Vec<usize>> = (0..3).map(|s| fan.shards.shards(s).collect()).collect();
            format!("{shard}: fan {all:?} mesh {:03b}", fan.mesh)
        }
        Action::SenderReport(shard, _, stream, _) => format!("{shard}: clock {stream}"),
        Action::Mesh(MeshCommand::Demand { streams, .. }) => format!("mesh: demand {streams:03b}"),
        Action::Mesh(MeshCommand::Publish { .. }) => "mesh: publish".to_owned(),
        Action::Mesh(MeshCommand::Unpublish { .. }) => "mesh: unpublish".to_owned(),
        Action::Mesh(MeshCommand::KeyframeNeeded { stream, .. }) => format!("mesh: key {stream}"),
        Action::Mesh(MeshCommand::SenderReport { .. }) => "mesh: clock".to_owned(),
        Action::Mesh(other) => format!("{other:?}"),
        Action::Route(_, masks) => {
            let all: Vec<Vec<usize>> = (0..3).map(|s| masks.shards(s).collect()).collect();
            format!("route {all:?}")
        }
        Action::Plane(PlaneEvent::Demand { streams, .. }) => format!("plane: demand {streams:03b}"),
        Action::Plane(other) => format!("{other:?}"),
    };
    wiring.take_actions().into_iter().map(short).collect()
}

fn verb(command: &Command) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the name is enough for the rest"
    )]
    match command {
        Command::Export { streams, .. } => format!("export {streams:03b}"),
        Command::AddTrack { config, .. } => match config.source {
            Source::Local(_) => "add local".to_owned(),
            Source::Remote => "add remote".to_owned(),
        },
        Command::RequestKeyframe { stream, .. } => format!("key {stream}"),
        other => format!("{other:?}")
            .split([' ', '{'])
            .next()
            .unwrap_or_default()
            .to_owned(),
    }
}

fn demand(wiring: &mut Wiring, shard: usize, streams: u8) -> Vec<String> {
    wiring.handle_router_event(
        shard,
        Event::Demand {
            track: TRACK,
            streams,
        },
    );
    told(wiring)
}

#[test]
fn a_subscriber_on_another_shard_is_fed_by_the_home() {
    let mut wiring = scene();
    publish(&mut wiring);
    assert_eq!(told(&mut wiring), ["0: add local", "mesh: publish"]);
    wiring.subscribe(FAR, TRACK, subscription());
    assert_eq!(told(&mut wiring), ["1: add remote", "1: Subscribe"]);
    assert_eq!(
        demand(&mut wiring, 1, 0b010),
        [
            "0: fan [[], [1], []] mesh 000",
            "0: export 010",
            "plane: demand 010"
        ]
    );
    wiring.unsubscribe(FAR, TRACK);
    assert_eq!(
        told(&mut wiring),
        [
            "1: Unsubscribe",
            "1: RemoveTrack",
            "0: fan [[], [], []] mesh 000",
            "0: export 000",
            "plane: demand 000"
        ]
    );
    assert!(
        demand(&mut wiring, 1, 0)
            .iter()
            .all(|told| !told.starts_with("plane"))
    );
}

#[test]
fn a_subscriber_on_the_home_shard_needs_no_ring() {
    let mut wiring = scene();
    publish(&mut wiring);
    told(&mut wiring);
    wiring.subscribe(NEAR, TRACK, subscription());
    assert_eq!(told(&mut wiring), ["0: Subscribe"]);
    assert_eq!(
        demand(&mut wiring, 0, 0b100),
        [
            "0: fan [[], [], []] mesh 000",
            "0: export 000",
            "plane: demand 100"
        ]
    );
    wiring.close_transport(NEAR);
    assert_eq!(
        told(&mut wiring),
        [
            "0: RemoveTransport",
            "0: fan [[], [], []] mesh 000",
            "0: export 000",
            "plane: demand 000"
        ]
    );
    assert!(
        demand(&mut wiring, 0, 4)
            .iter()
            .all(|told| !told.starts_with("plane")),
        "old news"
    );
}

#[test]
fn demand_of_shards_and_mesh_is_united() {
    let mut wiring = scene();
    publish(&mut wiring);
    wiring.subscribe(FAR, TRACK, subscription());
    told(&mut wiring);
    demand(&mut wiring, 1, 0b001);
    wiring.handle_mesh_event(MeshEvent::Demand {
        track: TRACK,
        streams: 0b101,
    });
    assert_eq!(
        told(&mut wiring),
        [
            "0: fan [[1], [], []] mesh 101",
            "0: export 101",
            "plane: demand 101"
        ]
    );
    wiring.handle_mesh_event(MeshEvent::KeyframeNeeded {
        track: TRACK,
        stream: 2,
    });
    wiring.handle_router_event(
        1,
        Event::KeyframeNeeded {
            track: TRACK,
            stream: 0,
        },
    );
    assert_eq!(told(&mut wiring), ["0: key 2", "0: key 0"]);
}

#[test]
fn a_remote_track_is_asked_for_once_for_all_shards() {
    let mut wiring = scene();
    remote(&mut wiring);
    assert!(told(&mut wiring).is_empty());
    wiring.subscribe(NEAR, TRACK, subscription());
    wiring.subscribe(FAR, TRACK, subscription());
    assert_eq!(
        told(&mut wiring),
        [
            "0: add remote",
            "0: Subscribe",
            "1: add remote",
            "1: Subscribe"
        ]
    );
    assert_eq!(
        demand(&mut wiring, 0, 0b001),
        ["route [[0], [], []]", "mesh: demand 001"]
    );
    assert_eq!(demand(&mut wiring, 1, 0b001), ["route [[0, 1], [], []]"]);
    wiring.handle_router_event(
        1,
        Event::KeyframeNeeded {
            track: TRACK,
            stream: 0,
        },
    );
    assert_eq!(told(&mut wiring), ["mesh: key 0"]);
    wiring.remove_track(TRACK);
    assert_eq!(
        told(&mut wiring),
        [
            "0: RemoveTrack",
            "1: RemoveTrack",
            "route [[], [], []]",
            "mesh: demand 000"
        ]
    );
    wiring.unsubscribe(NEAR, TRACK);
    assert!(
        told(&mut wiring).is_empty(),
        "the subscription went with the track"
    );
}

#[test]
fn what_is_said_before_the_keys_takes_effect_with_them() {
    let mut wiring = scene();
    publish(&mut wiring);
    let late = TransportKey(9);
    wiring.open_transport(late, 1);
    wiring.subscribe(late, TRACK, subscription());
    wiring.set_target(
        late,
        TRACK,
        Some(Target {
            layer: 1,
            temporal: 7,
        }),
    );
    wiring.set_receive(late, ReceiveConfig::default());
    assert_eq!(
        told(&mut wiring),
        ["0: add local", "mesh: publish", "1: add remote"]
    );
    wiring.transport_ready(late, keys());
    let actions = wiring.take_actions();
    let Some(Action::Router(1, Command::Subscribe { config, .. })) = actions.last() else {
        panic!("{actions:?}")
    };
    assert_eq!(
        config.target,
        Some(Target {
            layer: 1,
            temporal: 7
        })
    );
    assert_eq!(actions.len(), 3);
}

#[test]
fn the_publishers_clock_reaches_instances_and_mesh_also_later_ones() {
    let mut wiring = scene();
    publish(&mut wiring);
    told(&mut wiring);
    let clock = SenderClock {
        ntp: 1,
        rtp_timestamp: 2,
        received: std::time::Instant::now(),
    };
    wiring.handle_router_event(
        0,
        Event::SenderReport {
            track: TRACK,
            stream: 0,
            clock,
        },
    );
    assert_eq!(told(&mut wiring), ["mesh: clock"]);
    wiring.subscribe(FAR, TRACK, subscription());
    assert_eq!(
        told(&mut wiring),
        ["1: add remote", "1: clock 0", "1: Subscribe"]
    );
    wiring.handle_router_event(
        0,
        Event::SenderReport {
            track: TRACK,
            stream: 0,
            clock,
        },
    );
    assert_eq!(told(&mut wiring), ["mesh: clock", "1: clock 0"]);
}

#[test]
fn nothing_known_is_nothing_done() {
    let mut wiring = scene();
    wiring.subscribe(NEAR, TRACK, subscription());
    wiring.unsubscribe(NEAR, TRACK);
    wiring.set_muted(TRACK, true);
    wiring.remove_track(TRACK);
    wiring.close_transport(TransportKey(99));
    demand(&mut wiring, 0, 7);
    wiring.handle_mesh_event(MeshEvent::Demand {
        track: TRACK,
        streams: 1,
    });
    assert!(told(&mut wiring).is_empty());
}
