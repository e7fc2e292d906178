//! What is left when Redis is gone, and what comes back.

use std::time::{Duration, Instant};

use control_plane::store::Ephemeral as _;
use control_plane::store::ephemeral::{MISSED, Rate, Taken};
use serde_json::json;

use crate::ephemeral::{counted, node, replica, report, room};
use crate::eventually;

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_replica_knows_its_own_part() {
    let mut server = lab::services::Redis::start().expect("Redis starts");
    let url = server.url();
    let (a, metrics) = counted(&url, "mesh", "a").await;
    let b = replica(&url, "mesh", "b").await;
    let news = vec![node("n1", "fra"), room("R", 1, &["n1"])];
    a.apply(news).await.expect("applies");
    b.apply(vec![node("n2", "syd"), room("S", 1, &["n2"])])
        .await
        .expect("applies");
    assert_eq!(b.rooms().await.expect("reads").len(), 2);
    assert_eq!(a.rooms().await.expect("reads").len(), 2);
    assert!(a.whole());
    assert_eq!(metrics.stores.redis_up.get(), 1);

    server.kill();
    eventually("it is seen to be gone", PATIENCE, async || !a.whole()).await;
    assert_eq!(metrics.stores.redis_up.get(), 0);
    // Nobody who plans rooms waits for it, and nobody who reads either.
    let began = Instant::now();
    for number in 0..100 {
        let name = format!("T{number}");
        let news = vec![room(&name, 1, &["n1"]), report(&name, "n1", &[("ada", 1)])];
        a.apply(news).await.expect("applies");
    }
    let rooms = a.rooms().await.expect("reads");
    assert_eq!(rooms.len(), 101, "its own part");
    assert_eq!(a.nodes().await.expect("reads").len(), 1);
    let rate = Rate {
        per_second: 0.001,
        burst: 1.0,
    };
    assert_eq!(a.take("x", rate, 1).await.expect("answers"), Taken::Allowed);
    assert_ne!(a.take("x", rate, 1).await.expect("answers"), Taken::Allowed);
    a.remember("k", vec![1], 60_000).await.expect("keeps");
    assert_eq!(a.recall("k").await.expect("reads"), Some(vec![1]));
    let mut events = a.subscribe();
    a.publish("keys", json!(1)).await.expect("tells");
    assert_eq!(events.recv().await.expect("heard here").topic, "keys");
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    assert!(
        metrics
            .stores
            .redis_failures
            .with_label_values(&["write"])
            .get()
            > 0
    );

    // Empty when it is back: both write their part anew.
    server.restart().expect("Redis starts again");
    eventually("all is known again", PATIENCE, async || {
        a.whole() && b.whole() && b.rooms().await.expect("reads").len() == 102
    })
    .await;
    assert_eq!(b.nodes().await.expect("reads").len(), 2);
    let people = |found: Vec<proto::control::RoomSummary>| -> u32 {
        found.iter().map(|room| room.participants).sum()
    };
    assert_eq!(people(b.rooms().await.expect("reads")), 100);
    assert_eq!(metrics.stores.redis_up.get(), 1);
    // Events may have been lost meanwhile, and everybody is told so.
    let missed = tokio::time::timeout(PATIENCE, events.recv()).await;
    assert_eq!(missed.expect("in time").expect("open").topic, MISSED);
    let mut by_b = b.subscribe();
    eventually("they hear each other again", PATIENCE, async || {
        a.publish("keys", json!(2)).await.expect("tells");
        by_b.try_recv().is_ok_and(|event| event.from == "a")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_starts_without_redis() {
    let mut server = lab::services::Redis::start().expect("Redis starts");
    server.kill();
    let (a, metrics) = counted(&server.url(), "mesh", "a").await;
    assert!(!a.whole());
    a.apply(vec![room("R", 1, &["n1"])]).await.expect("applies");
    assert_eq!(a.rooms().await.expect("reads").len(), 1);
    server.restart().expect("Redis starts");
    eventually("it is there", PATIENCE, async || a.whole()).await;
    let b = replica(&server.url(), "mesh", "b").await;
    assert_eq!(b.rooms().await.expect("reads").len(), 1);
    assert_eq!(metrics.stores.redis_up.get(), 1);
}
