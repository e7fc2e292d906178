//! The gRPC services over a real connection: fake edges, a real control plane.

use std::time::Duration;

use crate::plane::{FakeNode, Plane, edge, relay};
use proto::control::admin_client::AdminClient;
use proto::control::control_message::Message as Down;
use proto::control::node_message::Message as Up;
use proto::control::{
    FlowReport, GetRoomRequest, Hello, LinkReport, LinkState, ListLinksRequest, ListNodesRequest,
    ListRoomsRequest, Load, NodeState, ParticipantReport, RoomClosed, RoomReport,
};
use tonic::Code;

fn report(room: &str, epoch: u64, identity: &str) -> RoomReport {
    let participant = ParticipantReport {
        sid: format!("PA_{identity}"),
        identity: identity.to_owned(),
        ..ParticipantReport::default()
    };
    RoomReport {
        room: room.to_owned(),
        room_sid: "RM_unknown".to_owned(),
        epoch,
        participants: vec![participant],
        ..RoomReport::default()
    }
}

#[tokio::test]
async fn nodes_hear_of_keys_peers_and_plans() {
    let plane = Plane::start(|_| {}).await;
    let mut fra = plane.connect(edge("fra", 1)).await;
    let welcome = fra
        .expect(|m| {
            if let Down::Welcome(w) = m {
                Some(w)
            } else {
                None
            }
        })
        .await;
    assert_eq!(
        (welcome.mesh.as_str(), welcome.control_id.as_str()),
        ("antipode", "control-0")
    );
    let keys = fra
        .expect(|m| {
            if let Down::Keys(k) = m {
                Some(k.keys)
            } else {
                None
            }
        })
        .await;
    assert_eq!(
        (keys[0].key.as_str(), keys[0].secret.as_str()),
        ("devkey", "secret")
    );
    let mut sin = plane.connect(relay("sin", 1)).await;
    let mut syd = plane.connect(edge("syd", 1)).await;
    fra.peers(2).await;
    sin.peers(2).await;
    syd.peers(2).await;

    let first = plane.assign("edge-fra", "R").await.expect("a plan");
    let second = plane.assign("edge-syd", "R").await.expect("a plan");
    let (plan, pushed) = (second.plan.expect("a plan"), fra.plan_of(2).await);
    assert_eq!(
        (pushed.epoch, &pushed.room_sid),
        (plan.epoch, &plan.room_sid)
    );
    assert!(plan.epoch > first.plan.expect("a plan").epoch);
    assert_eq!(second.created_at_ms, first.created_at_ms);
    assert_eq!(plan.next_hops[0].backup, "relay-sin");
    assert_eq!(sin.plan_of(2).await.next_hops.len(), 2);

    syd.say(Up::RoomClosed(RoomClosed {
        room: "R".to_owned(),
        room_sid: String::new(),
    }))
    .await;
    let shrunk = fra.plan_of(1).await;
    assert!(shrunk.epoch > plan.epoch && shrunk.members == ["edge-fra"]);
    let refused = plane
        .assign("edge-gru", "R")
        .await
        .expect_err("not connected");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = plane.assign("edge-fra", "").await.expect_err("no name");
    assert_eq!(refused.code(), Code::InvalidArgument);
    plane.stop().await;
}

/// Two edges that reported a room of two and a link between them.
async fn reported() -> (Plane, [FakeNode; 2]) {
    let plane = Plane::start(|_| {}).await;
    let fra = plane.connect(edge("fra", 1)).await;
    let mut syd = plane.connect(edge("syd", 1)).await;
    syd.peers(1).await;
    for node in ["edge-fra", "edge-syd"] {
        plane.assign(node, "R").await.expect("a plan");
    }
    let mut with_flow = report("R", 2, "ada");
    with_flow.flows.push(FlowReport {
        peer: "edge-syd".to_owned(),
        ..FlowReport::default()
    });
    fra.say(Up::Room(with_flow)).await;
    syd.say(Up::Room(report("R", 2, "bob"))).await;
    fra.say(Up::Load(Load {
        participants: 1,
        ..Load::default()
    }))
    .await;
    let link = LinkState {
        peer: "edge-syd".to_owned(),
        up: true,
        ..LinkState::default()
    };
    fra.say(Up::Links(LinkReport { links: vec![link] })).await;
    (plane, [fra, syd])
}

