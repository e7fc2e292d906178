//! Two projects whose rooms and people have the same names: neither sees, changes or learns anything of the other's.

use std::time::{Duration, SystemTime};

use control_plane::config::Webhook;
use control_plane::token::{Grants, SigningKey, Subject, mint};
use proto::RoomId;
use proto::control::admin_client::AdminClient;
use proto::control::control_message::Message as Down;
use proto::control::node_message::Message as Up;
use proto::control::{
    CreateKeyRequest, CreateProjectRequest, ExplainRequest, ParticipantReport, RoomReport,
};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::plane::{FakeNode, Plane, edge};
use crate::webhooks::{names, receiver, until};

/// A key of one project.
struct Project {
    id: &'static str,
    key: String,
    secret: String,
}

impl Project {
    async fn create(plane: &Plane, id: &'static str) -> Self {
        let mut admin = AdminClient::new(plane.channel().await);
        let project = CreateProjectRequest {
            id: id.to_owned(),
            ..CreateProjectRequest::default()
        };
        admin.create_project(project).await.expect("creates");
        let wish = CreateKeyRequest {
            project: id.to_owned(),
            ..CreateKeyRequest::default()
        };
        let made = admin.create_key(wish).await.expect("creates").into_inner();
        let project = Self {
            id,
            key: made.key.expect("a key").key,
            secret: made.secret,
        };
        // A key is known to the gateway within two seconds.
        let known = async || project.call(plane, "ListRooms", json!({})).await.0 == 200;
        crate::eventually("the key is known", Duration::from_secs(2), known).await;
        project
    }

    fn default_one() -> Self {
        Self {
            id: "default",
            key: "devkey".to_owned(),
            secret: "secret".to_owned(),
        }
    }

    fn token(&self) -> String {
        let grants = Grants {
            room_create: true,
            room_list: true,
            room_admin: true,
            room_join: true,
            room: "R".to_owned(),
            destination_room: "S".to_owned(),
            ..Grants::default()
        };
        let (key, secret) = (self.key.as_str(), self.secret.as_str());
        let subject = Subject {
            identity: "server".to_owned(),
            ..Subject::default()
        };
        let valid = Duration::from_secs(60);
        let key = SigningKey { key, secret };
        mint(key, &subject, &grants, SystemTime::now(), valid).expect("signs")
    }

    async fn ask(&self, method: Method, url: String, body: Option<Value>) -> (u16, Value) {
        let mut request = Client::new().request(method, url).bearer_auth(self.token());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("answers");
        let status = response.status().as_u16();
        (status, response.json().await.expect("JSON"))
    }

    async fn call(&self, plane: &Plane, method: &str, body: Value) -> (u16, Value) {
        let url = format!("{}/twirp/livekit.RoomService/{method}", plane.http);
        self.ask(Method::POST, url, Some(body)).await
    }

    async fn get(&self, plane: &Plane, path: &str) -> (u16, Value) {
        let url = format!("{}{path}", plane.http);
        self.ask(Method::GET, url, None).await
    }
}

/// The edge serves the project's room `R` with this participant in it.
async fn inhabit(plane: &Plane, node: &FakeNode, project: &str, identity: &str) -> String {
    let room = RoomId::new(project, "R").expect("a good name").to_string();
    let plan = plane.assign("edge-fra", &room).await.expect("a plan").plan;
    let plan = plan.expect("a plan");
    assert_eq!(plan.room, room);
    let report = RoomReport {
        room,
        room_sid: plan.room_sid.clone(),
        participants: vec![ParticipantReport {
            sid: format!("PA_{project}"),
            identity: identity.to_owned(),
            ..ParticipantReport::default()
        }],
        ..RoomReport::default()
    };
    node.say(Up::Room(report)).await;
    plan.room_sid
}

async fn mesh() -> (Plane, FakeNode) {
    let plane = Plane::start(|config| config.development = false).await;
    let mut node = plane.connect(edge("fra", 1)).await;
    node.peers(0).await;
    (plane, node)
}

/// The names that a list of rooms shows, with their session ids.
fn listed(answer: &Value) -> Vec<(String, String)> {
    let rooms = answer["rooms"].as_array().expect("a list");
    let text = |room: &Value, field: &str| room[field].as_str().unwrap_or_default().to_owned();
    let shown = rooms
        .iter()
        .map(|room| (text(room, "name"), text(room, "sid")));
    shown.collect()
}

