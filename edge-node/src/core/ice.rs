//! ICE-lite (RFC 8445 section 2.5): an edge has a reachable address, so it answers connectivity checks and never sends any.
//!
//! [`Server`] is the agent of every transport of one shard. It finds the transport by the local user fragment of a check,
//! remembers the authenticated paths, and from then on finds it by path. The controlling client nominates.

mod candidate;
mod check;
mod credentials;
mod server;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub use candidate::{Candidate, CandidateKind};
pub use check::local_ufrag;
pub use credentials::{Credentials, MAX_SHARDS, shard_of_ufrag};
pub use server::Server;

/// How long a transport stays connected without hearing anything from its client (RFC 7675 section 5.1).
pub const CONSENT_TIMEOUT: Duration = Duration::from_secs(15);

/// Which transport of the edge: the number of its `TransportKey`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionId(pub u32);

/// What carries the datagrams of a path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Carrier {
    /// The shard's UDP socket.
    Udp,
    /// A TCP connection that the client opened (RFC 6544), by the shell's number for it.
    Tcp(u32),
    /// The edge's own TURN server, by the shell's number for allocation and peer.
    Relay(u32),
}

/// One way to reach a client: an ICE candidate pair seen from the lite side.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// The client's address as its packets show it.
    pub remote: SocketAddr,
    /// What carries the datagrams.
    pub carrier: Carrier,
}

impl Path {
    /// A path over the shard's UDP socket.
    pub fn udp(remote: SocketAddr) -> Self {
        Self {
            remote,
            carrier: Carrier::Udp,
        }
    }

    /// A path over a TCP connection.
    pub fn tcp(remote: SocketAddr, connection: u32) -> Self {
        Self {
            remote,
            carrier: Carrier::Tcp(connection),
        }
    }

    /// A path through the edge's own TURN server; `relayed` is the relayed address.
    pub fn relay(relayed: SocketAddr, flow: u32) -> Self {
        Self {
            remote: relayed,
            carrier: Carrier::Relay(flow),
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell two paths of a client apart, not to name the client.
        let family = match self.remote.ip() {
            IpAddr::V4(_) => "v4",
            IpAddr::V6(_) => "v6",
        };
        write!(f, "{:?}/{family}:{}", self.carrier, self.remote.port())
    }
}

/// What the shell tells the server.
#[derive(Debug)]
pub enum Input<'a> {
    /// A transport opens with these local credentials.
    Open {
        /// The transport.
        session: SessionId,
        /// Its local credentials.
        credentials: Credentials,
    },
    /// New local credentials; the ones before stay valid until a pair is nominated with these (RFC 8445 section 9).
    Restart {
        /// The transport.
        session: SessionId,
        /// Its new local credentials.
        credentials: Credentials,
    },
    /// A transport is gone.
    Close {
        /// The transport.
        session: SessionId,
    },
    /// A datagram whose first byte says STUN (RFC 7983).
    Stun {
        /// Where it came from.
        path: Path,
        /// The message, without RFC 4571 framing.
        message: &'a [u8],
    },
    /// A TCP connection ended.
    PathClosed {
        /// The path over it.
        path: Path,
    },
    /// Time went on.
    Timeout,
}

/// What the shell has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a STUN response.
    Transmit {
        /// Where to.
        path: Path,
        /// The message, without RFC 4571 framing.
        message: Vec<u8>,
    },
    /// Something happened to a transport.
    Event(Event),
    /// Nothing more to do before this instant, if any.
    Timeout(Option<Instant>),
}

/// What happened to a transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A path passed its first authenticated check: DTLS may arrive on it.
    Authenticated {
        /// The transport.
        session: SessionId,
        /// The path.
        path: Path,
    },
    /// The client nominated this path: media goes there from now on.
    Nominated {
        /// The transport.
        session: SessionId,
        /// The path.
        path: Path,
    },
    /// Nothing was heard from the client for [`CONSENT_TIMEOUT`].
    Expired {
        /// The transport.
        session: SessionId,
    },
}

/// What became of the STUN messages received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Checks that were authenticated and answered.
    pub answered: u64,
    /// Not STUN, not a binding request, or without what a check needs (RFC 8445 section 7.1).
    pub malformed: u64,
    /// Checks for a user fragment that no transport has.
    pub unknown_user: u64,
    /// Checks with a wrong MESSAGE-INTEGRITY or FINGERPRINT.
    pub unauthenticated: u64,
    /// Checks answered with an error: role conflict or unknown attributes.
    pub refused: u64,
}
