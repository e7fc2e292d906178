//! `cargo xtask bench negotiation`: how long a client waits for the answer to its offer, in a room that begins with it, so that the
//! edge has to ask the control plane for a plan, over loopback: by signalling (a WebSocket each, as SDKs join), by WHIP on kept connections, and
//! by WHIP with a connection each. Real processes, with PostgreSQL (fsync and synchronous commit on) and Redis behind the control plane, or
//! with `--embedded` SQLite and memory. The last line of output is JSON; times are microseconds, with one client at a time and with 64.

#![expect(
    clippy::print_stdout,
    reason = "a benchmark's result is what it prints"
)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lab::signal::{Join, Signal, Version};
use lab::token::ApiKey;
use reqwest::{StatusCode, header};
use serde_json::{Value, json};

const NEGOTIATIONS: u32 = 2_000;
/// Those before the ones that count, each way.
const WARM_UP: u32 = 100;
const IN_FLIGHT: u32 = 64;
/// Nothing may take that long.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let embedded = std::env::args().any(|flag| flag == "--embedded");
    let servers = (!embedded).then(Servers::start).transpose()?;
    let mesh = Mesh::start(servers.as_ref())?;
    let mut result = json!({
        "stores": if embedded { "sqlite+memory" } else { "postgresql+redis" },
        "negotiations": NEGOTIATIONS,
        "in_flight": IN_FLIGHT,
    });
    let ways = [
        ("websocket", Way::WebSocket),
        ("whip_keepalive", Way::whip(true)?),
        ("whip_fresh", Way::whip(false)?),
    ];
    let client = Client {
        url: mesh.edge.clone(),
        key: mesh.key.clone(),
        count: Arc::default(),
    };
    for (name, way) in &ways {
        way.times(&client, WARM_UP, 1).await?;
        let alone = way.times(&client, NEGOTIATIONS, 1).await?;
        let beside = way.times(&client, NEGOTIATIONS, IN_FLIGHT).await?;
        let figures = json!({
            "p50_us": us(&alone.taken, 50),
            "p99_us": us(&alone.taken, 99),
            "p50_us_64": us(&beside.taken, 50),
            "p99_us_64": us(&beside.taken, 99),
            "per_s_64": (f64::from(NEGOTIATIONS) / beside.all.as_secs_f64()).round(),
        });
        if let Some(result) = result.as_object_mut() {
            result.insert((*name).to_owned(), figures);
        }
    }
    println!("{result}");
    Ok(())
}

/// Private servers; they end with this.
struct Servers {
    redis: lab::services::Redis,
    database: String,
    _postgres: lab::services::Postgres,
}

impl Servers {
    fn start() -> anyhow::Result<Self> {
        let postgres = lab::services::Postgres::start()?;
        Ok(Self {
            redis: lab::services::Redis::start()?,
            database: postgres.create("negotiation")?,
            _postgres: postgres,
        })
    }
}

/// One edge and its control plane, as `antipode up` starts them.
struct Mesh {
    up: Child,
    edge: String,
    key: ApiKey,
    _folder: tempfile::TempDir,
}

impl Mesh {
    fn start(servers: Option<&Servers>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_antipode"));
        command
            .args([
                "up",
                "--regions",
                "fra",
                "--relays",
                "",
                "--wan",
                "off",
                "--base-port",
                "0",
            ])
            .args(["--exit-with-parent", "--data-dir"])
            .arg(folder.path());
        if let Some(Servers {
            redis, database, ..
        }) = servers
        {
            command.args(["--database-url", database, "--redis-url", &redis.url()]);
        }
        let log = std::fs::File::create(folder.path().join("log"))?;
        let streams = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut up = streams.spawn()?;
        let lines = BufReader::new(up.stdout.take().context("a pipe")?).lines();
        let mut messages = lines.map_while(Result::ok);
        let ready = messages.find_map(|line| {
            let message: Value = serde_json::from_str(&line).ok()?;
            (message["ready"] == true && message["edges"].is_array()).then_some(message)
        });
        let ready = ready.context("the mesh did not start")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            up,
            edge: text(&ready["edges"][0]["url"]),
            key: ApiKey {
                key: text(&ready["api_key"]),
                secret: text(&ready["api_secret"]),
            },
            _folder: folder,
        })
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // It ends when its standard input does.
        drop(self.up.stdin.take());
        drop(self.up.wait());
    }
}

/// Somebody who comes to an edge, in a room of its own every time.
#[derive(Clone)]
struct Client {
    url: String,
    key: ApiKey,
    count: Arc<AtomicU32>,
}

/// How it negotiates.
#[derive(Clone)]
enum Way {
    WebSocket,
    Whip(reqwest::Client),
}

