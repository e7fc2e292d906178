//! One plaintext RTP packet of the mesh, free of any side's numbering, in a pooled slot.

use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

mod audio_meta;
mod canonical;
mod codec;
mod extensions;
mod layer_meta;
mod pool;

pub use audio_meta::AudioMeta;
pub use canonical::CANONICAL_IDS;
pub(crate) use canonical::{form_for, write_extensions};
pub use codec::Codec;
pub use extensions::{AbsCaptureTime, ExtensionIds, Extensions};
pub use layer_meta::LayerMeta;
pub use pool::Pool;

/// Bytes of payload plus dependency descriptor that a slot holds: an Ethernet MTU.
pub const SLOT_LEN: usize = 1500;

/// Why bytes do not become a [`Packet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// Not RTP.
    #[error(transparent)]
    Rtp(#[from] crate::rtp::Error),
    /// The payload type is not in the mesh's table.
    #[error("payload type {payload_type} is not canonical")]
    PayloadType {
        /// The payload type found.
        payload_type: u8,
    },
    /// More bytes than a slot holds.
    #[error("{len} bytes do not fit a slot")]
    TooLarge {
        /// Payload plus dependency descriptor in bytes.
        len: usize,
    },
}

/// A packet shared between caches, subscriptions, shards and links without a copy.
pub type PacketRef = Arc<Packet>;

/// Everything of a packet apart from its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// When this node received it.
    pub arrival: Instant,
    /// What the payload is.
    pub codec: Codec,
    /// RTP marker bit.
    pub marker: bool,
    /// The publisher's sequence number (of the primary stream, also when repaired by RTX).
    pub seq: u16,
    /// How many numbers right before this one were left out on purpose by a hop before.
    pub left_out: u16,
    /// The publisher's RTP timestamp.
    pub timestamp: u32,
    /// Layer, keyframe and frame boundary flags.
    pub layer: LayerMeta,
    /// Header extensions that are passed on.
    pub ext: Extensions,
}

/// One plaintext RTP packet; immutable once shared. Slot layout: payload, then the dependency
/// descriptor.
#[derive(Debug)]
pub struct Packet {
    /// When this node received it.
    pub arrival: Instant,
    /// What the payload is.
    pub codec: Codec,
    /// RTP marker bit.
    pub marker: bool,
    /// The publisher's sequence number (of the primary stream, also when repaired by RTX).
    pub seq: u16,
    /// How many numbers right before this one were left out on purpose by a hop before.
    pub left_out: u16,
    /// The publisher's RTP timestamp.
    pub timestamp: u32,
    /// Layer, keyframe and frame boundary flags.
    pub layer: LayerMeta,
    /// Header extensions that are passed on.
    pub ext: Extensions,
    payload_len: u16,
    descriptor_len: u16,
    bytes: [u8; SLOT_LEN],
}

impl Packet {
    fn empty(head: Head) -> Self {
        Self {
            arrival: head.arrival,
            codec: head.codec,
            marker: head.marker,
            seq: head.seq,
            left_out: head.left_out,
            timestamp: head.timestamp,
            layer: head.layer,
            ext: head.ext,
            payload_len: 0,
            descriptor_len: 0,
            bytes: [0; SLOT_LEN],
        }
    }

    /// Overwrites everything of the slot. The caller checked that the lengths fit.
    fn fill(&mut self, head: Head, payload: &[u8], descriptor: &[u8]) -> Option<()> {
        let (head_bytes, rest) = self.bytes.split_at_mut_checked(payload.len())?;
        let descriptor_bytes = rest.get_mut(..descriptor.len())?;
        head_bytes.copy_from_slice(payload);
        descriptor_bytes.copy_from_slice(descriptor);
        self.payload_len = u16::try_from(payload.len()).ok()?;
        self.descriptor_len = u16::try_from(descriptor.len()).ok()?;
        self.arrival = head.arrival;
        self.codec = head.codec;
        self.marker = head.marker;
        self.seq = head.seq;
        self.left_out = head.left_out;
        self.timestamp = head.timestamp;
        self.layer = head.layer;
        self.ext = head.ext;
        Some(())
    }

    /// The RTP payload without padding; empty for a padding-only packet.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.payload_len))
            .unwrap_or_default()
    }

    /// The raw dependency descriptor extension (AV1 RTP specification, appendix A), when present.
    #[must_use]
    #[inline]
    pub fn dependency_descriptor(&self) -> Option<&[u8]> {
        let start = usize::from(self.payload_len);
        let bytes = self
            .bytes
            .get(start..start + usize::from(self.descriptor_len))?;
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Writes canonical RTP (the mesh's payload types and extension ids, SSRC 0, no padding) for a
    /// link datagram and returns its length in bytes; `None` when `out` is too short.
    #[must_use]
    pub fn write_canonical(&self, out: &mut [u8]) -> Option<usize> {
        canonical::write(self, out)
    }
}

#[cfg(test)]
mod tests;
