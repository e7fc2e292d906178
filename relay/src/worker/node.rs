//! The worker's thread: owns the core, hands it what the sessions and other threads bring, and carries out what it says.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use media::packet::{AudioMeta, Packet, Pool};
use proto::NodeId;
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime, VarInt};
use runtime::tls::NodeName;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, LocalSet};
use tokio_util::sync::CancellationToken;

use super::Config;
use super::endpoint::Quic;
use super::handle::{Ends, Exported, MeshSink};
use super::metrics::Metrics;
use super::session::Session;
use crate::link::header::PacketMeta;
use crate::link::message;
use crate::mesh::command::{MeshCommand, PeerInfo};
use crate::mesh::{self, Input, Mesh, Output, PeerKey};

/// How often stats and metrics are published.
const STATS_INTERVAL: Duration = Duration::from_millis(250);
/// How long a node that left the peer list keeps its link: a control plane that just restarted knows few nodes at first, and
/// its loss must not stop media.
const PEER_GRACE: Duration = Duration::from_secs(60);
/// Packets taken from the rings in one go.
const RING_BATCH: usize = 1024;
/// Commands taken in one go.
const COMMAND_BATCH: usize = 256;
/// Packet slots for media that arrives: 50 ms at 80,000 packets per second.
const POOL_SLOTS: usize = 4096;
/// Longest canonical RTP packet in bytes.
const RTP_LEN_MAX: usize = 1600;
/// Canonical packets are written into chunks of this many bytes.
const CHUNK_LEN: usize = 64 << 10;
/// How long closing connections may take at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What the thread starts with.
pub(super) struct Start {
    pub(super) config: Config,
    pub(super) socket: UdpSocket,
    pub(super) quic: Quic,
    pub(super) sink: Box<dyn MeshSink>,
    pub(super) metrics: Metrics,
    pub(super) ends: Ends,
    pub(super) shutdown: CancellationToken,
}

/// Runs a worker to its end; the body of its thread.
pub(super) fn run(start: Start) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => LocalSet::new().block_on(&runtime, work(start)),
        Err(error) => tracing::error!(%error, "link worker cannot start"),
    }
}

async fn work(start: Start) {
    let Start {
        config,
        socket,
        quic,
        sink,
        metrics,
        ends,
        shutdown,
    } = start;
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(
        EndpointConfig::default(),
        Some(quic.server),
        socket,
        runtime,
    );
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(error) => return tracing::error!(%error, "link worker cannot use its socket"),
    };
    let node = Rc::new(Node::new(config, endpoint.clone(), quic.client, sink));
    // Who waits for the end sees it when this goes.
    let alive = ends.stats.clone();
    tokio::select! {
        () = serve(&node, ends, metrics) => {}
        () = shutdown.cancelled() => {}
    }
    node.stop_dialing();
    endpoint.close(VarInt::from_u32(0), b"shutdown");
    let idle = tokio::time::timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
    tracing::debug!(idle = idle.is_ok(), "link worker ended");
    drop(alive);
}

/// Waits for whatever comes next, for ever.
async fn serve(node: &Rc<Node>, mut ends: Ends, mut metrics: Metrics) {
    let mut stats = tokio::time::interval(STATS_INTERVAL);
    stats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = node.due();
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => node.input([Input::Timeout]),
            () = node.rearm.notified() => {}
            () = ends.bell.rung() => if node.drain_rings() { ends.bell.ring() },
            Some(ring) = ends.rings.recv() => {
                node.state.borrow_mut().rings.push(ring);
                ends.bell.ring();
            }
            Some(command) = ends.commands.recv() => {
                node.commands(command, &mut ends.commands);
                // Media that came before an order is handled before the next.
                node.drain_rings();
            }
            incoming = node.endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                if let Some(reason) = node.receive(incoming) {
                    metrics.refuse(reason);
                }
            }
            _ = stats.tick() => {
                node.expire_peers();
                node.publish(&ends, &mut metrics);
            }
        }
    }
}

/// A node of the peer list.
struct Known {
    info: PeerInfo,
    /// Since when it is not in the list any more.
    missing: Option<Instant>,
}

/// The worker's state; everything on its thread shares it.
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) endpoint: Endpoint,
    pub(super) client: ClientConfig,
    rearm: Notify,
    /// Links that nodes are making with us now.
    pub(super) handshakes: Cell<usize>,
    state: RefCell<State>,
}

struct State {
    core: Mesh,
    sink: Box<dyn MeshSink>,
    pool: Pool,
    chunk: BytesMut,
    sessions: BTreeMap<PeerKey, Session>,
    sessions_opened: u64,
    peers: BTreeMap<NodeId, Known>,
    dialing: BTreeMap<NodeId, AbortHandle>,
    rings: Vec<rtrb::Consumer<Exported>>,
    /// When time has to pass next.
    due: Option<Instant>,
}

