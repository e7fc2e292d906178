//! Repair of losses: what was received, what to ask for again, what to send again
//! (RFC 4585, RFC 4588).

mod cache;
mod history;
mod nack;

pub use cache::PacketCache;
pub use history::{SendHistory, SentRecord};
pub use nack::{NackGenerator, Receipt};

/// Bytes of the original sequence number in front of a retransmitted payload (RFC 4588 section 4).
pub const RTX_PREFIX_LEN: usize = 2;

/// Takes a retransmission apart into original sequence number and payload; `None` when it is too
/// short.
#[must_use]
pub fn split_rtx(payload: &[u8]) -> Option<(u16, &[u8])> {
    let (seq, payload) = payload.split_first_chunk::<RTX_PREFIX_LEN>()?;
    Some((u16::from_be_bytes(*seq), payload))
}

#[cfg(test)]
mod tests;
