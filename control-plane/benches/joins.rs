//! `cargo xtask bench joins`: people joining 5,000 rooms of four over 30 edges, as fast as a control plane with PostgreSQL
//! (fsync and synchronous commit on) and Redis takes them. The control plane is a process of its own; this one plays the
//! edges: each asks for the plan of a room that is new to it and reports who came. The last line of output is JSON: joins per
//! second until the last one shows in the rooms' list, memory, and what the stores were asked per join.

#![expect(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use control_plane::{Config, Server};
use lab::services::{Postgres, Redis};
use livekit_protocol::ParticipantInfo;
use prost::Message as _;
use proto::control::admin_client::AdminClient;
use proto::control::node_message::Message;
use proto::control::node_session_client::NodeSessionClient;
use proto::control::rooms_client::RoomsClient;
use proto::control::{
    AssignRequest, Hello, ListRoomsRequest, NodeMessage, ParticipantReport, Role, RoomReport,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

const ROOMS: usize = 5_000;
const PEOPLE: usize = 4;
const EDGES: usize = 30;
/// Joins under way at a time.
const IN_FLIGHT: usize = 64;
const SEED: u64 = 3;
/// How long the control plane may need to work off what was reported.
const SETTLE: Duration = Duration::from_secs(120);
const REGIONS: [&str; 10] = [
    "fra", "iad", "syd", "gru", "nrt", "bom", "jnb", "lhr", "sfo", "sin",
];

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if std::env::args().any(|flag| flag == "--serve") {
        runtime.block_on(serve())
    } else {
        runtime.block_on(measure())
    }
}

/// The control plane: configuration from the environment, its address on standard output, until standard input ends.
async fn serve() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let free = ([127, 0, 0, 1], 0).into();
    let of = |name: &str| std::env::var(name).context("only started by the measuring process");
    let config = Config {
        grpc: free,
        http: free,
        data_dir: folder.path().to_owned(),
        database_url: Some(of("BENCH_DATABASE_URL")?.into()),
        redis_url: Some(of("BENCH_REDIS_URL")?.into()),
        master_key: Some(control_plane::store::sealed::generate()?),
        ..Config::default()
    };
    let shutdown = CancellationToken::new();
    let server = Server::start(&config, &prometheus::Registry::new(), shutdown.clone()).await?;
    println!("{}", server.grpc_addr());
    let until = || std::io::stdin().read_line(&mut String::new());
    tokio::task::spawn_blocking(until).await??;
    shutdown.cancel();
    server.stopped().await
}

async fn measure() -> anyhow::Result<()> {
    let (postgres, redis) = (Postgres::start()?, Redis::start()?);
    let url = postgres.create("joins")?;
    let control = Control::start(&url, &redis.url()).await?;
    let channel = Endpoint::from_shared(format!("http://{}", control.address))?
        .tcp_nodelay(true)
        .connect()
        .await?;
    let mut edges = Vec::new();
    for index in 0..EDGES {
        edges.push(Arc::new(Edge::connect(&channel, index).await?));
    }
    let memory_before = control.memory_bytes()?;
    let asked_before = asked(&postgres, &redis)?;

    let began = Instant::now();
    let plans = join_all(&edges).await?;
    let sent = began.elapsed();
    let people = settled(&channel, began).await?;
    let all = began.elapsed();
    // What the statistics of the database count comes up to a second late.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = asked(&postgres, &redis)? - asked_before;
    let memory = control.memory_bytes()?;
    let joins = (ROOMS * PEOPLE) as f64;
    println!(
        "{}",
        json!({
            "rooms": ROOMS,
            "participants": people,
            "edges": EDGES,
            "joins_per_s": (joins / all.as_secs_f64()).round(),
            "sent_s": sent.as_secs_f64(),
            "settled_s": all.as_secs_f64(),
            "plan_p50_us": us(&plans, 50),
            "plan_p99_us": us(&plans, 99),
            "control_rss_mb": memory as f64 / 1e6,
            "control_rss_bytes_per_join": (memory as f64 - memory_before as f64) / joins,
            "transactions_per_join": asked.transactions / joins,
            "rows_written_per_join": asked.rows_written / joins,
            "redis_commands_per_join": asked.redis_commands / joins,
        })
    );
    control.stop().await
}

/// The control plane's process.
struct Control {
    child: Child,
    address: String,
    /// It ends with this.
    input: ChildStdin,
}

impl Control {
    async fn start(database_url: &str, redis_url: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .env("BENCH_DATABASE_URL", database_url)
            .env("BENCH_REDIS_URL", redis_url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("its input")?;
        let output = child.stdout.take().context("its output")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address).await?;
        let address = address.trim().to_owned();
        anyhow::ensure!(!address.is_empty(), "the control plane did not start");
        Ok(Self {
            child,
            address,
            input,
        })
    }

    /// Resident memory.
    fn memory_bytes(&self) -> anyhow::Result<u64> {
        let pid = self.child.id().context("it ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kilobytes.context("VmRSS")?.trim().parse::<u64>()? * 1024)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.input.write_all(b"\n").await?;
        anyhow::ensure!(self.child.wait().await?.success(), "it failed at the end");
        Ok(())
    }
}

/// What the stores did.
#[derive(Debug, Clone, Copy)]
struct Asked {
    transactions: f64,
    rows_written: f64,
    redis_commands: f64,
}

impl std::ops::Sub for Asked {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            transactions: self.transactions - before.transactions,
            rows_written: self.rows_written - before.rows_written,
            redis_commands: self.redis_commands - before.redis_commands,
        }
    }
}

