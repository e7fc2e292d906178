//! Placement by address, and explanations, over real connections.

use std::path::{Path, PathBuf};
use std::time::Duration;

use control_plane::explain::RoomExplanation;
use control_plane::planner::Replayed;
use control_plane::rules::RoomRule;
use proto::control::admin_client::AdminClient;
use proto::control::node_message::Message as Up;
use proto::control::{
    ClientReport, ClientRtt, ExplainRequest, LinkReport, LinkState, ParticipantReport, RoomReport,
};
use reqwest::Client;
use serde_json::{Value, json};
use tonic::Code;

use crate::plane::{FakeNode, Plane, edge, relay};

/// Loopback addresses are there, says the one; elsewhere, says the other.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

async fn join(plane: &Plane, regions: &[&str]) -> Vec<FakeNode> {
    let mut nodes = Vec::new();
    for region in regions {
        let mut node = plane.connect(edge(region, 1)).await;
        node.peers(nodes.len()).await;
        nodes.push(node);
    }
    nodes
}

async fn token(plane: &Plane, forwarded: Option<&str>) -> Value {
    let request = Client::new().post(format!("{}/api/token", plane.http));
    let request =
        request.body(json!({ "room_name": "R", "participant_identity": "ada" }).to_string());
    let request = match forwarded {
        Some(address) => request.header("x-forwarded-for", address),
        None => request,
    };
    request
        .send()
        .await
        .expect("answers")
        .json()
        .await
        .expect("JSON")
}

async fn get(plane: &Plane, path: &str) -> (u16, Value) {
    let response = Client::new()
        .get(format!("{}{path}", plane.http))
        .send()
        .await
        .expect("answers");
    (
        response.status().as_u16(),
        response.json().await.expect("JSON"),
    )
}

async fn explain(plane: &Plane, request: ExplainRequest) -> Result<RoomExplanation, tonic::Status> {
    let mut admin = AdminClient::new(plane.channel().await);
    let json = admin.explain(request).await?.into_inner().json;
    Ok(serde_json::from_str(&json).expect("an explanation"))
}

/// Asks until the answer is as wanted.
async fn until(mut wanted: impl AsyncFnMut() -> bool) {
    let search = async {
        while !wanted().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), search)
        .await
        .expect("in time");
}

#[tokio::test]
async fn clients_are_placed_by_address_and_data_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dbip-city-ipv4.mmdb");
    std::fs::copy(data("dbip-zurich.mmdb"), &file).expect("copies");
    let geo_data = folder.path().to_owned();
    let plane = Plane::start(|config| {
        config.geo_data_dir = Some(geo_data);
        config.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    })
    .await;
    let _nodes = join(&plane, &["fra", "iad"]).await;
    let region = async || token(&plane, None).await["region"].clone();
    until(async || region().await == "fra").await;
    let answer = token(&plane, None).await;
    assert!(
        answer["reason"]
            .as_str()
            .is_some_and(|why| why.contains("Zürich, CH")),
        "{answer}"
    );
    assert_eq!(answer["attribution"]["url"], "https://db-ip.com");

    let behind = token(&plane, Some("198.51.100.9")).await;
    assert!(
        behind["reason"]
            .as_str()
            .is_some_and(|why| why.contains("nobody knows")),
        "{behind}"
    );
    assert_eq!(behind.get("attribution"), None);
    let (_, told) = get(&plane, "/api/v1/rooms/R/explain?address=198.51.100.9").await;
    assert_eq!(
        told["would_be"]["client"]["note"],
        "address in 198.51.100.0/24 is not in the geo data"
    );
    let (_, told) = get(
        &plane,
        "/api/v1/explain?address=198.51.100.9&resolver=127.0.0.1",
    )
    .await;
    assert_eq!(told["would_be"]["client"]["basis"], "resolver");

    // Written over in place, the worst way; then damaged.
    std::fs::write(
        &file,
        std::fs::read(data("dbip-new-york.mmdb")).expect("reads"),
    )
    .expect("writes");
    until(async || region().await == "iad").await;
    std::fs::write(&file, b"<html>not found</html>").expect("writes");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        region().await,
        "iad",
        "what is of no use does not replace what is"
    );
    plane.stop().await;
}

#[tokio::test]
async fn forwarded_addresses_of_strangers_are_not_believed() {
    let file = data("dbip-zurich.mmdb");
    let plane = Plane::start(|config| config.geo_city_v4 = Some(file)).await;
    let _nodes = join(&plane, &["fra", "iad"]).await;
    let answer = async || token(&plane, Some("198.51.100.9")).await;
    until(async || {
        answer().await["reason"]
            .as_str()
            .is_some_and(|why| why.contains("Zürich"))
    })
    .await;
    plane.stop().await;
}

