//! The HTTP gateway over a real connection.

use std::time::{Duration, SystemTime};

use crate::plane::{FakeNode, Plane, edge};
use control_plane::token::{self, Grants, SigningKey, Subject};
use proto::control::node_message::Message as Up;
use proto::control::{LinkReport, LinkState, ParticipantReport, RoomReport};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const KEY: SigningKey<'_> = SigningKey {
    key: "devkey",
    secret: "secret",
};

async fn mesh(development: bool) -> (Plane, Vec<FakeNode>) {
    let plane = Plane::start(|config| config.development = development).await;
    let mut nodes = Vec::new();
    for region in ["fra", "iad"] {
        let mut node = plane.connect(edge(region, 1)).await;
        node.peers(nodes.len()).await;
        nodes.push(node);
    }
    (plane, nodes)
}

fn minted(grants: &Grants) -> String {
    let subject = Subject {
        identity: "ada".to_owned(),
        name: "Ada".to_owned(),
        ..Subject::default()
    };
    token::mint(
        KEY,
        &subject,
        grants,
        SystemTime::now(),
        Duration::from_secs(60),
    )
    .expect("signs")
}

fn claims(answer: &Value) -> token::Claims {
    let token = answer["participant_token"].as_str().expect("a token");
    token::verify(token, |key| (key == "devkey").then_some("secret")).expect("valid")
}

async fn answer(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.expect("a body");
    (
        status,
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}")),
    )
}

async fn get(plane: &Plane, path: &str) -> (StatusCode, Value) {
    answer(
        Client::new()
            .get(format!("{}{path}", plane.http))
            .send()
            .await
            .expect("answers"),
    )
    .await
}

async fn post(plane: &Plane, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
    let request = Client::new()
        .post(format!("{}/api/token", plane.http))
        .body(body);
    answer(request.send().await.expect("answers")).await
}

async fn post_as(plane: &Plane, grants: Grants, body: Value) -> (StatusCode, Value) {
    let request = Client::new().post(format!("{}/api/token", plane.http));
    let request = request.bearer_auth(minted(&grants)).json(&body);
    answer(request.send().await.expect("answers")).await
}

fn error_of(answer: &(StatusCode, Value)) -> (u16, &str) {
    let code = answer.1.pointer("/error/code").and_then(Value::as_str);
    (answer.0.as_u16(), code.expect("an error code"))
}

#[tokio::test]
async fn tokens_for_what_is_asked_in_either_spelling() {
    let (plane, _nodes) = mesh(true).await;
    let snake = json!({
        "room_name": "R", "participant_name": "Ada", "participant_identity": "ada",
        "participant_metadata": "m", "participant_attributes": {"team": "blue"},
        "room_config": {"max_participants": 4}, "region": "iad", "unknown_field": 1,
    });
    let camel = json!({
        "roomName": "R", "participantName": "Ada", "participantIdentity": "ada",
        "participantMetadata": "m", "participantAttributes": {"team": "blue"},
        "roomConfig": {"max_participants": 4}, "region": "iad",
    });
    for body in [snake, camel] {
        let (status, answer) = post(&plane, body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["server_url"], "ws://127.0.0.1:7880/iad");
        assert_eq!(
            (&answer["room_name"], &answer["region"]),
            (&json!("R"), &json!("iad"))
        );
        let claims = claims(&answer);
        assert_eq!((claims.sub.as_str(), claims.name.as_str()), ("ada", "Ada"));
        assert_eq!(
            (claims.metadata.as_str(), claims.attributes["team"].as_str()),
            ("m", "blue")
        );
        assert_eq!(claims.video, Grants::join("R"));
        assert_eq!(claims.room_config, Some(json!({"max_participants": 4})));
    }
    let (status, answer) = get(&plane, "/api/token?room_name=R&participantName=Bob").await;
    assert_eq!(
        (status.as_u16(), claims(&answer).name.as_str()),
        (200, "Bob")
    );
    plane.stop().await;
}