impl Node {
    fn new(
        config: Config,
        endpoint: Endpoint,
        client: ClientConfig,
        sink: Box<dyn MeshSink>,
    ) -> Self {
        let core = mesh::Config {
            node: config.node.clone(),
            incarnation: config.incarnation,
            audio_streams: config.audio_streams,
        };
        let state = State {
            core: Mesh::new(core),
            sink,
            pool: Pool::new(POOL_SLOTS),
            chunk: BytesMut::new(),
            sessions: BTreeMap::new(),
            sessions_opened: 0,
            peers: BTreeMap::new(),
            dialing: BTreeMap::new(),
            rings: Vec::new(),
            due: None,
        };
        Self {
            config,
            endpoint,
            client,
            rearm: Notify::new(),
            handshakes: Cell::new(0),
            state: RefCell::new(state),
        }
    }

    fn due(&self) -> Instant {
        self.state
            .borrow()
            .due
            .unwrap_or_else(|| Instant::now() + Duration::from_secs(1))
    }

    /// Gives the core something of this node.
    fn input(&self, inputs: impl IntoIterator<Item = Input>) {
        let now = Instant::now();
        let state = &mut *self.state.borrow_mut();
        for input in inputs {
            state.core.handle_input(now, input);
        }
        self.deliver(state, now);
    }

    /// Gives the core something of a session, unless another one took its place. Returns whether it is still current.
    pub(super) fn session_input(
        &self,
        (peer, session): (PeerKey, u64),
        inputs: impl IntoIterator<Item = Input>,
    ) -> bool {
        let now = Instant::now();
        let state = &mut *self.state.borrow_mut();
        if state
            .sessions
            .get(&peer)
            .is_none_or(|current| current.id != session)
        {
            return false;
        }
        for input in inputs {
            state.core.handle_input(now, input);
        }
        self.deliver(state, now);
        true
    }

    /// Takes the next datagram for a session.
    pub(super) fn next_datagram(&self, (peer, session): (PeerKey, u64)) -> Option<Bytes> {
        let state = &mut *self.state.borrow_mut();
        state
            .sessions
            .get(&peer)
            .filter(|current| current.id == session)?;
        state.core.poll_transmit(Instant::now(), peer)
    }

    /// A connection with a neighbour is ready: it becomes the neighbour's only session.
    pub(super) fn open(&self, node: &NodeId, make: impl FnOnce((PeerKey, u64)) -> Session) {
        let now = Instant::now();
        let state = &mut *self.state.borrow_mut();
        let peer = state.core.peer(node);
        state.sessions_opened += 1;
        let session = make((peer, state.sessions_opened));
        let rtt = Some(session.connection.rtt());
        if let Some(former) = state.sessions.insert(peer, session) {
            former.close("replaced");
        }
        state.core.handle_input(now, Input::Connected { peer, rtt });
        self.deliver(state, now);
    }

    /// A session's connection is gone.
    pub(super) fn closed(&self, (peer, session): (PeerKey, u64)) {
        let gone = [Input::Disconnected { peer }];
        if self.session_input((peer, session), gone) {
            self.state.borrow_mut().sessions.remove(&peer);
        }
    }

    /// Carries out what the core says.
    fn deliver(&self, state: &mut State, now: Instant) {
        while let Some(output) = state.core.poll_output() {
            match output {
                Output::Message { peer, message } => {
                    let session = state.sessions.get(&peer);
                    if session.is_some_and(|session| !session.send(message::encode(message))) {
                        close(state, now, peer, "control stream stalled");
                    }
                }
                Output::Data { peer, data } => {
                    if let Some(session) = state.sessions.get_mut(&peer) {
                        session.send_data(data);
                    }
                }
                Output::Media {
                    track,
                    stream,
                    meta,
                    rtp,
                } => match state
                    .pool
                    .from_canonical(&rtp, (meta.layer, meta.left_out), now)
                {
                    Ok(packet) => state.sink.media(track, stream, packet),
                    Err(error) => tracing::trace!(%error, "media of a link is no RTP"),
                },
                Output::Event(event) => state.sink.event(event),
                Output::Disconnect { peer, reason } => close(state, now, peer, reason),
            }
        }
        state.sink.flush();
        for session in state.sessions.values() {
            session.wake.notify_one();
        }
        let due = state.core.poll_timeout(now);
        let sooner = state
            .due
            .is_none_or(|before| due.is_some_and(|due| due < before));
        state.due = due;
        if sooner {
            self.rearm.notify_one();
        }
    }

