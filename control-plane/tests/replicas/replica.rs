//! Replicas that can be killed, and what they share.

use std::time::{Duration, Instant};

use control_plane::config::{Config, Secret, Webhook};
use control_plane::store::sealed::generate;
use lab::services::{Consul, Postgres, Redis};
use proto::control::node_message::Message as Up;
use proto::control::replicas_client::ReplicasClient;
use proto::control::{Hello, ParticipantReport, PingRequest, RecallRequest, RoomReport};
use tokio::runtime::Runtime;

use crate::plane::{FakeNode, Plane};

/// Nothing here takes that long.
const PATIENCE: Duration = Duration::from_secs(15);

/// What replicas share.
pub(crate) struct Stores {
    pub(crate) postgres: Postgres,
    redis: Redis,
    pub(crate) consul: Consul,
    master: Secret,
    database: String,
}

impl Stores {
    pub(crate) fn start() -> Self {
        let postgres = Postgres::start().expect("PostgreSQL starts");
        Self {
            database: postgres.create("replicas").expect("a database"),
            postgres,
            redis: Redis::start().expect("Redis starts"),
            consul: Consul::start().expect("Consul starts"),
            master: generate().expect("random"),
        }
    }

    fn configure(&self, id: &str, webhook: Option<&str>, config: &mut Config) {
        config.node_id = id.to_owned();
        config.database_url = Some(self.database.as_str().into());
        config.redis_url = Some(self.redis.url().as_str().into());
        config.consul_url = Some(self.consul.url().as_str().into());
        config.master_key = Some(self.master.clone());
        config.webhooks = webhook
            .map(|url| Webhook {
                url: url.to_owned(),
                ..Webhook::default()
            })
            .into_iter()
            .collect();
    }
}

/// A replica with a runtime of its own: it dies with all its connections, and says goodbye to nobody.
pub(crate) struct Replica {
    runtime: Option<Runtime>,
    pub(crate) plane: Plane,
}

impl Replica {
    pub(crate) fn start(stores: &Stores, id: &str, webhook: Option<&str>) -> Self {
        if let Ok(filter) = std::env::var("ANTIPODE_TEST_LOG") {
            let config = runtime::telemetry::LogConfig {
                filter,
                ..Default::default()
            };
            // One replica of the process sets it up.
            runtime::telemetry::init(&config).ok();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let start = Plane::start(|config| stores.configure(id, webhook, config));
        let plane = runtime.block_on(start);
        Self {
            runtime: Some(runtime),
            plane,
        }
    }

    /// As `kill -9` does.
    pub(crate) fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Whether it owns a room that lives.
    pub(crate) async fn owns(&self, room: &str) -> bool {
        let mut client = ReplicasClient::new(self.plane.channel().await);
        let room = room.to_owned();
        let recalled = client.recall(RecallRequest { room }).await;
        !recalled.expect("answers").into_inner().decision.is_empty()
    }

    async fn is_ready(&self) -> bool {
        let mut client = ReplicasClient::new(self.plane.channel().await);
        let answer = client.ping(PingRequest::default()).await;
        answer.expect("answers").into_inner().ready
    }

    /// Whether it sees so many replicas, itself included.
    fn sees(&self, count: usize) -> bool {
        let metrics = self.plane.registry.gather();
        let shown = prometheus::TextEncoder::new().encode_to_string(&metrics);
        let line = format!("antipode_control_replicas {count}\n");
        shown.expect("text").contains(&line)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // A runtime must not be waited for in another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits until these replicas know each other and share what there is.
pub(crate) async fn together(replicas: &[&Replica]) {
    eventually("replicas know each other", async || {
        let mut so = true;
        for replica in replicas {
            so &= replica.sees(replicas.len()) && replica.is_ready().await;
        }
        so
    })
    .await;
    // Each pings the others four times a second, which is when it hears that they are ready.
    tokio::time::sleep(Duration::from_millis(400)).await;
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A node with a session with each replica.
pub(crate) struct Everywhere {
    pub(crate) sessions: Vec<FakeNode>,
}

impl Everywhere {
    pub(crate) async fn connect(hello: &Hello, replicas: &[&Replica]) -> Self {
        let mut sessions = Vec::new();
        for replica in replicas {
            sessions.push(replica.plane.connect(hello.clone()).await);
        }
        Self { sessions }
    }

    /// Says it to all.
    pub(crate) async fn say(&self, message: Up) {
        for session in &self.sessions {
            session.say(message.clone()).await;
        }
    }
}

/// A report on one participant.
pub(crate) fn report(room: &str, sid: &str, epoch: u64, identity: &str) -> Up {
    let participant = ParticipantReport {
        sid: format!("PA_{identity}_{room}"),
        identity: identity.to_owned(),
        ..ParticipantReport::default()
    };
    Up::Room(RoomReport {
        room: room.to_owned(),
        room_sid: sid.to_owned(),
        epoch,
        participants: vec![participant],
        ..RoomReport::default()
    })
}

/// A runtime for nodes and applications, which outlive replicas.
pub(crate) fn outside<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test)
}
