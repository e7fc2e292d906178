//! SRTP and SRTCP (RFC 3711, RFC 7714) with keys from DTLS (RFC 5764).

use thiserror::Error;

mod cipher;
mod inbound;
mod keys;
mod outbound;
mod replay;

pub use inbound::Inbound;
pub use keys::{MasterKey, Profile, SessionKeys};
pub use outbound::Outbound;
pub use replay::ReplayWindow;

/// Longest that sealing makes a packet: a 16-byte tag and the 4-byte SRTCP index.
pub const OVERHEAD_MAX: usize = 20;

/// E flag of the SRTCP index word: the packet is encrypted (RFC 3711 section 3.4).
const SRTCP_ENCRYPTED: u32 = 1 << 31;

/// Why a packet was not protected or unprotected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// Too short to hold header, index and tag, or no header at all.
    #[error("malformed packet of {len} bytes")]
    Malformed {
        /// Bytes that were there.
        len: usize,
    },
    /// The authentication tag does not match.
    #[error("authentication failed")]
    Authentication,
    /// Seen before, or older than the replay window.
    #[error("replayed index {index}")]
    Replay {
        /// Packet index that was refused.
        index: u64,
    },
    /// More SSRCs than one transport may use.
    #[error("too many SSRCs")]
    TooManySsrcs,
    /// The output buffer is too short.
    #[error("no room for {needed} bytes")]
    NoRoom {
        /// Bytes that were needed.
        needed: usize,
    },
    /// Key material of the wrong length.
    #[error("{len} bytes of key material")]
    KeyLength {
        /// Bytes that were given.
        len: usize,
    },
}

#[cfg(test)]
mod tests;
