//! Whole meshes in virtual time: nodes, links with delay, plans; the tests read as what people and planners do.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "tests pick the events they mean"
)]

use std::collections::BTreeSet;

use media::packet::LayerMeta;
use media::router::SenderClock;
use proto::link::{Data, RoomState, Subscribe};

use super::command::{NextHop, RoomPlan};
use super::*;

mod audio;
mod layers;
mod net;

use net::{MS, Net, ROOM};

fn state(version: u64) -> RoomState {
    RoomState {
        room: ROOM.to_owned(),
        incarnation: 1,
        version,
        ..RoomState::default()
    }
}

fn demands(events: &[MeshEvent]) -> Vec<u8> {
    let demands = events.iter().filter_map(|event| match event {
        MeshEvent::Demand { streams, .. } => Some(*streams),
        _ => None,
    });
    demands.collect()
}

#[test]
fn one_copy_per_link_of_what_somebody_wants_and_nothing_after() {
    let mut net = Net::new(&["a", "b", "c", "r"]);
    net.plan(1, &["a", "b", "c"], "r", true);
    net.publish("a", 1);
    net.demand("b", "a", 0b001);
    net.demand("c", "a", 0b101);
    net.run(200);
    assert_eq!(demands(&net.events("a")).last(), Some(&0b101));
    assert_eq!(
        (
            net.flows("a", "r"),
            net.flows("r", "b"),
            net.flows("r", "c")
        ),
        (2, 1, 2)
    );

    net.media("a", 1, 1000);
    net.run(100);
    assert_eq!((net.received("b"), net.received("c")), (100, 200));
    assert_eq!(
        (net.sent("a", "r"), net.sent("a", "b"), net.sent("a", "c")),
        (200, 0, 0)
    );
    assert_eq!((net.sent("r", "b"), net.sent("r", "c")), (100, 200));

    net.demand("c", "a", 0b001);
    net.run(100);
    assert_eq!(demands(&net.events("a")), [0b001]);
    net.demand("b", "a", 0);
    net.demand("c", "a", 0);
    net.run(100);
    assert_eq!(demands(&net.events("a")), [0]);
    net.media("a", 1, 200);
    assert_eq!(
        (net.received("b"), net.received("c"), net.sent("a", "r")),
        (0, 0, 200)
    );
    assert_eq!(
        (
            net.flows("a", "r"),
            net.flows("r", "b"),
            net.flows("r", "c")
        ),
        (0, 0, 0)
    );
    assert!(
        net.mesh("r").tracks.is_empty(),
        "a relay keeps no track that nobody wants"
    );

    // Asked for again, also before the publisher is known.
    net.command(
        "a",
        MeshCommand::Unpublish {
            track: TrackKey(1),
            room: None,
        },
    );
    net.demand("b", "a", 0b010);
    net.run(100);
    net.publish("a", 2);
    net.run(100);
    net.media("a", 2, 200);
    net.run(100);
    assert_eq!(net.received("b"), 20);
}

#[test]
fn keyframe_requests_merge_and_repeat_until_one_comes() {
    let mut net = Net::new(&["a", "b", "c", "r"]);
    net.plan(1, &["a", "b", "c"], "r", true);
    net.publish("a", 1);
    net.demand("b", "a", 1);
    net.demand("c", "a", 1);
    net.run(200);
    net.events("a");
    let wants = |net: &mut Net| {
        let events = net.events("a");
        events
            .iter()
            .filter(|event| matches!(event, MeshEvent::KeyframeNeeded { .. }))
            .count()
    };
    for _ in 0..5 {
        for edge in ["b", "c"] {
            net.command(
                edge,
                MeshCommand::KeyframeNeeded {
                    track: TrackKey(100),
                    stream: 0,
                },
            );
        }
    }
    net.run(100);
    assert_eq!(wants(&mut net), 1);
    // It did not come (lost, say): asked again.
    net.run(300);
    assert!((1..=2).contains(&wants(&mut net)));
    let layer = LayerMeta {
        key: true,
        frame_start: true,
        frame_end: true,
        ..LayerMeta::default()
    };
    let meta = PacketMeta {
        layer,
        ..PacketMeta::default()
    };
    let now = net.now;
    let rtp = Bytes::from_static(b"key");
    let media = Input::Media {
        track: TrackKey(1),
        stream: 0,
        meta,
        rtp,
    };
    net.mesh("a").handle_input(now, media);
    net.run(100);
    wants(&mut net);
    net.run(3000);
    assert_eq!(wants(&mut net), 0);
}

