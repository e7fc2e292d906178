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

use crate::actor::{self, Handle, Stores};
use crate::config::{Config, Secret};
use crate::core::Settings;
use crate::explain::Explainer;
use crate::grpc::{self, Services};
use crate::http::{self, Gateway, Limits};
use crate::metrics::Metrics;
use crate::placement::Placer;
use crate::placement::geo_data::{self, Sources};
use crate::store::memory::Memory;
use crate::store::sqlite::Sqlite;
use crate::store::{Durable as _, Ephemeral};

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

        let stores = Stores {
            durable: Arc::new(durable),
            ephemeral: Arc::new(Memory::default()),
        };
        let ephemeral = Arc::clone(&stores.ephemeral);
        let (handle, actor) = actor::spawn(
            settings(config, &keys),
            saved,
            stores,
            metrics.clone(),
            shutdown.clone(),
        );
        let explainer = explainer(config, (&handle, &ephemeral), &shutdown).await?;
        let services = Services {
            handle,
            ephemeral: Arc::clone(&ephemeral),
            metrics: metrics.clone(),
            explainer: explainer.clone(),
        };
        let gateway = Gateway {
            ephemeral,
            keys: Arc::new(keys),
            development: config.development,
            region: config.region.clone(),
            token_valid: Duration::from_secs(config.token_valid_s),
            metrics: metrics.clone(),
            explainer,
            trusted_proxies: config.trusted_proxies.clone().into(),
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

/// What places clients and explains rooms, with geo data where there is some.
async fn explainer(
    config: &Config,
    (handle, ephemeral): (&Handle, &Arc<dyn Ephemeral>),
    shutdown: &CancellationToken,
) -> anyhow::Result<Explainer> {
    let placer = Placer::new(config.placement.clone(), config.rules(), config.prices());
    let placer = Arc::new(placer);
    follow_geo_data(config, &placer, shutdown).await?;
    Ok(Explainer::new(
        handle.clone(),
        Arc::clone(ephemeral),
        placer,
    ))
}

/// Opens geo data and keeps up with its files, where there is any; says so where there is none.
async fn follow_geo_data(
    config: &Config,
    placer: &Arc<Placer>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let sources = Sources::of(config);
    if sources.is_empty() {
        tracing::info!(
            "no geo data: clients are placed without knowing where they are; `antipode geo fetch` gets some"
        );
        return Ok(());
    }
    let scratch = config.data_dir.clone();
    let made = tokio::fs::create_dir_all(&scratch).await;
    made.with_context(|| format!("data folder {}", scratch.display()))?;
    let placer = Arc::clone(placer);
    tokio::spawn(geo_data::follow(sources, scratch, placer, shutdown.clone()));
    Ok(())
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
        rules: config.rules(),
        prices: config.prices(),
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
