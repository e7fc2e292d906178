//! Sockets, tasks and threads around the cores.

pub mod commands;
pub mod control;
pub mod edge;
mod forward;
pub mod http;
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
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use prometheus::Registry;
use proto::control::Hello;
use proto::{NodeId, RegionId};
use relay::control::Client;
use runtime::admin::{self, Readiness};
use runtime::http::Limits;
use runtime::ready::Ready;
use runtime::shutdown::Shutdown;
use tokio::net::TcpListener;
use tower::Layer as _;

use crate::config::Config;
use edge::{Edge, SharedEdge};
use media_plane::{MediaPlane, PlaneConfig};
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
    let registry = Registry::new();
    runtime::process::register(&registry).context("process metrics")?;
    let metrics = Metrics::register(&registry).context("metrics of signalling")?;
    let readiness = Readiness::new();
    let reports: Arc<Reports> = Arc::default();
    let document = Arc::clone(&reports);
    let media: admin::Document = (
        "/debug/media",
        Box::new(move || document.to_json(Instant::now())),
    );
    let admin = admin::serve_with(
        config.admin,
        registry.clone(),
        readiness.clone(),
        vec![media],
    )
    .await
    .with_context(|| format!("admin listener on {}", config.admin))?;
    let listener = TcpListener::bind(config.http)
        .await
        .with_context(|| format!("signalling listener on {}", config.http))?;
    let http = listener.local_addr()?;
    let incarnation = relay::role::incarnation();
    let (plane, plane_events) =
        MediaPlane::start(plane_config(&config, incarnation)?, &registry, &shutdown)
            .context("media plane")?;
    let url = control::client_url(config.client_url.as_deref(), http);
    let hello = hello(&config, &plane, (incarnation, url.clone(), admin.url()));
    let (client, messages) = Client::connect(
        relay::control::Config {
            urls: config.control.clone(),
            hello,
        },
        control::status(plane.mesh().clone(), metrics.clone()),
        shutdown.token().clone(),
    );
    let link = plane.mesh().local_addr();
    let edge: SharedEdge = Arc::new(Edge {
        node: NodeId::from(config.node_id.as_str()),
        region: config.region.clone(),
        incarnation,
        capacity: config.capacity,
        plane,
        control: client,
        keys: ArcSwap::default(),
        rooms: rooms::Rooms::default(),
        tracks: edge::Tracks::default(),
        http_sessions: whip::Sessions::default(),
        reports,
        metrics,
    });
    tokio::spawn(control::follow_control(Arc::clone(&edge), messages));
    tokio::spawn(control::follow_plane(Arc::clone(&edge), plane_events));
    readiness.set(true);
    let mut ready = Ready::new(config.node_id.as_str(), admin.url());
    ready.url = Some(url);
    ready.link = Some(link.to_string());
    ready.print().context("standard output")?;

    let app =
        tower::util::MapRequestLayer::new(http::normalize).layer(http::router(Arc::clone(&edge)));
    runtime::http::serve(listener, app, Limits::default(), shutdown).await;
    readiness.set(false);
    say_goodbye(&edge).await;
    Ok(())
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
    let external = if !config.external_addresses.is_empty() {
        config.external_addresses.clone()
    } else if config.rtc_udp.ip().is_unspecified() {
        vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]
    } else {
        vec![config.rtc_udp.ip()]
    };
    Ok(PlaneConfig {
        udp: config.rtc_udp,
        tcp: config.rtc_tcp,
        shards,
        external,
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
