//! Every replica answers everything.

use std::time::{Duration, SystemTime};

use control_plane::token::{self, Grants, SigningKey, Subject};
use livekit_protocol as lk;
use prost::Message as _;
use proto::control::admin_client::AdminClient;
use proto::control::control_message::Message as Down;
use proto::control::node_message::Message as Up;
use proto::control::{
    Command, CommandAnswer, ExplainRequest, ListNodesRequest, ListRoomsRequest, Node, RoomSummary,
    command_answer,
};
use serde_json::{Value, json};

use crate::plane::{FakeNode, edge};
use crate::replica::{Everywhere, Replica, Stores, eventually, outside, report, together};

/// A token for everything that a server may do, for a room.
fn token(room: &str) -> String {
    let grants = Grants {
        room_create: true,
        room_list: true,
        room_admin: true,
        room: room.to_owned(),
        ..Grants::default()
    };
    let key = SigningKey {
        key: "devkey",
        secret: "secret",
    };
    let (subject, valid) = (Subject::default(), Duration::from_secs(60));
    token::mint(key, &subject, &grants, SystemTime::now(), valid).expect("signs")
}

async fn api(replica: &Replica, method: &str, request: Value) -> (u16, Value) {
    let url = format!("{}/twirp/livekit.RoomService/{method}", replica.plane.http);
    let token = token(request["room"].as_str().unwrap_or_default());
    let sent = reqwest::Client::new()
        .post(url)
        .bearer_auth(token)
        .json(&request)
        .send()
        .await;
    let response = sent.expect("answers");
    let status = response.status().as_u16();
    (status, response.json().await.expect("JSON"))
}

/// The next command of a session is answered so.
async fn obey(session: &mut FakeNode, response: Vec<u8>) -> Command {
    let command = session
        .expect(|message| match message {
            Down::Command(command) => Some(command),
            _ => None,
        })
        .await;
    let answer = CommandAnswer {
        request_id: command.request_id,
        result: Some(command_answer::Result::Response(response)),
    };
    session.say(Up::Answer(answer)).await;
    command
}

/// A room of whichever owner is made, changed, explained and, if `ends`, ended, by replicas that take turns.
async fn a_room_lives(
    (asked, other): (&Replica, &Replica),
    fra: &Everywhere,
    name: &str,
    ends: bool,
) {
    let made = json!({ "name": name, "metadata": "m" });
    let (status, room) = api(asked, "CreateRoom", made).await;
    assert_eq!(status, 200, "{room}");
    let assigned = other.plane.assign("edge-fra", name).await;
    let plan = assigned.expect("assigned").plan.expect("a plan");
    assert_eq!(room["sid"], plan.room_sid.as_str());
    fra.say(report(name, &plan.room_sid, plan.epoch, "ada"))
        .await;
    let request = json!({ "room": name, "metadata": "changed" });
    let (status, room) = api(other, "UpdateRoomMetadata", request).await;
    assert_eq!(
        (status, &room["metadata"]),
        (200, &"changed".into()),
        "{room}"
    );
    for replica in [asked, other] {
        let mut admin = AdminClient::new(replica.plane.channel().await);
        let query = ExplainRequest {
            room: name.to_owned(),
            ..ExplainRequest::default()
        };
        let explained = admin.explain(query).await.expect("explained").into_inner();
        let explained: Value = serde_json::from_str(&explained.json).expect("JSON");
        assert!(explained["plan"].is_object(), "{explained}");
        let (_, rooms) = api(replica, "ListRooms", json!({ "names": [name] })).await;
        assert_eq!(rooms["rooms"][0]["metadata"], "changed", "{rooms}");
    }
    if ends {
        let (status, _) = api(other, "DeleteRoom", json!({ "room": name })).await;
        assert_eq!(status, 200);
        let (_, rooms) = api(asked, "ListRooms", json!({ "names": [name] })).await;
        assert_eq!(rooms["rooms"].as_array().map_or(0, Vec::len), 0, "{rooms}");
    }
}

/// What a replica shows of the fleet; when sessions began differs by replica.
async fn fleet(replica: &Replica) -> (Vec<Node>, Vec<RoomSummary>) {
    let mut admin = AdminClient::new(replica.plane.channel().await);
    let nodes = admin.list_nodes(ListNodesRequest {}).await.expect("nodes");
    let rooms = admin.list_rooms(ListRoomsRequest {}).await.expect("rooms");
    let mut nodes = nodes.into_inner().nodes;
    nodes.iter_mut().for_each(|node| node.connected_at_ms = 0);
    (nodes, rooms.into_inner().rooms)
}

#[test]
fn every_replica_answers_everything() {
    let stores = Stores::start();
    outside(async {
        let start = |id| tokio::task::block_in_place(|| Replica::start(&stores, id, None));
        let (a, b) = (start("control-a"), start("control-b"));
        let fra = Everywhere::connect(&edge("fra", 1), &[&a, &b]).await;
        together(&[&a, &b]).await;
        for number in 0..6 {
            let pair = if number % 2 == 0 { (&a, &b) } else { (&b, &a) };
            a_room_lives(pair, &fra, &format!("room-{number}"), number > 2).await;
        }
        eventually("both show the same", async || {
            let (by_a, by_b) = (fleet(&a).await, fleet(&b).await);
            by_a == by_b && by_a.0.len() == 1 && by_a.1.len() == 3
        })
        .await;
    });
}

#[test]
fn a_node_that_one_replica_reaches_does_what_the_other_is_asked_for() {
    let stores = Stores::start();
    outside(async {
        let start = |id| tokio::task::block_in_place(|| Replica::start(&stores, id, None));
        let (a, b) = (start("control-a"), start("control-b"));
        // The way from this one to the second replica is lost.
        let mut syd = a.plane.connect(edge("syd", 1)).await;
        together(&[&a, &b]).await;
        let mut room = String::new();
        for number in 0..20 {
            let name = format!("room-{number}");
            match a.plane.assign("edge-syd", &name).await {
                Ok(assigned) => {
                    let plan = assigned.plan.expect("a plan");
                    syd.say(report(&name, &plan.room_sid, plan.epoch, "eve"))
                        .await;
                    room = name;
                    break;
                }
                // The second replica's, which does not know the node: refused, not lost.
                Err(status) => assert_eq!(status.code(), tonic::Code::FailedPrecondition),
            }
        }
        let whom = json!({ "room": room, "identity": "eve" });
        eventually("the participant is shown", async || {
            api(&b, "GetParticipant", whom.clone()).await.0 == 200
        })
        .await;
        let response = lk::MuteRoomTrackResponse::default().encode_to_vec();
        let request = json!({ "room": room, "identity": "eve", "trackSid": "TR_1", "muted": true });
        let (answer, command) = tokio::join!(
            api(&b, "MutePublishedTrack", request),
            obey(&mut syd, response)
        );
        assert_eq!(answer.0, 200, "{}", answer.1);
        assert!(command.request.is_some());
    });
}
