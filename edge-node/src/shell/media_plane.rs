//! The media plane of an edge: everything below signalling.
//!
//! Shards (one thread each) own the UDP sockets, the ICE agents and the forwarding tables. DTLS and SCTP of each transport run
//! in a task of their own on the caller's runtime. The mesh worker connects to other nodes. [`MediaPlane`] holds the tables that
//! tie them together: which track is where, who subscribes to it, and who wants which of its streams.

mod dtls;
mod mesh_sink;
mod metrics;
mod peer;
mod plane;
mod sctp;
mod shard;
mod tcp;
#[cfg(test)]
mod tests;
mod transport;
mod turn;
mod wiring;

use media::router::{
    ReceiveConfig, StreamIndex, SubscriptionConfig, Target, TrackConfig, TrackKey, TransportKey,
    TransportReport,
};
use proto::{NodeId, RoomId, TrackSid};
use relay::{MeshEvent, MeshHandle};
use runtime::shutdown::Shutdown;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;

pub use sctp::MESSAGE_MAX;
pub use transport::{LocalParameters, RemoteParameters, Transport, TransportEvent};
pub use turn::{Turn, TurnConfig};

use plane::Plane;
use wiring::RemoteName;

/// Settings of the media plane.
#[derive(Debug)]
pub struct PlaneConfig {
    /// UDP address of the first shard; the others follow on the next ports. Port 0: any free ports.
    pub udp: SocketAddr,
    /// Address for ICE-TCP.
    pub tcp: SocketAddr,
    /// Number of shards, 1 to 64.
    pub shards: usize,
    /// Addresses that clients reach this edge at; empty: the one that `udp` is bound to.
    pub external: Vec<IpAddr>,
    /// Audio tracks of a room that a client gets at a time: those that speak; 0 = all.
    pub audio_streams: u16,
    /// The mesh worker.
    pub link: relay::worker::Config,
}

/// News of the media plane for rooms.
#[derive(Clone, Debug)]
pub enum PlaneEvent {
    /// How loud a local audio track is, with every packet that says so. Dropped first when nobody listens.
    AudioLevel {
        /// The track.
        track: TrackKey,
        /// 0 (loud) to 127 (silent), in -dBov (RFC 6464).
        level: u8,
        /// The publisher takes it for voice.
        voice: bool,
    },
    /// First media of a stream arrived.
    StreamStarted {
        /// The track.
        track: TrackKey,
        /// Its stream.
        stream: StreamIndex,
    },
    /// The first packet of a subscription was forwarded.
    SubscriptionStarted {
        /// The receiver.
        transport: TransportKey,
        /// What it receives.
        track: TrackKey,
    },
    /// What local subscribers and the mesh together want of a local track changed.
    Demand {
        /// The track.
        track: TrackKey,
        /// Bit n set: layer n is wanted; 0 for none.
        streams: u8,
    },
    /// A subscription is paused because it does not fit its receiver's path, or goes on.
    StreamState {
        /// The receiver.
        transport: TransportKey,
        /// What it receives.
        track: TrackKey,
        /// Whether nothing of it is sent.
        paused: bool,
    },
    /// How the transports of one shard were doing in the last second.
    Reports(Vec<TransportReport>),
    /// Round trips to the clients of one shard in the last second, by address.
    ClientRtts(Vec<(IpAddr, Duration)>),
    /// `RoomState`, `Speakers`, `RoomGone`, `Data`, `LinkUp` and `LinkDown` of the mesh, as they are.
    Mesh(Box<MeshEvent>),
}

/// Handle to the media plane; clones are one.
#[derive(Clone, Debug)]
pub struct MediaPlane {
    plane: Arc<Plane>,
}

