//! The edge's TURN server: for clients whose network lets them reach neither its UDP ports nor its ICE-TCP port.
//!
//! It listens on UDP, TCP and TLS, each optional. What clients relay goes to the shards within the process, as frames of ICE-TCP
//! do, so there is no socket that could reach anybody else.

mod flows;
mod metrics;
mod places;
mod stream;
mod udp;

use super::plane::Plane;
use crate::core::ice::Carrier;
use crate::core::turn::{Credentials, Participant, Refusal, Secret, Server};
use anyhow::Context as _;
use metrics::Metrics;
use places::Places;
use rtc_dtls::crypto_provider::RTCCryptoProvider;
use runtime::shutdown::Shutdown;
use runtime::tls::listener::Acceptor;
use runtime::udp::UdpSocket;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Connections from one address over TCP and TLS: a large office behind one firewall, for it is there that people need this. Those
/// without an allocation do not last.
const CONNECTIONS_PER_ADDRESS: usize = 1024;

/// Settings of the TURN server.
#[derive(Debug)]
pub struct TurnConfig {
    /// Realm of the credentials: the name of the mesh.
    pub realm: String,
    /// UDP.
    pub udp: Option<SocketAddr>,
    /// Plain TCP.
    pub tcp: Option<SocketAddr>,
    /// TLS over TCP, and the certificate.
    pub tls: Option<(SocketAddr, Acceptor)>,
    /// Most allocations at a time; half as many TCP and TLS connections again may be without one.
    pub allocations: usize,
    /// Most allocations of one participant: per peer connection, network interface and URL of the server one.
    pub allocations_per_participant: usize,
}

/// The running server's handle: where it listens, and who makes credentials.
#[derive(Debug)]
pub struct Turn {
    server: Arc<Server>,
    /// Where UDP is taken.
    pub udp: Option<SocketAddr>,
    /// Where TCP is taken.
    pub tcp: Option<SocketAddr>,
    /// Where TLS is taken.
    pub tls: Option<SocketAddr>,
}

impl Turn {
    /// Credentials for a participant whose token is valid until `token_expires_s`, both times in Unix seconds.
    pub fn credentials(
        &self,
        now_s: u64,
        token_expires_s: u64,
        participant: Participant<'_>,
    ) -> Credentials {
        self.server
            .secret
            .issue(now_s, token_expires_s, participant)
    }
}

/// What all clients' sides share.
#[derive(Debug)]
struct Relay {
    plane: Arc<Plane>,
    server: Arc<Server>,
    /// Index of the shard that listens on a port.
    shards: HashMap<u16, usize>,
    places: Places,
    next_flow: AtomicU32,
    metrics: Metrics,
}

impl Relay {
    fn next_carrier(&self) -> Carrier {
        Carrier::Relay(self.next_flow.fetch_add(1, Ordering::Relaxed))
    }

    fn refused(&self, refusal: Refusal) {
        self.metrics.refused(refusal.name());
    }
}

/// Binds the listeners and serves until `shutdown`.
///
/// # Errors
/// When an address is taken or a metric registered already.
pub(super) fn start(
    config: TurnConfig,
    plane: &Arc<Plane>,
    crypto: Arc<dyn RTCCryptoProvider>,
    registry: &prometheus::Registry,
    shutdown: &Shutdown,
) -> anyhow::Result<Turn> {
    let ports = plane.shards.iter().map(|shard| shard.address.port());
    let shards: HashMap<u16, usize> = ports.zip(0..).collect();
    let peers: HashSet<SocketAddr> = plane
        .external
        .iter()
        .flat_map(|ip| shards.keys().map(|port| SocketAddr::new(*ip, *port)))
        .collect();
    let server = Arc::new(Server {
        realm: config.realm,
        secret: Secret::new(rand::random()),
        crypto,
        peers,
        addresses: plane.external.clone(),
    });
    let metrics = Metrics::register(registry).context("metrics of TURN")?;
    let relay = Arc::new(Relay {
        plane: Arc::clone(plane),
        server: Arc::clone(&server),
        shards,
        places: Places::new(config.allocations, config.allocations_per_participant),
        next_flow: AtomicU32::new(0),
        metrics,
    });
    let udp = config
        .udp
        .map(|address| {
            let socket = UdpSocket::bind(address)
                .with_context(|| format!("TURN listener on UDP {address}"))?;
            let bound = socket.local_addr()?;
            tokio::spawn(udp::serve(socket, Arc::clone(&relay), shutdown.clone()));
            anyhow::Ok(bound)
        })
        .transpose()?;
    let connections = config.allocations + config.allocations / 2;
    let limits = runtime::tcp::Places::new(connections.max(16), CONNECTIONS_PER_ADDRESS);
    let listen = |address: SocketAddr, tls: Option<Acceptor>| {
        let listener = super::plane::listen(address)
            .with_context(|| format!("TURN listener on TCP {address}"))?;
        let bound = listener.local_addr()?;
        let listener = stream::Listener {
            tcp: listener,
            tls,
            limits: limits.clone(),
        };
        tokio::spawn(stream::serve(
            listener,
            Arc::clone(&relay),
            shutdown.clone(),
        ));
        anyhow::Ok(bound)
    };
    let tcp = config
        .tcp
        .map(|address| listen(address, None))
        .transpose()?;
    let tls = config
        .tls
        .map(|(address, acceptor)| listen(address, Some(acceptor)))
        .transpose()?;
    Ok(Turn {
        server,
        udp,
        tcp,
        tls,
    })
}
