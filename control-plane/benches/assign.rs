//! `cargo xtask bench assign`: how long an edge waits for the plan of a room that is new to it, over loopback: gRPC on a shared
//! channel, JSON over HTTP on kept connections, JSON over HTTP with a connection each. All three end in the same service, with
//! PostgreSQL (fsync and synchronous commit on) and Redis behind it, or with `--embedded` SQLite and memory. The last line of
//! output is JSON; times are microseconds, with one call in flight and with 64.

#![expect(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Json, Router, routing};
use control_plane::grpc::Rooms;
use control_plane::{Config, Server};
use proto::control::node_message::Message;
use proto::control::node_session_client::NodeSessionClient;
use proto::control::rooms_client::RoomsClient;
use proto::control::rooms_server::Rooms as _;
use proto::control::{AssignRequest, Hello, NodeMessage, Role};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

const CALLS: u32 = 10_000;
/// Calls before those that count, each way.
const WARM_UP: u32 = 500;
const IN_FLIGHT: u32 = 64;
const NODE: &str = "edge-fra";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let free = ([127, 0, 0, 1], 0).into();
    let mut config = Config {
        grpc: free,
        http: free,
        data_dir: folder.path().to_owned(),
        ..Config::default()
    };
    let embedded = std::env::args().any(|flag| flag == "--embedded");
    let servers = (!embedded).then(Servers::start).transpose()?;
    if let Some(Servers { postgres, redis }) = &servers {
        config.database_url = Some(postgres.create("assign")?.into());
        config.redis_url = Some(redis.url().into());
        config.master_key = Some(control_plane::store::sealed::generate()?);
    }
    let shutdown = CancellationToken::new();
    let server = Server::start(&config, &prometheus::Registry::new(), shutdown.clone()).await?;
    let channel = Endpoint::from_shared(format!("http://{}", server.grpc_addr()))?
        .tcp_nodelay(true)
        .connect()
        .await?;
    let session = connect(&channel).await?;
    let twin = serve_json(server.rooms()).await?;

    let ways = [
        ("grpc", Way::Grpc(channel)),
        ("json_keepalive", Way::json(twin, true)?),
        ("json_fresh", Way::json(twin, false)?),
    ];
    let mut result = json!({
        "stores": if embedded { "sqlite+memory" } else { "postgresql+redis" },
        "calls": CALLS,
        "in_flight": IN_FLIGHT,
    });
    let rooms = Arc::new(AtomicU32::new(0));
    for (name, way) in &ways {
        way.times(&rooms, WARM_UP, 1).await?;
        let alone = way.times(&rooms, CALLS, 1).await?;
        let beside = way.times(&rooms, CALLS, IN_FLIGHT).await?;
        let figures = json!({
            "p50_us": us(&alone.taken, 50),
            "p99_us": us(&alone.taken, 99),
            "p50_us_64": us(&beside.taken, 50),
            "p99_us_64": us(&beside.taken, 99),
            "per_s_64": (f64::from(CALLS) / beside.all.as_secs_f64()).round(),
        });
        if let Some(result) = result.as_object_mut() {
            result.insert((*name).to_owned(), figures);
        }
    }
    println!("{result}");
    drop(session);
    shutdown.cancel();
    server.stopped().await
}

/// Private servers; they end with this.
struct Servers {
    postgres: lab::services::Postgres,
    redis: lab::services::Redis,
}

impl Servers {
    fn start() -> anyhow::Result<Self> {
        Ok(Self {
            postgres: lab::services::Postgres::start()?,
            redis: lab::services::Redis::start()?,
        })
    }
}

/// Opens the edge's session and keeps reading what it hears.
async fn connect(channel: &Channel) -> anyhow::Result<tokio::sync::mpsc::Sender<NodeMessage>> {
    let (said, queue) = tokio::sync::mpsc::channel(1);
    let hello = Hello {
        node_id: NODE.to_owned(),
        incarnation: 1,
        role: Role::Edge.into(),
        region: "fra".to_owned(),
        link_addresses: vec!["127.0.0.1:1".to_owned()],
        client_url: "ws://127.0.0.1:2".to_owned(),
        ..Hello::default()
    };
    let message = Some(Message::Hello(hello));
    said.send(NodeMessage { message }).await?;
    let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
    let mut heard = NodeSessionClient::new(channel.clone())
        .open(queue)
        .await?
        .into_inner();
    heard.next().await.context("a welcome")??;
    tokio::spawn(async move { while let Some(Ok(_)) = heard.next().await {} });
    Ok(said)
}

