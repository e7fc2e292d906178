//! A stream's recent packets, by reference.

use crate::packet::PacketRef;

/// Holds a stream's last packets by sequence number; never copies bytes. The newest packet evicts
/// the one a whole ring earlier.
#[derive(Debug)]
pub struct PacketCache {
    ring: Box<[Option<PacketRef>]>,
}

impl PacketCache {
    /// Room for `packets`, rounded up to a power of two between 16 and 32768.
    #[must_use]
    pub fn new(packets: usize) -> Self {
        let len = packets.clamp(16, 1 << 15).next_power_of_two();
        Self {
            ring: (0..len).map(|_| None).collect(),
        }
    }

    /// Adds a packet.
    #[inline]
    pub fn insert(&mut self, packet: &PacketRef) {
        let index = self.index(packet.seq);
        if let Some(slot) = self.ring.get_mut(index) {
            *slot = Some(PacketRef::clone(packet));
        }
    }

    /// The packet with this sequence number, when it is still there.
    #[must_use]
    #[inline]
    pub fn get(&self, seq: u16) -> Option<&PacketRef> {
        let packet = self.ring.get(self.index(seq))?.as_ref()?;
        (packet.seq == seq).then_some(packet)
    }

    /// Lets all packets go.
    pub fn clear(&mut self) {
        self.ring.fill(None);
    }

    fn index(&self, seq: u16) -> usize {
        usize::from(seq) & (self.ring.len() - 1)
    }
}
