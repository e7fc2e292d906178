//! Webhooks from a real control plane to a receiver that is not always there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use control_plane::config::{Config, Webhook};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use proto::control::node_message::Message as Up;
use proto::control::{ParticipantReport, RoomClosed, RoomReport};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::plane::{Plane, edge};

/// What a receiver has heard, and how many more requests it turns away.
pub(crate) struct Heard {
    events: Vec<Value>,
    refused: usize,
    refuse: usize,
    /// The key that signs, and its secret.
    pub(crate) signed_by: (String, String),
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            refused: 0,
            refuse: 0,
            signed_by: ("devkey".to_owned(), "secret".to_owned()),
        }
    }
}

pub(crate) type Shared = Arc<Mutex<Heard>>;

#[derive(serde::Deserialize)]
struct Claims {
    iss: String,
    sha256: String,
}

async fn receive(State(heard): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut heard = heard.lock().expect("not poisoned");
    if heard.refuse > 0 {
        heard.refuse -= 1;
        heard.refused += 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    assert_eq!(header("content-type"), Some("application/webhook+json"));
    let token = header("authorization").expect("a token");
    let (iss, secret) = heard.signed_by.clone();
    let key = DecodingKey::from_secret(secret.as_bytes());
    let claims = jsonwebtoken::decode::<Claims>(token, &key, &Validation::new(Algorithm::HS256));
    let claims = claims.expect("a good token").claims;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
    let digest = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, digest);
    assert_eq!((claims.iss, claims.sha256), (iss, digest));
    heard
        .events
        .push(serde_json::from_slice(&body).expect("JSON"));
    StatusCode::OK
}

/// A receiver that turns the first requests away, and its URL.
pub(crate) async fn receiver(refuse: usize) -> (Shared, String) {
    let heard = Shared::default();
    heard.lock().expect("not poisoned").refuse = refuse;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/hook", listener.local_addr().expect("bound"));
    let app = Router::new()
        .route("/hook", post(receive))
        .with_state(Arc::clone(&heard));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (heard, url)
}

pub(crate) fn names(heard: &Shared) -> BTreeMap<String, Vec<String>> {
    let mut rooms: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in &heard.lock().expect("not poisoned").events {
        let text = |at: &str| {
            let found = event.pointer(at).and_then(Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        let names = rooms.entry(text("/room/name")).or_default();
        names.push(text("/event"));
    }
    rooms
}

#[tokio::test]
async fn every_event_is_told_in_order_though_the_receiver_fails_at_first() {
    let (flaky, flaky_url) = receiver(3).await;
    let (steady, steady_url) = receiver(0).await;
    let plane = Plane::start(|config| {
        let webhook = |url: &String| Webhook {
            url: url.clone(),
            ..Webhook::default()
        };
        config.webhooks = vec![webhook(&flaky_url), webhook(&steady_url)];
        config.empty_room_ms = 200;
    })
    .await;
    let mut node = plane.connect(edge("fra", 1)).await;
    node.peers(0).await;
    for room in ["R", "S"] {
        let plan = plane.assign("edge-fra", room).await.expect("a plan").plan;
        let room_sid = plan.expect("a plan").room_sid;
        node.say(Up::Room(RoomReport {
            room: room.to_owned(),
            room_sid: room_sid.clone(),
            participants: vec![ParticipantReport {
                sid: format!("PA_{room}"),
                identity: "ann".to_owned(),
                ..ParticipantReport::default()
            }],
            ..RoomReport::default()
        }))
        .await;
        let closed = RoomClosed {
            room: room.to_owned(),
            room_sid,
        };
        node.say(Up::RoomClosed(closed)).await;
    }
    let life = [
        "room_started",
        "participant_joined",
        "participant_left",
        "room_finished",
    ];
    let expected: BTreeMap<String, Vec<String>> = ["R", "S"]
        .map(|room| (room.to_owned(), life.map(str::to_owned).to_vec()))
        .into();
    for heard in [&steady, &flaky] {
        for _ in 0..200 {
            if names(heard) == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(names(heard), expected);
    }
    plane.stop().await;
    let heard = flaky.lock().expect("not poisoned");
    assert_eq!(heard.refused, 3);
    let mut ids: Vec<&str> = heard
        .events
        .iter()
        .filter_map(|e| e["id"].as_str())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8, "ids are unique");
    let joined = heard
        .events
        .iter()
        .find(|e| e["event"] == "participant_joined");
    assert_eq!(joined.expect("told")["participant"]["identity"], "ann");
}

#[tokio::test]
async fn an_event_that_nobody_took_outlives_the_process() {
    let (heard, url) = receiver(usize::MAX).await;
    let adjust = |config: &mut Config| {
        config.webhooks = vec![Webhook {
            url: url.clone(),
            ..Webhook::default()
        }];
    };
    let plane = Plane::start(adjust).await;
    let mut node = plane.connect(edge("fra", 1)).await;
    node.peers(0).await;
    plane.assign("edge-fra", "R").await.expect("a plan");
    until(|| heard.lock().expect("not poisoned").refused > 0).await;
    let folder = plane.stop().await;
    assert_eq!(names(&heard), BTreeMap::new());

    heard.lock().expect("not poisoned").refuse = 0;
    let plane = Plane::start_in(folder, adjust).await;
    let expected = BTreeMap::from([("R".to_owned(), vec!["room_started".to_owned()])]);
    until(|| names(&heard) == expected).await;
    plane.stop().await;
}

/// Waits for it: longer than an event that was under way at the end stays with its process.
pub(crate) async fn until(it_is: impl Fn() -> bool) {
    for _ in 0..800 {
        if it_is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain");
}