#[tokio::test]
async fn operators_see_nodes_rooms_and_links() {
    let (plane, _nodes) = reported().await;
    let mut admin = AdminClient::new(plane.channel().await);
    let links = loop {
        let links = admin
            .list_links(ListLinksRequest {})
            .await
            .expect("lists")
            .into_inner()
            .links;
        let rooms = admin
            .list_rooms(ListRoomsRequest {})
            .await
            .expect("lists")
            .into_inner()
            .rooms;
        if !links.is_empty() && rooms[0].participants == 2 {
            break links;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!((links[0].node_id.as_str(), links.len()), ("edge-fra", 1));
    let nodes = admin
        .list_nodes(ListNodesRequest {})
        .await
        .expect("lists")
        .into_inner()
        .nodes;
    assert!(nodes.len() == 2 && nodes.iter().all(|node| node.state() == NodeState::Ready));
    assert_eq!(nodes[0].load.map(|load| load.participants), Some(1));
    let room = admin
        .get_room(GetRoomRequest {
            room: "R".to_owned(),
        })
        .await
        .expect("is there");
    let nodes = room.into_inner().nodes;
    let first = nodes[0].report.as_ref().expect("reported");
    assert_eq!(
        (first.participants[0].identity.as_str(), first.flows.len()),
        ("ada", 1)
    );
    assert_eq!(nodes[1].region, "syd");
    let missing = admin
        .get_room(GetRoomRequest {
            room: "S".to_owned(),
        })
        .await;
    assert_eq!(missing.expect_err("not there").code(), Code::NotFound);
    plane.stop().await;
}

#[tokio::test]
async fn a_dead_node_leaves_its_rooms_and_the_peer_lists() {
    let plane = Plane::start(|config| config.node_grace_ms = 100).await;
    let mut fra = plane.connect(edge("fra", 1)).await;
    let syd = plane.connect(edge("syd", 1)).await;
    fra.peers(1).await;
    for node in ["edge-fra", "edge-syd"] {
        plane.assign(node, "R").await.expect("a plan");
    }
    fra.plan_of(2).await;
    drop(syd);
    fra.peers(0).await;
    assert_eq!(fra.plan_of(1).await.members, ["edge-fra"]);
    plane.stop().await;
}

#[tokio::test]
async fn bad_sessions_are_refused() {
    let plane = Plane::start(|_| {}).await;
    let nobody = Hello {
        node_id: String::new(),
        ..edge("fra", 1)
    };
    assert_eq!(
        plane.connect(nobody).await.ended().await.code(),
        Code::FailedPrecondition
    );
    let rude = plane.open(Up::Load(Load::default())).await;
    assert_eq!(rude.err().map(|s| s.code()), Some(Code::InvalidArgument));
    let mut first = plane.connect(edge("fra", 1)).await;
    first.peers(0).await;
    let mut second = plane.connect(edge("fra", 2)).await;
    second.peers(0).await;
    assert_eq!(
        first.ended().await.code(),
        Code::Aborted,
        "another session took over"
    );
    plane.stop().await;
}

#[tokio::test]
async fn epochs_grow_over_a_restart_and_rooms_come_back() {
    let plane = Plane::start(|_| {}).await;
    let (fra, syd) = (
        plane.connect(edge("fra", 1)).await,
        plane.connect(edge("syd", 1)).await,
    );
    for _ in 0..3 {
        plane.assign("edge-fra", "R").await.expect("a plan");
        plane.assign("edge-syd", "R").await.expect("a plan");
        syd.say(Up::RoomClosed(RoomClosed {
            room: "R".to_owned(),
            room_sid: String::new(),
        }))
        .await;
    }
    let last = loop {
        // The last closing has to be in first.
        let plan = plane
            .assign("edge-fra", "R")
            .await
            .expect("a plan")
            .plan
            .expect("a plan");
        if plan.members.len() == 1 {
            break plane
                .assign("edge-syd", "R")
                .await
                .expect("a plan")
                .plan
                .expect("a plan");
        }
    };
    drop((fra, syd));
    let folder = plane.stop().await;

    let plane = Plane::restart(folder).await;
    let mut fra = plane.connect(edge("fra", 1)).await;
    fra.peers(1).await;
    let told = fra.plan_of(2).await;
    assert!(
        told.epoch > last.epoch,
        "{} after {}",
        told.epoch,
        last.epoch
    );
    assert_eq!(told.room_sid, last.room_sid);
    // It knows a later epoch than we saved: a power cut, say.
    fra.say(Up::Room(report("R", told.epoch + 10, "ada"))).await;
    assert!(fra.plan_of(2).await.epoch > told.epoch + 10);
    // A room that we know nothing of.
    fra.say(Up::Room(report("lost", 99, "ada"))).await;
    let lost = fra.plan_of(1).await;
    assert_eq!((lost.room_sid.as_str(), lost.epoch), ("RM_unknown", 100));
    plane.stop().await;
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_response::MessageResponse,
    };

    let plane = Plane::start(|_| {}).await;
    for service in [
        "",
        "antipode.control.v1.Rooms",
        "antipode.control.v1.NodeSession",
    ] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut health = HealthClient::new(plane.channel().await);
        let answer = health.check(request).await.expect("answers").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(plane.channel().await);
    let asked = tokio_stream::once(request);
    let mut answers = reflection
        .server_reflection_info(asked)
        .await
        .expect("answers")
        .into_inner();
    let answer = answers
        .message()
        .await
        .expect("answers")
        .expect("one answer");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("not a list: {answer:?}");
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(names.contains(&"antipode.control.v1.Admin"), "{names:?}");
    plane.stop().await;
}