#[tokio::test]
async fn a_room_is_explained_over_both_doors_and_its_decision_replays() {
    let plane = Plane::start(|_| {}).await;
    let nodes = join(&plane, &["fra", "syd"]).await;
    let mut sin = plane.connect(relay("sin", 1)).await;
    sin.peers(2).await;
    for node in ["edge-fra", "edge-syd"] {
        plane.assign(node, "R").await.expect("a plan");
    }
    token(&plane, None).await;
    let link = LinkState {
        peer: "edge-syd".to_owned(),
        up: true,
        rtt_us: 290_000,
        ..LinkState::default()
    };
    nodes[0]
        .say(Up::Links(LinkReport { links: vec![link] }))
        .await;
    let request = || ExplainRequest {
        room: "R".to_owned(),
        region: "lhr".to_owned(),
        decision: true,
        ..ExplainRequest::default()
    };
    let told = explain(&plane, request()).await.expect("explains");
    let plan = told.plan.as_ref().expect("a plan");
    assert_eq!((plan.pairs.len(), plan.pairs[0].candidates.len()), (1, 2));
    assert_eq!(told.placed[0].identity, "ada");
    let would_be = told.would_be.as_ref().expect("an edge");
    assert_eq!(
        (would_be.region.as_str(), would_be.candidates.len()),
        ("fra", 2)
    );
    let decision = told.decision.as_ref().expect("asked for");
    assert_eq!(decision.replay(), Ok(Replayed::Identical));

    let (status, json) = get(&plane, "/api/v1/rooms/R/explain?region=lhr&decision=true").await;
    assert_eq!(status, 200);
    let by_http: RoomExplanation = serde_json::from_value(json).expect("the same shape");
    assert_eq!(by_http.plan, told.plan);
    assert_eq!(by_http.decision, told.decision);
    plane.stop().await;
}

#[tokio::test]
async fn what_cannot_be_explained_says_why() {
    let plane = Plane::start(|_| {}).await;
    let _nodes = join(&plane, &["fra"]).await;
    let code = async |room: &str, address: &str, region: &str| {
        let request = ExplainRequest {
            room: room.to_owned(),
            address: address.to_owned(),
            region: region.to_owned(),
            ..ExplainRequest::default()
        };
        explain(&plane, request).await.expect_err("refused").code()
    };
    assert_eq!(code("none", "", "").await, Code::NotFound);
    assert_eq!(code("none", "300.1.1.1", "").await, Code::InvalidArgument);
    assert_eq!(code("none", "", "moon").await, Code::InvalidArgument);
    assert_eq!(get(&plane, "/api/v1/rooms/none/explain").await.0, 404);
    assert_eq!(get(&plane, "/api/v1/explain?address=x").await.0, 400);
    assert_eq!(get(&plane, "/api/v1/explain?region=moon").await.0, 404);
    assert_eq!(get(&plane, "/api/v1/explain").await.0, 200);
    plane.stop().await;
    let plane = Plane::start(|config| config.development = false).await;
    for path in ["/api/v1/rooms/R/explain", "/api/v1/explain"] {
        assert_eq!(get(&plane, path).await.0, 401, "{path}");
    }
    plane.stop().await;
}

#[tokio::test]
async fn residency_holds_for_tokens_and_for_edges() {
    let plane = Plane::start(|config| {
        config.room_rules = vec![RoomRule {
            room: "R*".to_owned(),
            project: None,
            policy: None,
            added_delay_ms: None,
            pair_delay_ms_max: None,
            allow: vec!["europe".parse().expect("an area")],
        }];
    })
    .await;
    let nodes = join(&plane, &["iad", "syd"]).await;
    let refused = token(&plane, None).await;
    assert_eq!(refused["error"]["code"], "unavailable", "{refused}");
    let status = plane.assign("edge-iad", "R").await.expect_err("not there");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("confined to europe"), "{status}");
    let report = RoomReport {
        room: "R".to_owned(),
        participants: vec![ParticipantReport::default()],
        ..RoomReport::default()
    };
    nodes[0].say(Up::Room(report)).await;
    let mut fra = plane.connect(edge("fra", 1)).await;
    fra.peers(2).await;
    assert_eq!(token(&plane, None).await["region"], "fra");
    let plan = plane
        .assign("edge-fra", "R")
        .await
        .expect("a plan")
        .plan
        .expect("a plan");
    assert_eq!(plan.members, ["edge-fra"]);
    assert!(plane.assign("edge-iad", "lounge").await.is_ok());
    plane.stop().await;
}

#[tokio::test]
async fn edges_teach_placement_what_their_clients_see() {
    let file = data("dbip-zurich.mmdb");
    let plane = Plane::start(|config| config.geo_city_v4 = Some(file)).await;
    let nodes = join(&plane, &["fra", "iad"]).await;
    until(async || token(&plane, None).await["region"] == "fra").await;
    let rtt = |network: &str, ms: u32| ClientRtt {
        network: network.to_owned(),
        rtt_us: ms * 1_000,
    };
    // From here Frankfurt is reached badly, whatever the map says.
    nodes[0]
        .say(Up::Clients(ClientReport {
            rtts: vec![rtt("127.0.0.0", 600), rtt("nonsense", 1)],
        }))
        .await;
    nodes[1]
        .say(Up::Clients(ClientReport {
            rtts: vec![rtt("127.0.0.0", 90)],
        }))
        .await;
    until(async || token(&plane, None).await["region"] == "iad").await;
    let (_, told) = get(&plane, "/api/v1/explain?address=127.0.0.1").await;
    let best = &told["would_be"]["candidates"][0];
    assert_eq!(
        (&best["region"], &best["client"]["source"]),
        (&json!("iad"), &json!("measured"))
    );
    plane.stop().await;
}
