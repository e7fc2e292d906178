//! The relay process: a mesh worker whose node has no clients, and a session with the control plane.

mod drain;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use media::packet::PacketRef;
use media::router::{StreamIndex, TrackKey};
use proto::control::control_message::Message;
use proto::control::node_message::Message as NodeMessage;
use proto::control::{Hello, Load, RoomReport};
use proto::{NodeId, RegionId, RoomId};
use runtime::admin::{self, Readiness};
use runtime::ready::Ready;
use runtime::secret::Secret;
use runtime::shutdown::Shutdown;
use runtime::telemetry::LogConfig;
use runtime::tls::Paths;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::control::{self, Client, Status};
use crate::drain::Drain;
use crate::mesh::command::{MeshCommand, MeshEvent, PeerInfo, Role, RoomPlan};
use crate::registration;
use crate::worker;
use crate::worker::handle::{MeshHandle, MeshSink};

/// How often changes of what crosses the links are reported.
const FLOW_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Configuration of a relay.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Id of this node, as in its certificate.
    pub node_id: String,
    /// Its region, as in its certificate.
    pub region: String,
    /// Name of the mesh: the trust domain of the certificates.
    #[serde(default = "default_mesh")]
    pub mesh: String,
    /// Base URLs of control replicas: a session is kept with each.
    #[serde(default)]
    pub control: Vec<String>,
    /// A name whose SRV records say where control replicas are, for example `antipode-control.service.consul`.
    #[serde(default)]
    pub control_srv: Option<String>,
    /// The name server that is asked for it, for example Consul's agent at `127.0.0.1:8600`; default: the system's.
    #[serde(default)]
    pub name_server: Option<SocketAddr>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    #[serde(default = "any_loopback_port")]
    pub admin: SocketAddr,
    /// Where peers reach the link worker (UDP).
    #[serde(default = "any_loopback_port")]
    pub link: SocketAddr,
    /// Addresses that peers are told; empty: the one that is bound.
    #[serde(default)]
    pub link_advertise: Vec<SocketAddr>,
    /// Peers that are dialled at another address than they announce, by node id (WAN emulation, tunnels).
    #[serde(default)]
    pub link_via: BTreeMap<String, SocketAddr>,
    /// Most that is sent to one peer, in bits per second.
    #[serde(default = "default_rate")]
    pub link_rate_bps: u64,
    /// Audio tracks of a room that a link carries at a time, in each direction: those that speak; 0: all.
    #[serde(default = "default_audio_streams")]
    pub audio_streams: u16,
    /// Certificates.
    pub tls: Paths,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
    /// The agent of Consul where this node registers: `http://…` or `https://…`.
    #[serde(default)]
    pub consul_url: Option<Secret>,
    /// Token for Consul's access control.
    #[serde(default)]
    pub consul_token: Option<Secret>,
}

fn default_mesh() -> String {
    "antipode".to_owned()
}

fn default_rate() -> u64 {
    worker::DEFAULT_RATE_BPS
}

fn default_audio_streams() -> u16 {
    worker::DEFAULT_AUDIO_STREAMS
}

fn any_loopback_port() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}

/// A relay has no clients: what reaches it is on its way elsewhere.
#[derive(Debug)]
struct NoClients;

impl MeshSink for NoClients {
    fn media(&mut self, _: TrackKey, _: StreamIndex, _: PacketRef) {}
    fn event(&mut self, event: MeshEvent) {
        tracing::trace!(?event, "mesh event at a relay");
    }
    fn flush(&mut self) {}
}