/// How long each negotiation took, shortest first, and all together.
struct Times {
    taken: Vec<Duration>,
    all: Duration,
}

impl Way {
    fn whip(keepalive: bool) -> anyhow::Result<Self> {
        let kept = if keepalive { usize::MAX } else { 0 };
        let builder = reqwest::Client::builder().tcp_nodelay(true).no_proxy();
        Ok(Self::Whip(builder.pool_max_idle_per_host(kept).build()?))
    }

    async fn times(&self, client: &Client, count: u32, in_flight: u32) -> anyhow::Result<Times> {
        let began = Instant::now();
        let left = Arc::new(AtomicU32::new(count));
        let workers: Vec<_> = (0..in_flight)
            .map(|_| {
                let (way, client, left) = (self.clone(), client.clone(), Arc::clone(&left));
                tokio::spawn(async move {
                    let mut taken = Vec::new();
                    let one_less = |left: u32| left.checked_sub(1);
                    let order = (Ordering::Relaxed, Ordering::Relaxed);
                    while left.fetch_update(order.0, order.1, one_less).is_ok() {
                        taken.push(tokio::time::timeout(PATIENCE, way.negotiate(&client)).await??);
                    }
                    anyhow::Ok(taken)
                })
            })
            .collect();
        let mut taken = Vec::new();
        for worker in workers {
            taken.extend(worker.await??);
        }
        taken.sort_unstable();
        let all = began.elapsed();
        Ok(Times { taken, all })
    }

    /// Negotiates and leaves; the time until the answer.
    async fn negotiate(&self, client: &Client) -> anyhow::Result<Duration> {
        let number = client.count.fetch_add(1, Ordering::Relaxed);
        let token = client.key.mint(&format!("room-{number}"), "ada")?;
        match self {
            Self::WebSocket => over_websocket(client, token, number).await,
            Self::Whip(http) => over_http(client, http, (&token, number)).await,
        }
    }
}

async fn over_websocket(client: &Client, token: String, number: u32) -> anyhow::Result<Duration> {
    let join = Join {
        url: client.url.clone(),
        token,
        version: Version::V1,
        auto_subscribe: true,
        offer: Some(livekit_protocol::SessionDescription {
            r#type: "offer".to_owned(),
            sdp: offer(number),
            id: 1,
            ..Default::default()
        }),
        tracks: vec![livekit_protocol::AddTrackRequest {
            cid: CID.to_owned(),
            ..Default::default()
        }],
    };
    let began = Instant::now();
    let (mut signal, _) = Signal::join(&join).await?;
    loop {
        if let livekit_protocol::signal_response::Message::Answer(answer) = signal.next().await? {
            let taken = began.elapsed();
            ensure!(answer.sdp.contains("m=audio"), "no answer: {}", answer.sdp);
            signal.leave().await?;
            return Ok(taken);
        }
    }
}

async fn over_http(
    client: &Client,
    http: &reqwest::Client,
    (token, number): (&str, u32),
) -> anyhow::Result<Duration> {
    let base = client.url.replacen("ws", "http", 1);
    let request = http.post(format!("{base}/whip")).bearer_auth(token);
    let request = request.header(header::CONTENT_TYPE, "application/sdp");
    let request = request.body(offer(number));
    let began = Instant::now();
    let answer = request.send().await?;
    let (status, fields) = (answer.status(), answer.headers().clone());
    let text = answer.text().await?;
    let taken = began.elapsed();
    ensure!(status == StatusCode::CREATED, "{status}: {text}");
    let session = fields
        .get(header::LOCATION)
        .context("a session")?
        .to_str()?;
    let leaving = http.delete(format!("{base}{session}")).bearer_auth(token);
    ensure!(
        leaving.send().await?.status().is_success(),
        "the session stays"
    );
    Ok(taken)
}

/// The track's id at the client.
const CID: &str = "mic";

/// One microphone. Nobody comes to use what is agreed.
fn offer(number: u32) -> String {
    let fingerprint = ["AB"; 32].join(":");
    format!(
        "v=0\r\no=- {number} 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         a=msid-semantic: WMS *\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\n\
         a=ice-ufrag:u{number:08}\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\na=mid:0\r\na=sendonly\r\n\
         a=msid:bench {CID}\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n\
         a=ssrc:{ssrc} cname:bench\r\na=ssrc:{ssrc} msid:bench {CID}\r\n",
        ssrc = number + 1,
    )
}

fn us(sorted: &[Duration], percent: usize) -> u64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    let taken = sorted.get(index).copied().unwrap_or_default();
    u64::try_from(taken.as_micros()).unwrap_or(u64::MAX)
}