#[test]
fn circles_and_long_paths_are_refused() {
    let mut net = Net::new(&["a", "b", "r", "s", "t"]);
    // Plans that contradict each other: r sends to s, s to t, t to r.
    for (name, via) in [("b", "r"), ("r", "s"), ("s", "t"), ("t", "r")] {
        let plan = RoomPlan {
            room: RoomId::from(ROOM),
            epoch: 1,
            members: vec![NodeId::from("a"), NodeId::from("b")],
            next_hops: vec![NextHop {
                edge: NodeId::from("a"),
                via: NodeId::from(via),
                backup: None,
            }],
        };
        net.command(name, MeshCommand::SetPlan(plan));
    }
    net.demand("b", "a", 1);
    net.run(500);
    let refused: u64 = ["a", "r", "s", "t"]
        .map(|name| net.mesh(name).refusals().subscriptions)
        .iter()
        .sum();
    assert!(refused >= 1);
    assert_eq!(net.flows("a", "r"), 0);

    // One that finds itself in the path refuses, as does the way to the publisher.
    let now = net.now;
    let before = net.mesh("a").refusals().subscriptions;
    let mesh = net.mesh("a");
    let peer = mesh.peer(&NodeId::from("b"));
    let message = Subscribe {
        room: ROOM.to_owned(),
        track_sid: "TR_x".to_owned(),
        origin: "a".to_owned(),
        layers: 1,
        path: vec!["b".to_owned(), "a".to_owned()],
    };
    mesh.handle_input(
        now,
        Input::Message {
            peer,
            message: Message::Subscribe(message),
        },
    );
    assert_eq!(net.mesh("a").refusals().subscriptions, before + 1);
}

#[test]
fn who_was_refused_while_plans_changed_asks_again() {
    let mut net = Net::new(&["a", "b", "r"]);
    let plan = |epoch: u64, via: &str| {
        MeshCommand::SetPlan(RoomPlan {
            room: RoomId::from(ROOM),
            epoch,
            members: vec![NodeId::from("a"), NodeId::from("b")],
            next_hops: vec![NextHop {
                edge: NodeId::from("a"),
                via: NodeId::from(via),
                backup: None,
            }],
        })
    };
    net.publish("a", 1);
    // The relay still takes b for its own way to a when b hears that the relay is its.
    net.command("r", plan(1, "b"));
    net.command("b", plan(2, "r"));
    net.demand("b", "a", 1);
    net.run(150);
    assert!(net.mesh("r").refusals().subscriptions >= 1);
    net.command("r", plan(2, "a"));
    net.run(1_000);
    assert_eq!((net.flows("a", "r"), net.flows("r", "b")), (1, 1));
    net.media("a", 1, 500);
    net.run(100);
    assert_eq!(net.received("b"), 50);

    // One that lost its way to the publisher lets go of us, and is asked again once it has another.
    net.command("r", plan(3, "b"));
    net.run(400);
    assert_eq!(net.flows("r", "b"), 0);
    net.command("r", plan(4, "a"));
    net.run(4_500);
    assert_eq!((net.flows("a", "r"), net.flows("r", "b")), (1, 1));
}