    /// Moves packets from the shards' rings to the core. Returns whether there may be more.
    fn drain_rings(&self) -> bool {
        let now = Instant::now();
        let state = &mut *self.state.borrow_mut();
        let mut taken = 0;
        for ring in &mut state.rings {
            while taken < RING_BATCH
                && let Ok(exported) = ring.pop()
            {
                taken += 1;
                if state.chunk.capacity() < RTP_LEN_MAX {
                    state.chunk = BytesMut::with_capacity(CHUNK_LEN);
                }
                state.chunk.resize(RTP_LEN_MAX, 0);
                let Some(len) = exported.packet.write_canonical(&mut state.chunk) else {
                    continue;
                };
                let rtp = state.chunk.split_to(len).freeze();
                let (track, stream) = (exported.track, exported.stream);
                let meta = packet_meta(&exported.packet);
                state.core.handle_input(
                    now,
                    Input::Media {
                        track,
                        stream,
                        meta,
                        rtp,
                    },
                );
            }
        }
        state
            .rings
            .retain(|ring| !ring.is_abandoned() || !ring.is_empty());
        if taken > 0 {
            self.deliver(state, now);
        }
        taken >= RING_BATCH
    }

    /// Tells others how the links are.
    fn publish(&self, ends: &Ends, metrics: &mut Metrics) {
        let state = self.state.borrow();
        let links = state.core.stats(Instant::now());
        metrics.update(&links, state.core.refusals(), &ends.counters);
        ends.stats.send_replace(links);
    }

    /// Carries out an order and those that wait behind it.
    fn commands(self: &Rc<Self>, first: MeshCommand, queue: &mut mpsc::Receiver<MeshCommand>) {
        self.command(first);
        for _ in 1..COMMAND_BATCH {
            let Ok(command) = queue.try_recv() else {
                return;
            };
            self.command(command);
        }
    }

    fn command(self: &Rc<Self>, command: MeshCommand) {
        if let MeshCommand::SetPeers(peers) = command {
            self.set_peers(peers);
        } else {
            self.input([Input::Command(command)]);
        }
    }

    /// Replaces the peer list and dials those that are ours to dial: the lower node id dials.
    fn set_peers(self: &Rc<Self>, peers: Vec<PeerInfo>) {
        let state = &mut *self.state.borrow_mut();
        let now = Instant::now();
        for known in state.peers.values_mut() {
            known.missing.get_or_insert(now);
        }
        for info in peers {
            let node = info.node.clone();
            if node == self.config.node {
                continue;
            }
            state.peers.insert(
                node.clone(),
                Known {
                    info,
                    missing: None,
                },
            );
            if self.config.node < node && !state.dialing.contains_key(&node) {
                let task = tokio::task::spawn_local(Rc::clone(self).dial(node.clone()));
                state.dialing.insert(node, task.abort_handle());
            }
        }
    }

    /// Lets go of nodes that have long left the peer list.
    fn expire_peers(&self) {
        let now = Instant::now();
        let state = &mut *self.state.borrow_mut();
        let expired = |known: &Known| known.missing.is_some_and(|since| now > since + PEER_GRACE);
        let gone: Vec<NodeId> = state
            .peers
            .iter()
            .filter(|(_, known)| expired(known))
            .map(|(node, _)| node.clone())
            .collect();
        for node in gone {
            state.peers.remove(&node);
            if let Some(task) = state.dialing.remove(&node) {
                task.abort();
            }
            let peer = state.core.peer(&node);
            close(state, now, peer, "not in the peer list");
            self.deliver(state, now);
        }
    }

    fn stop_dialing(&self) {
        for task in self.state.borrow().dialing.values() {
            task.abort();
        }
    }

    /// What the peer list says of a node.
    pub(super) fn known(&self, node: &NodeId) -> Option<PeerInfo> {
        self.state
            .borrow()
            .peers
            .get(node)
            .map(|known| known.info.clone())
    }

    /// The node that a certificate belongs to, if links may be made with it.
    pub(super) fn admit(&self, name: &NodeName) -> Option<NodeId> {
        let node = NodeId::from(name.node.as_str());
        let known = self.known(&node)?;
        let same = name.mesh == self.config.mesh
            && name.region == known.region.as_str()
            && name.role == known.role.as_str();
        same.then_some(node)
    }
}

/// Ends a neighbour's session, and tells the core if it does not know.
fn close(state: &mut State, now: Instant, peer: PeerKey, reason: &'static str) {
    if let Some(session) = state.sessions.remove(&peer) {
        session.close(reason);
        state.core.handle_input(now, Input::Disconnected { peer });
    }
}

/// What hops may know of a packet published here.
fn packet_meta(packet: &Packet) -> PacketMeta {
    PacketMeta {
        layer: packet.layer,
        audio: AudioMeta {
            level: packet.ext.audio_level,
        },
        left_out: packet.left_out,
    }
}