fn asked(postgres: &Postgres, redis: &Redis) -> anyhow::Result<Asked> {
    let row = postgres.sql(
        "postgres",
        "SELECT xact_commit, tup_inserted + tup_updated + tup_deleted FROM pg_stat_database WHERE datname = 'joins'",
    )?;
    let (transactions, rows) = row.split_once('|').context("two columns")?;
    let info = redis.info("stats")?;
    let commands = info
        .lines()
        .find_map(|line| line.strip_prefix("total_commands_processed:"));
    Ok(Asked {
        transactions: transactions.parse()?,
        rows_written: rows.parse()?,
        redis_commands: commands.context("Redis counts commands")?.trim().parse()?,
    })
}

/// One edge's session.
struct Edge {
    node: String,
    channel: Channel,
    said: tokio::sync::mpsc::Sender<NodeMessage>,
}

impl Edge {
    async fn connect(channel: &Channel, index: usize) -> anyhow::Result<Self> {
        let region = REGIONS.get(index % REGIONS.len()).copied().unwrap_or("fra");
        let node = format!("edge-{region}-{index}");
        let (said, queue) = tokio::sync::mpsc::channel(64);
        let hello = Hello {
            node_id: node.clone(),
            incarnation: 1,
            role: Role::Edge.into(),
            region: region.to_owned(),
            link_addresses: vec![format!("127.0.0.1:{}", 1 + index)],
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
        Ok(Self {
            node,
            channel: channel.clone(),
            said,
        })
    }

    /// Somebody joins here: the room's plan first when the room is new to this edge, then the report. Returns how long the
    /// plan took.
    async fn join(
        &self,
        room: usize,
        person: usize,
        is_new: bool,
    ) -> anyhow::Result<Option<Duration>> {
        let name = format!("room-{room}");
        let mut took = None;
        let mut plan = None;
        if is_new {
            let began = Instant::now();
            let request = AssignRequest {
                room: name.clone(),
                node_id: self.node.clone(),
                ..AssignRequest::default()
            };
            let answer = RoomsClient::new(self.channel.clone())
                .assign(request)
                .await?;
            plan = answer.into_inner().plan;
            took = Some(began.elapsed());
        }
        let plan = plan.unwrap_or_default();
        let info = ParticipantInfo {
            sid: format!("PA_{room}_{person}"),
            identity: format!("person-{person}"),
            joined_at: 1_700_000_000,
            ..ParticipantInfo::default()
        };
        let report = RoomReport {
            room: name,
            room_sid: plan.room_sid,
            epoch: plan.epoch,
            participants: vec![ParticipantReport {
                sid: info.sid.clone(),
                identity: info.identity.clone(),
                joined_at_ms: 1_700_000_000_000,
                info: info.encode_to_vec().into(),
                ..ParticipantReport::default()
            }],
            partial: !is_new,
            ..RoomReport::default()
        };
        let message = Some(Message::Room(report));
        self.said.send(NodeMessage { message }).await?;
        Ok(took)
    }
}

/// Everybody joins, each room's people one after another. Returns how long plans took, shortest first.
async fn join_all(edges: &[Arc<Edge>]) -> anyhow::Result<Vec<Duration>> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let rooms = (0..ROOMS).map(|room| {
        let at: Vec<_> = (0..PEOPLE).map(|_| rng.random_range(0..EDGES)).collect();
        (room, at)
    });
    let rooms: Vec<_> = rooms.collect();
    let rooms = Arc::new(tokio::sync::Mutex::new(rooms.into_iter()));
    let mut joining = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (rooms, edges) = (Arc::clone(&rooms), edges.to_vec());
        joining.spawn(async move {
            let mut plans = Vec::new();
            loop {
                let next = rooms.lock().await.next();
                let Some((room, at)) = next else {
                    return anyhow::Ok(plans);
                };
                let mut known = BTreeSet::new();
                for (person, index) in at.into_iter().enumerate() {
                    let edge = edges.get(index).context("an edge")?;
                    plans.extend(edge.join(room, person, known.insert(index)).await?);
                }
            }
        });
    }
    let mut plans = Vec::new();
    while let Some(joined) = joining.join_next().await {
        plans.extend(joined??);
    }
    plans.sort_unstable();
    Ok(plans)
}

/// Waits until everybody shows in the rooms' list; returns how many that are.
async fn settled(channel: &Channel, began: Instant) -> anyhow::Result<u32> {
    let mut admin = AdminClient::new(channel.clone()).max_decoding_message_size(64 * 1024 * 1024);
    loop {
        let rooms = admin.list_rooms(ListRoomsRequest {}).await?.into_inner();
        let people = rooms.rooms.iter().map(|room| room.participants).sum();
        if people as usize >= ROOMS * PEOPLE || began.elapsed() > SETTLE {
            return Ok(people);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The time that so many percent stayed below, in whole microseconds.
fn us(taken: &[Duration], percent: usize) -> Option<u128> {
    let at = taken.len().checked_sub(1)? * percent / 100;
    taken.get(at).map(Duration::as_micros)
}