/// The same service behind JSON over HTTP: `{"room": …, "node_id": …}` → `{"epoch": …, "room_sid": …}`.
async fn serve_json(rooms: Arc<Rooms>) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/assign", routing::post(assign_json))
        .with_state(rooms);
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // A connection that waits to fill its packets only gets slower.
        drop(stream.set_nodelay(true));
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn assign_json(
    State(rooms): State<Arc<Rooms>>,
    Json(request): Json<Value>,
) -> Result<Json<Value>, (StatusCode, String)> {
    let text = |field: &str| {
        request
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let request = AssignRequest {
        room: text("room").to_owned(),
        node_id: text("node_id").to_owned(),
        ..AssignRequest::default()
    };
    let answer = rooms.assign(tonic::Request::new(request)).await;
    let answer = answer.map_err(|status| (StatusCode::BAD_GATEWAY, status.to_string()))?;
    let plan = answer.into_inner().plan.unwrap_or_default();
    Ok(Json(json!({
        "room": plan.room,
        "room_sid": plan.room_sid,
        "epoch": plan.epoch,
        "members": plan.members,
    })))
}

/// How an edge asks.
#[derive(Clone)]
enum Way {
    Grpc(Channel),
    Json {
        client: reqwest::Client,
        url: String,
    },
}

/// How long each call took, shortest first, and all together.
struct Times {
    taken: Vec<Duration>,
    all: Duration,
}

impl Way {
    fn json(address: SocketAddr, keepalive: bool) -> anyhow::Result<Self> {
        let kept = if keepalive { usize::MAX } else { 0 };
        let client = reqwest::Client::builder()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(kept)
            .no_proxy()
            .build()?;
        let url = format!("http://{address}/assign");
        Ok(Self::Json { client, url })
    }

    /// So many calls, each for a room that nobody has asked for.
    async fn times(
        &self,
        rooms: &Arc<AtomicU32>,
        calls: u32,
        in_flight: u32,
    ) -> anyhow::Result<Times> {
        let began = Instant::now();
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..in_flight {
            let (way, rooms) = (self.clone(), Arc::clone(rooms));
            let own = calls / in_flight + u32::from(caller < calls % in_flight);
            callers.spawn(async move { way.ask(&rooms, own).await });
        }
        let mut taken = Vec::new();
        while let Some(caller) = callers.join_next().await {
            taken.extend(caller??);
        }
        let all = began.elapsed();
        taken.sort_unstable();
        Ok(Times { taken, all })
    }

    async fn ask(&self, rooms: &AtomicU32, calls: u32) -> anyhow::Result<Vec<Duration>> {
        let mut taken = Vec::new();
        for _ in 0..calls {
            let room = format!("room-{}", rooms.fetch_add(1, Ordering::Relaxed));
            let began = Instant::now();
            self.assign(room).await?;
            taken.push(began.elapsed());
        }
        Ok(taken)
    }

    async fn assign(&self, room: String) -> anyhow::Result<()> {
        match self {
            Self::Grpc(channel) => {
                let request = AssignRequest {
                    room,
                    node_id: NODE.to_owned(),
                    ..AssignRequest::default()
                };
                RoomsClient::new(channel.clone()).assign(request).await?;
            }
            Self::Json { client, url } => {
                let body = json!({ "room": room, "node_id": NODE });
                let answer = client.post(url).json(&body).send().await?;
                answer.error_for_status()?.json::<Value>().await?;
            }
        }
        Ok(())
    }
}

/// The time that so many percent of the calls stayed below, in whole microseconds.
fn us(taken: &[Duration], percent: usize) -> Option<u128> {
    let at = taken.len().checked_sub(1)? * percent / 100;
    taken.get(at).map(Duration::as_micros)
}
