//! What strangers try on the control plane's listeners, and that others do not notice.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use proto::RoomId;
use proto::control::AssignRequest;
use proto::control::rooms_client::RoomsClient;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tonic::Code;

use crate::plane::{Plane, edge};

/// Who attacks, and who does not: the whole of 127.0.0.0/8 is this machine.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// Connections that one address may have in these tests.
const PER_ADDRESS: usize = 8;

async fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("binds");
    socket.connect(to).await.expect("connects")
}

fn address(url: &str) -> SocketAddr {
    let address = url.trim_start_matches("http://");
    address.parse().expect("an address")
}

/// How long a request from there takes; it must succeed.
async fn served(from: Ipv4Addr, gateway: SocketAddr) -> Duration {
    let began = Instant::now();
    let mut stream = connect(from, gateway).await;
    let request = b"GET /settings/regions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    began.elapsed()
}

/// How long it takes until the connection ends.
async fn ended(mut stream: TcpStream) -> Duration {
    let (began, mut rest) = (Instant::now(), Vec::new());
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
    // Cut off is ended as well.
    drop(ended.await.expect("ends"));
    began.elapsed()
}

fn counted(plane: &Plane, name: &str, reason: &str) -> u64 {
    let families = plane.registry.gather();
    let family = families.iter().find(|family| family.name() == name);
    let metrics = family.map_or(&[][..], |family| family.get_metric());
    let of_reason = metrics.iter().filter(|metric| {
        let labels = metric.get_label();
        labels.iter().any(|label| label.value() == reason)
    });
    of_reason
        .map(|metric| metric.get_counter().get_value() as u64)
        .sum()
}

#[tokio::test]
async fn one_address_takes_no_more_than_its_share_of_the_gateway() {
    let plane = Plane::start(|config| {
        config.http_connections_per_address = PER_ADDRESS;
        config.http_connections = PER_ADDRESS * 2;
    })
    .await;
    let gateway = address(&plane.http);
    let mut held = Vec::new();
    for index in 0..PER_ADDRESS {
        let mut stream = connect(STRANGER, gateway).await;
        if index % 2 == 0 {
            stream
                .write_all(b"GET / HTTP/1.1\r\nx: ")
                .await
                .expect("writes");
        }
        held.push(stream);
    }
    // All places of this address are taken by now, and its further connections end at once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..20 {
        let refused = ended(connect(STRANGER, gateway).await).await;
        assert!(refused < Duration::from_secs(1), "{refused:?}");
    }
    let name = "antipode_control_http_refused_connections_total";
    assert_eq!(counted(&plane, name, "address_limit"), 20);
    let slowest = served(OTHER, gateway)
        .await
        .max(served(OTHER, gateway).await);
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // Who says nothing loses its place as well.
    for stream in held {
        let after = ended(stream).await;
        assert!(after < Duration::from_secs(13), "{after:?}");
    }
    assert_eq!(counted(&plane, name, "silent"), 4);
    assert_eq!(counted(&plane, name, "slow_header"), 4);
    served(STRANGER, gateway).await;
    plane.stop().await;
}

#[tokio::test]
async fn grpc_waits_for_nobody_who_does_not_speak() {
    let plane = Plane::start(|_| {}).await;
    let mut node = plane.connect(edge("fra", 1)).await;
    node.peers(0).await;
    let silent = connect(STRANGER, plane.grpc_address()).await;
    let mut dribbling = connect(STRANGER, plane.grpc_address()).await;
    dribbling.write_all(b"PRI * HT").await.expect("writes");
    let (silent, dribbling) = tokio::join!(ended(silent), ended(dribbling));
    for after in [silent, dribbling] {
        assert!(after < Duration::from_secs(13), "{after:?}");
    }
    let name = "antipode_control_grpc_refused_connections_total";
    assert_eq!(counted(&plane, name, "silent"), 2);
    // The node's session is older than that by now, and lives.
    plane.assign("edge-fra", "R").await.expect("a plan");
    assert_eq!(node.plan_of(1).await.room, "R");
    plane.stop().await;
}

