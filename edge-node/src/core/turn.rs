//! A TURN server (RFC 8656) that relays to its own edge and nowhere else.
//!
//! Clients behind a firewall reach the edge by TURN over UDP, TCP or TLS. A [`Client`] is the server's side of one five-tuple: it
//! authenticates, keeps the allocation with its permissions and channels, and wraps and unwraps what is relayed. There are no relay
//! sockets: the only peers are the edge's media sockets, and the shell hands payload to their shards within the process. So an
//! allocation cannot reach anything else, whatever its owner asks for.

mod client;
mod credentials;
mod framing;
mod message;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rtc_dtls::crypto_provider::RTCCryptoProvider;

pub use client::{Admitted, Client, Output, Relayed};
pub use credentials::{Credentials, Participant, Secret, VALIDITY_MAX};
pub use framing::{FRAME_MAX, Unframed, split, write_channel_data};

/// How long an allocation lasts without a refresh: the default of RFC 8656 section 3.2, and no client gets more, so that one that
/// vanished does not hold its place for long.
pub const LIFETIME: Duration = Duration::from_secs(600);
/// How long a permission lasts (RFC 8656 section 9).
pub const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// How long a channel stays bound (RFC 8656 section 12).
pub const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// How long a nonce is taken (RFC 8656 section 5 advises an hour at most).
pub const NONCE_VALIDITY: Duration = Duration::from_secs(3600);

/// What all clients of an edge's TURN server have in common.
pub struct Server {
    /// Realm of the long-term credentials (RFC 8489 section 9.2).
    pub realm: String,
    /// Makes credentials and nonces.
    pub secret: Secret,
    /// Computes MESSAGE-INTEGRITY.
    pub crypto: Arc<dyn RTCCryptoProvider>,
    /// The edge's media sockets, as clients name them.
    pub peers: HashSet<SocketAddr>,
    /// The edge's addresses, preferred first; relayed addresses are made of them.
    pub addresses: Vec<IpAddr>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("realm", &self.realm)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// Why something a client sent was refused or dropped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// Not a message of TURN.
    Malformed,
    /// The user name was not made by this edge, or the password is wrong.
    WrongCredentials,
    /// The credentials have expired: they start no more allocations.
    Expired,
    /// The nonce is not of this edge, or too old. Clients come back with a new one.
    StaleNonce,
    /// A peer that is not a media socket of this edge.
    ForbiddenPeer,
    /// The participant has as many allocations as it may.
    ParticipantQuota,
    /// The edge has as many allocations as it takes.
    EdgeQuota,
    /// The request does not fit the state of the allocation: there is none, there is one already, or it is somebody else's.
    Mismatch,
    /// An option that is not served.
    Unsupported,
    /// Payload without a permission or channel for its peer.
    NoPermission,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::WrongCredentials,
        Self::Expired,
        Self::StaleNonce,
        Self::ForbiddenPeer,
        Self::ParticipantQuota,
        Self::EdgeQuota,
        Self::Mismatch,
        Self::Unsupported,
        Self::NoPermission,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::WrongCredentials => "wrong_credentials",
            Self::Expired => "expired",
            Self::StaleNonce => "stale_nonce",
            Self::ForbiddenPeer => "forbidden_peer",
            Self::ParticipantQuota => "participant_quota",
            Self::EdgeQuota => "edge_quota",
            Self::Mismatch => "mismatch",
            Self::Unsupported => "unsupported",
            Self::NoPermission => "no_permission",
        }
    }
}
