//! What one client relays: to each of the edge's media sockets that it talks to, a flow that the socket's shard takes for a
//! connection.

use super::super::shard::{ConnectionInput, Outbound, ShardHandle};
use super::Relay;
use super::metrics::Direction;
use super::places::Place;
use crate::core::ice::{Carrier, Path};
use crate::core::turn::{Client, Output, Relayed};
use crate::shell::edge;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// A client, its flows, and where it sits.
#[derive(Debug)]
pub(super) struct Session {
    relay: Arc<Relay>,
    client: Client<Place>,
    flows: Vec<Flow>,
    /// Where shards put what is for the client.
    outgoing: mpsc::Sender<Outbound>,
    transport: &'static str,
}

#[derive(Debug)]
struct Flow {
    peer: SocketAddr,
    path: Path,
    shard: usize,
}

/// What a message of the client led to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Messages for the client.
    pub(super) responses: Vec<Vec<u8>>,
    /// A flow that has begun.
    pub(super) opened: Option<Carrier>,
}

impl Session {
    pub(super) fn new(
        relay: &Arc<Relay>,
        (transport, remote): (&'static str, SocketAddr),
        outgoing: mpsc::Sender<Outbound>,
    ) -> Self {
        Self {
            client: Client::new(Arc::clone(&relay.server), remote),
            relay: Arc::clone(relay),
            flows: Vec::new(),
            outgoing,
            transport,
        }
    }

    /// Whether there is an allocation.
    pub(super) fn has_allocation(&self) -> bool {
        self.client.relayed().is_some()
    }

    /// Takes a message of the client.
    pub(super) fn receive(&mut self, message: &[u8]) -> Outcome {
        let metrics = &self.relay.metrics;
        let admit = |participant: &str| {
            let shown = metrics.allocations.with_label_values(&[self.transport]);
            self.relay.places.admit(participant, shown)
        };
        let relayed = self.client.handle_message(edge::now(), message, admit);
        let mut outcome = Outcome::default();
        if let Some(relayed) = relayed {
            outcome.opened = self.forward(relayed);
        }
        outcome.responses = self.drain();
        outcome
    }

    /// Appends to `out` how the client takes a datagram of a flow; false, and counted, when it does not any more.
    pub(super) fn write(
        &mut self,
        datagram: &Outbound,
        (padded, out): (bool, &mut Vec<u8>),
    ) -> bool {
        let mut flows = self.flows.iter();
        let flow = flows.find(|flow| flow.path.carrier == datagram.carrier);
        let written = flow.is_some_and(|flow| {
            let now = Instant::now();
            self.client
                .write_datagram(now, flow.peer, &datagram.bytes, (padded, out))
        });
        if written {
            self.relay
                .metrics
                .relayed(Direction::Out, datagram.bytes.len());
        } else {
            self.relay.metrics.dropped("no_permission", 1);
        }
        written
    }

    /// Time went on: an allocation that is over takes its flows along.
    pub(super) fn tick(&mut self) {
        self.client.expire(Instant::now());
        self.drain();
    }

    fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut responses = Vec::new();
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Send(message) => responses.push(message),
                Output::Refused(refusal) => self.relay.refused(refusal),
                Output::Allocated => {
                    let made = &self.relay.metrics.allocated;
                    made.with_label_values(&[self.transport]).inc();
                }
                Output::Released => self.close(),
            }
        }
        responses
    }

    /// Hands payload to the shard of its peer. Shards that are behind lose it, as their sockets would.
    fn forward(&mut self, Relayed { peer, payload }: Relayed) -> Option<Carrier> {
        let relayed = self.client.relayed()?;
        let known = self.flows.iter().any(|flow| flow.peer == peer);
        let opened = if known {
            None
        } else {
            self.open(relayed, peer)
        };
        let flow = self.flows.iter().find(|flow| flow.peer == peer)?;
        let shard = self.relay.plane.shards.get(flow.shard)?;
        let bytes = payload.len();
        let frame = ConnectionInput::Frame {
            path: flow.path,
            bytes: payload,
        };
        if shard.connections.try_send(frame).is_ok() {
            shard.bell.ring();
            self.relay.metrics.relayed(Direction::In, bytes);
        } else {
            self.relay.metrics.dropped("shard_busy", 1);
        }
        opened
    }

    fn open(&mut self, relayed: SocketAddr, peer: SocketAddr) -> Option<Carrier> {
        let shard = *self.relay.shards.get(&peer.port())?;
        let carrier = self.relay.next_carrier();
        let Carrier::Relay(number) = carrier else {
            return None;
        };
        let path = Path::relay(relayed, number);
        let opened = ConnectionInput::Opened {
            path,
            outgoing: self.outgoing.clone(),
        };
        let handle = self.relay.plane.shards.get(shard)?;
        if handle.connections.try_send(opened).is_err() {
            self.relay.metrics.dropped("shard_busy", 1);
            return None;
        }
        self.flows.push(Flow { peer, path, shard });
        Some(carrier)
    }

    fn close(&mut self) {
        for flow in self.flows.drain(..) {
            if let Some(shard) = self.relay.plane.shards.get(flow.shard) {
                closed(shard, flow.path);
            }
        }
    }
}

/// Tells a shard that a flow is over, now or when it has time: it must not be missed.
fn closed(shard: &ShardHandle, path: Path) {
    use tokio::sync::mpsc::error::TrySendError;
    match shard.connections.try_send(ConnectionInput::Closed { path }) {
        Ok(()) => shard.bell.ring(),
        Err(TrySendError::Full(input)) => {
            let connections = shard.connections.clone();
            let bell = Arc::clone(&shard.bell);
            tokio::spawn(async move {
                if connections.send(input).await.is_ok() {
                    bell.ring();
                }
            });
        }
        // The shard has ended: the process does.
        Err(TrySendError::Closed(_)) => {}
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}
