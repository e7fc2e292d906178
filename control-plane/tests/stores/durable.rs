//! Rooms and their epochs, nodes, prices, history.

use std::sync::Arc;
use std::time::{Duration, Instant};

use control_plane::store::audit::By;
use control_plane::store::catalogue::{CatalogueNode, LinkPrice, Session};
use control_plane::store::webhooks::Webhook;
use control_plane::store::{
    Audit as _, Catalogue as _, Change, Durable as _, Fenced, Outbox as _, RoomRecord, Saved,
};
use lab::services::Postgres;
use proto::control::{Hello, RoomSettings};
use proto::{NodeId, RoomId};
use serde_json::json;

use crate::twin::Twin;

crate::suite! {
    what_is_saved_is_there_after_a_restart,
    a_transaction_is_all_or_nothing,
    what_was_cancelled_keeps_nothing_from_being_saved,
    old_records_go_and_epochs_stay,
    a_replica_that_is_behind_is_fenced,
    one_of_two_beginnings_wins,
    an_end_is_fenced_as_well,
    no_epoch_is_published_twice,
    texts_may_hold_anything,
    rooms_have_configurations,
    prices_are_set,
    history_is_kept,
}

const BY: By<'static> = By {
    who: "test",
    at_ms: 1,
};

fn room(name: &str, sid: &str, epoch: u64) -> RoomRecord {
    RoomRecord {
        room: name.into(),
        sid: sid.into(),
        epoch,
        members: ["a".into(), "b".into()].into(),
        created_at_ms: 7,
        settings: RoomSettings {
            version: 2,
            metadata: format!("of {name}"),
            ..RoomSettings::default()
        },
    }
}

fn hello(node: &str) -> Hello {
    Hello {
        node_id: node.to_owned(),
        incarnation: 3,
        role: 1,
        region: "fra".to_owned(),
        link_addresses: vec!["127.0.0.1:9".to_owned(), "[::1]:9".to_owned()],
        capacity: 100,
        ..Hello::default()
    }
}

fn ended(sid: &str, epoch: u64, at_ms: u64) -> Change {
    Change::RoomEnded {
        sid: sid.into(),
        epoch,
        at_ms,
    }
}

async fn what_is_saved_is_there_after_a_restart(twin: &Twin<'_>) {
    let store = twin.open().await;
    assert_eq!(store.load().await.expect("loads"), Saved::default());
    let saved = [
        Change::Room(room("R", "RM_1", 4)),
        Change::Room(room("S", "RM_2", 9)),
        Change::Node(hello("a")),
        Change::Node(hello("b")),
    ];
    assert_eq!(store.save(&saved).await.expect("saves"), []);
    let later = [
        Change::Room(room("R", "RM_1", 5)),
        ended("RM_2", 10, 8),
        Change::NodeForgotten("b".into()),
    ];
    assert_eq!(store.save(&later).await.expect("saves"), []);
    drop(store);
    let store = twin.open().await;
    let expected = Saved {
        rooms: vec![room("R", "RM_1", 5)],
        nodes: vec![hello("a")],
        epoch_max: 10,
    };
    assert_eq!(store.load().await.expect("loads"), expected);
    store.ping().await.expect("answers");
    // The catalogue remembers the dead; one that is back is alive.
    let nodes = store.catalogue_nodes().await.expect("nodes");
    let dead = CatalogueNode {
        hello: hello("b"),
        gone: true,
    };
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes[1], dead);
    store
        .save(&[Change::Node(hello("b"))])
        .await
        .expect("saves");
    assert_eq!(store.load().await.expect("loads").nodes.len(), 2);
}

async fn what_was_cancelled_keeps_nothing_from_being_saved(twin: &Twin<'_>) {
    let (ours, theirs) = (twin.open().await, twin.open().await);
    for step in 0..200 {
        // At every moment of a transaction, its beginning among them.
        let moment = Duration::from_micros(step * 15);
        drop(tokio::time::timeout(moment, ours.load()).await);
        let number = format!("n{step}");
        ours.save(&[Change::Node(hello(&number))])
            .await
            .expect("saves");
        let saved = tokio::time::timeout(Duration::from_secs(2), theirs.load()).await;
        let nodes = saved.expect("answers").expect("loads").nodes;
        assert!(
            nodes.contains(&hello(&number)),
            "{number} was not committed"
        );
    }
}

