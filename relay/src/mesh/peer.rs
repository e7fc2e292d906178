//! A neighbour: its link while there is one, and the flows bound in both directions.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::router::StreamIndex;
use proto::NodeId;

use crate::link::header::PacketMeta;
use crate::link::{Counters, Link};
use crate::mesh::stats::LinkStats;

/// How long a flow id rests before it names another flow: repairs of the old one may still be on their way.
const QUARANTINE: Duration = Duration::from_secs(2);
/// The peer may bind flow ids below this.
pub(super) const FLOWS_IN_END: u32 = 1 << 16;
/// Packets kept that came before their flow was bound: QUIC sends datagrams ahead of streams.
const PARKED_MAX: usize = 256;
/// How long they are kept.
const PARKED_AGE_MAX: Duration = Duration::from_millis(500);

/// A neighbour, for as long as the core lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub(super) usize);

/// What a flow of a peer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowIn {
    /// Index of the track.
    pub(super) track: usize,
    pub(super) stream: StreamIndex,
}

/// What one of our flows carries; index of the track and stream.
pub(super) type FlowOut = FlowIn;

#[derive(Debug)]
struct Parked {
    flow: u32,
    meta: PacketMeta,
    rtp: Bytes,
    at: Instant,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) link: Option<Link>,
    /// Hellos were exchanged.
    pub(super) up: bool,
    /// It said that it will leave.
    pub(super) draining: bool,
    flows_in: Vec<Option<FlowIn>>,
    flows_out: Vec<Option<FlowOut>>,
    resting: VecDeque<(u32, Instant)>,
    parked: VecDeque<Parked>,
    /// Counters of connections before this one.
    before: Counters,
}

impl Peer {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            link: None,
            up: false,
            draining: false,
            flows_in: Vec::new(),
            flows_out: Vec::new(),
            resting: VecDeque::new(),
            parked: VecDeque::new(),
            before: Counters::default(),
        }
    }

    /// Forgets the connection; returns whether the link was up.
    pub(super) fn disconnect(&mut self) -> bool {
        if let Some(link) = self.link.take() {
            self.before = sum(self.before, link.counters());
        }
        self.flows_in.clear();
        self.flows_out.clear();
        self.resting.clear();
        self.parked.clear();
        self.draining = false;
        std::mem::take(&mut self.up)
    }

    pub(super) fn flow_in(&self, flow: u32) -> Option<FlowIn> {
        self.flows_in.get(flow as usize).copied().flatten()
    }

    pub(super) fn bind_in(&mut self, flow: u32, carries: FlowIn) {
        let index = flow as usize;
        if flow >= FLOWS_IN_END {
            return;
        }
        if index >= self.flows_in.len() {
            self.flows_in.resize(index + 1, None);
        }
        if let Some(slot) = self.flows_in.get_mut(index) {
            *slot = Some(carries);
        }
    }

    pub(super) fn unbind_in(&mut self, flow: u32) -> Option<FlowIn> {
        self.flows_in.get_mut(flow as usize).and_then(Option::take)
    }

    pub(super) fn flow_out(&self, flow: u32) -> Option<FlowOut> {
        self.flows_out.get(flow as usize).copied().flatten()
    }

    /// Picks an id for a flow of ours: one that has rested, or a new one. Ids start at 1.
    pub(super) fn bind_out(&mut self, now: Instant, carries: FlowOut) -> u32 {
        let rested = self
            .resting
            .front()
            .filter(|(_, since)| now >= *since + QUARANTINE);
        let flow = if let Some(&(flow, _)) = rested {
            self.resting.pop_front();
            flow
        } else {
            u32::try_from(self.flows_out.len().max(1)).unwrap_or(u32::MAX)
        };
        let index = flow as usize;
        if index >= self.flows_out.len() {
            self.flows_out.resize(index + 1, None);
        }
        if let Some(slot) = self.flows_out.get_mut(index) {
            *slot = Some(carries);
        }
        flow
    }

    pub(super) fn unbind_out(&mut self, now: Instant, flow: u32) {
        if self
            .flows_out
            .get_mut(flow as usize)
            .and_then(Option::take)
            .is_some()
        {
            self.resting.push_back((flow, now));
            if let Some(link) = &mut self.link {
                link.forget_flow(flow);
            }
        }
    }

    /// Keeps a packet whose flow is not bound yet. The oldest gives way; returns how many packets were dropped.
    pub(super) fn park(&mut self, now: Instant, flow: u32, meta: PacketMeta, rtp: Bytes) -> u64 {
        let mut dropped = 0;
        while self.parked.len() >= PARKED_MAX
            || self
                .parked
                .front()
                .is_some_and(|parked| now > parked.at + PARKED_AGE_MAX)
        {
            self.parked.pop_front();
            dropped += 1;
        }
        self.parked.push_back(Parked {
            flow,
            meta,
            rtp,
            at: now,
        });
        dropped
    }

    /// Takes the packets that waited for this flow.
    pub(super) fn unpark(&mut self, now: Instant, flow: u32) -> Vec<(PacketMeta, Bytes)> {
        let mut taken = Vec::new();
        self.parked.retain(|parked| {
            let wanted = parked.flow == flow;
            if wanted && now <= parked.at + PARKED_AGE_MAX {
                taken.push((parked.meta, parked.rtp.clone()));
            }
            !wanted
        });
        taken
    }

    pub(super) fn stats(&self, now: Instant) -> LinkStats {
        let current = self.link.as_ref();
        let counters = sum(self.before, current.map(Link::counters).unwrap_or_default());
        let count = |flows: usize| u32::try_from(flows).unwrap_or(u32::MAX);
        LinkStats {
            peer: self.node.clone(),
            up: self.up,
            rtt: current.and_then(Link::rtt_measured).unwrap_or_default(),
            jitter: current.map(Link::jitter).unwrap_or_default(),
            loss: current.map(|link| link.loss(now, 10)).unwrap_or_default(),
            packets_sent: counters.packets_sent,
            bytes_sent: counters.bytes_sent,
            packets_received: counters.packets_received,
            bytes_received: counters.bytes_received,
            packets_lost: counters.packets_lost,
            packets_repaired: counters.packets_repaired,
            queue_dropped: counters.queue_dropped,
            flows_out: count(self.flows_out.iter().flatten().count()),
            flows_in: count(self.flows_in.iter().flatten().count()),
            audio_selected: 0,
            audio_suppressed: 0,
            audio_changes: 0,
            flows: Vec::new(),
        }
    }
}

fn sum(a: Counters, b: Counters) -> Counters {
    Counters {
        packets_sent: a.packets_sent + b.packets_sent,
        bytes_sent: a.bytes_sent + b.bytes_sent,
        repairs_sent: a.repairs_sent + b.repairs_sent,
        repairs_refused: a.repairs_refused + b.repairs_refused,
        packets_received: a.packets_received + b.packets_received,
        bytes_received: a.bytes_received + b.bytes_received,
        duplicates: a.duplicates + b.duplicates,
        packets_lost: a.packets_lost + b.packets_lost,
        packets_repaired: a.packets_repaired + b.packets_repaired,
        queue_dropped: a.queue_dropped + b.queue_dropped,
        malformed: a.malformed + b.malformed,
    }
}
