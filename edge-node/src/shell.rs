//! Sockets, tasks and threads around the cores.

pub mod client_rtts;
pub mod commands;
pub mod control;
pub mod drain;
pub mod edge;
mod elsewhere;
mod forward;
pub mod http;
pub mod ice_servers;
pub mod media_plane;
pub mod metrics;
pub mod reports;
pub mod room;
pub mod rooms;
pub mod session;
pub mod socket;
pub mod whip;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use prometheus::Registry;
use proto::control::Hello;
use proto::{NodeId, RegionId};
use relay::control::Client;
use relay::drain::Drain;
use runtime::admin::{self, Readiness};
use runtime::http::Limits;
use runtime::ready::Ready;
use runtime::shutdown::Shutdown;
use runtime::tls::shown::Certificate;
use runtime::tunnel::Tunnels;
use tokio::net::TcpListener;
use tower::Layer as _;

use crate::config::Config;
use edge::{Edge, SharedEdge};
use ice_servers::IceServers;
use media_plane::{MediaPlane, PlaneConfig, TurnConfig};
use metrics::Metrics;
use reports::Reports;

/// How long clients have to take their goodbye when the edge stops.
const GOODBYE: Duration = Duration::from_millis(500);

/// Runs an edge until `shutdown`. Prints the role's ready line on standard output once it serves.
///
/// # Errors
/// When it cannot start: certificates unreadable, an address taken.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    runtime::tls::install_provider();
    config.check()?;
    let registry = Registry::new();
    runtime::process::register(&registry).context("process metrics")?;
    let metrics = Metrics::register(&registry).context("metrics of signalling")?;
    let tunnels = Tunnels::new(config.edge_ca.as_deref(), metrics.tunnels.clone());
    let tunnels = tunnels.context("edge_ca")?;
    let drain = Drain::default();
    let readiness = Readiness::new();
    let reports: Arc<Reports> = Arc::default();
    let admin = serve_admin(config.admin, (&registry, &readiness), &reports).await?;
    let listener = TcpListener::bind(config.http)
        .await
        .with_context(|| format!("signalling listener on {}", config.http))?;
    let http = listener.local_addr()?;
    let incarnation = relay::role::incarnation();
    let plane = MediaPlane::start(plane_config(&config, incarnation)?, &registry, &shutdown);
    let (plane, plane_events) = plane.context("media plane")?;
    let tls = client_tls(&config, &registry, &shutdown)?;
    let turn = serve_turn(&config, &plane, tls.as_ref(), (&registry, &shutdown))?;
    let url = control::client_url(config.client_url.as_deref(), http, tls.is_some());
    let hello = hello(&config, &plane, (incarnation, url.clone(), admin.url()));
    let status = || {
        let drain = (drain.clone(), tunnels.clone());
        control::status(plane.mesh().clone(), metrics.clone(), drain)
    };
    register(&config, hello.clone(), status(), &shutdown)?;
    let session = relay::control::Config {
        urls: config.control.clone(),
        srv: relay::control::named(config.control_srv.as_deref(), config.name_server),
        hello,
    };
    let (client, messages) = Client::connect(session, status(), shutdown.token().clone())?;
    let drain_status = status();
    let edge: SharedEdge = Arc::new(Edge {
        node: NodeId::from(config.node_id.as_str()),
        region: config.region.clone(),
        incarnation,
        capacity: config.capacity,
        plane,
        control: client,
        keys: ArcSwap::default(),
        keys_known: AtomicBool::new(false),
        rooms: rooms::Rooms::default(),
        tracks: edge::Tracks::default(),
        http_sessions: whip::Sessions::default(),
        reports,
        turn,
        metrics,
        drain,
        tunnels,
    });
    tokio::spawn(control::follow_control(Arc::clone(&edge), messages));
    tokio::spawn(control::follow_plane(Arc::clone(&edge), plane_events));
    tokio::spawn(drain::follow(
        Arc::clone(&edge),
        drain_status,
        (readiness.clone(), shutdown.clone()),
        Duration::from_secs(config.drain_s),
    ));
    readiness.set(true);
    let mut ready = Ready::new(config.node_id.as_str(), admin.url());
    ready.url = Some(url);
    ready.link = Some(edge.plane.mesh().local_addr().to_string());
    ready.print().context("standard output")?;

    let per_address = config.http_connections_per_address;
    serve_clients(&edge, (listener, tls), per_address, shutdown).await?;
    readiness.set(false);
    say_goodbye(&edge).await;
    Ok(())
}

/// Serves signalling, WHIP and WHEP until `shutdown`.
async fn serve_clients(
    edge: &SharedEdge,
    (tcp, tls): (TcpListener, Option<Certificate>),
    connections_per_address: usize,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let app =
        tower::util::MapRequestLayer::new(http::normalize).layer(http::router(Arc::clone(edge)));
    let listener = runtime::http::Listener {
        tcp,
        tls: tls.map(|tls| tls.acceptor(&[b"http/1.1"])).transpose()?,
        limits: Limits {
            connections_per_address,
            ..Limits::default()
        },
        connections: edge.metrics.http_connections.clone(),
        refused: edge.metrics.http_refused.clone(),
    };
    runtime::http::serve(listener, app, shutdown).await;
    Ok(())
}

