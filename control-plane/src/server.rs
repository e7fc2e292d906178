//! Puts a control plane together and runs it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use proto::control::ApiKey;
use runtime::admin::{self, Readiness};
use runtime::ready::Ready;
use runtime::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::actor::{self, Stores};
use crate::config::{Config, Secret};
use crate::core::Settings;
use crate::grpc::{self, Services};
use crate::http::{self, Gateway, Limits};
use crate::metrics::Metrics;
use crate::store::Durable as _;
use crate::store::memory::Memory;
use crate::store::sqlite::Sqlite;
use crate::webhook::{self, Webhooks};

/// How long a client of the gateway may take for a request's header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A control plane that serves.
#[derive(Debug)]
pub struct Server {
    grpc: SocketAddr,
    http: SocketAddr,
    tasks: Tasks,
}

#[derive(Debug)]
struct Tasks {
    actor: JoinHandle<()>,
    grpc: JoinHandle<anyhow::Result<()>>,
    http: JoinHandle<()>,
}

impl Server {
    /// Opens the stores, binds the listeners and serves until `shutdown`.
    ///
    /// # Errors
    /// When the configuration is unsound, the database cannot be opened, or an address is taken.
    pub async fn start(
        config: &Config,
        registry: &prometheus::Registry,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        config.check()?;
        let metrics = Metrics::register(registry).context("metrics")?;
        let durable = Sqlite::open(&config.data_dir, now_ms())
            .await
            .context("database")?;
        let keys = durable
            .sync_keys(&config.keys, now_ms())
            .await
            .context("API keys")?;
        let saved = durable.load().await.context("saved state")?;
        tracing::info!(
            rooms = saved.rooms.len(),
            nodes = saved.nodes.len(),
            "saved state loaded"
        );
        let bind = async |address: SocketAddr, what| {
            let listener = TcpListener::bind(address).await;
            listener.with_context(|| format!("{what} listener on {address}"))
        };
        let grpc_listener = bind(config.grpc, "gRPC").await?;
        let http_listener = bind(config.http, "HTTP").await?;
        let (grpc, http) = (grpc_listener.local_addr()?, http_listener.local_addr()?);

        let webhooks = webhooks(config, &keys, &metrics, &shutdown)?;
        let stores = Stores {
            durable: Arc::new(durable),
            ephemeral: Arc::new(Memory::default()),
            webhooks,
        };
        let ephemeral = Arc::clone(&stores.ephemeral);
        let (handle, actor) = actor::spawn(
            settings(config, &keys),
            saved,
            stores,
            metrics.clone(),
            shutdown.clone(),
        );
        let authority = Arc::new(handle.clone());
        let services = Services {
            handle,
            ephemeral: Arc::clone(&ephemeral),
            metrics: metrics.clone(),
        };
        let gateway = Gateway {
            ephemeral,
            authority,
            keys: Arc::new(keys),
            development: config.development,
            region: config.region.clone(),
            token_valid: Duration::from_secs(config.token_valid_s),
            metrics: metrics.clone(),
        };
        let limits = Limits {
            connections: config.http_connections,
            header_timeout: HEADER_TIMEOUT,
        };
        let router = http::router(gateway);
        let tasks = Tasks {
            actor,
            grpc: tokio::spawn(grpc::serve(grpc_listener, services, shutdown.clone())),
            http: tokio::spawn(http::serve(
                http_listener,
                router,
                limits,
                metrics,
                shutdown,
            )),
        };
        Ok(Self { grpc, http, tasks })
    }

    /// Where the gRPC services listen.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    /// Where the gateway listens.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Completes when a part of it ended for another reason than shutdown, or, after shutdown, when all have ended.
    ///
    /// # Errors
    /// When a part failed.
    pub async fn stopped(self) -> anyhow::Result<()> {
        let Tasks { actor, grpc, http } = self.tasks;
        let all = tokio::try_join!(
            async { actor.await.context("control task") },
            async { grpc.await.context("gRPC task")?.context("gRPC") },
            async { http.await.context("HTTP task") },
        );
        all.map(|_| ())
    }
}

/// The outbox of events and the task that empties it; none when nobody is to be told.
fn webhooks(
    config: &Config,
    keys: &BTreeMap<String, Secret>,
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Webhooks>> {
    let targets = config.webhook_targets()?;
    if targets.is_empty() {
        return Ok(None);
    }
    let urls: Vec<String> = targets.iter().map(|target| target.url.clone()).collect();
    let outbox = webhook::Memory::new(config.webhook_queue);
    let webhooks = Webhooks::new(Arc::new(outbox), &urls);
    let keys = Arc::new(keys.clone());
    let (handle, stop) = (webhooks.clone(), shutdown.clone());
    webhook::deliver(handle, &targets, keys, metrics.clone(), stop).context("webhooks")?;
    Ok(Some(webhooks))
}

fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn settings(config: &Config, keys: &BTreeMap<String, Secret>) -> Settings {
    let key = |(key, secret): (&String, &Secret)| ApiKey {
        key: key.clone(),
        secret: secret.expose().to_owned(),
    };
    Settings {
        control_id: config.node_id.clone(),
        mesh: config.mesh.clone(),
        policy: config.room_policy.clone(),
        keys: keys.iter().map(key).collect(),
        node_grace: Duration::from_millis(config.node_grace_ms),
        restart_grace: Duration::from_millis(config.restart_grace_ms),
        empty_room: Duration::from_millis(config.empty_room_ms),
        origin: Instant::now(),
        origin_ms: now_ms(),
        seed: rand::random(),
    }
}

/// Runs the control role until `shutdown`. Prints the role's ready line on standard output once it serves.
///
/// # Errors
/// When it cannot start, or a part of it fails.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let registry = prometheus::Registry::new();
    runtime::process::register(&registry).context("process metrics")?;
    let readiness = Readiness::new();
    let admin = admin::serve(config.admin, registry.clone(), readiness.clone())
        .await
        .with_context(|| format!("admin listener on {}", config.admin))?;
    let server = Server::start(&config, &registry, shutdown.token().clone()).await?;
    readiness.set(true);
    let mut ready = Ready::new(config.node_id.as_str(), admin.url());
    ready.http = Some(format!("http://{}", server.http_addr()));
    ready.grpc = Some(format!("http://{}", server.grpc_addr()));
    tracing::info!(http = %server.http_addr(), grpc = %server.grpc_addr(), "control plane serves");
    ready.print().context("standard output")?;
    let stopped = server.stopped().await;
    readiness.set(false);
    stopped
}