/// Milliseconds since the Unix epoch: tells one run of a node from the next.
pub fn incarnation() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Runs a relay until `shutdown`. Prints the role's ready line on standard output once it serves.
///
/// # Errors
/// When it cannot start: certificates unreadable, an address taken.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    runtime::tls::install_provider();
    let registry = prometheus::Registry::new();
    runtime::process::register(&registry).context("process metrics")?;
    let readiness = Readiness::new();
    let admin = admin::serve(config.admin, registry.clone(), readiness.clone())
        .await
        .with_context(|| format!("admin listener on {}", config.admin))?;
    let incarnation = incarnation();
    let mesh = worker::spawn(
        worker_config(&config, incarnation)?,
        Box::new(NoClients),
        &registry,
        shutdown.token().clone(),
    )?;
    let addresses = if config.link_advertise.is_empty() {
        vec![mesh.local_addr()]
    } else {
        config.link_advertise.clone()
    };
    let hello = Hello {
        node_id: config.node_id.clone(),
        incarnation,
        role: proto::control::Role::Relay.into(),
        region: config.region.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        link_addresses: addresses.iter().map(SocketAddr::to_string).collect(),
        client_url: String::new(),
        admin_url: admin.url(),
        pid: u64::from(std::process::id()),
        capacity: 0,
    };
    let drain = Drain::default();
    let registration = registration::Config {
        url: config.consul_url.clone(),
        token: config.consul_token.clone(),
    };
    let (this, shown) = (hello.clone(), status(&mesh, &drain));
    registration::start(&registration, this, shown, shutdown.token().clone())?;
    let session = control::Config {
        urls: config.control.clone(),
        srv: control::named(config.control_srv.as_deref(), config.name_server),
        hello,
    };
    let (client, messages) =
        Client::connect(session, status(&mesh, &drain), shutdown.token().clone())?;

    readiness.set(true);
    let mut ready = Ready::new(config.node_id.as_str(), admin.url());
    ready.link = Some(mesh.local_addr().to_string());
    ready.print().context("standard output")?;
    tokio::select! {
        () = follow(messages, &mesh, (&client, &drain)) => {}
        () = report_flows(&client, &mesh) => {}
        () = drain::follow(&drain, &client, status(&mesh, &drain), (&mesh, &readiness), &shutdown) => {}
        () = shutdown.wait() => {}
    }
    drop(client);
    mesh.stopped().await;
    Ok(())
}

fn worker_config(config: &Config, incarnation: u64) -> anyhow::Result<worker::Config> {
    let via = config
        .link_via
        .iter()
        .map(|(node, at)| (NodeId::from(node.as_str()), *at));
    Ok(worker::Config {
        node: NodeId::from(config.node_id.as_str()),
        role: Role::Relay,
        region: RegionId::from(config.region.as_str()),
        mesh: config.mesh.clone(),
        incarnation,
        listen: config.link,
        via: via.collect(),
        rate_bps_max: config.link_rate_bps,
        audio_streams: config.audio_streams,
        credentials: config.tls.load().context("certificates")?,
    })
}

/// What a relay reports every second.
fn status(mesh: &MeshHandle, drain: &Drain) -> impl Fn() -> Status + Send + Sync + 'static {
    let (mesh, drain) = (mesh.clone(), drain.clone());
    let meter = control::LoadMeter::new();
    move || {
        let stats = mesh.stats();
        let bytes_sent = stats.iter().map(|link| link.bytes_sent).sum();
        let (cpu_cores, egress_bps) = meter.read(bytes_sent);
        Status {
            load: Load {
                participants: 0,
                rooms: 0,
                cpu_cores,
                egress_bps,
                drain: drain.status(0),
            },
            links: control::link_report(&stats),
        }
    }
}

/// Tells the control plane which tracks cross which of our links, when that changes.
async fn report_flows(client: &Client, mesh: &MeshHandle) {
    let mut ticks = tokio::time::interval(FLOW_REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reported = BTreeMap::new();
    loop {
        ticks.tick().await;
        if !client.is_connected() {
            // Whoever we connect to next knows nothing.
            reported.clear();
            continue;
        }
        let flows = control::flow_reports(&mesh.stats());
        let rooms: BTreeSet<RoomId> = flows.keys().chain(reported.keys()).cloned().collect();
        for room in rooms {
            let now = flows.get(&room).cloned().unwrap_or_default();
            if reported.get(&room) == Some(&now) {
                continue;
            }
            let report = RoomReport {
                room: room.as_str().to_owned(),
                flows: now.clone(),
                ..RoomReport::default()
            };
            if client.send(NodeMessage::Room(report)).is_err() {
                continue;
            }
            if now.is_empty() {
                reported.remove(&room);
            } else {
                reported.insert(room, now);
            }
        }
    }
}

/// Does what the control plane says until its messages end.
async fn follow(
    mut messages: mpsc::Receiver<proto::control::ControlMessage>,
    mesh: &MeshHandle,
    (client, drain): (&Client, &Drain),
) {
    while let Some(message) = messages.recv().await {
        match message.message {
            Some(Message::Peers(list)) => {
                let peers = list
                    .peers
                    .iter()
                    .filter_map(PeerInfo::from_control)
                    .collect();
                mesh.command(MeshCommand::SetPeers(peers));
            }
            Some(Message::Plan(plan)) => {
                mesh.command(MeshCommand::SetPlan(RoomPlan::from(&plan)));
            }
            Some(Message::Welcome(welcome)) => {
                tracing::info!(
                    control = welcome.control_id,
                    mesh = welcome.mesh,
                    "welcomed"
                );
            }
            Some(Message::Command(command)) => drain::take(command, client, drain),
            // Keys are for edges; other messages are of newer versions.
            Some(Message::Keys(_)) | None => {}
        }
    }
}
