//! How long `Rooms.Assign` takes over loopback with the real database, and how long planning anew takes after a node's
//! loss. Prints one line of JSON. With `--stores` on private PostgreSQL (fsync on) and Redis, otherwise on SQLite.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use control_plane::core::{Core, Input, Output, Settings, Ticket};
use control_plane::prices::Prices;
use control_plane::registry::SessionId;
use control_plane::rules::Rules;
use control_plane::{Config, RoomPolicy, Server};
use proto::control::node_message::Message;
use proto::control::node_session_client::NodeSessionClient;
use proto::control::rooms_client::RoomsClient;
use proto::control::{AssignRequest, Hello, NodeMessage, Role};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

const CALLS: u32 = 10_000;
const ROOMS: u32 = 10_000;
const NODES: u32 = 100;

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
    let servers = std::env::args().any(|flag| flag == "--stores");
    let servers = servers.then(Servers::start).transpose()?;
    if let Some(Servers { postgres, redis }) = &servers {
        config.database_url = Some(postgres.create("assign")?.into());
        config.redis_url = Some(redis.url().into());
        config.master_key = Some(control_plane::store::sealed::generate()?);
    }
    let shutdown = CancellationToken::new();
    let server = Server::start(&config, &prometheus::Registry::new(), shutdown.clone()).await?;
    let url = format!("http://{}", server.grpc_addr());
    let channel = Endpoint::from_shared(url)?
        .tcp_nodelay(true)
        .connect()
        .await?;

    let sessions = connect(&channel, &["edge-fra", "edge-syd"]).await?;
    let first = times(&channel, "edge-fra").await?;
    let second = times(&channel, "edge-syd").await?;
    let known = times(&channel, "edge-syd").await?;
    let (planned, planning) = replan_after_loss()?;
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let result = serde_json::json!({
        "case": "assign",
        "stores": if servers.is_some() { "postgresql+redis" } else { "sqlite+memory" },
        "calls": CALLS,
        "new_room_us": { "p50": us(first.0), "p99": us(first.1) },
        "second_edge_us": { "p50": us(second.0), "p99": us(second.1) },
        "known_us": { "p50": us(known.0), "p99": us(known.1) },
        "replan": { "rooms": planned, "nodes": NODES, "ms": planning.as_secs_f64() * 1e3 },
    });
    writeln(&result)?;
    drop(sessions);
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

fn writeln(result: &serde_json::Value) -> std::io::Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout().lock(), "{result}")
}

fn hello(node: &str, role: Role) -> Hello {
    let region = node.split('-').nth(1).unwrap_or_default();
    Hello {
        node_id: node.to_owned(),
        incarnation: 1,
        role: role.into(),
        region: region.to_owned(),
        link_addresses: vec!["127.0.0.1:1".to_owned()],
        client_url: "ws://127.0.0.1:2".to_owned(),
        ..Hello::default()
    }
}

type Said = tokio::sync::mpsc::Sender<NodeMessage>;

/// Opens sessions and keeps reading what they hear.
async fn connect(channel: &Channel, nodes: &[&str]) -> anyhow::Result<Vec<Said>> {
    let mut sessions = Vec::new();
    for node in nodes {
        let (said, queue) = tokio::sync::mpsc::channel(1);
        let message = Some(Message::Hello(hello(node, Role::Edge)));
        said.send(NodeMessage { message }).await?;
        let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
        let mut heard = NodeSessionClient::new(channel.clone())
            .open(queue)
            .await?
            .into_inner();
        heard.next().await.context("a welcome")??;
        tokio::spawn(async move { while let Some(Ok(_)) = heard.next().await {} });
        sessions.push(said);
    }
    Ok(sessions)
}

/// Median and 99th percentile of calls one after another, each for another room.
async fn times(channel: &Channel, node: &str) -> anyhow::Result<(Duration, Duration)> {
    let mut rooms = RoomsClient::new(channel.clone());
    let mut taken = Vec::new();
    for call in 0..CALLS {
        let request = AssignRequest {
            room: format!("room-{call}"),
            node_id: node.to_owned(),
            room_config: Vec::new(),
        };
        let began = Instant::now();
        rooms.assign(request).await?;
        taken.push(began.elapsed());
    }
    taken.sort_unstable();
    let at = |share: usize| {
        taken
            .get(taken.len() * share / 100)
            .copied()
            .context("no calls")
    };
    Ok((at(50)?, at(99)?))
}

/// 10,000 rooms of three edges over 100 nodes; one relay of ten, which a tenth of the rooms use, dies.
fn replan_after_loss() -> anyhow::Result<(usize, Duration)> {
    let now = Instant::now();
    let mut core = Core::new(Settings {
        control_id: String::new(),
        ring: control_plane::ring::Ring::alone(""),
        mesh: String::new(),
        rules: Rules::everywhere(RoomPolicy::Via("sin".to_owned())),
        prices: Prices::default(),
        keys: Vec::new(),
        node_grace: Duration::from_secs(1),
        restart_grace: Duration::from_secs(1),
        empty_room: Duration::from_secs(1),
        origin: now,
        origin_ms: 0,
        seed: [1; 32],
    });
    for node in 0..NODES {
        let relay = node < NODES / 10;
        let name = if relay {
            format!("relay-sin-{node}")
        } else {
            edge(node)
        };
        let hello = hello(&name, if relay { Role::Relay } else { Role::Edge });
        core.handle_input(
            now,
            Input::Connected {
                session: SessionId(u64::from(node)),
                hello,
            },
        );
    }
    for room in 0..ROOMS {
        for member in 0..3 {
            let node = edge(NODES / 10 + (room + member * 7) % (NODES * 9 / 10))
                .as_str()
                .into();
            let room = format!("room-{room}").as_str().into();
            core.handle_input(
                now,
                Input::Assign {
                    ticket: Ticket(0),
                    node,
                    room,
                    room_config: Vec::new(),
                },
            );
        }
    }
    drain(&mut core, now);
    core.handle_input(
        now,
        Input::Disconnected {
            session: SessionId(0),
        },
    );
    drain(&mut core, now);
    let began = Instant::now();
    core.handle_input(now + Duration::from_secs(2), Input::Timeout);
    let planned = drain(&mut core, now);
    Ok((planned, began.elapsed()))
}

fn edge(node: u32) -> String {
    let regions = [
        "fra", "iad", "syd", "gru", "nrt", "bom", "jnb", "lhr", "sfo",
    ];
    let region = regions
        .iter()
        .cycle()
        .nth(node as usize)
        .copied()
        .unwrap_or("fra");
    format!("edge-{region}-{node}")
}

/// Takes all outputs; returns how many rooms have a new plan.
fn drain(core: &mut Core, now: Instant) -> usize {
    let mut planned = 0;
    loop {
        match core.poll_output(now) {
            Output::Timeout(_) => return planned,
            Output::Save(control_plane::store::Change::Room(_)) => planned += 1,
            Output::Save(_)
            | Output::Transmit { .. }
            | Output::Assigned { .. }
            | Output::Answered { .. }
            | Output::Event(_)
            | Output::Close { .. }
            | Output::Update(_)
            | Output::Shadow(_) => {}
        }
    }
}
