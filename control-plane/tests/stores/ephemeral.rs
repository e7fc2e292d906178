//! Who is where, events, rates, remembered values.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use control_plane::metrics::Metrics;
use control_plane::store::ephemeral::{Rate, Taken};
use control_plane::store::memory::Memory;
use control_plane::store::redis::{Options, Redis};
use control_plane::store::{Ephemeral, Update};
use proto::NodeId;
use proto::control::{
    Hello, LinkState, Node, NodeState, ParticipantReport, RoomPlan, RoomReport, RoomSummary,
    TrackReport,
};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// Two replicas' stores: the same one where there is only one process.
pub(crate) type Pair = (Arc<dyn Ephemeral>, Arc<dyn Ephemeral>);

#[tokio::test]
async fn memory() {
    suite(async || {
        let memory: Arc<dyn Ephemeral> = Arc::new(Memory::new("a"));
        (Arc::clone(&memory), memory)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis() {
    let server = lab::services::Redis::start().expect("Redis starts");
    let mut meshes = 0..;
    suite(async || {
        let mesh = meshes
            .next()
            .map(|mesh| format!("mesh{mesh}"))
            .expect("endless");
        let url = server.url();
        let (a, b) = (
            replica(&url, &mesh, "a").await,
            replica(&url, &mesh, "b").await,
        );
        (a as Arc<dyn Ephemeral>, b as Arc<dyn Ephemeral>)
    })
    .await;
}

pub(crate) async fn replica(url: &str, mesh: &str, name: &str) -> Arc<Redis> {
    counted(url, mesh, name).await.0
}

pub(crate) async fn counted(url: &str, mesh: &str, name: &str) -> (Arc<Redis>, Metrics) {
    let options = Options {
        url: url.into(),
        mesh: mesh.to_owned(),
        replica: name.to_owned(),
    };
    let metrics = Metrics::register(&prometheus::Registry::new()).expect("registers");
    let opened = Redis::open(&options, metrics.clone(), CancellationToken::new()).await;
    (Arc::new(opened.expect("opens")), metrics)
}

async fn suite(mut fresh: impl AsyncFnMut() -> Pair) {
    rooms_are_shown_with_what_nodes_report(fresh().await).await;
    late_news_is_left_out(fresh().await).await;
    nodes_come_and_go(fresh().await).await;
    participants_are_found(fresh().await).await;
    many_rooms_are_listed(fresh().await).await;
    replicas_hear_each_other(fresh().await).await;
    rates_are_held(fresh().await).await;
    values_are_kept_for_their_time(fresh().await).await;
}

pub(crate) fn node(id: &str, region: &str) -> Update {
    let hello = Hello {
        node_id: id.to_owned(),
        region: region.to_owned(),
        ..Hello::default()
    };
    Update::Node(Node {
        hello: Some(hello),
        state: NodeState::Ready.into(),
        ..Node::default()
    })
}

pub(crate) fn room(name: &str, epoch: u64, nodes: &[&str]) -> Update {
    let plan = |node: &&str| {
        let plan = RoomPlan {
            room: name.to_owned(),
            epoch,
            members: vec![(*node).to_owned()],
            ..RoomPlan::default()
        };
        (NodeId::from(*node), plan)
    };
    let summary = RoomSummary {
        room: name.to_owned(),
        room_sid: format!("RM_{name}"),
        epoch,
        edges: nodes.iter().map(|node| (*node).to_owned()).collect(),
        ..RoomSummary::default()
    };
    Update::Room {
        summary,
        plans: nodes.iter().map(plan).collect::<BTreeMap<_, _>>(),
    }
}

pub(crate) fn report(room: &str, node: &str, people: &[(&str, u64)]) -> Update {
    let participant = |(identity, joined_at_ms): &(&str, u64)| ParticipantReport {
        identity: (*identity).to_owned(),
        joined_at_ms: *joined_at_ms,
        ..ParticipantReport::default()
    };
    let report = RoomReport {
        room: room.to_owned(),
        participants: people.iter().map(participant).collect(),
        ..RoomReport::default()
    };
    Update::Report {
        node: node.into(),
        report,
    }
}

async fn apply(store: &Arc<dyn Ephemeral>, updates: Vec<Update>) {
    store.apply(updates).await.expect("applies");
    // Whoever reads from the same replica finds it; the others do once this one did.
    store.rooms().await.expect("reads");
}

async fn rooms_are_shown_with_what_nodes_report((a, b): Pair) {
    let mut n1 = report("R", "n1", &[("ada", 1), ("bob", 2)]);
    if let Update::Report { report, .. } = &mut n1 {
        report.participants[0].tracks.push(TrackReport::default());
    }
    apply(
        &a,
        vec![
            node("n1", "fra"),
            node("n2", "syd"),
            room("R", 1, &["n1", "n2"]),
            n1,
            report("R", "n2", &[("cyd", 3)]),
        ],
    )
    .await;
    let summaries = b.rooms().await.expect("reads");
    assert_eq!(summaries.len(), 1);
    assert_eq!((summaries[0].participants, summaries[0].epoch), (3, 1));
    assert_eq!(summaries[0].publishers, 1);
    let shown = b.room("R").await.expect("reads").expect("there");
    assert_eq!(shown.summary.expect("a summary").participants, 3);
    let nodes: Vec<_> = shown
        .nodes
        .iter()
        .map(|node| (node.node_id.as_str(), node.region.as_str()))
        .collect();
    assert_eq!(nodes, [("n1", "fra"), ("n2", "syd")]);
    assert_eq!(
        shown.nodes[0]
            .report
            .as_ref()
            .expect("a report")
            .participants
            .len(),
        2
    );
    assert_eq!(shown.nodes[1].plan.as_ref().expect("a plan").epoch, 1);
    assert_eq!(b.room("S").await.expect("reads"), None);

    let gone = Update::ReportGone {
        node: "n1".into(),
        room: "R".into(),
    };
    apply(&a, vec![gone]).await;
    assert_eq!(b.rooms().await.expect("reads")[0].participants, 1);
    apply(&a, vec![Update::RoomEnded("R".into())]).await;
    assert_eq!(b.rooms().await.expect("reads"), []);
    assert_eq!(b.room("R").await.expect("reads"), None);
}

async fn late_news_is_left_out((a, _): Pair) {
    apply(&a, vec![report("R", "n1", &[("ada", 1)])]).await;
    assert_eq!(
        a.room("R").await.expect("reads"),
        None,
        "no room by a report alone"
    );
    apply(
        &a,
        vec![
            room("R", 5, &["n1", "n2"]),
            report("R", "n3", &[("eve", 1)]),
        ],
    )
    .await;
    assert_eq!(
        a.rooms().await.expect("reads")[0].participants,
        0,
        "it has no part in it"
    );
    apply(
        &a,
        vec![report("R", "n2", &[("bob", 1)]), room("R", 4, &["n1"])],
    )
    .await;
    let shown = a.room("R").await.expect("reads").expect("there");
    assert_eq!(
        shown.summary.expect("a summary").epoch,
        5,
        "an older plan came late"
    );
    assert_eq!(shown.nodes.len(), 2);
    // Who has no part any more takes its report along.
    apply(&a, vec![room("R", 6, &["n1"])]).await;
    apply(&a, vec![room("R", 7, &["n1", "n2"])]).await;
    assert_eq!(a.rooms().await.expect("reads")[0].participants, 0);
}

async fn nodes_come_and_go((a, b): Pair) {
    let link = LinkState {
        peer: "n2".to_owned(),
        up: true,
        rtt_us: 7,
        ..LinkState::default()
    };
    let links = Update::Links {
        node: "n1".into(),
        links: vec![link.clone()],
    };
    apply(&a, vec![node("n2", "syd"), node("n1", "fra"), links]).await;
    let ids = async || {
        let nodes = b.nodes().await.expect("reads").into_iter();
        nodes
            .map(|node| node.hello.expect("a hello").node_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids().await, ["n1", "n2"]);
    let shown = b.links().await.expect("reads");
    assert_eq!((shown.len(), shown[0].node_id.as_str()), (1, "n1"));
    assert_eq!(shown[0].state, Some(link));
    apply(&a, vec![Update::NodeForgotten("n1".into())]).await;
    assert_eq!(ids().await, ["n2"]);
    assert_eq!(b.links().await.expect("reads"), []);
}

async fn participants_are_found((a, b): Pair) {
    let news = vec![
        room("R", 1, &["n1", "n2"]),
        report("R", "n1", &[("ada", 1), ("bob", 2)]),
        // On the way from one edge to the other.
        report("R", "n2", &[("ada", 9)]),
    ];
    apply(&a, news).await;
    let at = async |room: &str, identity: &str| {
        let found = b.participant(room, identity).await.expect("reads");
        found.map(|(node, found)| (node.to_string(), found.joined_at_ms))
    };
    assert_eq!(at("R", "ada").await, Some(("n2".to_owned(), 9)));
    assert_eq!(at("R", "bob").await, Some(("n1".to_owned(), 2)));
    assert_eq!(at("R", "eve").await, None);
    assert_eq!(at("S", "ada").await, None);
}

async fn many_rooms_are_listed((a, b): Pair) {
    let mut updates = Vec::new();
    for number in 0..600 {
        updates.push(room(&format!("room {number:03}:x"), 1, &["n1"]));
    }
    apply(&a, updates).await;
    let rooms = b.rooms().await.expect("reads");
    assert_eq!(rooms.len(), 600);
    assert!(rooms.is_sorted_by_key(|room| room.room.clone()));
}

async fn replicas_hear_each_other((a, b): Pair) {
    let (mut by_a, mut by_b) = (a.subscribe(), b.subscribe());
    a.publish("keys", json!({"n": 1})).await.expect("tells");
    a.publish("room", json!("R")).await.expect("tells");
    for events in [&mut by_a, &mut by_b] {
        for (topic, body) in [("keys", json!({"n": 1})), ("room", json!("R"))] {
            let heard = tokio::time::timeout(Duration::from_secs(5), events.recv()).await;
            let heard = heard.expect("in time").expect("open");
            assert_eq!((heard.from.as_str(), heard.topic.as_str()), ("a", topic));
            assert_eq!(heard.body, body);
        }
    }
    // Who does not listen for long is told that it missed something.
    for number in 0..3_000 {
        a.publish("n", json!(number)).await.expect("tells");
    }
    crate::eventually("the last one came", Duration::from_secs(10), async || {
        by_b.len() >= 2_000
    })
    .await;
    assert!(matches!(by_b.recv().await, Err(RecvError::Lagged(_))));
}

async fn rates_are_held((a, b): Pair) {
    let rate = Rate {
        per_second: 2.0,
        burst: 3.0,
    };
    let take = async |store: &Arc<dyn Ephemeral>, bucket: &str, now_ms| {
        store.take(bucket, rate, now_ms).await.expect("answers")
    };
    let now_ms = 1_700_000_000_000;
    for store in [&a, &b, &a] {
        assert_eq!(take(store, "x", now_ms).await, Taken::Allowed);
    }
    let limited = |retry_after_ms| Taken::Limited { retry_after_ms };
    assert_eq!(take(&b, "x", now_ms).await, limited(500));
    assert_eq!(take(&a, "y", now_ms).await, Taken::Allowed, "another one's");
    assert_eq!(take(&a, "x", now_ms + 400).await, limited(100));
    assert_eq!(
        take(&a, "x", now_ms - 9_000).await,
        limited(100),
        "a clock that went back"
    );
    assert_eq!(take(&b, "x", now_ms + 500).await, Taken::Allowed);
    assert_eq!(take(&b, "x", now_ms + 500).await, limited(500));
    for _ in 0..3 {
        assert_eq!(
            take(&b, "x", now_ms + 60_000).await,
            Taken::Allowed,
            "full, not fuller"
        );
    }
    assert_eq!(take(&b, "x", now_ms + 60_000).await, limited(500));
}

async fn values_are_kept_for_their_time((a, b): Pair) {
    let bytes = vec![0, 255, b'\n', 13, 0];
    assert_eq!(b.recall("k").await.expect("reads"), None);
    a.remember("k", bytes.clone(), 60_000).await.expect("keeps");
    assert_eq!(b.recall("k").await.expect("reads"), Some(bytes));
    a.remember("k", vec![1], 60_000).await.expect("keeps");
    assert_eq!(b.recall("k").await.expect("reads"), Some(vec![1]));
    a.remember("k", vec![2], 50).await.expect("keeps");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(b.recall("k").await.expect("reads"), None);
}
