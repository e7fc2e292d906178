//! API keys by the operators' service: what nodes and the gateway make of them, and when.

use std::time::{Duration, Instant, SystemTime};

use control_plane::token::{Grants, SigningKey, Subject, mint};
use proto::control::admin_client::AdminClient;
use proto::control::control_message::Message as Down;
use proto::control::{
    ApiKey, CreateKeyRequest, CreateProjectRequest, ListAuditRequest, ListKeysRequest,
    ListProjectsRequest, RevokeKeyRequest, RotateKeyRequest, VerifyAuditRequest,
};
use tonic::Code;

use crate::plane::{FakeNode, Plane, edge};

/// How soon a change has to be known everywhere.
const EFFECTIVE: Duration = Duration::from_secs(2);

/// Waits for a list of keys that is as wanted.
async fn hears(node: &mut FakeNode, wanted: impl Fn(&[ApiKey]) -> bool) -> Duration {
    let began = Instant::now();
    node.expect(|message| match message {
        Down::Keys(list) if wanted(&list.keys) => Some(()),
        _ => None,
    })
    .await;
    began.elapsed()
}

/// Status of a request to the gateway with a token signed by this key; the server API has to agree.
async fn status(plane: &Plane, key: &str, secret: &str) -> u16 {
    let subject = Subject {
        identity: "server".to_owned(),
        ..Subject::default()
    };
    let grants = Grants {
        room_list: true,
        ..Grants::default()
    };
    let now = SystemTime::now();
    let token = mint(
        SigningKey { key, secret },
        &subject,
        &grants,
        now,
        EFFECTIVE * 30,
    );
    let (client, token) = (reqwest::Client::new(), token.expect("signs"));
    let request = client
        .get(format!("{}/api/v1/rooms", plane.http))
        .bearer_auth(&token);
    let gateway = request.send().await.expect("answers").status();
    let request = client
        .post(format!(
            "{}/twirp/livekit.RoomService/ListRooms",
            plane.http
        ))
        .bearer_auth(&token)
        .json(&serde_json::json!({}));
    let server_api = request.send().await.expect("answers").status();
    assert_eq!(gateway, server_api);
    gateway.as_u16()
}

#[tokio::test]
async fn keys_are_effective_and_void_without_a_restart() {
    let plane = Plane::start(|config| config.development = false).await;
    let mut node = plane.connect(edge("fra", 1)).await;
    hears(&mut node, |keys| {
        keys.len() == 1 && keys[0].project == "default"
    })
    .await;
    let mut admin = AdminClient::new(plane.channel().await);
    let project = CreateProjectRequest {
        id: "acme".to_owned(),
        ..CreateProjectRequest::default()
    };
    admin.create_project(project).await.expect("creates");

    let wish = CreateKeyRequest {
        project: "acme".to_owned(),
        label: "first".to_owned(),
        by: "ada".to_owned(),
    };
    let made = admin.create_key(wish).await.expect("creates").into_inner();
    let (key, secret) = (made.key.expect("a key").key, made.secret);
    let took = hears(&mut node, |keys| {
        keys.iter()
            .any(|k| k.key == key && k.secret == secret && k.project == "acme")
    })
    .await;
    assert!(took < EFFECTIVE, "{took:?}");
    assert_eq!(status(&plane, &key, &secret).await, 200);

    let rotate = RotateKeyRequest {
        project: "acme".to_owned(),
        key: key.clone(),
        by: "ada".to_owned(),
    };
    let fresh = admin
        .rotate_key(rotate)
        .await
        .expect("rotates")
        .into_inner()
        .secret;
    assert_ne!(fresh, secret);
    hears(&mut node, |keys| keys.iter().any(|k| k.secret == fresh)).await;
    assert_eq!(
        status(&plane, &key, &secret).await,
        401,
        "the secret before"
    );
    assert_eq!(status(&plane, &key, &fresh).await, 200);

    let revoke = |project: &str| RevokeKeyRequest {
        project: project.to_owned(),
        key: key.clone(),
        by: "bob".to_owned(),
    };
    let foreign = admin
        .revoke_key(revoke(""))
        .await
        .expect_err("of another project");
    assert_eq!(foreign.code(), Code::NotFound);
    admin.revoke_key(revoke("acme")).await.expect("revokes");
    let took = hears(&mut node, |keys| keys.iter().all(|k| k.key != key)).await;
    assert!(took < EFFECTIVE, "{took:?}");
    assert_eq!(status(&plane, &key, &fresh).await, 401);
    // Who connects now hears only of those that are valid.
    let mut later = plane.connect(edge("syd", 1)).await;
    hears(&mut later, |keys| {
        keys.len() == 1 && keys[0].key == "devkey"
    })
    .await;
    plane.stop().await;
}

