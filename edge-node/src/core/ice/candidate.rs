//! The candidates an edge offers: host over UDP, and host over TCP in the passive role (RFC 6544).

use std::fmt;
use std::net::SocketAddr;

/// Type preference of a host candidate over UDP (RFC 8445 section 5.1.2.2).
const HOST_UDP_PREFERENCE: u32 = 126;
/// Type preference of a host candidate over TCP: below everything over UDP (RFC 6544 section 4.2).
const HOST_TCP_PREFERENCE: u32 = 90;
/// Direction preference of a passive host candidate (RFC 6544 section 4.2).
const PASSIVE_DIRECTION: u32 = 4;
/// Bundled and muxed media has one component.
const COMPONENT: u32 = 1;

/// How a candidate is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CandidateKind {
    /// Host candidate, UDP.
    Udp,
    /// Host candidate, TCP, the client connects.
    TcpPassive,
}

/// A local candidate. `Display` gives the value of an `a=candidate:` line (RFC 8839 section 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// How it is reached.
    pub kind: CandidateKind,
    /// Address as clients see it.
    pub address: SocketAddr,
    /// Place of the address among those of its kind, 0 is preferred.
    pub rank: u16,
}

impl Candidate {
    /// Candidate priority (RFC 8445 section 5.1.2.1, RFC 6544 section 4.2).
    pub fn priority(&self) -> u32 {
        let (type_preference, local) = match self.kind {
            CandidateKind::Udp => (HOST_UDP_PREFERENCE, 0xFFFF - u32::from(self.rank)),
            CandidateKind::TcpPassive => {
                let other = 0x1FFF_u32.saturating_sub(u32::from(self.rank));
                (HOST_TCP_PREFERENCE, (PASSIVE_DIRECTION << 13) | other)
            }
        };
        (type_preference << 24) | (local << 8) | (256 - COMPONENT)
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Equal foundation means same type, base address and transport (RFC 8445 section 5.1.1.3).
        let (foundation, transport, suffix) = match self.kind {
            CandidateKind::Udp => (2 * u32::from(self.rank) + 1, "udp", ""),
            CandidateKind::TcpPassive => (2 * u32::from(self.rank) + 2, "tcp", " tcptype passive"),
        };
        write!(
            f,
            "{foundation} {COMPONENT} {transport} {} {} {} typ host{suffix}",
            self.priority(),
            self.address.ip(),
            self.address.port(),
        )
    }
}