#[tokio::test]
async fn one_name_in_two_projects_is_two_rooms() {
    let (plane, node) = mesh().await;
    let acme = Project::create(&plane, "acme").await;
    let apex = Project::create(&plane, "apex").await;
    let default = Project::default_one();
    let sids = [
        inhabit(&plane, &node, "acme", "ann").await,
        inhabit(&plane, &node, "apex", "bob").await,
        inhabit(&plane, &node, "default", "cyd").await,
    ];
    assert!(sids[0] != sids[1] && sids[1] != sids[2] && sids[0] != sids[2]);
    for (project, sid, own) in [
        (&acme, &sids[0], "ann"),
        (&apex, &sids[1], "bob"),
        (&default, &sids[2], "cyd"),
    ] {
        let in_r = json!({"room": "R"});
        until_async(async || {
            let (_, answer) = project.call(&plane, "ListParticipants", in_r.clone()).await;
            answer["participants"]
                .as_array()
                .is_some_and(|all| !all.is_empty())
        })
        .await;
        let (_, people) = project.call(&plane, "ListParticipants", in_r).await;
        let identities: Vec<_> = people["participants"]
            .as_array()
            .expect("a list")
            .iter()
            .collect();
        assert_eq!(identities.len(), 1, "{people}");
        assert_eq!(identities[0]["identity"], own, "{}", project.id);
        let (_, rooms) = project.call(&plane, "ListRooms", json!({})).await;
        assert_eq!(
            listed(&rooms),
            [("R".to_owned(), sid.clone())],
            "{}",
            project.id
        );
        let (status, shown) = project.get(&plane, "/api/v1/rooms").await;
        assert_eq!(status, 200);
        let rooms = shown["rooms"].as_array().expect("a list");
        assert_eq!((rooms.len(), &rooms[0]["project"]), (1, &json!(project.id)));
        let (status, shown) = project.get(&plane, "/api/v1/rooms/R").await;
        assert_eq!((status, &shown["room_sid"]), (200, &json!(sid)));
        // A parameter for the operator's use changes nothing for others.
        let (_, shown) = project.get(&plane, "/api/v1/rooms/R?project=apex").await;
        assert_eq!(&shown["room_sid"], &json!(sid));
        let (status, shown) = project.get(&plane, "/api/v1/rooms/R/explain").await;
        assert_eq!((status, &shown["project"]), (200, &json!(project.id)));
    }
    let mut admin = AdminClient::new(plane.channel().await);
    let explain = ExplainRequest {
        room: "apex/R".to_owned(),
        ..ExplainRequest::default()
    };
    let shown = admin.explain(explain).await.expect("explains").into_inner();
    let shown: Value = serde_json::from_str(&shown.json).expect("JSON");
    assert_eq!(
        (&shown["room"], &shown["project"]),
        (&json!("R"), &json!("apex"))
    );
    plane.stop().await;
}

