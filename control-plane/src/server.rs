//! Puts a control plane together and runs it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use proto::control::ApiKeys;
use runtime::admin::{self, Readiness};
use runtime::discovery::View;
use runtime::http::Limits;
use runtime::ready::Ready;
use runtime::shutdown::Shutdown;
use runtime::tls::listener::Acceptor;
use runtime::tls::shown::Certificate;
use runtime::tunnel::Tunnels;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::actor::{self, Handle, Stores};
use crate::config::{Config, Database};
use crate::core::Settings;
use crate::dispatch::Dispatch;
use crate::explain::Explainer;
use crate::grpc::{self, Rooms, Services};
use crate::http::{self, Gateway, RateLimits};
use crate::keyring::{Follower, Keyring};
use crate::metrics::Metrics;
use crate::placement::Placer;
use crate::placement::geo_data::{self, Sources};
use crate::presence;
use crate::replicas::{self, Identity, Replicas};
use crate::store::audit::By;
use crate::store::{self, Durable, Ephemeral, Saved};
use crate::upkeep;
use crate::webhook::{Courier, Target, Webhooks};

/// A control plane that serves.
#[derive(Debug)]
pub struct Server {
    grpc: SocketAddr,
    http: SocketAddr,
    replicas: watch::Receiver<View>,
    rooms: Arc<Rooms>,
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
        let (state, saved) = State::open(config, &metrics, &shutdown).await?;
        let State {
            durable,
            ephemeral,
            keyring,
            ..
        } = state.clone();
        let grpc_listener = bind(config.grpc, "gRPC").await?;
        let http_listener = bind(config.http, "HTTP").await?;
        let (grpc, http) = (grpc_listener.local_addr()?, http_listener.local_addr()?);