#[test]
fn a_dead_relay_is_bypassed_at_once_and_taken_again() {
    let mut net = Net::new(&["a", "b", "r"]);
    net.plan(1, &["a", "b"], "r", true);
    net.publish("a", 1);
    net.demand("b", "a", 1);
    net.run(200);
    net.media("a", 1, 500);
    net.run(100);
    assert_eq!((net.received("b"), net.sent("a", "b")), (50, 0));
    net.events("a");
    net.events("b");

    net.kill("r");
    net.media("a", 1, 1000);
    // 250 ms of silence, a request and a binding; 50 packets a second is 10 ms each.
    let received = net.received("b");
    assert!(received >= 60, "{received} of 100 arrived");
    assert!(net.sent("a", "b") > 0);
    let down = |events: Vec<MeshEvent>| {
        events
            .iter()
            .any(|event| matches!(event, MeshEvent::LinkDown { peer } if peer.as_str() == "r"))
    };
    let events = net.events("a");
    let keyframe = events
        .iter()
        .any(|event| matches!(event, MeshEvent::KeyframeNeeded { .. }));
    assert!(keyframe, "frames are missing, so a keyframe is due");
    assert!(down(events) && down(net.events("b")));

    // Back again: make before break, nothing is lost.
    net.run(100);
    net.received("b");
    net.connect("a", "r");
    net.connect("b", "r");
    net.media("a", 1, 500);
    net.run(200);
    let distinct: BTreeSet<u8> = net.nodes["b"].media.iter().map(|packet| packet.2).collect();
    assert_eq!(distinct.len(), 50, "{distinct:?}");
    let direct = net.sent("a", "b");
    net.media("a", 1, 500);
    assert_eq!(
        net.sent("a", "b"),
        direct,
        "the backup is not used any more"
    );
}

#[test]
fn a_stale_plan_is_ignored_and_a_new_one_moves_media_without_loss() {
    let mut net = Net::new(&["a", "b", "r"]);
    net.plan(5, &["a", "b"], "", false);
    net.publish("a", 1);
    net.demand("b", "a", 1);
    net.run(100);
    net.plan(5, &["a", "b"], "r", false);
    net.plan(4, &["a", "b"], "r", false);
    net.media("a", 1, 200);
    net.run(100);
    assert_eq!(
        (net.sent("a", "b"), net.sent("a", "r"), net.received("b")),
        (20, 0, 20)
    );
    assert_eq!(net.mesh("b").refusals().stale_plans, 2);

    net.plan(6, &["a", "b"], "r", false);
    net.media("a", 1, 500);
    net.run(200);
    let distinct: BTreeSet<u8> = net.nodes["b"].media.iter().map(|packet| packet.2).collect();
    assert_eq!(distinct.len(), 50, "{distinct:?}");
    assert!(net.sent("a", "r") > 30);
    assert_eq!(net.flows("a", "b"), 0);
}

#[test]
fn room_state_reaches_all_once_and_again_in_full_when_it_must() {
    let mut net = Net::new(&["a", "b", "c", "r"]);
    // State before the plan waits for it.
    net.command("a", MeshCommand::RoomState(state(1)));
    net.plan(1, &["a", "b"], "r", false);
    net.run(100);
    assert_eq!(net.states("b"), [("a".to_owned(), 1)]);
    net.command("a", MeshCommand::RoomState(state(2)));
    net.run(100);
    assert_eq!(net.states("b"), [("a".to_owned(), 2)]);

    // A member joins: it gets all, the others nothing new.
    net.plan(2, &["a", "b", "c"], "r", false);
    net.run(100);
    assert_eq!(net.states("c"), [("a".to_owned(), 2)]);
    assert_eq!(net.states("b"), []);

    // A link of the relay breaks while the state changes; the far edge does not see that, yet the state arrives.
    net.cut("r", "b");
    net.run(400);
    net.command("a", MeshCommand::RoomState(state(3)));
    net.run(100);
    assert_eq!((net.states("b"), net.states("c").len()), (vec![], 1));
    net.connect("b", "r");
    net.run(200);
    assert_eq!(net.states("b").last(), Some(&("a".to_owned(), 3)));

    // Older states are not news. Leaving is.
    net.command("a", MeshCommand::RoomState(state(1)));
    net.run(100);
    assert_eq!(net.states("b"), []);
    net.command("a", MeshCommand::RoomGone(RoomId::from(ROOM)));
    net.run(100);
    let gone = |events: Vec<MeshEvent>| {
        events
            .iter()
            .any(|e| matches!(e, MeshEvent::RoomGone { origin, .. } if origin.as_str() == "a"))
    };
    assert!(gone(net.events("b")) && gone(net.events("c")));

    // An edge that drops out of the plan is gone as well.
    net.command("c", MeshCommand::RoomState(state(1)));
    net.run(100);
    net.plan(3, &["a", "b"], "r", false);
    let events = net.events("b");
    net.flush();
    let later = net.events("b");
    let origins = [events, later].concat();
    let gone = origins
        .iter()
        .any(|e| matches!(e, MeshEvent::RoomGone { origin, .. } if origin.as_str() == "c"));
    assert!(gone);
}