#[tokio::test]
async fn another_projects_room_is_as_missing_as_one_that_never_was() {
    let (plane, mut node) = mesh().await;
    let acme = Project::create(&plane, "acme").await;
    let apex = Project::create(&plane, "apex").await;
    inhabit(&plane, &node, "acme", "ann").await;
    let whom = json!({"room": "R", "identity": "ann"});
    until_async(async || acme.call(&plane, "GetParticipant", whom.clone()).await.0 == 200).await;
    let calls = [
        ("DeleteRoom", json!({"room": "R"})),
        (
            "UpdateRoomMetadata",
            json!({"room": "R", "metadata": "mine"}),
        ),
        ("ListParticipants", json!({"room": "R"})),
        ("GetParticipant", whom.clone()),
        (
            "RemoveParticipant",
            json!({"room": "R", "identity": "ann", "revokeTokenTs": "99"}),
        ),
        (
            "UpdateParticipant",
            json!({"room": "R", "identity": "ann", "name": "mine"}),
        ),
        (
            "MutePublishedTrack",
            json!({"room": "R", "identity": "ann", "trackSid": "TR_a", "muted": true}),
        ),
        (
            "UpdateSubscriptions",
            json!({"room": "R", "identity": "ann", "trackSids": ["TR_a"]}),
        ),
        ("SendData", json!({"room": "R", "data": "aGk="})),
        (
            "PerformRpc",
            json!({"room": "R", "destinationIdentity": "ann", "method": "m", "payload": ""}),
        ),
        (
            "ForwardParticipant",
            json!({"room": "R", "identity": "ann", "destinationRoom": "S"}),
        ),
        (
            "MoveParticipant",
            json!({"room": "R", "identity": "ann", "destinationRoom": "S"}),
        ),
    ];
    // The project `empty` has no room at all: what it hears is what a missing room sounds like.
    let empty = Project::create(&plane, "empty").await;
    for (method, body) in calls {
        let stranger = apex.call(&plane, method, body.clone()).await;
        let missing = empty.call(&plane, method, body).await;
        assert_eq!(stranger, missing, "{method}");
        assert_eq!(
            (stranger.0, &stranger.1["code"]),
            (404, &json!("not_found")),
            "{method}"
        );
    }
    for path in [
        "/api/v1/rooms/R",
        "/api/v1/rooms/R/explain",
        "/api/v1/rooms/acme%2FR",
    ] {
        let stranger = apex.get(&plane, path).await;
        assert_eq!(stranger, empty.get(&plane, path).await, "{path}");
        assert_eq!(stranger.0, 404, "{path}");
    }
    for path in ["/api/v1/nodes", "/api/v1/links"] {
        assert_eq!(apex.get(&plane, path).await.0, 403, "{path}");
    }
    // The way round: a name that looks like the other room's id is a room of its own.
    let (status, made) = apex
        .call(&plane, "CreateRoom", json!({"name": "acme/R"}))
        .await;
    assert_eq!((status, &made["name"]), (200, &json!("acme/R")));
    let (_, answer) = apex
        .call(&plane, "DeleteRoom", json!({"room": "acme/R"}))
        .await;
    assert_eq!(answer, json!({}));
    // Nothing of this reached the edge or the room.
    let (status, ann) = acme.call(&plane, "GetParticipant", whom).await;
    assert_eq!((status, &ann["identity"]), (200, &json!("ann")));
    let (_, rooms) = acme.call(&plane, "ListRooms", json!({})).await;
    let metadata = rooms["rooms"][0]["metadata"].as_str();
    assert_eq!(metadata.unwrap_or_default(), "", "unset");
    let own = json!({"room": "R"});
    assert_eq!(acme.call(&plane, "DeleteRoom", own).await.0, 200);
    let told = node
        .expect(|message| match message {
            Down::Command(command) => Some(command),
            _ => None,
        })
        .await;
    let text = format!("{told:?}");
    assert!(
        text.contains("DeleteRoom"),
        "the first command is its own: {text}"
    );
    plane.stop().await;
}

#[tokio::test]
async fn webhooks_tell_of_their_own_project() {
    let (acme_heard, acme_url) = receiver(0).await;
    let (default_heard, default_url) = receiver(0).await;
    let plane = Plane::start(|config| {
        let webhook = |url: &str, project: Option<&str>| Webhook {
            url: url.to_owned(),
            project: project.map(str::to_owned),
            key: None,
        };
        config.webhooks = vec![
            webhook(&acme_url, Some("acme")),
            webhook(&default_url, None),
        ];
    })
    .await;
    let acme = Project::create(&plane, "acme").await;
    acme_heard.lock().expect("not poisoned").signed_by = (acme.key, acme.secret);
    let mut node = plane.connect(edge("fra", 1)).await;
    node.peers(0).await;
    inhabit(&plane, &node, "acme", "ann").await;
    inhabit(&plane, &node, "apex", "bob").await;
    plane.assign("edge-fra", "Q").await.expect("a plan");
    let told = |room: &str, events: &[&str]| {
        let events = events.iter().map(|event| (*event).to_owned()).collect();
        std::collections::BTreeMap::from([(room.to_owned(), events)])
    };
    let of_acme = told("R", &["room_started", "participant_joined"]);
    until(|| names(&acme_heard) == of_acme).await;
    let of_default = told("Q", &["room_started"]);
    until(|| names(&default_heard) == of_default).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(
        (names(&acme_heard), names(&default_heard)),
        (of_acme, of_default)
    );
    plane.stop().await;
}

/// Waits for it.
async fn until_async(mut it_is: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if it_is().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited in vain");
}
