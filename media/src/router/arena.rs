//! The send arena: sealed datagrams in one buffer, chained per transport.
//!
//! Datagrams to different peers interleave (a packet is sealed for all its subscribers in turn),
//! so each record links to the next one of its transport. [`SendArena::drain_by_transport`] walks
//! those chains and gathers runs of equal size for GSO: one copy of about 30 ns per datagram,
//! which is far below what a system call per datagram costs, and needs no area per peer.

use super::TransportKey;

/// Bytes that an arena holds before datagrams are dropped: 200 receivers of a burst of 64 packets.
const BYTES_MAX: usize = 16 << 20;

/// Segments of one GSO send (Linux `UDP_MAX_SEGMENTS`).
const RUN_SEGMENTS_MAX: usize = 64;

/// Bytes of one GSO send: an IPv4 datagram's limit less its headers.
const RUN_BYTES_MAX: usize = 65_507;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Record {
    transport: TransportKey,
    offset: u32,
    len: u16,
    next: u32,
}

#[derive(Debug, Clone, Copy)]
struct Chain {
    first: u32,
    last: u32,
}

/// Sealed datagrams that wait to be sent. Drop policy: refuse the newest when full.
#[derive(Debug)]
pub struct SendArena {
    bytes: Vec<u8>,
    used: usize,
    records: Vec<Record>,
    /// By transport slot.
    chains: Vec<Chain>,
    /// Transport slots with a chain, by first datagram.
    touched: Vec<u32>,
    gather: Vec<u8>,
    refused: u64,
}

impl Default for SendArena {
    fn default() -> Self {
        Self::new()
    }
}

