//! The parts of the media plane and how they are put together.

use super::dtls::Identity;
use super::mesh_sink::{Outlet, Sink};
use super::metrics::Metrics;
use super::shard::{self, Bell, Rings, ShardCommand, ShardHandle};
use super::wiring::{Action, ShardMasks, Wiring};
use super::{PlaneConfig, PlaneEvent, tcp};
use crate::core::ice::MAX_SHARDS;
use anyhow::Context as _;
use bytes::Bytes;
use media::router::{Event, TrackKey, TransportKey};
use relay::{MeshEvent, MeshHandle};
use runtime::shutdown::Shutdown;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Packets in a ring from another shard or from the mesh worker: 100 ms at 80,000 packets per second.
const RING: usize = 8192;
/// Events of all shards, and of the mesh, waiting for the wiring.
const EVENTS: usize = 16_384;
/// Events waiting for rooms. Audio levels get half of it.
const PLANE_EVENTS: usize = 8192;
/// Changes of routes waiting for the mesh worker's next packet.
const ROUTES: usize = 65_536;
/// Events handled per lock.
const BATCH: usize = 256;

/// Everything that handles and transports refer to.
#[derive(Debug)]
pub(super) struct Plane {
    wiring: Mutex<Wired>,
    pub(super) shards: Vec<ShardHandle>,
    pub(super) mesh: MeshHandle,
    pub(super) identity: Arc<Identity>,
    /// Addresses for candidates, preferred first.
    pub(super) external: Vec<IpAddr>,
    pub(super) tcp: SocketAddr,
    pub(super) metrics: Metrics,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) next_track: AtomicU32,
}

/// The tables, and where their actions go.
struct Wired {
    wiring: Wiring,
    next_transport: u32,
    routes: mpsc::Sender<(TrackKey, ShardMasks)>,
    events: mpsc::Sender<PlaneEvent>,
}

impl std::fmt::Debug for Wired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wired").finish_non_exhaustive()
    }
}

impl Plane {
    /// Changes the tables and carries out what follows. The lock keeps the order towards each shard.
    pub(super) fn change(&self, change: impl FnOnce(&mut Wiring)) {
        let mut wired = self.wiring.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut wired.wiring);
        for action in wired.wiring.take_actions() {
            self.carry_out(&wired, action);
        }
    }

    /// A key and a shard for a new transport.
    pub(super) fn allocate_transport(&self) -> (TransportKey, usize) {
        let mut wired = self.wiring.lock().unwrap_or_else(PoisonError::into_inner);
        wired.next_transport += 1;
        let key = TransportKey(wired.next_transport);
        let load = wired.wiring.load(self.shards.len());
        let shard = (0..load.len())
            .min_by_key(|shard| load.get(*shard))
            .unwrap_or(0);
        wired.wiring.open_transport(key, shard);
        self.metrics.transports.inc();
        (key, shard)
    }

    /// Gives a shard an order.
    pub(super) fn command(&self, shard: usize, command: ShardCommand) {
        if matches!(command, ShardCommand::Close { .. }) {
            self.metrics.transports.dec();
        }
        if let Some(shard) = self.shards.get(shard)
            && !shard.command(command)
        {
            self.metrics.queue_dropped("commands", 1);
            tracing::warn!("order to a shard dropped: it is stuck or has ended");
        }
    }

    /// Sends a DTLS datagram to a transport's client. Lost when the shard is behind: DTLS and SCTP repeat what is lost.
    pub(super) fn send_dtls(&self, shard: usize, transport: TransportKey, datagram: Bytes) {
        if let Some(shard) = self.shards.get(shard)
            && !shard.send_dtls(transport, datagram)
        {
            self.metrics.queue_dropped("dtls_out", 1);
        }
    }

    fn carry_out(&self, wired: &Wired, action: Action) {
        match action {
            Action::Router(shard, command) => self.command(shard, ShardCommand::Router(command)),
            Action::Fan(shard, track, fan) => {
                self.command(shard, ShardCommand::Fan { track, fan });
            }
            Action::SenderReport(shard, track, stream, clock) => {
                self.command(
                    shard,
                    ShardCommand::SenderReport {
                        track,
                        stream,
                        clock,
                    },
                );
            }
            Action::Mesh(command) => self.mesh.command(command),
            Action::Route(track, masks) => {
                if wired.routes.try_send((track, masks)).is_err() {
                    self.metrics.queue_dropped("routes", 1);
                    tracing::warn!("route of a remote track dropped: the mesh worker is stuck");
                }
            }
            Action::Plane(event) => {
                let minor = matches!(event, PlaneEvent::AudioLevel { .. });
                if minor && wired.events.capacity() < PLANE_EVENTS / 2 {
                    self.metrics.queue_dropped("audio_levels", 1);
                } else if wired.events.try_send(event).is_err() {
                    self.metrics.queue_dropped("plane_events", 1);
                }
            }
        }
    }
}