async fn a_transaction_is_all_or_nothing(twin: &Twin<'_>) {
    let store = twin.open().await;
    twin.meddle("ALTER TABLE nodes RENAME TO away").await;
    let changes = [
        Change::Room(room("R", "RM_1", 1)),
        Change::Webhook(webhook("EV_1", "R")),
        Change::Node(hello("a")),
    ];
    store.save(&changes).await.expect_err("no table");
    assert_eq!(store.backlog().await.expect("counts"), 0);
    twin.meddle("ALTER TABLE away RENAME TO nodes").await;
    assert_eq!(store.load().await.expect("loads"), Saved::default());
    assert_eq!(store.save(&changes).await.expect("saves"), []);
    assert_eq!(store.backlog().await.expect("counts"), 1);
    // Saved again after an answer that was lost: nothing is there twice.
    let again = [
        Change::Room(room("R", "RM_1", 2)),
        Change::Webhook(webhook("EV_1", "R")),
    ];
    assert_eq!(store.save(&again).await.expect("saves"), []);
    assert_eq!(store.backlog().await.expect("counts"), 1);
}

fn webhook(id: &str, room: &str) -> Webhook {
    Webhook {
        id: id.to_owned(),
        target: "t".to_owned(),
        room: room.into(),
        event: "room_started".to_owned(),
        payload: "{}".to_owned(),
        created_at_ms: 1,
    }
}

async fn old_records_go_and_epochs_stay(twin: &Twin<'_>) {
    let store = twin.open().await;
    let began = [
        Change::Room(room("R", "RM_1", 40)),
        Change::Room(room("S", "RM_2", 2)),
    ];
    store.save(&began).await.expect("saves");
    store.save(&[ended("RM_1", 41, 10)]).await.expect("saves");
    store.prune(10).await.expect("prunes");
    let past = store.past_rooms(&"R".into(), 10).await.expect("rooms");
    assert_eq!(past.len(), 1, "it ended at the limit");
    store.prune(11).await.expect("prunes");
    assert_eq!(store.past_rooms(&"R".into(), 10).await.expect("rooms"), []);
    let saved = store.load().await.expect("loads");
    assert_eq!((saved.rooms.len(), saved.epoch_max), (1, 41));
}

async fn a_replica_that_is_behind_is_fenced(twin: &Twin<'_>) {
    let (a, b) = (twin.open().await, twin.open().await);
    a.save(&[Change::Room(room("R", "RM_1", 1))])
        .await
        .expect("saves");
    b.load().await.expect("loads");
    let mut by_a = room("R", "RM_1", 2);
    by_a.members = ["a".into()].into();
    assert_eq!(
        a.save(&[Change::Room(by_a.clone())]).await.expect("saves"),
        []
    );

    // The same epoch is refused; what else is saved with it stays.
    let other = Change::Room(room("other", "RM_2", 1));
    let changes = [Change::Room(room("R", "RM_1", 2)), other];
    let fenced = b.save(&changes).await.expect("saves the rest");
    let expected = Fenced {
        sid: "RM_1".into(),
        room: "R".into(),
        current: Some(by_a.clone()),
        epoch_max: 2,
    };
    assert_eq!(fenced, [expected]);
    assert!(a.room(&"other".into()).await.expect("reads").is_some());
    // So is a later one by who does not know what happened in between.
    let c = twin.open().await;
    c.load().await.expect("loads");
    by_a.epoch = 4;
    a.save(&[Change::Room(by_a.clone())]).await.expect("saves");
    let fenced = c
        .save(&[Change::Room(room("R", "RM_1", 7))])
        .await
        .expect("answers");
    assert_eq!(fenced[0].current, Some(by_a.clone()));
    assert_eq!(fenced[0].epoch_max, 4);

    // Who was told may go on from there, and then the first one is behind.
    assert_eq!(
        c.save(&[Change::Room(room("R", "RM_1", 5))])
            .await
            .expect("saves"),
        []
    );
    by_a.epoch = 5;
    assert_eq!(
        a.save(&[Change::Room(by_a)]).await.expect("answers").len(),
        1
    );
    let found = a.room(&"R".into()).await.expect("reads");
    assert_eq!(found, Some(room("R", "RM_1", 5)));
    assert_eq!(
        a.save(&[Change::Room(room("R", "RM_1", 6))])
            .await
            .expect("saves"),
        []
    );
}

async fn one_of_two_beginnings_wins(twin: &Twin<'_>) {
    let (a, b) = (twin.open().await, twin.open().await);
    assert_eq!(
        a.save(&[Change::Room(room("R", "RM_a", 1))])
            .await
            .expect("saves"),
        []
    );
    for epoch in [1, 2] {
        let begun = b.save(&[Change::Room(room("R", "RM_b", epoch))]).await;
        let fenced = begun.expect("answers");
        assert_eq!(fenced[0].sid, "RM_b".into());
        assert_eq!(fenced[0].current, Some(room("R", "RM_a", 1)));
    }
    // A later room of the name must not go back with its epochs.
    a.save(&[Change::Room(room("R", "RM_a", 8))])
        .await
        .expect("saves");
    a.save(&[ended("RM_a", 8, 1)]).await.expect("saves");
    let low = b.save(&[Change::Room(room("R", "RM_b", 8))]).await;
    let fenced = low.expect("answers");
    assert_eq!((&fenced[0].current, fenced[0].epoch_max), (&None, 8));
    assert_eq!(
        b.save(&[Change::Room(room("R", "RM_b", 9))])
            .await
            .expect("saves"),
        []
    );
}