/// Registers in Consul, if there is one.
fn register(
    config: &Config,
    hello: Hello,
    status: impl Fn() -> relay::control::Status + Send + 'static,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let registration = relay::registration::Config {
        url: config.consul_url.clone(),
        token: config.consul_token.clone(),
    };
    relay::registration::start(&registration, hello, status, shutdown.token().clone())
}

/// The admin listener, with a document on how transports do.
async fn serve_admin(
    address: SocketAddr,
    (registry, readiness): (&Registry, &Readiness),
    reports: &Arc<Reports>,
) -> anyhow::Result<admin::AdminHandle> {
    let document = Arc::clone(reports);
    let media: admin::Document = (
        "/debug/media",
        Box::new(move || document.to_json(Instant::now())),
    );
    admin::serve_with(address, registry.clone(), readiness.clone(), vec![media])
        .await
        .with_context(|| format!("admin listener on {address}"))
}

/// The certificate that clients are shown.
fn client_tls(
    config: &Config,
    registry: &Registry,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Certificate>> {
    let (files, acme) = (config.client_tls.as_ref(), config.client_acme.as_ref());
    let opened = Certificate::open(files, acme, registry, shutdown.clone());
    opened.context("client_tls, client_acme")
}

/// Starts the TURN server.
fn serve_turn(
    config: &Config,
    plane: &MediaPlane,
    tls: Option<&Certificate>,
    (registry, shutdown): (&Registry, &Shutdown),
) -> anyhow::Result<Option<IceServers>> {
    let settings = &config.turn;
    if !settings.enabled {
        return Ok(None);
    }
    let tls = match (settings.tls, tls) {
        (Some(address), Some(tls)) => Some((address, tls.acceptor(&[])?)),
        _ => None,
    };
    let turn = TurnConfig {
        realm: config.mesh.clone(),
        udp: Some(settings.udp),
        tcp: settings.tcp,
        tls,
        allocations: settings.allocations,
        allocations_per_participant: settings.allocations_per_participant,
    };
    let turn = plane.serve_turn(turn, registry, shutdown)?;
    tracing::info!(udp = ?turn.udp, tcp = ?turn.tcp, tls = ?turn.tls, "TURN serves");
    let addresses = external(config);
    let fallback = addresses.first().map(IpAddr::to_string).unwrap_or_default();
    Ok(Some(IceServers::new(turn, settings.host.clone(), fallback)))
}

/// Addresses that clients reach this edge at.
fn external(config: &Config) -> Vec<IpAddr> {
    if !config.external_addresses.is_empty() {
        config.external_addresses.clone()
    } else if config.rtc_udp.ip().is_unspecified() {
        vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]
    } else {
        vec![config.rtc_udp.ip()]
    }
}

fn plane_config(config: &Config, incarnation: u64) -> anyhow::Result<PlaneConfig> {
    let via = config
        .link_via
        .iter()
        .map(|(node, at)| (NodeId::from(node.as_str()), *at));
    let shards = match config.shards {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        shards => shards,
    };
    Ok(PlaneConfig {
        udp: config.rtc_udp,
        tcp: config.rtc_tcp,
        shards,
        external: external(config),
        audio_streams: config.audio_streams,
        link: relay::worker::Config {
            node: NodeId::from(config.node_id.as_str()),
            role: relay::Role::Edge,
            region: RegionId::from(config.region.as_str()),
            mesh: config.mesh.clone(),
            incarnation,
            listen: config.link,
            via: via.collect(),
            rate_bps_max: config.link_rate_bps,
            audio_streams: config.audio_streams,
            credentials: config.tls.load().context("certificates")?,
        },
    })
}

/// What the control plane is told first; `started` is incarnation, client URL and admin URL.
fn hello(config: &Config, plane: &MediaPlane, started: (u64, String, String)) -> Hello {
    let (incarnation, client_url, admin_url) = started;
    let addresses = if config.link_advertise.is_empty() {
        vec![plane.mesh().local_addr()]
    } else {
        config.link_advertise.clone()
    };
    Hello {
        node_id: config.node_id.clone(),
        incarnation,
        role: proto::control::Role::Edge.into(),
        region: config.region.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        link_addresses: addresses.iter().map(SocketAddr::to_string).collect(),
        client_url,
        admin_url,
        pid: u64::from(std::process::id()),
        capacity: config.capacity,
    }
}

/// Tells every client to join elsewhere.
async fn say_goodbye(edge: &SharedEdge) {
    for room in edge.rooms.all() {
        if room.try_send(room::Mail::Shutdown).is_err() {
            tracing::debug!("a room was gone already");
        }
    }
    tokio::time::sleep(GOODBYE).await;
}
