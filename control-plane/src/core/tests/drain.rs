//! Nodes that drain, and nodes that flap.

use super::*;

fn load(leaving: bool) -> Up {
    Up::Load(Load {
        drain: Some(control::DrainStatus {
            leaving,
            ..control::DrainStatus::default()
        }),
        ..Load::default()
    })
}

#[test]
fn a_relay_that_drains_is_led_around_and_an_edge_keeps_its_rooms() {
    let mut mesh = Mesh::new(RoomPolicy::Via("sin".to_owned()));
    let [fra, syd, sin] = ["edge-fra", "edge-syd", "relay-sin"].map(|node| mesh.connect(node, 1));
    mesh.assign("edge-fra", "R").expect("a plan");
    let plan = mesh.assign("edge-syd", "R").expect("a plan");
    assert_eq!(via(&plan), [("edge-fra", "relay-sin", "edge-fra")]);
    mesh.drain(fra);
    mesh.drain(syd);
    mesh.message(sin, load(false));
    let around = mesh.plans(fra);
    assert_eq!(via(&around[0]), [("edge-syd", "edge-syd", "")]);

    mesh.message(fra, load(false));
    assert_eq!(mesh.core.node_count(NodeState::Draining), 2);
    let others = mesh.plans(syd);
    assert_eq!(
        others.last().expect("a plan").members,
        ["edge-fra", "edge-syd"]
    );
    let refused = mesh.assign("edge-fra", "new");
    assert_eq!(refused, Err(AssignError::Draining("edge-fra".into())));

    mesh.message(sin, Up::Load(Load::default()));
    let back = mesh.plans(syd);
    assert_eq!(via(&back[0]), [("edge-fra", "relay-sin", "edge-fra")]);
}

#[test]
fn a_node_that_leaves_is_not_waited_for() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let [fra, syd] = ["edge-fra", "edge-syd"].map(|node| mesh.connect(node, 1));
    mesh.assign("edge-fra", "R").expect("a plan");
    mesh.assign("edge-syd", "R").expect("a plan");
    mesh.drain(syd);
    mesh.message(fra, load(true));
    mesh.input(Input::Disconnected { session: fra });
    assert_eq!(mesh.core.node_count(NodeState::Suspect), 0);
    let heard = mesh.drain(syd);
    let alone =
        |message: &Down| matches!(message, Down::Plan(plan) if plan.members == ["edge-syd"]);
    assert!(heard.iter().any(alone), "{heard:?}");
    assert!(matches!(heard.last(), Some(Down::Peers(list)) if list.peers.is_empty()));
}

#[test]
fn a_node_that_flaps_is_held_back_and_counts_again_when_it_stays() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    for _ in 0..3 {
        let session = mesh.connect("edge-fra", 1);
        assert_eq!(mesh.core.node_count(NodeState::Ready), 1);
        mesh.input(Input::Disconnected { session });
    }
    mesh.connect("edge-fra", 1);
    assert_eq!(mesh.core.node_count(NodeState::Suspect), 1);
    mesh.pass(Duration::from_secs(9));
    assert_eq!(mesh.core.node_count(NodeState::Suspect), 1);
    mesh.pass(Duration::from_secs(2));
    assert_eq!(mesh.core.node_count(NodeState::Ready), 1);
}
