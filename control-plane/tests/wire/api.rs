//! The LiveKit server API over real connections, with nodes that answer what they are asked.

use std::time::{Duration, SystemTime};

use control_plane::token::{self, Grants, SigningKey, Subject};
use livekit_protocol as lk;
use prost::Message as _;
use proto::control::command::Request as Asked;
use proto::control::command_error::Code;
use proto::control::control_message::Message as Down;
use proto::control::node_message::Message as Up;
use proto::control::{
    Command, CommandAnswer, CommandError, ParticipantReport, RoomReport, command_answer,
};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use crate::plane::{FakeNode, Plane, edge};

const KEY: SigningKey<'_> = SigningKey {
    key: "devkey",
    secret: "secret",
};

const METHODS: [&str; 14] = [
    "CreateRoom",
    "ListRooms",
    "DeleteRoom",
    "UpdateRoomMetadata",
    "ListParticipants",
    "GetParticipant",
    "RemoveParticipant",
    "UpdateParticipant",
    "MutePublishedTrack",
    "UpdateSubscriptions",
    "SendData",
    "PerformRpc",
    "ForwardParticipant",
    "MoveParticipant",
];

fn minted(grants: &Grants) -> String {
    let (subject, valid) = (Subject::default(), Duration::from_secs(60));
    token::mint(KEY, &subject, grants, SystemTime::now(), valid).expect("signs")
}

/// Everything that a server may do, for the room `R`.
fn all() -> Grants {
    Grants {
        room_create: true,
        room_list: true,
        room_admin: true,
        room: "R".to_owned(),
        destination_room: "S".to_owned(),
        ..Grants::default()
    }
}

fn url(plane: &Plane, method: &str) -> String {
    format!("{}/twirp/livekit.RoomService/{method}", plane.http)
}

async fn shown(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.expect("a body");
    let json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
    (status, json)
}

/// One request in JSON.
async fn call(plane: &Plane, method: &str, grants: &Grants, body: Value) -> (u16, Value) {
    let request = Client::new().post(url(plane, method));
    let request = request.bearer_auth(minted(grants)).json(&body);
    let (status, json) = shown(request.send().await.expect("answers")).await;
    (status.as_u16(), json)
}

/// One request in protobuf, which has to succeed.
async fn encoded<A: prost::Message + Default>(
    plane: &Plane,
    method: &str,
    request: &impl prost::Message,
) -> A {
    let response = Client::new()
        .post(url(plane, method))
        .bearer_auth(minted(&all()))
        .header("content-type", "application/protobuf")
        .body(request.encode_to_vec())
        .send()
        .await
        .expect("answers");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/protobuf");
    A::decode(response.bytes().await.expect("a body")).expect("the answer")
}

fn error_of(answer: &(u16, Value)) -> (u16, &str) {
    let text = |field| answer.1.get(field).and_then(Value::as_str);
    assert!(text("msg").is_some(), "{answer:?}");
    (answer.0, text("code").expect("a code"))
}

