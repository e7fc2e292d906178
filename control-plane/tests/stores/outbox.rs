//! The queue of events.

use std::collections::BTreeMap;
use std::sync::Arc;

use control_plane::store::webhooks::{Claim, Webhook};
use control_plane::store::{Change, Durable as _, Outbox as _};

use crate::twin::Twin;

crate::suite! {
    events_of_a_room_come_in_order,
    a_lease_ends_and_another_worker_takes_over,
    an_event_that_failed_holds_back_its_room_alone,
    workers_share_the_work,
}

fn event(id: &str, project: &str, room: &str) -> Change {
    Change::Webhook(Webhook {
        id: id.to_owned(),
        project: project.to_owned(),
        room: room.into(),
        event: "participant_joined".to_owned(),
        payload: format!("{{\"id\":\"{id}\"}}"),
        created_at_ms: 100,
    })
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
        // A room of the same name of another project.
        event("EV_4", "q", "R"),
    ];
    store.save(&changes).await.expect("saves");
    assert_eq!(
        store.claim(claim("w", 99)).await.expect("claims"),
        [],
        "not due yet"
    );
    let first = store.claim(claim("w", 100)).await.expect("claims");
    let ids: Vec<_> = first.iter().map(|d| d.webhook.id.as_str()).collect();
    assert_eq!(ids, ["EV_1", "EV_3", "EV_4"]);
    assert_eq!(first[0].attempts, 1);
    assert_eq!(first[0].webhook.payload, "{\"id\":\"EV_1\"}");
    // The next of a room only when the first is done.
    assert_eq!(store.claim(claim("w", 100)).await.expect("claims"), []);
    assert!(store.delivered("EV_1", "w").await.expect("done"));
    let next = store.claim(claim("w", 100)).await.expect("claims");
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].webhook.id, "EV_2");
    for id in ["EV_2", "EV_3", "EV_4"] {
        assert!(store.delivered(id, "w").await.expect("done"));
    }
    assert!(!store.delivered("EV_4", "w").await.expect("done"), "once");
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
    // The first one comes too late with its news.
    assert!(!store.delivered("EV_1", "a").await.expect("answers"));
    assert!(
        !store
            .reschedule("EV_1", "a", 5_000, "x")
            .await
            .expect("answers")
    );
    assert_eq!(store.backlog().await.expect("counts"), 1);
    assert!(store.delivered("EV_1", "b").await.expect("answers"));
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
    let again = store.reschedule("EV_1", "w", 500, "it said 503").await;
    assert!(again.expect("answers"));
    assert!(store.delivered("EV_3", "w").await.expect("answers"));
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
                    let taken = store.delivered(&delivery.webhook.id, &worker).await;
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