#[tokio::test]
async fn huge_messages_are_refused_one_by_one() {
    let plane = Plane::start(|_| {}).await;
    let mut node = plane.connect(edge("fra", 1)).await;
    node.peers(0).await;
    let mut rooms = RoomsClient::new(plane.channel().await);
    let huge = AssignRequest {
        room: "r".repeat(5 << 20),
        node_id: "edge-fra".to_owned(),
        room_config: Vec::new(),
    };
    let refused = rooms.assign(huge).await.expect_err("too large").code();
    assert_eq!(refused, Code::OutOfRange);
    let bodies = [
        ("/api/token", 413),
        ("/twirp/livekit.RoomService/ListRooms", 401),
    ];
    for (path, expected) in bodies {
        let request = Client::new().post(format!("{}{path}", plane.http));
        let request = request.header("content-type", "application/json");
        let sent = request.body(vec![b' '; 8 << 20]).send().await;
        // It may be cut off while it still sends.
        if let Ok(response) = sent {
            assert_eq!(response.status(), expected, "{path}");
        }
    }
    plane.assign("edge-fra", "R").await.expect("a plan");
    plane.stop().await;
}

/// Texts that would do harm where a text becomes part of a statement, a header or a line of a log.
const INJECTIONS: [&str; 8] = [
    "'; DROP TABLE rooms; --",
    "R' OR '1'='1",
    "\"; SELECT pg_sleep(9); --",
    "%27%20OR%201=1",
    "../../etc/passwd",
    "{{7*7}}${jndi:ldap://x/y}",
    "<script>alert(1)</script>",
    "R\u{202e}\u{200b}",
];
const LINES: [&str; 6] = [
    "R\r\nSet-Cookie: a=b",
    "R\nINFO forged line",
    "R\0",
    "\u{1b}[2J\u{1b}[31m",
    "R\u{85}x",
    "R\u{2028}x",
];

async fn ask(plane: &Plane, body: &Value) -> (u16, Value) {
    let request = Client::new().post(format!("{}/api/token", plane.http));
    let response = request.json(body).send().await.expect("answers");
    assert!(response.headers().get("set-cookie").is_none());
    let status = response.status().as_u16();
    (status, response.json().await.expect("JSON"))
}

#[tokio::test]
async fn texts_stay_texts() {
    let plane = Plane::start(|_| {}).await;
    let mut node = plane.connect(edge("fra", 1)).await;
    node.peers(0).await;
    plane.assign("edge-fra", "witness").await.expect("a plan");
    for text in INJECTIONS {
        let wish = json!({"room_name": text, "participant_identity": text, "participant_name": text, "participant_metadata": text});
        let (status, answer) = ask(&plane, &wish).await;
        assert_eq!((status, &answer["room_name"]), (200, &json!(text)));
        let room = RoomId::new(proto::DEFAULT_PROJECT, text).expect("a name");
        let plan = plane.assign("edge-fra", room.as_str()).await;
        plan.expect("a plan");
    }
    for text in LINES {
        for field in ["room_name", "participant_identity"] {
            let (status, answer) = ask(&plane, &json!({ field: text })).await;
            assert_eq!(status, 400, "{field} {text:?}: {answer}");
        }
        // In what is neither shown as a line nor compared they are fine.
        let wish = json!({"participant_name": text, "participant_metadata": text});
        assert_eq!(ask(&plane, &wish).await.0, 200, "{text:?}");
        let refused = plane.assign("edge-fra", text).await;
        assert_eq!(refused.expect_err("refused").code(), Code::InvalidArgument);
    }
    // All of them are rooms after a start from what was saved, and nothing else happened.
    let folder = plane.stop().await;
    let plane = Plane::restart(folder).await;
    let url = format!("{}/api/v1/rooms", plane.http);
    let mut rooms = Vec::new();
    let all = async || {
        let answer = Client::new().get(&url).send().await.expect("answers");
        let found: Value = answer.json().await.expect("JSON");
        rooms = found["rooms"].as_array().expect("a list").clone();
        rooms.len() == INJECTIONS.len() + 1
    };
    crate::eventually("all rooms are back", Duration::from_secs(10), all).await;
    for text in INJECTIONS {
        assert!(rooms.iter().any(|room| room["room"] == text), "{text:?}");
    }
    plane.stop().await;
}
