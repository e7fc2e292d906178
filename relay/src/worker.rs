//! The thread that owns a node's links: one UDP socket, one QUIC endpoint, and the mesh core they feed.
//!
//! Everything runs on one thread, so the core has one writer and needs no lock. Other threads reach it by a [`MeshHandle`].

mod congestion;
mod endpoint;
pub mod handle;
mod metrics;
mod node;
mod session;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use prometheus::Registry;
use proto::{NodeId, RegionId};
use runtime::tls::Credentials;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::mesh::command::Role;
use handle::{MeshHandle, MeshSink};

/// Most that is sent to one peer unless configured otherwise: what one core can encrypt with ease.
pub const DEFAULT_RATE_BPS: u64 = 1_000_000_000;

/// Audio tracks of a room forwarded at a time unless configured otherwise: more voices at once nobody can follow.
pub const DEFAULT_AUDIO_STREAMS: u16 = 10;

/// Size asked of the kernel for socket buffers, in bytes: 30 ms at 1 Gbps. The kernel may grant less.
const SOCKET_BUFFER_LEN: usize = 4 << 20;

/// What a worker needs to know.
#[derive(Debug)]
pub struct Config {
    /// This node, as in its certificate.
    pub node: NodeId,
    /// What it does, as in its certificate.
    pub role: Role,
    /// Where it is, as in its certificate.
    pub region: RegionId,
    /// Name of the mesh: the trust domain of all certificates.
    pub mesh: String,
    /// Tells one run of the node from the next; grows (milliseconds since the Unix epoch will do).
    pub incarnation: u64,
    /// UDP address to listen on; port 0 for any.
    pub listen: SocketAddr,
    /// Peers to dial at another address than they announce.
    pub via: BTreeMap<NodeId, SocketAddr>,
    /// Most that is sent to one peer, in bits per second.
    pub rate_bps_max: u64,
    /// Audio tracks of a room that a link carries at a time, in each direction: those that speak; 0 = all.
    pub audio_streams: u16,
    /// Certificates.
    pub credentials: Credentials,
}

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("link listener on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificates are of no use.
    #[error("link certificates: {0}")]
    Tls(#[from] rustls::Error),
    /// The certificate's URI does not name this node.
    #[error("certificate names {found:?}, this node is {expected}")]
    Identity {
        /// What it should say.
        expected: String,
        /// What it says.
        found: Option<String>,
    },
    /// Metrics of the same name are registered already.
    #[error("link metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The thread cannot be started.
    #[error("link worker: {0}")]
    Thread(std::io::Error),
}

/// Starts a worker on a thread of its own; it runs until `shutdown`. `sink` gets what the mesh has for this node.
///
/// # Errors
/// When the address is taken, the certificates do not fit this node, or the metrics are registered already.
pub fn spawn(
    config: Config,
    sink: Box<dyn MeshSink>,
    registry: &Registry,
    shutdown: CancellationToken,
) -> Result<MeshHandle, Error> {
    let listen = |source| Error::Listen {
        address: config.listen,
        source,
    };
    let socket = bind(config.listen).map_err(listen)?;
    let local = socket.local_addr().map_err(listen)?;
    let quic = endpoint::Quic::new(&config)?;
    let metrics = metrics::Metrics::register(registry)?;
    let (handle, ends) = MeshHandle::new(local);
    let start = node::Start {
        config,
        socket,
        quic,
        sink,
        metrics,
        ends,
        shutdown,
    };
    std::thread::Builder::new()
        .name("link-worker".to_owned())
        .spawn(move || node::run(start))
        .map_err(Error::Thread)?;
    Ok(handle)
}

fn bind(address: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_LEN)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_LEN)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