impl SendArena {
    /// An empty arena; it grows to what a tick needs and keeps that.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            used: 0,
            records: Vec::new(),
            chains: Vec::new(),
            touched: Vec::new(),
            gather: Vec::new(),
            refused: 0,
        }
    }

    /// Datagrams waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes waiting.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.used
    }

    /// Datagrams refused because the arena was full, since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// All datagrams in the order in which they were sealed.
    pub fn iter(&self) -> impl Iterator<Item = (TransportKey, &[u8])> {
        self.records
            .iter()
            .map(|record| (record.transport, self.contents(record)))
    }

    /// Forgets all datagrams and keeps the memory.
    pub fn clear(&mut self) {
        for slot in self.touched.drain(..) {
            if let Some(chain) = self.chains.get_mut(slot as usize) {
                *chain = Chain {
                    first: NONE,
                    last: NONE,
                };
            }
        }
        self.records.clear();
        self.used = 0;
    }

    /// Hands out every datagram as GSO runs `(transport, contents, segment_size)` and clears the
    /// arena. All segments of a run have `segment_size` bytes except that the last may be shorter;
    /// at most 64 segments and 65,507 bytes. The order per transport is kept.
    pub fn drain_by_transport(&mut self, mut send: impl FnMut(TransportKey, &[u8], usize)) {
        let mut gather = std::mem::take(&mut self.gather);
        for &slot in &self.touched {
            let mut next = self
                .chains
                .get(slot as usize)
                .map_or(NONE, |chain| chain.first);
            while let Some(first) = self.records.get(next as usize) {
                next = self.run(first, &mut gather, &mut send);
            }
        }
        self.gather = gather;
        self.clear();
    }

    /// Sends one run that begins with `first`; returns the record after it.
    fn run(
        &self,
        first: &Record,
        gather: &mut Vec<u8>,
        send: &mut impl FnMut(TransportKey, &[u8], usize),
    ) -> u32 {
        let size = first.len;
        let mut segments = 1;
        let mut total = usize::from(size);
        let mut next = first.next;
        gather.clear();
        while let Some(record) = self.records.get(next as usize) {
            let len = usize::from(record.len);
            let same_peer = record.transport == first.transport;
            if !same_peer
                || record.len > size
                || segments == RUN_SEGMENTS_MAX
                || total + len > RUN_BYTES_MAX
            {
                break;
            }
            if segments == 1 {
                gather.extend_from_slice(self.contents(first));
            }
            gather.extend_from_slice(self.contents(record));
            segments += 1;
            total += len;
            next = record.next;
            if record.len < size {
                break;
            }
        }
        let contents = if segments == 1 {
            self.contents(first)
        } else {
            gather.as_slice()
        };
        send(first.transport, contents, usize::from(size));
        next
    }

    fn contents(&self, record: &Record) -> &[u8] {
        let start = record.offset as usize;
        self.bytes
            .get(start..start + usize::from(record.len))
            .unwrap_or_default()
    }

    /// Room for one datagram of up to `len_max` bytes, to be finished by [`Self::commit`].
    #[inline]
    pub(crate) fn reserve(&mut self, len_max: usize) -> Option<&mut [u8]> {
        let end = self.used + len_max;
        if end > self.bytes.len() {
            if end > BYTES_MAX {
                self.refused += 1;
                return None;
            }
            self.bytes.resize(end.next_power_of_two().min(BYTES_MAX), 0);
        }
        self.bytes.get_mut(self.used..end)
    }

    /// Makes the first `len` bytes of the last reservation a datagram to `transport`, whose
    /// position in the router is `slot`.
    #[inline]
    pub(crate) fn commit(&mut self, slot: usize, transport: TransportKey, len: usize) {
        let (Ok(offset), Ok(len_u16), Ok(index)) = (
            u32::try_from(self.used),
            u16::try_from(len),
            u32::try_from(self.records.len()),
        ) else {
            return;
        };
        if slot >= self.chains.len() {
            self.chains.resize(
                slot + 1,
                Chain {
                    first: NONE,
                    last: NONE,
                },
            );
        }
        let Some(chain) = self.chains.get_mut(slot) else {
            return;
        };
        if chain.first == NONE {
            chain.first = index;
            self.touched.extend(u32::try_from(slot));
        } else if let Some(last) = self.records.get_mut(chain.last as usize) {
            last.next = index;
        }
        chain.last = index;
        self.records.push(Record {
            transport,
            offset,
            len: len_u16,
            next: NONE,
        });
        self.used += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(arena: &mut SendArena, slot: usize, fill: u8, len: usize) {
        arena.reserve(len + 10).unwrap()[..len].fill(fill);
        let key = u32::try_from(slot).unwrap() + 100;
        arena.commit(slot, TransportKey(key), len);
    }

    #[test]
    fn groups_equal_sizes_per_transport_in_order() {
        let mut arena = SendArena::new();
        for (slot, fill, len) in [
            (0, 1, 100),
            (3, 2, 50),
            (0, 3, 100),
            (3, 4, 60),
            (0, 5, 40),
            (0, 6, 100),
        ] {
            push(&mut arena, slot, fill, len);
        }
        let mut runs = Vec::new();
        arena.drain_by_transport(|transport, contents, size| {
            let firsts: Vec<u8> = contents.chunks(size).map(|segment| segment[0]).collect();
            runs.push((transport.0, firsts, size, contents.len()));
        });
        assert_eq!(
            runs,
            [
                (100, vec![1, 3, 5], 100, 240),
                (100, vec![6], 100, 100),
                (103, vec![2], 50, 50),
                (103, vec![4], 60, 60),
            ]
        );
        assert!(arena.is_empty());
    }

    #[test]
    fn a_run_has_at_most_64_segments_and_fits_a_datagram() {
        let mut arena = SendArena::new();
        for _ in 0..150 {
            push(&mut arena, 0, 0, 1200);
        }
        let mut segments = Vec::new();
        arena.drain_by_transport(|_, contents, size| {
            assert!(contents.len() <= RUN_BYTES_MAX);
            segments.push(contents.len() / size);
        });
        assert_eq!(segments, [54, 54, 42]);
    }

    #[test]
    fn a_full_arena_refuses_and_counts() {
        let mut arena = SendArena::new();
        while arena.reserve(60_000).is_some() {
            arena.commit(0, TransportKey(1), 60_000);
        }
        assert_eq!(arena.refused(), 1);
        arena.clear();
        assert!(arena.reserve(60_000).is_some());
    }
}