        let tls = gateway_tls(config, registry, &shutdown)?;
        let stores = stores(config, &state, &metrics, &shutdown)?;
        let others = others(config);
        let (handle, actor) = actor::spawn(
            settings(config, keyring.for_nodes(state.version), &others),
            saved,
            stores,
            metrics.clone(),
            shutdown.clone(),
        );
        let dispatch = Dispatch::new(handle.clone(), others.clone());
        let replicas = presence::start(config, (grpc, http), &metrics, &shutdown)?;
        // Both end with `shutdown` and hold nothing that anybody waits for.
        tokio::spawn(state.follower(&handle).run(shutdown.clone()));
        tokio::spawn(upkeep::prune(Arc::clone(&durable), shutdown.clone()));
        let known = (&handle, &ephemeral, &others);
        let explainer = explainer(config, known, &shutdown).await?;
        if !others.is_ready() {
            others.watch(&config.replicas, replicas.clone(), &metrics, &shutdown);
            let parts = replicas::Parts::new(&handle, &durable, &ephemeral);
            let (others, named) = (others.clone(), replicas.clone());
            tokio::spawn(replicas::follow(others, named, parts, shutdown.clone()));
        }
        let rooms = Rooms::new(dispatch.clone(), metrics.clone(), explainer.clone());
        let rooms = Arc::new(rooms);
        let services = Services {
            dispatch: dispatch.clone(),
            replicas: others,
            durable,
            ephemeral: Arc::clone(&ephemeral),
            explainer: explainer.clone(),
            rooms: Arc::clone(&rooms),
            refused: metrics.grpc_refused.clone(),
        };
        let state = (ephemeral, keyring, tls.is_some());
        let gateway = gateway(config, state, (dispatch, explainer), &metrics)?;
        let listener = listener(config, http_listener, tls, &metrics);
        tokio::spawn(gateway.rates.clone().forget_idle(shutdown.clone()));
        let router = http::router(gateway);
        let tasks = Tasks {
            actor,
            grpc: tokio::spawn(grpc::serve(grpc_listener, services, shutdown.clone())),
            http: tokio::spawn(runtime::http::serve(listener, router, shutdown.into())),
        };
        Ok(Self {
            grpc,
            http,
            replicas,
            rooms,
            tasks,
        })
    }

    /// Where the gRPC services listen.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc
    }

    /// Where the gateway listens.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// The service that answers edges, without gRPC around it.
    pub fn rooms(&self) -> Arc<Rooms> {
        Arc::clone(&self.rooms)
    }

    /// The control replicas as the registry shows them, this one included.
    pub fn replicas(&self) -> watch::Receiver<View> {
        self.replicas.clone()
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

/// What outlives the process and what does not, and the keys.
#[derive(Clone, Debug)]
struct State {
    durable: Arc<dyn Durable>,
    ephemeral: Arc<dyn Ephemeral>,
    keyring: Keyring,
    version: u64,
}

impl State {
    /// Opens the stores; what was saved as well.
    async fn open(
        config: &Config,
        metrics: &Metrics,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<(Self, Saved)> {
        let durable = store::open::durable(config).await.context("database")?;
        let ephemeral = store::open::ephemeral(config, metrics, shutdown);
        let ephemeral = ephemeral.await.context("redis_url")?;
        let (keyring, version) = keys(config, &*durable).await.context("API keys")?;
        let saved = durable.load().await.context("saved state")?;
        tracing::info!(
            rooms = saved.rooms.len(),
            nodes = saved.nodes.len(),
            "saved state loaded"
        );
        let state = Self {
            durable,
            ephemeral,
            keyring,
            version,
        };
        Ok((state, saved))
    }

    /// Keeps the keys up to date.
    fn follower(self, handle: &Handle) -> Follower {
        Follower {
            durable: self.durable,
            ephemeral: self.ephemeral,
            keyring: self.keyring,
            handle: handle.clone(),
            version: self.version,
        }
    }
}

/// The gateway over these parts; `secure`: served by HTTPS.
fn gateway(
    config: &Config,
    (ephemeral, keys, secure): (Arc<dyn Ephemeral>, Keyring, bool),
    (dispatch, explainer): (Dispatch, Explainer),
    metrics: &Metrics,
) -> anyhow::Result<Gateway> {
    Ok(Gateway {
        ephemeral: Arc::clone(&ephemeral),
        authority: Arc::new(dispatch),
        keys,
        development: config.development,
        region: config.region.clone(),
        token_valid: Duration::from_secs(config.token_valid_s),
        metrics: metrics.clone(),
        edges: Tunnels::new(config.edge_ca.as_deref(), metrics.gateway.tunnels.clone())
            .context("edge_ca")?,
        rates: rates(config, &ephemeral),
        secure,
        explainer,
        trusted_proxies: config.trusted_proxies.clone().into(),
    })
}

/// The gateway's listener with its limits.
fn listener(
    config: &Config,
    tcp: TcpListener,
    tls: Option<Acceptor>,
    metrics: &Metrics,
) -> runtime::http::Listener {
    runtime::http::Listener {
        tcp,
        tls,
        limits: Limits {
            connections: config.http_connections,
            // All clients of a proxy have its address: it has to limit them.
            connections_per_address: if config.trusted_proxies.is_empty() {
                config.http_connections_per_address
            } else {
                0
            },
            ..Limits::default()
        },
        connections: metrics.gateway.connections.clone(),
        refused: metrics.gateway.refused.clone(),
    }
}

/// Limits of requests, which replicas that share a store have together.
fn rates(config: &Config, ephemeral: &Arc<dyn Ephemeral>) -> RateLimits {
    let rates = RateLimits::new(config.rate_per_address, config.rate_per_key);
    if config.redis_url.is_some() {
        rates.shared_by(Arc::clone(ephemeral))
    } else {
        rates
    }
}

/// TLS of the gateway, where there is a certificate.
fn gateway_tls(
    config: &Config,
    registry: &prometheus::Registry,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Acceptor>> {
    let (files, acme) = (config.tls.as_ref(), config.acme.as_ref());
    let certificate = Certificate::open(files, acme, registry, shutdown.clone().into());
    let Some(certificate) = certificate.context("tls, acme")? else {
        return Ok(None);
    };
    Ok(Some(certificate.acceptor(&[b"http/1.1"]).context("tls")?))
}

async fn bind(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("{what} listener on {address}"))
}

/// What places clients and explains rooms, with geo data where there is some.
async fn explainer(
    config: &Config,
    (handle, ephemeral, replicas): (&Handle, &Arc<dyn Ephemeral>, &Replicas),
    shutdown: &CancellationToken,
) -> anyhow::Result<Explainer> {
    let placer = Placer::new(config.placement.clone(), config.rules(), config.prices());
    let placer = Arc::new(placer);
    follow_geo_data(config, &placer, shutdown).await?;
    Ok(Explainer::new(
        handle.clone(),
        Arc::clone(ephemeral),
        placer,
        replicas.clone(),
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

/// Where the control plane's task puts what it decides.
fn stores(
    config: &Config,
    state: &State,
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> anyhow::Result<Stores> {
    let State {
        durable,
        ephemeral,
        keyring,
        ..
    } = state;
    Ok(Stores {
        durable: Arc::clone(durable),
        ephemeral: Arc::clone(ephemeral),
        webhooks: webhooks(config, (durable, keyring), metrics, shutdown)?,
    })
}

/// Starts to tell of events; none when nobody is to be told.
fn webhooks(
    config: &Config,
    (durable, keys): (&Arc<dyn Durable>, &Keyring),
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Webhooks>> {
    let targets = config.webhook_targets()?;
    if targets.is_empty() {
        return Ok(None);
    }
    for Target { key, project, .. } in &targets {
        let valid = |key: &String| keys.project(key).as_ref() == Some(project);
        if !key.as_ref().is_none_or(valid) {
            tracing::warn!(
                ?key,
                project,
                "a webhook's API key is not valid in its project; its events wait until it is"
            );
        }
    }
    let webhooks = Webhooks::new(targets);
    let courier = Courier::new(
        webhooks.clone(),
        Arc::clone(durable),
        keys.clone(),
        metrics.clone(),
    );
    tokio::spawn(courier.context("webhooks")?.run(shutdown.clone()));
    Ok(Some(webhooks))
}

fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Makes the configured keys those of the store, and reads all there are and their version.
async fn keys(config: &Config, durable: &dyn Durable) -> Result<(Keyring, u64), store::Error> {
    let by = By {
        who: &config.node_id,
        at_ms: now_ms(),
    };
    durable.sync_keys(&config.keys, by).await?;
    // A change between the two is seen by the follower.
    let version = durable.keys_version().await?;
    let keyring = Keyring::default();
    keyring.replace(durable.keys().await?);
    Ok((keyring, version))
}

/// The other replicas: there may be some where they can be found and share a database.
fn others(config: &Config) -> Replicas {
    let identity = Identity::new(&config.node_id, &config.mesh);
    let shared = matches!(config.database(), Database::Postgres(_));
    let found = config.consul_url.is_some() || !config.replicas.is_empty();
    if shared && found {
        Replicas::several(identity)
    } else {
        Replicas::alone(identity)
    }
}

fn settings(config: &Config, keys: ApiKeys, others: &Replicas) -> Settings {
    Settings {
        control_id: config.node_id.clone(),
        ring: others.ring().borrow().clone(),
        mesh: config.mesh.clone(),
        keys,
        rules: config.rules(),
        prices: config.prices(),
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