async fn an_end_is_fenced_as_well(twin: &Twin<'_>) {
    let (a, b) = (twin.open().await, twin.open().await);
    a.save(&[Change::Room(room("R", "RM_1", 1))])
        .await
        .expect("saves");
    b.load().await.expect("loads");
    a.save(&[Change::Room(room("R", "RM_1", 2))])
        .await
        .expect("saves");
    let fenced = b.save(&[ended("RM_1", 1, 5)]).await.expect("answers");
    assert_eq!(fenced[0].current, Some(room("R", "RM_1", 2)));
    assert_eq!(a.save(&[ended("RM_1", 2, 5)]).await.expect("saves"), []);
    // Twice is once; the other one's end of it is nothing.
    assert_eq!(a.save(&[ended("RM_1", 2, 6)]).await.expect("saves"), []);
    assert_eq!(b.save(&[ended("RM_1", 2, 7)]).await.expect("saves"), []);
    let past = a.past_rooms(&"R".into(), 1).await.expect("rooms");
    assert_eq!(past[0].ended_at_ms, Some(5));
    // A plan for what ended is refused.
    let late = b.save(&[Change::Room(room("R", "RM_1", 3))]).await;
    assert_eq!(late.expect("answers")[0].current, None);
}

async fn no_epoch_is_published_twice(twin: &Twin<'_>) {
    const REPLICAS: usize = 4;
    const EACH: u64 = 25;
    let first = twin.open().await;
    first
        .save(&[Change::Room(room("R", "RM_1", 0))])
        .await
        .expect("saves");
    let mut racing = Vec::new();
    for _ in 0..REPLICAS {
        let replica = Arc::new(twin.open().await);
        racing.push(tokio::spawn(async move {
            let mut published = Vec::new();
            while published.len() < EACH as usize {
                let read = replica.room(&"R".into()).await.expect("reads");
                let mut plan = read.expect("lives");
                // Others may do the same before it is saved.
                tokio::task::yield_now().await;
                plan.epoch += 1;
                let fenced = replica.save(&[Change::Room(plan.clone())]).await;
                if fenced.expect("answers").is_empty() {
                    published.push(plan.epoch);
                }
            }
            published
        }));
    }
    let mut published = Vec::new();
    for replica in racing {
        published.extend(replica.await.expect("ends"));
    }
    published.sort_unstable();
    let expected: Vec<_> = (1..=REPLICAS as u64 * EACH).collect();
    assert_eq!(published, expected);
}

async fn texts_may_hold_anything(twin: &Twin<'_>) {
    let store = twin.open().await;
    let name = "'; DROP TABLE rooms; -- \"\\ \r\n\u{7f}\u{1f600}ä%_$1";
    let changes = [
        Change::Room(room(name, "RM_1", 1)),
        Change::Room(room("nul\0nul", "RM_2", 2)),
        Change::Webhook(webhook("EV_1", "nul\0nul")),
    ];
    assert_eq!(store.save(&changes).await.expect("saves"), []);
    let found = store.room(&name.into()).await.expect("reads");
    assert_eq!(found, Some(room(name, "RM_1", 1)));
    assert!(
        store
            .room(&"nul\0nul".into())
            .await
            .expect("reads")
            .is_some()
    );
    assert_eq!(store.load().await.expect("loads").rooms.len(), 2);
    assert_eq!(store.room(&"%".into()).await.expect("reads"), None);
}

async fn rooms_have_configurations(twin: &Twin<'_>) {
    let store = twin.open().await;
    let name = RoomId::from("R");
    assert_eq!(store.room_config("p", &name).await.expect("reads"), None);
    for config in [json!({"max_participants": 3}), json!({"metadata": "x"})] {
        store
            .put_room_config("p", &name, &config, 5)
            .await
            .expect("puts");
        assert_eq!(
            store.room_config("p", &name).await.expect("reads"),
            Some(config)
        );
    }
    // Of another project it is another room.
    assert_eq!(store.room_config("q", &name).await.expect("reads"), None);
    assert!(!store.drop_room_config("q", &name).await.expect("drops"));
    assert!(store.drop_room_config("p", &name).await.expect("drops"));
    assert_eq!(store.room_config("p", &name).await.expect("reads"), None);
}