#[tokio::test]
async fn operators_see_keys_without_secrets_and_who_made_them() {
    let plane = Plane::start(|_| {}).await;
    let mut admin = AdminClient::new(plane.channel().await);
    let wish = CreateKeyRequest {
        by: "ada".to_owned(),
        ..CreateKeyRequest::default()
    };
    let made = admin.create_key(wish).await.expect("creates").into_inner();
    let key = made.key.expect("a key");
    assert_eq!(key.project, "default");
    let listed = admin.list_keys(ListKeysRequest::default()).await;
    let listed = listed.expect("lists").into_inner();
    assert_eq!(listed.keys.len(), 2);
    assert!(!format!("{listed:?}").contains(&made.secret));
    let of_other = ListKeysRequest {
        project: "acme".to_owned(),
    };
    let none = admin.list_keys(of_other).await.expect("lists").into_inner();
    assert!(none.keys.is_empty());
    let projects = admin
        .list_projects(ListProjectsRequest {})
        .await
        .expect("lists");
    assert_eq!(projects.into_inner().projects.len(), 1);

    let log = admin.list_audit(ListAuditRequest::default()).await;
    let entries = log.expect("lists").into_inner().entries;
    let last = entries.last().expect("an entry");
    assert_eq!(
        (last.who.as_str(), last.action.as_str()),
        ("ada", "key.create")
    );
    assert!(last.target.ends_with(&key.key) && !last.detail.contains(&made.secret));
    let sound = admin
        .verify_audit(VerifyAuditRequest {})
        .await
        .expect("checks")
        .into_inner();
    assert_eq!((sound.sound, sound.entries), (true, last.seq));
    plane.stop().await;
}

#[tokio::test]
async fn senseless_wishes_are_refused() {
    let plane = Plane::start(|_| {}).await;
    let mut admin = AdminClient::new(plane.channel().await);
    for id in [
        "",
        "Acme",
        "a b",
        "a/b",
        "ä",
        &"x".repeat(65),
        "'; DROP TABLE projects",
    ] {
        let wish = CreateProjectRequest {
            id: id.to_owned(),
            ..CreateProjectRequest::default()
        };
        let refused = admin.create_project(wish).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{id:?}");
    }
    let twice = CreateProjectRequest {
        id: "default".to_owned(),
        ..CreateProjectRequest::default()
    };
    let refused = admin.create_project(twice).await.expect_err("exists");
    assert_eq!(refused.code(), Code::AlreadyExists);
    let nowhere = CreateKeyRequest {
        project: "nowhere".to_owned(),
        ..CreateKeyRequest::default()
    };
    let refused = admin.create_key(nowhere).await.expect_err("no project");
    assert_eq!(refused.code(), Code::NotFound);
    let wordy = CreateKeyRequest {
        label: "x".repeat(257),
        ..CreateKeyRequest::default()
    };
    let refused = admin.create_key(wordy).await.expect_err("too long");
    assert_eq!(refused.code(), Code::InvalidArgument);
    plane.stop().await;
}
