//! Nodes that are drained: asked over their session, shown to all, left out of placement, logged.

use proto::control::admin_client::AdminClient;
use proto::control::command::Request;
use proto::control::control_message::Message as Down;
use proto::control::node_message::Message as Up;
use proto::control::rooms_client::RoomsClient;
use proto::control::{
    CommandAnswer, DrainNodeRequest, DrainStatus, ListAuditRequest, ListNodesRequest, Load,
    NodeState, ParticipantReport, PlaceRequest, PlaceResponse, RoomReport, UndrainNodeRequest,
    command_answer,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::plane::{FakeNode, Plane, edge};

async fn mesh() -> (Plane, FakeNode, FakeNode) {
    let plane = Plane::start(|_| {}).await;
    let fra = plane.connect(edge("fra", 1)).await;
    let mut iad = plane.connect(edge("iad", 1)).await;
    iad.peers(1).await;
    (plane, fra, iad)
}

fn draining(leaving: bool) -> Up {
    Up::Load(Load {
        participants: 1,
        drain: Some(DrainStatus {
            since_ms: 1,
            deadline_ms: 2,
            clients: 1,
            tunnels: 0,
            leaving,
        }),
        ..Load::default()
    })
}

async fn states(plane: &Plane) -> Vec<(String, NodeState)> {
    let mut admin = AdminClient::new(plane.channel().await);
    let nodes = admin.list_nodes(ListNodesRequest {}).await.expect("lists");
    let nodes = nodes.into_inner().nodes.into_iter();
    nodes
        .map(|node| (node.hello.clone().expect("has one").node_id, node.state()))
        .collect()
}

async fn until_states(plane: &Plane, wanted: &[(&str, NodeState)]) {
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(id, state)| ((*id).to_owned(), *state))
        .collect();
    let mut seen = Vec::new();
    for _ in 0..200 {
        seen = states(plane).await;
        if seen == wanted {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("expected {wanted:?}, there is {seen:?}");
}

async fn place(plane: &Plane, identity: &str, serving: bool) -> Result<PlaceResponse, Status> {
    let request = PlaceRequest {
        room: "R".to_owned(),
        identity: identity.to_owned(),
        node_id: "edge-fra".to_owned(),
        address: String::new(),
        serving,
    };
    let mut rooms = RoomsClient::new(plane.channel().await);
    rooms.place(request).await.map(tonic::Response::into_inner)
}

fn drain(node: &str, within_ms: u64) -> DrainNodeRequest {
    DrainNodeRequest {
        node_id: node.to_owned(),
        within_ms,
        by: "ada".to_owned(),
    }
}

/// Takes the order and says that it is done.
async fn obey(node: &mut FakeNode) -> Request {
    let (id, order) = node
        .expect(|message| match message {
            Down::Command(command) => Some((command.request_id, command.request?)),
            _ => None,
        })
        .await;
    node.say(Up::Answer(CommandAnswer {
        request_id: id,
        result: Some(command_answer::Result::Response(Vec::new())),
    }))
    .await;
    order
}

async fn admin(plane: &Plane) -> AdminClient<Channel> {
    AdminClient::new(plane.channel().await)
}

#[tokio::test]
async fn a_node_that_drains_is_shown_and_gets_nobody() {
    let (plane, mut fra, _iad) = mesh().await;
    let mut operator = admin(&plane).await;
    let (done, order) = tokio::join!(
        operator.drain_node(drain("edge-fra", 5_000)),
        obey(&mut fra)
    );
    done.expect("is taken");
    assert!(matches!(order, Request::Drain(drain) if drain.within_ms == 5_000));
    fra.say(draining(false)).await;
    let (ready, drains) = (NodeState::Ready, NodeState::Draining);
    until_states(&plane, &[("edge-fra", drains), ("edge-iad", ready)]).await;
    let placed = place(&plane, "bob", false).await.expect("there is another");
    assert_eq!(placed.node_id, "edge-iad");
    let refused = plane
        .assign("edge-fra", "new")
        .await
        .expect_err("takes no rooms");
    assert_eq!(refused.code(), Code::Unavailable);

    let undrain = UndrainNodeRequest {
        node_id: "edge-fra".to_owned(),
        by: "ada".to_owned(),
    };
    let (done, order) = tokio::join!(operator.undrain_node(undrain.clone()), obey(&mut fra));
    done.expect("is taken");
    assert!(matches!(order, Request::Undrain(_)));
    fra.say(Up::Load(Load::default())).await;
    until_states(&plane, &[("edge-fra", ready), ("edge-iad", ready)]).await;
    plane
        .assign("edge-fra", "new")
        .await
        .expect("takes rooms again");
    let again = operator
        .undrain_node(undrain)
        .await
        .expect_err("does not drain");
    assert_eq!(again.code(), Code::FailedPrecondition);

    let log = operator
        .list_audit(ListAuditRequest::default())
        .await
        .expect("lists");
    let log: Vec<_> = log
        .into_inner()
        .entries
        .into_iter()
        .map(|entry| (entry.who, entry.action, entry.target, entry.detail))
        .filter(|(_, action, ..)| action.starts_with("node."))
        .collect();
    let entry = |action: &str, detail: &str| {
        let text = str::to_owned;
        (text("ada"), text(action), text("edge-fra"), text(detail))
    };
    let expected = [
        entry("node.drain", r#"{"within_ms":5000}"#),
        entry("node.undrain", "{}"),
    ];
    assert_eq!(log, expected);
}

#[tokio::test]
async fn one_that_has_left_is_forgotten_at_once() {
    let (plane, fra, mut iad) = mesh().await;
    fra.say(draining(true)).await;
    until_states(
        &plane,
        &[
            ("edge-fra", NodeState::Draining),
            ("edge-iad", NodeState::Ready),
        ],
    )
    .await;
    drop(fra);
    until_states(&plane, &[("edge-iad", NodeState::Ready)]).await;
    iad.peers(0).await;
}

#[tokio::test]
async fn whoever_is_served_already_is_found() {
    let (plane, _fra, mut iad) = mesh().await;
    let nowhere = place(&plane, "ann", true).await.expect_err("is nowhere");
    assert_eq!(nowhere.code(), Code::NotFound);
    plane.assign("edge-iad", "R").await.expect("a plan");
    iad.plan_of(1).await;
    let ann = ParticipantReport {
        sid: "PA_1".to_owned(),
        identity: "ann".to_owned(),
        ..ParticipantReport::default()
    };
    iad.say(Up::Room(RoomReport {
        room: "R".to_owned(),
        participants: vec![ann],
        ..RoomReport::default()
    }))
    .await;
    let mut found = place(&plane, "ann", true).await;
    for _ in 0..100 {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        found = place(&plane, "ann", true).await;
    }
    let found = found.expect("is found");
    assert_eq!(
        (found.node_id.as_str(), found.region.as_str()),
        ("edge-iad", "iad")
    );
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused_and_not_logged() {
    let (plane, _fra, _iad) = mesh().await;
    let mut operator = admin(&plane).await;
    let refused = |answer: Result<_, Status>| {
        answer
            .map(|_: tonic::Response<_>| ())
            .expect_err("no")
            .code()
    };
    assert_eq!(
        refused(operator.drain_node(drain("edge-ams", 1_000)).await),
        Code::NotFound
    );
    let day = 25 * 3_600 * 1_000;
    assert_eq!(
        refused(operator.drain_node(drain("edge-fra", day)).await),
        Code::InvalidArgument
    );
    let log = operator
        .list_audit(ListAuditRequest::default())
        .await
        .expect("lists");
    let mut entries = log.into_inner().entries.into_iter();
    assert!(!entries.any(|entry| entry.action.starts_with("node.")));
}