/// An edge with one participant in `R`, publishing one track.
async fn inhabited(plane: &Plane) -> FakeNode {
    let mut node = plane.connect(edge("fra", 1)).await;
    node.peers(0).await;
    let plan = plane.assign("edge-fra", "R").await.expect("a plan").plan;
    let info = lk::ParticipantInfo {
        sid: "PA_a".to_owned(),
        identity: "ann".to_owned(),
        name: "Ann".to_owned(),
        state: lk::participant_info::State::Active as i32,
        tracks: vec![lk::TrackInfo {
            sid: "TR_a".to_owned(),
            ..lk::TrackInfo::default()
        }],
        ..lk::ParticipantInfo::default()
    };
    let participant = ParticipantReport {
        sid: info.sid.clone(),
        identity: info.identity.clone(),
        tracks: vec![proto::control::TrackReport::default()],
        info: info.encode_to_vec().into(),
        ..ParticipantReport::default()
    };
    node.say(Up::Room(RoomReport {
        room: "R".to_owned(),
        room_sid: plan.expect("a plan").room_sid,
        participants: vec![participant],
        ..RoomReport::default()
    }))
    .await;
    let list = json!({ "room": "R" });
    for _ in 0..100 {
        let (_, answer) = call(plane, "ListParticipants", &all(), list.clone()).await;
        let listed = answer.get("participants").and_then(Value::as_array);
        if listed.is_some_and(|p| p.len() == 1) {
            return node;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the participant is not listed");
}

/// Waits for a command and answers it.
async fn answer(node: &mut FakeNode, result: command_answer::Result) -> Command {
    let command = node
        .expect(|message| match message {
            Down::Command(command) => Some(command),
            _ => None,
        })
        .await;
    node.say(Up::Answer(CommandAnswer {
        request_id: command.request_id,
        result: Some(result),
    }))
    .await;
    command
}

#[tokio::test]
async fn every_method_needs_its_grant() {
    let plane = Plane::start(|_| {}).await;
    for method in METHODS {
        let response = Client::new().post(url(&plane, method)).json(&json!({}));
        let (status, answer) = shown(response.send().await.expect("answers")).await;
        let without = (status.as_u16(), answer);
        assert_eq!(error_of(&without), (401, "unauthenticated"), "{method}");

        let body = json!({
            "name": "R", "room": "R", "identity": "ann", "destinationRoom": "S",
            "destinationIdentity": "ann", "method": "m", "trackSid": "TR_a",
        });
        let create = matches!(method, "CreateRoom" | "DeleteRoom");
        let lacking = match method {
            "CreateRoom" | "DeleteRoom" => Grants {
                room_create: false,
                ..all()
            },
            "ListRooms" => Grants {
                room_list: false,
                ..all()
            },
            _ => Grants {
                room_admin: false,
                ..all()
            },
        };
        let refused = call(&plane, method, &lacking, body.clone()).await;
        assert_eq!(error_of(&refused), (403, "permission_denied"), "{method}");
        if !create && method != "ListRooms" {
            let other = Grants {
                room: "other".to_owned(),
                ..all()
            };
            let refused = call(&plane, method, &other, body.clone()).await;
            assert_eq!(error_of(&refused), (403, "permission_denied"), "{method}");
        }
        if matches!(method, "ForwardParticipant" | "MoveParticipant") {
            let elsewhere = Grants {
                destination_room: String::new(),
                ..all()
            };
            let refused = call(&plane, method, &elsewhere, body).await;
            assert_eq!(error_of(&refused), (403, "permission_denied"), "{method}");
        }
    }
    let foreign = SigningKey {
        secret: "other",
        ..KEY
    };
    let valid = Duration::from_secs(60);
    let forged = token::mint(
        foreign,
        &Subject::default(),
        &all(),
        SystemTime::now(),
        valid,
    );
    let request = Client::new()
        .post(url(&plane, "ListRooms"))
        .json(&json!({}));
    let request = request.bearer_auth(forged.expect("signs"));
    let response = request.send().await.expect("answers");
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let (status, answer) = shown(response).await;
    assert_eq!(
        error_of(&(status.as_u16(), answer)),
        (401, "unauthenticated")
    );
    plane.stop().await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_in_the_protocols_shape() {
    let plane = Plane::start(|_| {}).await;
    let client = Client::new();
    let send = async |request: reqwest::RequestBuilder| {
        let request = request.bearer_auth(minted(&all()));
        let (status, answer) = shown(request.send().await.expect("answers")).await;
        (
            status.as_u16(),
            answer["code"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let list = url(&plane, "ListRooms");
    let bad_route = (404, "bad_route".to_owned());
    let malformed = (400, "malformed".to_owned());
    assert_eq!(send(client.get(&list)).await, bad_route);
    assert_eq!(send(client.post(&list).body("{}")).await, bad_route);
    let nothing = client.post(url(&plane, "Nothing")).json(&json!({}));
    assert_eq!(send(nothing).await, bad_route);
    let egress = client.post(format!("{}/twirp/livekit.Egress/ListEgress", plane.http));
    assert_eq!(send(egress.json(&json!({}))).await, bad_route);
    let json = |body: String| {
        client
            .post(&list)
            .header("content-type", "application/json; charset=utf-8")
            .body(body)
    };
    for body in ["[", "[1]", "{\"names\":7}", "null"] {
        assert_eq!(send(json(body.to_owned())).await, malformed, "{body}");
    }
    let protobuf = client
        .post(&list)
        .header("content-type", "application/protobuf");
    assert_eq!(send(protobuf.body(vec![0xff; 9])).await, malformed);
    let huge = format!("{{\"names\":[\"{}\"]}}", "x".repeat(300_000));
    assert_eq!(
        send(json(huge)).await,
        (413, "resource_exhausted".to_owned())
    );
    // What is not known is left out, and nothing at all is an empty message.
    for body in ["", "{}", "{\"later\":1}"] {
        assert_eq!(
            send(json(body.to_owned())).await,
            (200, String::new()),
            "{body}"
        );
    }
    plane.stop().await;
}

#[tokio::test]
async fn arguments_that_cannot_be_are_named() {
    let plane = Plane::start(|_| {}).await;
    let arguments = [
        ("CreateRoom", json!({})),
        ("CreateRoom", json!({"name": "x".repeat(600)})),
        (
            "CreateRoom",
            json!({"name": "R", "metadata": "x".repeat(70_000)}),
        ),
        ("DeleteRoom", json!({})),
        ("ListParticipants", json!({})),
        ("GetParticipant", json!({"room": "R"})),
        (
            "UpdateParticipant",
            json!({"room": "R", "identity": "a", "name": "x".repeat(600)}),
        ),
        ("MutePublishedTrack", json!({"room": "R", "identity": "a"})),
        (
            "PerformRpc",
            json!({"room": "R", "destinationIdentity": "a"}),
        ),
        ("MoveParticipant", json!({"room": "R", "identity": "a"})),
    ];
    for (method, body) in arguments {
        let refused = call(&plane, method, &all(), body.clone()).await;
        assert_eq!(
            error_of(&refused),
            (400, "invalid_argument"),
            "{method} {body}"
        );
    }
    let egress = json!({"name": "R", "egress": {"room": {"roomName": "R"}}});
    let refused = call(&plane, "CreateRoom", &all(), egress).await;
    assert_eq!(error_of(&refused), (501, "unimplemented"));
    plane.stop().await;
}

#[tokio::test]
async fn rooms_are_made_listed_set_and_ended() {
    let plane = Plane::start(|_| {}).await;
    let body = json!({"name": "R", "empty_timeout": 60, "maxParticipants": 4, "metadata": "m"});
    let (status, made) = call(&plane, "CreateRoom", &all(), body).await;
    assert_eq!(status, 200, "{made}");
    assert_eq!(
        (&made["name"], &made["metadata"]),
        (&json!("R"), &json!("m"))
    );
    assert_eq!(
        (&made["emptyTimeout"], &made["maxParticipants"]),
        (&json!(60), &json!(4))
    );
    let wanted = lk::CreateRoomRequest {
        name: "S".to_owned(),
        ..lk::CreateRoomRequest::default()
    };
    let other: lk::Room = encoded(&plane, "CreateRoom", &wanted).await;
    assert!(other.sid.starts_with("RM_") && other.creation_time_ms > 0);

    let (_, listed) = call(&plane, "ListRooms", &all(), json!({})).await;
    assert_eq!(
        listed["rooms"].as_array().map(Vec::len),
        Some(2),
        "{listed}"
    );
    let named = lk::ListRoomsRequest {
        names: vec!["S".to_owned(), "none".to_owned()],
    };
    let listed: lk::ListRoomsResponse = encoded(&plane, "ListRooms", &named).await;
    assert_eq!(listed.rooms, [other]);

    let body = json!({"room": "R", "metadata": "new"});
    let (_, room) = call(&plane, "UpdateRoomMetadata", &all(), body).await;
    assert_eq!(
        (&room["metadata"], &room["sid"]),
        (&json!("new"), &made["sid"])
    );
    let body = json!({"room": "R"});
    let deleted = call(&plane, "DeleteRoom", &all(), body.clone()).await;
    assert_eq!(deleted, (200, json!({})));
    let again = call(&plane, "DeleteRoom", &all(), body.clone()).await;
    assert_eq!(error_of(&again), (404, "not_found"));
    let gone = call(&plane, "ListParticipants", &all(), body).await;
    assert_eq!(error_of(&gone), (404, "not_found"));
    plane.stop().await;
}

#[tokio::test]
async fn participants_are_shown_and_what_concerns_them_goes_to_their_edge() {
    let plane = Plane::start(|_| {}).await;
    let mut node = inhabited(&plane).await;
    let whom = lk::RoomParticipantIdentity {
        room: "R".to_owned(),
        identity: "ann".to_owned(),
        ..lk::RoomParticipantIdentity::default()
    };
    let found: lk::ParticipantInfo = encoded(&plane, "GetParticipant", &whom).await;
    assert_eq!((found.name.as_str(), found.tracks.len()), ("Ann", 1));
    let (_, rooms) = call(&plane, "ListRooms", &all(), json!({})).await;
    let room = &rooms["rooms"][0];
    assert_eq!(
        (&room["numParticipants"], &room["numPublishers"]),
        (&json!(1), &json!(1))
    );
    let body = json!({"room": "R", "identity": "bob"});
    let nobody = call(&plane, "GetParticipant", &all(), body).await;
    assert_eq!(error_of(&nobody), (404, "not_found"));

    let response = lk::MuteRoomTrackResponse {
        track: Some(lk::TrackInfo {
            sid: "TR_a".to_owned(),
            muted: true,
            ..lk::TrackInfo::default()
        }),
    };
    let body = json!({"room": "R", "identity": "ann", "trackSid": "TR_a", "muted": true});
    let grants = all();
    let asking = call(&plane, "MutePublishedTrack", &grants, body);
    let result = command_answer::Result::Response(response.encode_to_vec());
    let (muted, command) = tokio::join!(asking, answer(&mut node, result));
    assert_eq!((muted.0, &muted.1["track"]["muted"]), (200, &json!(true)));
    let Some(Asked::MutePublishedTrack(request)) = command.request else {
        panic!("{command:?}")
    };
    let request = lk::MuteRoomTrackRequest::decode(request.as_slice()).expect("the request");
    assert_eq!((request.identity.as_str(), request.muted), ("ann", true));

    // Data goes to edges with somebody that it is for.
    let nothing = lk::SendDataResponse {}.encode_to_vec();
    let body = json!({"room": "R", "data": "eA==", "kind": "LOSSY", "topic": "t"});
    let asking = call(&plane, "SendData", &grants, body);
    let result = command_answer::Result::Response(nothing);
    let (sent, command) = tokio::join!(asking, answer(&mut node, result));
    assert_eq!(sent, (200, json!({})));
    assert!(matches!(command.request, Some(Asked::SendData(_))));
    let body = json!({"room": "R", "data": "eA==", "destinationIdentities": ["bob"]});
    let nobody = call(&plane, "SendData", &grants, body).await;
    assert_eq!(nobody, (200, json!({})), "no edge is asked");
    plane.stop().await;
}

#[tokio::test]
async fn an_edges_errors_reach_the_caller() {
    let plane = Plane::start(|_| {}).await;
    let mut node = inhabited(&plane).await;
    let grants = all();
    let body = json!({"room": "R", "destinationIdentity": "ann", "method": "m", "payload": "p"});
    let errors = [
        (Code::NotFound, 0, (404, "not_found")),
        (Code::FailedPrecondition, 0, (412, "failed_precondition")),
        (Code::Rpc, 1400, (501, "unimplemented")),
        (Code::Rpc, 1502, (408, "deadline_exceeded")),
        (Code::Rpc, 101, (409, "aborted")),
    ];
    for (code, rpc_code, expected) in errors {
        let error = CommandError {
            code: code.into(),
            message: "what happened".to_owned(),
            rpc_code,
            rpc_data: String::new(),
        };
        let asking = call(&plane, "PerformRpc", &grants, body.clone());
        let result = command_answer::Result::Error(error);
        let (refused, _) = tokio::join!(asking, answer(&mut node, result));
        assert_eq!(error_of(&refused), expected);
        assert_eq!(refused.1["msg"], "what happened");
        if rpc_code > 0 {
            assert_eq!(refused.1["meta"]["rpc_code"], rpc_code.to_string());
        }
    }
    // An edge whose session ends cannot answer.
    let asking = call(&plane, "PerformRpc", &grants, body);
    let hangs_up = async {
        node.expect(|message| match message {
            Down::Command(_) => Some(()),
            _ => None,
        })
        .await;
        drop(node);
    };
    let (refused, ()) = tokio::join!(asking, hangs_up);
    assert_eq!(error_of(&refused), (503, "unavailable"));
    plane.stop().await;
}
