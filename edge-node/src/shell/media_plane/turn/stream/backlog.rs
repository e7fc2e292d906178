//! What waits for a slow TCP client: bounded, and the oldest datagrams go first, for nobody wants old media.

use super::super::super::shard::Outbound;
use std::collections::VecDeque;

/// Bytes of datagrams: half a second at 2 Mbit/s. What congestion control lets through waits here while the client's window is closed.
const BYTES_MAX: usize = 128 << 10;
/// Responses: a client asks for one thing at a time.
const RESPONSES_MAX: usize = 64;

/// Something for the client.
#[derive(Debug)]
pub(super) enum Item {
    /// An answer to a request.
    Response(Vec<u8>),
    /// A datagram of a flow.
    Datagram(Outbound),
}

/// What waits, responses first.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    responses: VecDeque<Vec<u8>>,
    datagrams: VecDeque<Outbound>,
    bytes: usize,
}

impl Backlog {
    /// Takes a datagram; returns how many older ones it displaced.
    pub(super) fn push(&mut self, datagram: Outbound) -> usize {
        self.bytes += datagram.bytes.len();
        self.datagrams.push_back(datagram);
        let mut dropped = 0;
        while self.bytes > BYTES_MAX {
            let Some(oldest) = self.datagrams.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes.len();
            dropped += 1;
        }
        dropped
    }

    /// Takes a response; returns how many older ones it displaced.
    pub(super) fn push_response(&mut self, response: Vec<u8>) -> usize {
        let full = self.responses.len() >= RESPONSES_MAX;
        if full {
            self.responses.pop_front();
        }
        self.responses.push_back(response);
        usize::from(full)
    }

    /// What is to be sent next.
    pub(super) fn pop(&mut self) -> Option<Item> {
        if let Some(response) = self.responses.pop_front() {
            return Some(Item::Response(response));
        }
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.bytes.len();
        Some(Item::Datagram(datagram))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::core::ice::Carrier;

    fn datagram(number: u32) -> Outbound {
        Outbound {
            carrier: Carrier::Relay(number),
            bytes: Bytes::from(vec![0; 1200]),
        }
    }

    #[test]
    fn the_oldest_are_dropped_whole_and_responses_go_first() {
        let mut backlog = Backlog::default();
        let dropped: usize = (0..200).map(|number| backlog.push(datagram(number))).sum();
        let kept = BYTES_MAX / 1200;
        assert_eq!(dropped, 200 - kept);
        assert_eq!(backlog.push_response(vec![1]), 0);
        assert!(matches!(backlog.pop(), Some(Item::Response(_))));
        let mut left = Vec::new();
        while let Some(Item::Datagram(datagram)) = backlog.pop() {
            let Carrier::Relay(number) = datagram.carrier else {
                panic!("another carrier");
            };
            left.push(number);
        }
        let first = u32::try_from(dropped).unwrap();
        assert_eq!(left, (first..200).collect::<Vec<_>>());
        assert_eq!(backlog.bytes, 0);
    }

    #[test]
    fn responses_are_bounded() {
        let mut backlog = Backlog::default();
        let dropped: usize = (0..100).map(|_| backlog.push_response(Vec::new())).sum();
        assert_eq!(dropped, 100 - RESPONSES_MAX);
    }
}