/// Binds, spawns and connects everything.
pub(super) fn start(
    config: PlaneConfig,
    registry: &prometheus::Registry,
    shutdown: &Shutdown,
) -> anyhow::Result<(Arc<Plane>, mpsc::Receiver<PlaneEvent>)> {
    anyhow::ensure!(
        (1..=MAX_SHARDS).contains(&config.shards),
        "an edge has 1 to {MAX_SHARDS} shards, not {}",
        config.shards
    );
    let metrics = Metrics::new(registry).context("registering metrics")?;
    let identity = Arc::new(Identity::generate()?);
    let listener = listen(config.tcp)?;
    let tcp = listener.local_addr().context("ICE-TCP address")?;
    let bells: Vec<Arc<Bell>> = (0..config.shards).map(|_| Arc::default()).collect();
    let (inlets, outlets, to_shards) = connect(&bells);

    let (routes, route_end) = mpsc::channel(ROUTES);
    let (mesh_events, mesh_event_end) = mpsc::channel(EVENTS);
    let sink = Sink {
        outlets: to_shards,
        routes: route_end,
        events: mesh_events,
        metrics: metrics.clone(),
        table: HashMap::new(),
    };
    let token = shutdown.token().clone();
    let mesh = relay::worker::spawn(config.link, Box::new(sink), registry, token)
        .context("starting the mesh worker")?;

    let (shard_events, shard_event_end) = mpsc::channel(EVENTS);
    let (events, event_end) = mpsc::channel(PLANE_EVENTS);
    let mut shards = Vec::new();
    for (index, ((inlets, outlets), bell)) in inlets.into_iter().zip(outlets).zip(bells).enumerate()
    {
        let spawn = shard::Spawn {
            index,
            address: shard_address(config.udp, index)?,
            identity: Arc::clone(&identity),
            rings: Rings {
                inlets,
                outlets,
                mesh: mesh.media(),
            },
            bell,
            events: shard_events.clone(),
            news: events.clone(),
            metrics: metrics.clone(),
        };
        shards.push(shard::spawn(spawn, shutdown.clone())?);
    }
    let wired = Wired {
        wiring: Wiring::new(config.audio_streams),
        next_transport: 0,
        routes,
        events,
    };
    let plane = Arc::new(Plane {
        wiring: Mutex::new(wired),
        external: external(&config.external, config.udp),
        shards,
        mesh,
        identity,
        tcp,
        metrics,
        runtime: tokio::runtime::Handle::current(),
        next_track: AtomicU32::new(1),
    });
    tokio::spawn(tcp::serve(listener, Arc::clone(&plane), shutdown.clone()));
    tokio::spawn(pump(
        Arc::clone(&plane),
        shard_event_end,
        mesh_event_end,
        shutdown.clone(),
    ));
    Ok((plane, event_end))
}

type Inlets = Vec<rtrb::Consumer<shard::RingPacket>>;

/// A ring from every shard and from the mesh worker to every shard: what each shard reads, what each shard writes (by target;
/// the one to itself stays empty), and what the mesh worker writes.
fn connect(bells: &[Arc<Bell>]) -> (Vec<Inlets>, Vec<Vec<Outlet>>, Vec<Outlet>) {
    let mut inlets: Vec<Inlets> = bells.iter().map(|_| Vec::new()).collect();
    let mut row = |from: Option<usize>| -> Vec<Outlet> {
        let ends = inlets.iter_mut().zip(bells).enumerate();
        ends.map(|(to, (inlets, bell))| {
            let (producer, consumer) =
                rtrb::RingBuffer::new(if from == Some(to) { 1 } else { RING });
            inlets.push(consumer);
            Outlet::new(producer, Arc::clone(bell))
        })
        .collect()
    };
    let shards = (0..bells.len()).map(|from| row(Some(from))).collect();
    let mesh = row(None);
    (inlets, shards, mesh)
}

/// A listener for use within a tokio runtime.
pub(super) fn listen(address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("binding TCP to {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

fn shard_address(base: SocketAddr, index: usize) -> anyhow::Result<SocketAddr> {
    if base.port() == 0 {
        return Ok(base);
    }
    let port = u16::try_from(index)
        .ok()
        .and_then(|index| base.port().checked_add(index));
    Ok(SocketAddr::new(
        base.ip(),
        port.context("the shards' ports end beyond 65535")?,
    ))
}

/// Addresses for candidates: as configured, or what is bound; a wildcard says nothing, so that means this host only.
fn external(configured: &[IpAddr], bound: SocketAddr) -> Vec<IpAddr> {
    if !configured.is_empty() {
        return configured.to_vec();
    }
    let ip = bound.ip();
    vec![if ip.is_unspecified() {
        Ipv4Addr::LOCALHOST.into()
    } else {
        ip
    }]
}

/// Feeds what shards and mesh report into the tables.
async fn pump(
    plane: Arc<Plane>,
    mut shard_events: mpsc::Receiver<(usize, Event)>,
    mut mesh_events: mpsc::Receiver<MeshEvent>,
    shutdown: Shutdown,
) {
    let mut from_shards = Vec::with_capacity(BATCH);
    let mut from_mesh = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            count = shard_events.recv_many(&mut from_shards, BATCH) => if count == 0 { return },
            count = mesh_events.recv_many(&mut from_mesh, BATCH) => if count == 0 { return },
            () = shutdown.wait() => return,
        }
        plane.change(|wiring| {
            for (shard, event) in from_shards.drain(..) {
                wiring.handle_router_event(shard, event);
            }
            for event in from_mesh.drain(..) {
                wiring.handle_mesh_event(event);
            }
        });
    }
}
