//! The queue of events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control_plane::store::webhooks::{Again, Claim, Webhook};
use control_plane::store::{Change, Durable as _, Outbox as _, RoomRecord};
use proto::control::RoomSettings;

use crate::twin::Twin;

crate::suite! {
    events_of_a_room_come_in_order,
    a_lease_ends_and_another_worker_takes_over,
    an_event_that_failed_holds_back_its_room_alone,
    workers_share_the_work,
    events_of_a_fenced_room_are_left_out,
}

fn webhook(id: &str, target: &str, room: &str) -> Webhook {
    Webhook {
        id: id.to_owned(),
        target: target.to_owned(),
        room: room.into(),
        event: "participant_joined".to_owned(),
        payload: format!("{{\"id\":\"{id}\"}}"),
        created_at_ms: 100,
    }
}

fn event(id: &str, target: &str, room: &str) -> Change {
    Change::Webhook(webhook(id, target, room))
}

fn claim(worker: &str, now_ms: u64) -> Claim<'_> {
    Claim {
        worker,
        now_ms,
        lease_ms: 1_000,
        limit: 10,
    }
}

async fn events_of_a_room_come_in_order(twin: &Twin<'_>) {
    let store = twin.open().await;
    let changes = [
        event("EV_1", "p", "R"),
        event("EV_2", "p", "R"),
        event("EV_3", "p", "S"),
        // The first one again, for another URL.
        event("EV_1", "q", "R"),
    ];
    store.save(&changes).await.expect("saves");
    assert_eq!(
        store.claim(claim("w", 99)).await.expect("claims"),
        [],
        "not due yet"
    );
    let first = store.claim(claim("w", 100)).await.expect("claims");
    let ids: Vec<_> = first.iter().map(|d| d.webhook.id.as_str()).collect();
    assert_eq!(ids, ["EV_1", "EV_1", "EV_3"]);
    assert_eq!(first[0].attempts, 1);
    assert_eq!(first[0].webhook.payload, "{\"id\":\"EV_1\"}");
    // The next of a room only when the first is done.
    assert_eq!(store.claim(claim("w", 100)).await.expect("claims"), []);
    assert!(
        store
            .delivered(&webhook("EV_1", "p", "R"), "w")
            .await
            .expect("done")
    );
    let next = store.claim(claim("w", 100)).await.expect("claims");
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].webhook.id, "EV_2");
    let last = webhook("EV_1", "q", "R");
    for delivery in next.iter().chain(&first[1..]) {
        let done = store.delivered(&delivery.webhook, "w").await;
        assert!(done.expect("done"));
    }
    assert!(!store.delivered(&last, "w").await.expect("done"), "once");
    assert_eq!(store.backlog().await.expect("counts"), 0);
    // Known ids do not come back, until they are so old that nobody sends them again.
    store.save(&[event("EV_1", "p", "R")]).await.expect("saves");
    assert_eq!(store.backlog().await.expect("counts"), 0);
    store.prune(101).await.expect("prunes");
    store.save(&[event("EV_1", "p", "R")]).await.expect("saves");
    assert_eq!(store.backlog().await.expect("counts"), 1);
}

async fn a_lease_ends_and_another_worker_takes_over(twin: &Twin<'_>) {
    let store = twin.open().await;
    store.save(&[event("EV_1", "p", "R")]).await.expect("saves");
    assert_eq!(store.claim(claim("a", 100)).await.expect("claims").len(), 1);
    assert_eq!(store.claim(claim("b", 1_099)).await.expect("claims"), []);
    let taken = store.claim(claim("b", 1_100)).await.expect("claims");
    assert_eq!((taken.len(), taken[0].attempts), (1, 2));
    assert_eq!(taken[0].webhook.id, "EV_1", "the id is the same");
    let first = webhook("EV_1", "p", "R");
    // The first one comes too late with its news.
    assert!(!store.delivered(&first, "a").await.expect("answers"));
    let again = Again {
        due_at_ms: 5_000,
        error: "x",
    };
    let late = store.reschedule(&first, "a", again).await;
    assert!(!late.expect("answers"));
    assert_eq!(store.backlog().await.expect("counts"), 1);
    assert!(store.delivered(&first, "b").await.expect("answers"));
}