async fn prices_are_set(twin: &Twin<'_>) {
    let store = twin.open().await;
    let price = |source: &str, destination: &str, microdollars_per_gb| LinkPrice {
        source: source.to_owned(),
        destination: destination.to_owned(),
        microdollars_per_gb,
    };
    let first = [price("fra", "syd", 138_000), price("*", "*", 90_000)];
    store.set_prices(&first, BY).await.expect("sets");
    store
        .set_prices(&[price("fra", "syd", 80_000)], BY)
        .await
        .expect("sets");
    let expected = [price("*", "*", 90_000), price("fra", "syd", 80_000)];
    assert_eq!(store.prices().await.expect("reads"), expected);
    let log = store.entries(0, 10).await.expect("reads");
    assert_eq!(log.len(), 2);
    assert_eq!(
        log[1].act.detail,
        json!({"prices": [["fra", "syd", 80_000]]})
    );
}

async fn history_is_kept(twin: &Twin<'_>) {
    let store = twin.open().await;
    let session = |participant: &str, joined_at_ms| Session {
        participant: participant.to_owned(),
        room_sid: "RM_1".into(),
        room: "R".into(),
        identity: "ada".into(),
        name: "Ada".to_owned(),
        node: NodeId::from("edge-fra-0"),
        joined_at_ms,
        left_at_ms: None,
    };
    let left = |participant: &str, at_ms| Change::Left {
        participant: participant.to_owned(),
        at_ms,
    };
    let changes = [
        Change::Room(room("R", "RM_1", 1)),
        Change::Joined(session("PA_2", 20)),
        Change::Joined(session("PA_1", 10)),
        left("PA_1", 30),
        // Reported again, late.
        Change::Joined(session("PA_1", 10)),
        left("PA_1", 40),
        left("PA_unknown", 40),
        // From one edge to another, which may tell later than the first one does.
        Change::Joined(session("PA_3", 25)),
        left("PA_3", 41),
        Change::Joined(Session {
            node: "edge-syd-0".into(),
            ..session("PA_3", 25)
        }),
    ];
    store.save(&changes).await.expect("saves");
    let mut first = session("PA_1", 10);
    first.left_at_ms = Some(30);
    let mut moved = session("PA_3", 25);
    moved.node = "edge-syd-0".into();
    let expected = vec![first, session("PA_2", 20), moved];
    assert_eq!(
        store.sessions(&"RM_1".into()).await.expect("reads"),
        expected
    );

    store.save(&[ended("RM_1", 1, 50)]).await.expect("saves");
    store
        .save(&[Change::Room(room("R", "RM_2", 2))])
        .await
        .expect("saves");
    let past = store.past_rooms(&"R".into(), 10).await.expect("reads");
    let sids: Vec<_> = past.iter().map(|past| past.sid.as_str()).collect();
    assert_eq!(sids, ["RM_2", "RM_1"]);
    assert_eq!(
        store.past_rooms(&"R".into(), 1).await.expect("reads").len(),
        1
    );
    let ends: Vec<_> = store.sessions(&"RM_1".into()).await.expect("reads");
    let ends: Vec<_> = ends.iter().map(|session| session.left_at_ms).collect();
    assert_eq!(
        ends,
        [Some(30), Some(50), Some(50)],
        "nobody outstays a room"
    );
    store.prune(31).await.expect("prunes");
    let kept = store.sessions(&"RM_1".into()).await.expect("reads");
    assert_eq!(kept.len(), 2);
    store.prune(60).await.expect("prunes");
    assert_eq!(store.sessions(&"RM_1".into()).await.expect("reads"), []);
}

/// A crash of the server loses nothing that was saved, and the same pool goes on when it is back.
#[tokio::test]
async fn postgres_may_crash() {
    let mut server = Postgres::start().expect("PostgreSQL starts");
    let twin_url = server.create("crash").expect("a database");
    let key = control_plane::store::sealed::generate().expect("random");
    let sealer = control_plane::store::sealed::Sealer::new(&key).expect("a key");
    let store = control_plane::store::sql::Sql::postgres(&twin_url.into(), sealer).await;
    let store = store.expect("opens");
    store
        .save(&[Change::Room(room("R", "RM_1", 1))])
        .await
        .expect("saves");
    server.kill();
    let began = Instant::now();
    store
        .save(&[Change::Room(room("R", "RM_1", 2))])
        .await
        .expect_err("it is gone");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    server.restart().expect("PostgreSQL starts again");
    assert_eq!(
        store.load().await.expect("loads").rooms,
        [room("R", "RM_1", 1)]
    );
    assert_eq!(
        store
            .save(&[Change::Room(room("R", "RM_1", 2))])
            .await
            .expect("saves"),
        []
    );
}