#[test]
fn data_goes_to_its_destinations_only() {
    let mut net = Net::new(&["a", "b", "c", "r"]);
    net.plan(1, &["a", "b", "c"], "r", false);
    let data = |reliable, destinations: Vec<String>, len| Data {
        room: ROOM.to_owned(),
        reliable,
        destinations,
        payload: vec![1; len],
        participant_sid: "PA_1".to_owned(),
        ..Data::default()
    };
    let count = |net: &mut Net, edge: &str| {
        net.events(edge)
            .iter()
            .filter(|event| matches!(event, MeshEvent::Data(_)))
            .count()
    };
    for (reliable, len) in [(true, 15_000), (false, 500), (false, 15_000)] {
        net.command("a", MeshCommand::Data(data(reliable, vec![], len)));
        net.run(100);
        assert_eq!(
            (
                count(&mut net, "a"),
                count(&mut net, "b"),
                count(&mut net, "c")
            ),
            (0, 1, 1)
        );
        net.command(
            "a",
            MeshCommand::Data(data(reliable, vec!["c".to_owned()], len)),
        );
        net.run(100);
        assert_eq!((count(&mut net, "b"), count(&mut net, "c")), (0, 1));
    }
}

#[test]
fn the_publishers_clock_keeps_its_age_over_hops() {
    let mut net = Net::new(&["a", "b", "r"]);
    net.run(1000);
    net.plan(1, &["a", "b"], "r", false);
    net.publish("a", 1);
    let received = net.now;
    let clock = SenderClock {
        ntp: 1 << 40,
        rtp_timestamp: 9000,
        received,
    };
    net.command(
        "a",
        MeshCommand::SenderReport {
            track: TrackKey(1),
            stream: 0,
            clock,
        },
    );
    net.run(50);
    // Somebody who comes later gets it too.
    net.demand("b", "a", 1);
    net.run(300);
    let events = net.events("b");
    let clock = events.iter().find_map(|event| match event {
        MeshEvent::SenderReport { clock, .. } => Some(*clock),
        _ => None,
    });
    let clock = clock.unwrap();
    assert_eq!((clock.ntp, clock.rtp_timestamp), (1 << 40, 9000));
    let error = clock.received.max(received) - clock.received.min(received);
    assert!(error < 5 * MS, "{error:?}");
    assert!(net.now > net.start);
}

/// The same key in two rooms is one stream with two names: each room gets what it wants, and the publisher hears of both together.
#[test]
fn a_track_may_be_published_in_two_rooms() {
    const OTHER: &str = "retro";
    let mut net = Net::new(&["a", "b", "c"]);
    net.plan(1, &["a", "b", "c"], "", false);
    net.publish("a", 1);
    let second = MeshCommand::Publish {
        room: OTHER.into(),
        track_sid: "TR_v".into(),
        track: TrackKey(1),
        audio: false,
        clock_rate: 90_000,
        streams: 3,
        spatial: 1,
    };
    net.command("a", second);
    let wants_other = |net: &mut Net, streams| {
        let demand = MeshCommand::Demand {
            room: OTHER.into(),
            track_sid: "TR_v".into(),
            origin: "a".into(),
            track: TrackKey(200),
            streams,
        };
        net.command("c", demand);
        net.run(100);
    };
    net.demand("b", "a", 0b001);
    net.run(100);
    wants_other(&mut net, 0b100);
    assert_eq!(demands(&net.events("a")).last(), Some(&0b101));
    net.media("a", 1, 200);
    net.run(100);
    assert_eq!((net.received("b"), net.received("c")), (20, 20));

    // One room less: the other goes on, and only its wish is left.
    let less = MeshCommand::Unpublish {
        track: TrackKey(1),
        room: Some(OTHER.into()),
    };
    net.command("a", less);
    net.run(100);
    assert_eq!(demands(&net.events("a")), [0b001]);
    net.media("a", 1, 200);
    net.run(100);
    assert_eq!((net.received("b"), net.received("c")), (20, 0));
    let none = MeshCommand::Unpublish {
        track: TrackKey(1),
        room: None,
    };
    net.command("a", none);
    net.media("a", 1, 100);
    net.run(100);
    assert_eq!(net.received("b"), 0);
}
