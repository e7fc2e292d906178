//! When subscribers have an answer and a picture, and what that asks of publishers.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use livekit_protocol::signal_response::Message as Response;

use crate::client::{Arrival, Observer};
use crate::synthetic::monotonic_ns;

/// Window in which requests are counted: a second, less what the way and a busy machine may shift two requests against each
/// other.
const WINDOW_NS: u64 = 900_000_000;
/// Requests kept: more than a second apart for a day.
const REQUESTS_MAX: usize = 100_000;

/// Watches a subscriber until it has a whole keyframe (VP8), and what a publisher is asked for.
#[derive(Debug)]
pub(super) struct Keyframes {
    started_ns: u64,
    inner: Mutex<Progress>,
    requested_ns: Mutex<Vec<u64>>,
}

#[derive(Debug, Default)]
struct Progress {
    answered_ns: Option<u64>,
    connected_ns: Option<u64>,
    complete_ns: Option<u64>,
    /// Keyframe under way, by SSRC: its timestamp and the number of its next packet.
    open: BTreeMap<u32, (u32, u16)>,
}

impl Keyframes {
    /// Time counts from now.
    pub(super) fn new() -> Self {
        Self {
            started_ns: monotonic_ns(),
            inner: Mutex::new(Progress::default()),
            requested_ns: Mutex::new(Vec::new()),
        }
    }

    /// Nanoseconds from the start to the server's answer to the first offer.
    pub(super) fn negotiation_ns(&self) -> Option<u64> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Some(inner.answered_ns?.saturating_sub(self.started_ns))
    }

    /// Nanoseconds from the start, and from the media connection, to the first whole keyframe.
    pub(super) fn took_ns(&self) -> Option<(u64, u64)> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let complete_ns = inner.complete_ns?;
        let since = |start_ns: u64| complete_ns.saturating_sub(start_ns);
        Some((
            since(self.started_ns),
            since(inner.connected_ns.unwrap_or(self.started_ns)),
        ))
    }

    /// All requests, and most within a second (see [`WINDOW_NS`]).
    pub(super) fn requests(&self) -> (usize, usize) {
        let requested_ns = self.requested_ns.lock();
        let mut at_ns = requested_ns.unwrap_or_else(PoisonError::into_inner).clone();
        at_ns.sort_unstable();
        let within = |(index, &start): (usize, &u64)| {
            let later = at_ns.iter().skip(index);
            later.take_while(|&&at| at < start + WINDOW_NS).count()
        };
        let most = at_ns.iter().enumerate().map(within).max();
        (at_ns.len(), most.unwrap_or(0))
    }
}

impl Observer for Keyframes {
    fn told(&self, now_ns: u64, message: &Response) {
        if matches!(message, Response::Answer(_)) {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.answered_ns.get_or_insert(now_ns);
        }
    }

    fn connected(&self, now_ns: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.connected_ns = Some(now_ns);
    }

    fn received(&self, now_ns: u64, arrival: &Arrival<'_>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.complete_ns.is_some() {
            return;
        }
        let number = arrival.sequence_number;
        if starts_keyframe(arrival.payload) {
            inner.open.insert(arrival.ssrc, (arrival.timestamp, number));
        }
        let Some((timestamp, next)) = inner.open.get_mut(&arrival.ssrc) else {
            return;
        };
        // A packet that is missing or late ends it: light clients repair nothing.
        if (*timestamp, *next) != (arrival.timestamp, number) {
            inner.open.remove(&arrival.ssrc);
            return;
        }
        *next = number.wrapping_add(1);
        if arrival.marker {
            inner.complete_ns = Some(now_ns);
            inner.open.clear();
        }
    }

    fn keyframe_requested(&self, now_ns: u64, _source: u32, _stream: usize) {
        let requested_ns = self.requested_ns.lock();
        let mut requested_ns = requested_ns.unwrap_or_else(PoisonError::into_inner);
        if requested_ns.len() < REQUESTS_MAX {
            requested_ns.push(now_ns);
        }
    }
}

/// Whether a VP8 payload is the first of a keyframe (RFC 7741 section 4.2, RFC 6386 section 9.1).
fn starts_keyframe(payload: &[u8]) -> bool {
    let Some((&first, mut rest)) = payload.split_first() else {
        return false;
    };
    if first & 0x1f != 0x10 {
        return false;
    }
    let mut take = || {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        Some(byte)
    };
    if first & 0x80 != 0 {
        let flags = take().unwrap_or(0);
        if flags & 0x80 != 0 && take().is_some_and(|id| id & 0x80 != 0) {
            take();
        }
        if flags & 0x40 != 0 {
            take();
        }
        if flags & 0x30 != 0 {
            take();
        }
    }
    take().is_some_and(|tag| tag & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Video, VideoConfig};

    /// The frames' packets, numbered from `first`.
    fn receive(watch: &Keyframes, first: u16, skip: Option<u16>, key: bool) -> u16 {
        let mut video = Video::new(VideoConfig::default());
        let mut frame = Vec::new();
        video.next_frame(&mut frame);
        if !key {
            video.next_frame(&mut frame);
        }
        let mut number = first;
        for payload in &frame {
            let arrival = Arrival {
                marker: payload.marker,
                sequence_number: number,
                timestamp: payload.timestamp,
                ssrc: 1,
                payload: &payload.bytes,
            };
            if skip != Some(number - first) {
                watch.received(watch.started_ns + 70, &arrival);
            }
            number += 1;
        }
        number
    }

    #[test]
    fn only_a_whole_keyframe_counts() {
        let watch = Keyframes::new();
        watch.connected(watch.started_ns + 50);
        let next = receive(&watch, 0, None, false);
        assert_eq!(watch.took_ns(), None, "a delta frame");
        let next = receive(&watch, next, Some(3), true);
        assert_eq!(watch.took_ns(), None, "a packet is missing");
        receive(&watch, next, None, true);
        assert_eq!(watch.took_ns(), Some((70, 20)));
    }

    #[test]
    fn short_and_long_descriptors_are_read() {
        assert!(starts_keyframe(&[0x10, 0x10]));
        assert!(!starts_keyframe(&[0x10, 0x11]));
        assert!(
            !starts_keyframe(&[0x00, 0x10]),
            "not the start of a partition"
        );
        assert!(!starts_keyframe(&[0x11, 0x10]), "not the first partition");
        assert!(
            starts_keyframe(&[0x90, 0x80, 0x05, 0x10]),
            "short picture id"
        );
        assert!(starts_keyframe(&[0x90, 0xe0, 0x80, 0x05, 1, 0, 0x10]));
        assert!(!starts_keyframe(&[0x90, 0xe0]));
    }

    #[test]
    fn requests_are_counted_per_second() {
        let requests = Keyframes::new();
        for at_ms in [0, 850, 1100, 1500, 5000] {
            requests.keyframe_requested(at_ms * 1_000_000, 0, 0);
        }
        assert_eq!(requests.requests(), (5, 3));
    }
}
