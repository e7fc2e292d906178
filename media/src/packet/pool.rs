//! Slots that are reused when nobody else holds them.

use std::sync::Arc;

use super::{Error, Head, Packet, PacketRef, SLOT_LEN};

/// Held slots that are passed over before another one is allocated.
const PROBES_MAX: usize = 16;

/// A ring of slots. The oldest slot is reused when its last holder is gone; while holders (caches,
/// other shards, links) keep more than the ring has, it grows up to `slots`, and beyond that the
/// held slot leaves the ring and is freed by its last holder.
#[derive(Debug)]
pub struct Pool {
    ring: Vec<PacketRef>,
    next: usize,
    slots_max: usize,
    allocated: u64,
}

impl Pool {
    /// A pool that keeps up to `slots` slots of about 1.6 kB; they are allocated on first use.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            ring: Vec::new(),
            next: 0,
            slots_max: slots.max(1),
            allocated: 0,
        }
    }

    /// Slots allocated since the start; constant in steady state.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Puts a packet into a slot. `descriptor` is the raw dependency descriptor, empty for none.
    ///
    /// # Errors
    /// When payload plus descriptor exceed a slot.
    pub fn build(
        &mut self,
        head: Head,
        payload: &[u8],
        descriptor: &[u8],
    ) -> Result<PacketRef, Error> {
        let too_large = Error::TooLarge {
            len: payload.len() + descriptor.len(),
        };
        if payload.len() + descriptor.len() > SLOT_LEN {
            return Err(too_large);
        }
        for _ in 0..PROBES_MAX.min(self.ring.len()) {
            let index = if self.next < self.ring.len() {
                self.next
            } else {
                0
            };
            self.next = index + 1;
            let Some(slot) = self.ring.get_mut(index) else {
                break;
            };
            if let Some(packet) = Arc::get_mut(slot) {
                packet.fill(head, payload, descriptor).ok_or(too_large)?;
                return Ok(Arc::clone(slot));
            }
        }
        let mut packet = Packet::empty(head);
        packet.fill(head, payload, descriptor).ok_or(too_large)?;
        let packet = Arc::new(packet);
        self.allocated += 1;
        self.keep(Arc::clone(&packet));
        Ok(packet)
    }

    fn keep(&mut self, packet: PacketRef) {
        if self.ring.len() < self.slots_max {
            self.ring.push(packet);
        } else {
            let last = self.ring.len() - 1;
            let index = self.next.saturating_sub(1).min(last);
            if let Some(slot) = self.ring.get_mut(index) {
                *slot = packet;
            }
        }
    }
}