#[tokio::test]
async fn what_is_left_out_is_made_up_and_the_choice_explained() {
    let (plane, _nodes) = mesh(true).await;
    for body in ["", "{}", "{\"room_name\":\"\",\"region\":\"\"}"] {
        let (status, answer) = post(&plane, body).await;
        assert_eq!(status, 200, "{answer}");
        assert!(
            answer["room_name"]
                .as_str()
                .is_some_and(|room| room.starts_with("room-"))
        );
        assert!(claims(&answer).sub.starts_with("guest-"));
        assert!(
            answer["reason"]
                .as_str()
                .is_some_and(|why| why.starts_with("automatic"))
        );
    }
    let (_, answer) = get(&plane, "/api/token?region=lhr").await;
    assert_eq!(answer["region"], "fra");
    assert!(
        answer["reason"]
            .as_str()
            .is_some_and(|why| why.contains("nearest")),
        "{answer}"
    );
    plane.stop().await;
}

#[tokio::test]
async fn bad_token_requests_get_clear_errors() {
    let (plane, nodes) = mesh(true).await;
    for body in ["{", "[]", "{\"room_name\":1}", "\u{0}"] {
        assert_eq!(
            error_of(&post(&plane, body).await),
            (400, "bad_request"),
            "{body:?}"
        );
    }
    let long = json!({ "room_name": "x".repeat(513) }).to_string();
    assert_eq!(error_of(&post(&plane, long).await), (400, "bad_request"));
    assert_eq!(
        error_of(&post(&plane, vec![b' '; 65 * 1_024]).await),
        (413, "too_large")
    );
    let unknown = get(&plane, "/api/token?region=moon").await;
    assert_eq!(error_of(&unknown), (404, "unknown_region"));
    assert_eq!(unknown.1["error"]["regions"], json!(["fra", "iad"]));
    drop(nodes);
    // Without nodes there is nowhere to go.
    let unavailable = loop {
        let answer = post(&plane, "").await;
        if answer.0 != 200 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(error_of(&unavailable), (503, "unavailable"));
    plane.stop().await;
}

#[tokio::test]
async fn outside_of_development_a_token_is_needed_and_never_grows() {
    let (plane, _nodes) = mesh(false).await;
    assert_eq!(error_of(&post(&plane, "").await), (401, "unauthenticated"));
    let server = Grants {
        room_create: true,
        ..Grants::default()
    };
    let body = json!({ "room_name": "R", "participant_identity": "bob" });
    let (status, answer) = post_as(&plane, server, body.clone()).await;
    assert_eq!(
        (status.as_u16(), claims(&answer).sub.as_str()),
        (200, "bob")
    );

    let guest = Grants {
        can_publish: Some(false),
        room_admin: true,
        ..Grants::join("S")
    };
    let (status, answer) = post_as(&plane, guest, body.clone()).await;
    let claims = claims(&answer);
    assert_eq!(
        (status.as_u16(), claims.sub.as_str()),
        (200, "ada"),
        "its own identity"
    );
    assert_eq!(
        claims.video,
        Grants {
            can_publish: Some(false),
            ..Grants::join("S")
        }
    );
    assert!(
        claims.exp - claims.nbf <= 60,
        "no longer than the token it came with"
    );

    let idle = post_as(&plane, Grants::default(), body).await;
    assert_eq!(error_of(&idle), (403, "forbidden"));
    let request = Client::new()
        .get(format!("{}/api/token", plane.http))
        .bearer_auth("a.b.c");
    let garbage = answer_of(request).await;
    assert_eq!(error_of(&garbage), (401, "unauthenticated"));
    plane.stop().await;
}

async fn answer_of(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    answer(request.send().await.expect("answers")).await
}

#[tokio::test]
async fn regions_nodes_links_and_rooms() {
    let (plane, nodes) = mesh(true).await;
    let (status, regions) = get(&plane, "/settings/regions").await;
    assert_eq!(status, 200);
    let fra = json!({"region": "fra", "url": "ws://127.0.0.1:7880/fra", "distance": "0"});
    assert_eq!(regions["regions"][0], fra, "nearest first");
    let metres: u64 = regions["regions"][1]["distance"]
        .as_str()
        .expect("text")
        .parse()
        .expect("metres");
    assert!((6_000_000..7_000_000).contains(&metres));

    // Edges say rooms' ids: in that a name with a slash has its project before it.
    let room = "default/a room/ü";
    plane.assign("edge-fra", room).await.expect("a plan");
    let participant = ParticipantReport {
        identity: "ada".to_owned(),
        ..ParticipantReport::default()
    };
    let report = RoomReport {
        room: room.to_owned(),
        participants: vec![participant],
        ..RoomReport::default()
    };
    nodes[0].say(Up::Room(report)).await;
    let link = LinkState {
        peer: "edge-iad".to_owned(),
        up: true,
        rtt_us: 9,
        ..LinkState::default()
    };
    nodes[0]
        .say(Up::Links(LinkReport { links: vec![link] }))
        .await;
    let links = loop {
        let (_, links) = get(&plane, "/api/v1/links").await;
        if links["links"][0].is_object() {
            break links;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(
        (&links["links"][0]["peer"], &links["links"][0]["rtt_us"]),
        (&json!("edge-iad"), &json!(9))
    );
    let (_, list) = get(&plane, "/api/v1/nodes").await;
    assert_eq!(list["nodes"][0]["city"], "Frankfurt");
    assert_eq!(
        (&list["nodes"][1]["state"], &list["nodes"][1]["role"]),
        (&json!("ready"), &json!("edge"))
    );
    let (_, rooms) = get(&plane, "/api/v1/rooms").await;
    assert_eq!(
        (
            &rooms["rooms"][0]["room"],
            &rooms["rooms"][0]["participants"]
        ),
        (&json!("a room/ü"), &json!(1))
    );
    let (status, room) = get(&plane, "/api/v1/rooms/a%20room%2F%C3%BC").await;
    assert_eq!(status, 200, "{room}");
    assert_eq!(room["nodes"][0]["participants"][0]["identity"], "ada");
    assert_eq!(room["nodes"][0]["plan"]["members"], json!(["edge-fra"]));
    assert_eq!(
        error_of(&get(&plane, "/api/v1/rooms/none").await),
        (404, "not_found")
    );
    plane.stop().await;
}

#[tokio::test]
async fn outside_of_development_the_inventory_needs_a_grant() {
    let (plane, _nodes) = mesh(false).await;
    plane.assign("edge-fra", "R").await.expect("a plan");
    for path in [
        "/api/v1/nodes",
        "/api/v1/links",
        "/api/v1/rooms",
        "/api/v1/rooms/R",
    ] {
        assert_eq!(
            error_of(&get(&plane, path).await),
            (401, "unauthenticated"),
            "{path}"
        );
        let request = Client::new().get(format!("{}{path}", plane.http));
        let guest = request
            .try_clone()
            .expect("clones")
            .bearer_auth(minted(&Grants::join("R")));
        assert_eq!(
            error_of(&answer_of(guest).await),
            (403, "forbidden"),
            "{path}"
        );
        let lister = Grants {
            room_list: true,
            ..Grants::default()
        };
        assert_eq!(
            answer_of(request.bearer_auth(minted(&lister))).await.0,
            200,
            "{path}"
        );
    }
    let admin = Grants {
        room_admin: true,
        room: "R".to_owned(),
        ..Grants::default()
    };
    let request = Client::new()
        .get(format!("{}/api/v1/rooms/R", plane.http))
        .bearer_auth(minted(&admin));
    assert_eq!(answer_of(request).await.0, 200);
    assert_eq!(
        get(&plane, "/settings/regions").await.0,
        200,
        "regions are no secret"
    );
    plane.stop().await;
}

#[tokio::test]
async fn pages_errors_and_headers() {
    let (plane, _nodes) = mesh(true).await;
    for path in ["/", "/dashboard", "/?room=R"] {
        let page = Client::new()
            .get(format!("{}{path}", plane.http))
            .send()
            .await
            .expect("answers");
        let headers = page.headers().clone();
        assert_eq!(page.status(), 200);
        assert!(
            headers["content-type"]
                .to_str()
                .expect("text")
                .starts_with("text/html")
        );
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert!(headers.contains_key("content-security-policy"));
        assert!(page.text().await.expect("a page").contains("<html"));
    }
    assert_eq!(
        error_of(&get(&plane, "/missing.js").await),
        (404, "not_found")
    );
    assert_eq!(
        error_of(&get(&plane, "/api/none").await),
        (404, "not_found")
    );
    let wrong = Client::new().delete(format!("{}/api/token", plane.http));
    assert_eq!(
        error_of(&answer_of(wrong).await),
        (405, "method_not_allowed")
    );
    let preflight = Client::new()
        .request(
            reqwest::Method::OPTIONS,
            format!("{}/api/token", plane.http),
        )
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "content-type,authorization",
        );
    let preflight = preflight.send().await.expect("answers");
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    let allowed = preflight.headers()["access-control-allow-headers"]
        .to_str()
        .expect("text");
    assert!(allowed.contains("authorization") && allowed.contains("content-type"));
    let head = Client::new()
        .head(format!("{}/", plane.http))
        .send()
        .await
        .expect("answers");
    assert_eq!(head.status(), 200);
    let metrics = prometheus::TextEncoder::new();
    let metrics = metrics
        .encode_to_string(&plane.registry.gather())
        .expect("encodes");
    assert!(
        metrics.contains("antipode_control_http_requests_total{status=\"2xx\"}"),
        "{metrics}"
    );
    plane.stop().await;
}

#[tokio::test]
async fn garbage_gets_no_further_than_its_connection() {
    let (plane, _nodes) = mesh(true).await;
    let address = plane.http.trim_start_matches("http://").to_owned();
    let noise: Vec<u8> = (0..4_096_u32).map(|n| (n * 131 % 251) as u8).collect();
    let many_headers = [
        b"GET / HTTP/1.1\r\n".as_slice(),
        &b"a: b\r\n".repeat(20_000),
    ]
    .concat();
    for bytes in [
        noise,
        many_headers,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    ] {
        let mut stream = TcpStream::connect(&address).await.expect("connects");
        // The server may hang up before it has read everything.
        stream.write_all(&bytes).await.ok();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer));
        end.await.expect("hangs up").ok();
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{answer:?}"
        );
    }
    assert_eq!(get(&plane, "/settings/regions").await.0, 200);
    plane.stop().await;
}

