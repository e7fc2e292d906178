//! TURN over UDP: one socket, all its clients.

use super::super::shard::Outbound;
use super::super::tcp::canonical;
use super::Relay;
use super::flows::Session;
use crate::core::ice::Carrier;
use runtime::shutdown::Shutdown;
use runtime::udp::{RecvBatch, UdpSocket};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Datagrams of shards waiting for the socket; beyond that new ones are dropped. 50 ms of 80,000 per second.
const OUTGOING: usize = 4096;
/// Datagrams sent before the socket is read again.
const BATCH: usize = 256;
/// Receive calls before other things get their turn.
const RECEIVES: usize = 8;
/// How often allocations are looked at for their end.
const SWEEP: Duration = Duration::from_secs(1);
/// Answers per second to clients without an allocation, so that forged senders get little sent in their name.
const ANSWERS_PER_S: u32 = 5000;

/// Serves until the shutdown.
pub(super) async fn serve(socket: UdpSocket, relay: Arc<Relay>, shutdown: Shutdown) {
    let (outgoing, mut datagrams) = mpsc::channel(OUTGOING);
    let mapped = socket.local_addr().is_ok_and(|address| address.is_ipv6());
    let mut port = Port {
        socket,
        relay,
        mapped,
        sessions: HashMap::new(),
        owners: HashMap::new(),
        outgoing,
        answers: 0,
    };
    let mut received = RecvBatch::new();
    let mut batch = Vec::with_capacity(BATCH);
    let mut sweeps = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            ready = port.socket.readable() => if let Err(error) = ready {
                tracing::error!(%error, "TURN socket");
                return;
            } else {
                port.receive(&mut received);
            },
            _ = datagrams.recv_many(&mut batch, BATCH) => port.send_batch(&mut batch),
            _ = sweeps.tick() => port.sweep(),
            () = shutdown.wait() => return,
        }
    }
}

struct Port {
    socket: UdpSocket,
    relay: Arc<Relay>,
    /// An IPv6 socket reaches IPv4 by mapped addresses.
    mapped: bool,
    /// Clients that have an allocation.
    sessions: HashMap<SocketAddr, Session>,
    /// Whose a flow is.
    owners: HashMap<Carrier, SocketAddr>,
    outgoing: mpsc::Sender<Outbound>,
    /// Sent to clients without an allocation since the last sweep.
    answers: u32,
}

impl Port {
    fn receive(&mut self, batch: &mut RecvBatch) {
        for _ in 0..RECEIVES {
            if let Err(error) = self.socket.try_recv_batch(batch) {
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(%error, "TURN receive");
                }
                return;
            }
            for datagram in batch.datagrams() {
                let remote = canonical(datagram.source);
                match self.sessions.get_mut(&remote) {
                    Some(session) => {
                        let outcome = session.receive(datagram.bytes);
                        if let Some(carrier) = outcome.opened {
                            self.owners.insert(carrier, remote);
                        }
                        for response in outcome.responses {
                            self.send(remote, &response, response.len());
                        }
                        self.forget_ended(remote);
                    }
                    None => self.greet(remote, datagram.bytes),
                }
            }
        }
    }

    /// A client without an allocation: nothing is kept unless it gets one.
    fn greet(&mut self, remote: SocketAddr, message: &[u8]) {
        if self.answers >= ANSWERS_PER_S {
            self.relay.metrics.refused("rate");
            return;
        }
        let from = ("udp", remote);
        let mut session = Session::new(&self.relay, from, self.outgoing.clone());
        for response in session.receive(message).responses {
            self.answers += 1;
            self.send(remote, &response, response.len());
        }
        if session.has_allocation() {
            self.sessions.insert(remote, session);
        }
    }

    fn forget_ended(&mut self, remote: SocketAddr) {
        let ended = self
            .sessions
            .get(&remote)
            .is_some_and(|session| !session.has_allocation());
        if ended {
            self.sessions.remove(&remote);
            self.owners.retain(|_, owner| *owner != remote);
        }
    }

    fn sweep(&mut self) {
        self.answers = 0;
        let mut ended = false;
        self.sessions.retain(|_, session| {
            session.tick();
            ended |= !session.has_allocation();
            session.has_allocation()
        });
        if ended {
            let sessions = &self.sessions;
            self.owners.retain(|_, owner| sessions.contains_key(owner));
        }
    }

    /// Sends what shards have for clients; neighbours of one length for the same client leave in one call.
    fn send_batch(&mut self, batch: &mut Vec<Outbound>) {
        let mut run = Run::default();
        for datagram in batch.drain(..) {
            let Some(&remote) = self.owners.get(&datagram.carrier) else {
                self.relay.metrics.dropped("no_permission", 1);
                continue;
            };
            let Some(session) = self.sessions.get_mut(&remote) else {
                continue;
            };
            let before = run.bytes.len();
            if !session.write(&datagram, (false, &mut run.bytes)) {
                continue;
            }
            let length = run.bytes.len() - before;
            if before > 0 && (run.remote != Some(remote) || run.segment != length) {
                let rest = run.bytes.split_off(before);
                self.send_run(&run);
                run.bytes = rest;
            }
            (run.remote, run.segment) = (Some(remote), length);
        }
        self.send_run(&run);
    }

    fn send_run(&self, run: &Run) {
        if let Some(remote) = run.remote.filter(|_| !run.bytes.is_empty()) {
            self.send(remote, &run.bytes, run.segment);
        }
    }

    fn send(&self, remote: SocketAddr, bytes: &[u8], segment: usize) {
        let destination = match remote.ip() {
            IpAddr::V4(ip) if self.mapped => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), remote.port())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => remote,
        };
        // As a shard's own socket does: what does not leave at once is dropped.
        let sent = match self.socket.try_send(destination, bytes, Some(segment)) {
            Ok(sent) => sent,
            Err(error) => {
                tracing::debug!(%error, "TURN send");
                0
            }
        };
        let lost = bytes.len().saturating_sub(sent).div_ceil(segment.max(1));
        self.relay.metrics.dropped("send_buffer_full", lost);
    }
}

/// Datagrams of one length for one client.
#[derive(Default)]
struct Run {
    remote: Option<SocketAddr>,
    segment: usize,
    bytes: Vec<u8>,
}
