use std::sync::Arc;
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

async fn taken(outbox: &Memory, now_ms: u64) -> Vec<(u64, String, u32)> {
    let taken = outbox.take(now_ms, now_ms + 30_000, 100).await.unwrap();
    let show = |d: Delivery| (d.id, format!("{} {}", d.url, d.event.id), d.attempts);
    taken.into_iter().map(show).collect()
}

#[tokio::test]
async fn events_of_a_room_come_one_by_one_and_once_per_url() {
    let outbox = Memory::new(100);
    let urls = ["http://a".to_owned(), "http://b".to_owned()];
    let events = [event("R", 1), event("R", 2), event("S", 1)];
    outbox.add(&events, &urls).await.unwrap();
    outbox.add(&events, &urls).await.unwrap();
    assert_eq!(outbox.waiting(), 6);
    let first = taken(&outbox, 0).await;
    let names: Vec<&str> = first.iter().map(|(_, name, _)| name.as_str()).collect();
    let expected = [
        "http://a EV_R_1",
        "http://a EV_S_1",
        "http://b EV_R_1",
        "http://b EV_S_1",
    ];
    assert_eq!(names, expected);
    assert_eq!(taken(&outbox, 1).await, [], "they are under way");

    // One is told: the room's next is due there. One is not: it comes again before its next.
    outbox.done(first[0].0).await.unwrap();
    outbox.put_off(first[2].0, 500).await.unwrap();
    assert_eq!(taken(&outbox, 499).await.len(), 1);
    let again = taken(&outbox, 500).await;
    assert_eq!(again, [(first[2].0, "http://b EV_R_1".to_owned(), 1)]);
    // Nobody said what became of it: it is due when its time is over.
    let lost = taken(&outbox, 30_000).await;
    assert!(lost.iter().any(|(id, ..)| *id == first[1].0), "{lost:?}");
}

#[tokio::test]
async fn beyond_the_limit_the_oldest_are_lost_and_counted() {
    let outbox = Memory::new(2);
    let urls = ["http://a".to_owned()];
    let events: Vec<Event> = (1..=5).map(|number| event("R", number)).collect();
    outbox.add(&events, &urls).await.unwrap();
    assert_eq!((outbox.waiting(), outbox.dropped()), (2, 3));
    assert_eq!(taken(&outbox, 0).await[0].1, "http://a EV_R_4");
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
    let content = event("R", 1).content;
    let signed = sign(&content, key, SystemTime::now()).unwrap();
    let body: serde_json::Value = serde_json::from_str(&signed.body).unwrap();
    assert_eq!(body["event"], "room_started");
    let key = jsonwebtoken::DecodingKey::from_secret(b"secret");
    let validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    let token = jsonwebtoken::decode::<Claims>(&signed.authorization, &key, &validation);
    let claims = token.unwrap().claims;
    assert_eq!(
        (claims.iss.as_str(), claims.exp - claims.nbf),
        ("devkey", 300)
    );
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, signed.body.as_bytes());
    assert_eq!(claims.sha256, STANDARD.encode(digest));
}

#[tokio::test]
async fn who_waits_for_events_hears_of_new_ones() {
    let webhooks = Webhooks::new(Arc::new(Memory::new(10)), &["http://a".to_owned()]);
    webhooks.add(&[event("R", 1)]).await.unwrap();
    webhooks.added.notified().await;
}
