//! Puts a control plane together and runs it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use proto::control::ApiKey;
use runtime::admin::{self, Readiness};
use runtime::http::Limits;
use runtime::ready::Ready;
use runtime::shutdown::Shutdown;
use runtime::tls::listener::{Acceptor, Certificate};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::actor::{self, Stores};
use crate::config::{Config, Secret};
use crate::core::Settings;
use crate::grpc::{self, Services};
use crate::http::{self, EdgeClient, Gateway, RateLimits};
use crate::metrics::Metrics;
use crate::store::Durable as _;
use crate::store::memory::Memory;
use crate::store::sqlite::Sqlite;

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
        runtime::tls::install_provider();
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
        let grpc_listener = bind(config.grpc, "gRPC").await?;
        let http_listener = bind(config.http, "HTTP").await?;
        let (grpc, http) = (grpc_listener.local_addr()?, http_listener.local_addr()?);

        let tls = gateway_tls(config, registry, &shutdown)?;
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
        let services = Services {
            handle,
            ephemeral: Arc::clone(&ephemeral),
            metrics: metrics.clone(),
        };
        let rates = RateLimits::new(config.rate_per_address, config.rate_per_key);
        let gateway = Gateway {
            ephemeral,
            keys: Arc::new(keys),
            development: config.development,
            region: config.region.clone(),
            token_valid: Duration::from_secs(config.token_valid_s),
            metrics: metrics.clone(),
            edges: EdgeClient::new(config.edge_ca.as_deref()).context("edge_ca")?,
            rates: rates.clone(),
            secure: tls.is_some(),
        };
        tokio::spawn(rates.forget_idle(shutdown.clone()));
        let limits = Limits {
            connections: config.http_connections,
            ..Limits::default()
        };
        let listener = runtime::http::Listener {
            tcp: http_listener,
            tls,
            limits,
            connections: metrics.http_connections.clone(),
        };
        let router = http::router(gateway);
        let tasks = Tasks {
            actor,
            grpc: tokio::spawn(grpc::serve(grpc_listener, services, shutdown.clone())),
            http: tokio::spawn(runtime::http::serve(listener, router, shutdown.into())),
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

/// TLS of the gateway, where there is a certificate.
fn gateway_tls(
    config: &Config,
    registry: &prometheus::Registry,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Acceptor>> {
    let Some(files) = &config.tls else {
        return Ok(None);
    };
    let certificate = Certificate::open(files, registry, shutdown.clone().into()).context("tls")?;
    Ok(Some(certificate.acceptor(&[b"http/1.1"]).context("tls")?))
}

async fn bind(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("{what} listener on {address}"))
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
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    ready.http = Some(format!("{scheme}://{}", server.http_addr()));
    ready.grpc = Some(format!("http://{}", server.grpc_addr()));
    tracing::info!(http = %server.http_addr(), grpc = %server.grpc_addr(), "control plane serves");
    ready.print().context("standard output")?;
    let stopped = server.stopped().await;
    readiness.set(false);
    stopped
}