async fn an_event_that_failed_holds_back_its_room_alone(twin: &Twin<'_>) {
    let store = twin.open().await;
    let changes = [
        event("EV_1", "p", "R"),
        event("EV_2", "p", "R"),
        event("EV_3", "p", "S"),
    ];
    store.save(&changes).await.expect("saves");
    assert_eq!(store.claim(claim("w", 100)).await.expect("claims").len(), 2);
    let again = Again {
        due_at_ms: 500,
        error: "it said 503",
    };
    let event = webhook("EV_1", "p", "R");
    let given = store.reschedule(&event, "w", again);
    assert!(given.await.expect("answers"));
    assert!(
        store
            .delivered(&webhook("EV_3", "p", "S"), "w")
            .await
            .expect("answers")
    );
    assert_eq!(store.claim(claim("w", 499)).await.expect("claims"), []);
    let later = store.claim(claim("v", 500)).await.expect("claims");
    assert_eq!(later.len(), 1);
    assert_eq!(later[0].webhook.id, "EV_1");
    assert_eq!(
        (later[0].attempts, later[0].last_error.as_str()),
        (2, "it said 503")
    );
}

async fn workers_share_the_work(twin: &Twin<'_>) {
    const ROOMS: usize = 20;
    const EACH: usize = 5;
    let store = twin.open().await;
    let mut events = Vec::new();
    for number in 0..EACH {
        for room in 0..ROOMS {
            events.push(event(
                &format!("EV_{room}_{number}"),
                "p",
                &format!("R{room}"),
            ));
        }
    }
    store.save(&events).await.expect("saves");
    let mut working = Vec::new();
    for worker in 0..4 {
        let store = Arc::new(twin.open().await);
        working.push(tokio::spawn(async move {
            let worker = format!("w{worker}");
            let mut done = Vec::new();
            while store.backlog().await.expect("counts") > 0 {
                let mut wish = claim(&worker, 100);
                wish.limit = 3;
                for delivery in store.claim(wish).await.expect("claims") {
                    done.push((
                        delivery.webhook.room.to_string(),
                        delivery.webhook.id.clone(),
                    ));
                    let taken = store.delivered(&delivery.webhook, &worker).await;
                    assert!(taken.expect("answers"), "nobody else had it");
                }
            }
            done
        }));
    }
    let mut delivered: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for worker in working {
        for (room, id) in worker.await.expect("ends") {
            delivered.entry(room).or_default().push(id);
        }
    }
    assert_eq!(delivered.len(), ROOMS);
    for ids in delivered.values_mut() {
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), EACH, "each once: {ids:?}");
    }
}

async fn events_of_a_fenced_room_are_left_out(twin: &Twin<'_>) {
    let (ours, theirs) = (twin.open().await, twin.open().await);
    let began = |sid: &str| {
        Change::Room(RoomRecord {
            room: "R".into(),
            sid: sid.into(),
            epoch: 1,
            members: BTreeSet::new(),
            created_at_ms: 1,
            settings: RoomSettings::default(),
        })
    };
    let won = [began("RM_1"), event("EV_1", "p", "R")];
    assert_eq!(ours.save(&won).await.expect("saves"), []);
    let lost = [
        began("RM_2"),
        event("EV_2", "p", "R"),
        event("EV_3", "p", "S"),
    ];
    let fenced = theirs.save(&lost).await.expect("saves");
    assert_eq!(fenced.len(), 1);
    let due = ours.claim(claim("w", 100)).await.expect("claims");
    let ids: Vec<_> = due.iter().map(|d| d.webhook.id.as_str()).collect();
    assert_eq!(ids, ["EV_1", "EV_3"]);
}
