use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use livekit_protocol as lk;

use super::*;
use crate::token::SigningKey;

fn event(room: &str, number: u32) -> Event {
    let id = format!("EV_{room}_{number}");
    Event {
        room: room.into(),
        room_sid: room.into(),
        at_ms: 0,
        content: Box::new(lk::WebhookEvent {
            event: "room_started".to_owned(),
            id: id.clone(),
            ..lk::WebhookEvent::default()
        }),
        id,
    }
}

#[test]
fn every_url_hears_of_an_event_and_none_is_in_the_store() {
    let target = |url: &str| Target {
        url: url.to_owned(),
        project: DEFAULT_PROJECT.to_owned(),
        key: None,
    };
    let urls = ["http://a/secret", "http://b/secret"];
    let webhooks = Webhooks::new(urls.map(target).to_vec());
    let changes: Vec<_> = webhooks.changes(&event("R", 1)).collect();
    let mut heard = Vec::new();
    for change in changes {
        let Change::Webhook(webhook) = change else {
            panic!("another change");
        };
        assert!(!format!("{webhook:?}").contains("secret"));
        let body: serde_json::Value = serde_json::from_str(&webhook.payload).unwrap();
        assert_eq!(
            (webhook.id.as_str(), webhook.room.as_str()),
            ("EV_R_1", "R")
        );
        assert_eq!(body["id"], "EV_R_1");
        heard.push(webhooks.targets[&webhook.target].url.clone());
    }
    heard.sort_unstable();
    assert_eq!(heard, urls);
}

#[test]
fn the_token_vouches_for_the_body() {
    #[derive(serde::Deserialize)]
    struct Claims {
        iss: String,
        nbf: u64,
        exp: u64,
        sha256: String,
    }
    let key = SigningKey {
        key: "devkey",
        secret: "secret",
    };
    let body = serde_json::to_string(&event("R", 1).content).unwrap();
    let authorization = sign(&body, key, SystemTime::now()).unwrap();
    let key = jsonwebtoken::DecodingKey::from_secret(b"secret");
    let validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    let token = jsonwebtoken::decode::<Claims>(&authorization, &key, &validation);
    let claims = token.unwrap().claims;
    assert_eq!(
        (claims.iss.as_str(), claims.exp - claims.nbf),
        ("devkey", 300)
    );
    let digest = digest(&SHA256, body.as_bytes());
    assert_eq!(claims.sha256, STANDARD.encode(digest));
}