impl MediaPlane {
    /// Binds all sockets and starts shards, listener and mesh worker; they end with `shutdown`. Must be called within a tokio
    /// runtime, on which the transports' tasks will run.
    ///
    /// # Errors
    /// When an address is taken, a thread cannot be started, or the mesh worker refuses its certificates.
    pub fn start(
        config: PlaneConfig,
        registry: &prometheus::Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<(Self, mpsc::Receiver<PlaneEvent>)> {
        let (plane, events) = plane::start(config, registry, shutdown)?;
        Ok((Self { plane }, events))
    }

    /// Starts the TURN server, which relays to this plane's own sockets only; it ends with `shutdown`. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When an address is taken or a metric registered already.
    pub fn serve_turn(
        &self,
        config: TurnConfig,
        registry: &prometheus::Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Turn> {
        let crypto = Arc::clone(self.plane.identity.provider());
        turn::start(config, &self.plane, crypto, registry, shutdown)
    }

    /// Opens a server-side peer connection on the shard with the fewest. Its events go to `events`, which should be drained:
    /// a full one stalls the transport's data channels.
    pub fn open_transport(&self, events: mpsc::Sender<TransportEvent>) -> Transport {
        Transport::open(&self.plane, events)
    }

    /// A key for a new track, local or remote.
    pub fn next_track_key(&self) -> TrackKey {
        TrackKey(self.plane.next_track.fetch_add(1, Ordering::Relaxed))
    }

    /// A track of a local publisher appears; the mesh hears of it too. `config.source` is set here.
    pub fn publish(
        &self,
        track: TrackKey,
        from: TransportKey,
        name: (RoomId, TrackSid),
        config: TrackConfig,
    ) {
        self.plane
            .change(|wiring| wiring.publish(track, from, name, config));
    }

    /// A local track is to be had in another room too, under that name.
    pub fn share_track(&self, track: TrackKey, name: (RoomId, TrackSid)) {
        self.plane.change(|wiring| wiring.share_track(track, name));
    }

    /// And no more.
    pub fn unshare_track(&self, track: TrackKey, room: RoomId) {
        self.plane
            .change(|wiring| wiring.unshare_track(track, room));
    }

    /// A track of another edge appears: room, track and the edge it is published at. It is asked of the mesh while somebody
    /// here wants it. `config.source` is set here.
    pub fn add_remote_track(
        &self,
        track: TrackKey,
        (room, track_sid, origin): (RoomId, TrackSid, NodeId),
        config: TrackConfig,
    ) {
        let name = RemoteName {
            room,
            track_sid,
            origin,
        };
        self.plane
            .change(|wiring| wiring.add_remote_track(track, name, config));
    }

    /// A track is gone, and its subscriptions with it.
    pub fn remove_track(&self, track: TrackKey) {
        self.plane.change(|wiring| wiring.remove_track(track));
    }

    /// Replaces what a transport sends to us.
    pub fn set_receive(&self, transport: TransportKey, receive: ReceiveConfig) {
        self.plane
            .change(|wiring| wiring.set_receive(transport, receive));
    }

    /// A transport receives a track from now on. Again with another configuration replaces it.
    pub fn subscribe(&self, transport: TransportKey, track: TrackKey, config: SubscriptionConfig) {
        self.plane
            .change(|wiring| wiring.subscribe(transport, track, config));
    }

    /// A transport receives a track no more.
    pub fn unsubscribe(&self, transport: TransportKey, track: TrackKey) {
        self.plane
            .change(|wiring| wiring.unsubscribe(transport, track));
    }

    /// The highest layer a subscription wants; `None`: nothing is sent.
    pub fn set_target(&self, transport: TransportKey, track: TrackKey, target: Option<Target>) {
        self.plane
            .change(|wiring| wiring.set_target(transport, track, target));
    }

    /// The owner of a track speaks now, or no more.
    pub fn set_speaking(&self, track: TrackKey, speaking: bool) {
        self.plane
            .change(|wiring| wiring.set_speaking(track, speaking));
    }

    /// The receiver's own order of what it receives, for when not everything fits: 1 first, 0 = not said.
    pub fn set_priority(&self, transport: TransportKey, track: TrackKey, priority: u8) {
        self.plane
            .change(|wiring| wiring.set_priority(transport, track, priority));
    }

    /// A muted track is forwarded to nobody.
    pub fn set_muted(&self, track: TrackKey, muted: bool) {
        self.plane.change(|wiring| wiring.set_muted(track, muted));
    }

    /// The mesh worker: rooms give it plans, their state and data.
    pub fn mesh(&self) -> &MeshHandle {
        &self.plane.mesh
    }

    /// Where clients' UDP arrives, by shard.
    pub fn udp_addresses(&self) -> Vec<SocketAddr> {
        self.plane
            .shards
            .iter()
            .map(|shard| shard.address)
            .collect()
    }

    /// Where ICE-TCP is accepted.
    pub fn tcp_address(&self) -> SocketAddr {
        self.plane.tcp
    }
}