#[tokio::test]
async fn who_dribbles_a_header_or_says_nothing_is_cut_off() {
    let limits = runtime::http::Limits {
        connections: 2,
        header_timeout: Duration::from_millis(200),
        ..runtime::http::Limits::default()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds");
    let address = listener.local_addr().expect("is bound");
    let shutdown = tokio_util::sync::CancellationToken::new();
    let router = axum::Router::new().route("/", axum::routing::get(|| std::future::ready("hi")));
    let listener = runtime::http::Listener {
        tcp: listener,
        tls: None,
        limits,
        connections: prometheus::IntGauge::new("open", "Connections.").expect("a name"),
        refused: runtime::http::refusals("refused").expect("a name"),
    };
    let serving = tokio::spawn(runtime::http::serve(
        listener,
        router,
        shutdown.clone().into(),
    ));
    // Two fill the listener; a third is served once they are gone.
    let mut dribbling = TcpStream::connect(address).await.expect("connects");
    dribbling
        .write_all(b"GET / HTTP/1.1\r\nhost: ")
        .await
        .expect("writes");
    let mut silent = TcpStream::connect(address).await.expect("connects");
    let page = Client::new()
        .get(format!("http://{address}/"))
        .timeout(Duration::from_secs(5))
        .send();
    assert_eq!(page.await.expect("answers").status(), 200);
    let mut rest = Vec::new();
    for stream in [&mut dribbling, &mut silent] {
        let end = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest));
        end.await.expect("cut off").ok();
    }
    shutdown.cancel();
    serving.await.expect("stops");
}
