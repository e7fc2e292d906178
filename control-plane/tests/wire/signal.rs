//! Signalling through the gateway, to edges that are small servers here.

use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{OriginalUri, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use control_plane::token::{self, Grants, SigningKey, Subject};
use futures_util::{SinkExt as _, StreamExt as _};
use proto::control::node_message::Message as Up;
use proto::control::{Hello, ParticipantReport, RoomReport};
use reqwest::{Client, redirect};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite;

use crate::plane::{FakeNode, Plane, edge};

/// Nothing here takes that long.
const PATIENCE: Duration = Duration::from_secs(10);

/// An edge that says who it is, echoes, and refuses to validate.
async fn serve_edge(region: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("ws://{}", listener.local_addr().expect("is bound"));
    let app = Router::new()
        .route("/rtc", get(greet))
        .route("/rtc/v1", get(greet))
        .route("/rtc/v1/validate", get(refuse))
        .with_state(region);
    tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
    url
}

async fn refuse() -> (StatusCode, &'static str) {
    (StatusCode::FORBIDDEN, "not you")
}

async fn greet(
    State(region): State<&'static str>,
    OriginalUri(uri): OriginalUri,
    upgrade: WebSocketUpgrade,
) -> Response {
    upgrade.on_upgrade(move |mut socket| async move {
        let greeting = format!("{region} {uri}");
        socket
            .send(Message::Text(greeting.into()))
            .await
            .expect("open");
        while let Some(Ok(message)) = socket.recv().await {
            if let Message::Text(text) = &message
                && text.as_str() == "bye"
            {
                return;
            }
            socket.send(message).await.expect("open");
        }
    })
}

async fn mesh() -> (Plane, Vec<FakeNode>) {
    let plane = Plane::start(|config| config.development = false).await;
    let mut nodes = Vec::new();
    for region in ["fra", "iad"] {
        let hello = Hello {
            client_url: serve_edge(region).await,
            ..edge(region, 1)
        };
        let mut node = plane.connect(hello).await;
        node.peers(nodes.len()).await;
        nodes.push(node);
    }
    (plane, nodes)
}

fn minted(identity: &str, grants: &Grants) -> String {
    let key = SigningKey {
        key: "devkey",
        secret: "secret",
    };
    let subject = Subject {
        identity: identity.to_owned(),
        ..Subject::default()
    };
    token::mint(key, &subject, grants, SystemTime::now(), PATIENCE).expect("signs")
}

fn joining(identity: &str) -> String {
    minted(identity, &Grants::join("lounge"))
}

async fn status(plane: &Plane, path: &str) -> (u16, String) {
    let answer = Client::new().get(format!("{}{path}", plane.http)).send();
    let answer = answer.await.expect("answers");
    let status = answer.status().as_u16();
    (status, answer.text().await.expect("a body"))
}

/// What the edge at the other end says first, and that it echoes.
async fn greeting(plane: &Plane, path: &str) -> String {
    let url = format!("{}{path}", plane.http.replace("http", "ws"));
    let talk = async {
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("opens");
        let first = socket.next().await.expect("speaks").expect("well");
        for size in [1, 200_000] {
            let sent = tungstenite::Message::Binary(vec![7; size].into());
            socket.send(sent.clone()).await.expect("sends");
            assert_eq!(socket.next().await.expect("echoes").expect("well"), sent);
        }
        socket.send("bye".into()).await.expect("sends");
        // The edge hangs up, and so does the gateway.
        while let Some(Ok(_)) = socket.next().await {}
        first.into_text().expect("text").to_string()
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("in time")
}

#[tokio::test]
async fn a_connection_goes_to_the_edge_that_has_the_participant_or_to_any() {
    let (plane, nodes) = mesh().await;
    let token = joining("ann");
    let path = format!("/rtc/v1?join_request=abc-_&access_token={token}");
    let said = greeting(&plane, &path).await;
    assert!(
        said == format!("fra {path}") || said == format!("iad {path}"),
        "{said}"
    );

    // Whichever edge has her, that is where she comes back to.
    for (region, node) in ["fra", "iad"].into_iter().zip(&nodes) {
        let identity = format!("ann-{region}");
        let room = format!("room-{region}");
        plane
            .assign(&format!("edge-{region}"), &room)
            .await
            .expect("assigned");
        node.say(Up::Room(RoomReport {
            room: room.clone(),
            participants: vec![ParticipantReport {
                identity: identity.clone(),
                ..ParticipantReport::default()
            }],
            ..RoomReport::default()
        }))
        .await;
        let token = minted(&identity, &Grants::join(room));
        let path = format!("/rtc?reconnect=1&sid=PA_x&access_token={token}");
        let expected = format!("{region} {path}");
        let mut said = String::new();
        for _ in 0..100 {
            said = greeting(&plane, &path).await;
            if said == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(said, expected);
    }
    plane.stop().await;
}

#[tokio::test]
async fn refusals_say_why() {
    let (plane, nodes) = mesh().await;
    assert_eq!(status(&plane, "/rtc/v1/validate").await.0, 401);
    assert_eq!(status(&plane, "/rtc/validate?access_token=x").await.0, 401);
    let lister = Grants {
        room_list: true,
        ..Grants::default()
    };
    let path = format!("/rtc/validate?access_token={}", minted("ann", &lister));
    assert_eq!(status(&plane, &path).await.0, 403);
    // What the edge says goes through.
    let path = format!("/rtc/v1/validate?access_token={}", joining("ann"));
    assert_eq!(status(&plane, &path).await, (403, "not you".to_owned()));
    // A path that the edge does not have, for clients that then try the older one.
    let path = format!("/rtc/validate?access_token={}", joining("ann"));
    assert_eq!(status(&plane, &path).await.0, 404);
    drop(nodes);
    plane.stop().await;
}

#[tokio::test]
async fn no_edge_is_no_service_and_a_dead_one_neither() {
    let plane = Plane::start(|config| config.development = false).await;
    let path = format!("/rtc/v1?access_token={}", joining("ann"));
    assert_eq!(status(&plane, &path).await.0, 503);
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let hello = Hello {
        client_url: format!("ws://{}", gone.local_addr().expect("is bound")),
        ..edge("fra", 1)
    };
    drop(gone);
    let node = plane.connect(hello).await;
    let mut answer = (0, String::new());
    for _ in 0..100 {
        answer = status(&plane, &path).await;
        if answer.1.contains("edge-fra") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        answer.0 == 503 && answer.1.contains("edge-fra cannot be reached"),
        "{answer:?}"
    );
    drop(node);
    plane.stop().await;
}

#[tokio::test]
async fn publishers_and_players_are_sent_to_an_edge() {
    let (plane, nodes) = mesh().await;
    let client = Client::builder()
        .redirect(redirect::Policy::none())
        .build()
        .expect("a client");
    let url = format!("{}/whip/lounge?x=1", plane.http);
    let asked = client.post(&url).bearer_auth(joining("ann")).body("v=0");
    let answer = asked.send().await.expect("answers");
    assert_eq!(answer.status().as_u16(), 307);
    let location = answer.headers()["location"].to_str().expect("text");
    assert!(location.starts_with("http://127.0.0.1:"), "{location}");
    assert!(location.ends_with("/whip/lounge?x=1"), "{location}");
    let answer = client.post(&url).body("v=0").send().await.expect("answers");
    assert_eq!(answer.status().as_u16(), 401);
    drop(nodes);
    plane.stop().await;
}
