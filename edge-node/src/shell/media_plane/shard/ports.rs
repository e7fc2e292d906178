//! How datagrams leave a shard: by UDP with segmentation offload, or as frames of a TCP connection or TURN allocation.

use super::super::metrics::Metrics;
use super::Outbound;
use crate::core::ice::{Carrier, Path};
use bytes::Bytes;
use runtime::udp::UdpSocket;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::sync::mpsc;

/// The UDP socket, the TCP connections and what is relayed.
pub(super) struct Ports {
    pub(super) socket: UdpSocket,
    /// An IPv6 socket reaches IPv4 by mapped addresses.
    mapped: bool,
    connections: HashMap<Carrier, mpsc::Sender<Outbound>>,
    metrics: Metrics,
}

impl Ports {
    pub(super) fn new(socket: UdpSocket, metrics: Metrics) -> Self {
        let mapped = socket.local_addr().is_ok_and(|address| address.is_ipv6());
        Self {
            socket,
            mapped,
            connections: HashMap::new(),
            metrics,
        }
    }

    /// A connection may be written to.
    pub(super) fn open(&mut self, path: Path, outgoing: mpsc::Sender<Outbound>) {
        self.connections.insert(path.carrier, outgoing);
    }

    /// A connection is over; the task of a TCP connection ends when it was not the one to say so.
    pub(super) fn close(&mut self, path: Path) {
        self.connections.remove(&path.carrier);
    }

    /// Sends datagrams of `segment` bytes each, the last may be shorter. What does not leave at once is dropped: congestion
    /// control and retransmission know what to do about it, a queue here would only add delay.
    pub(super) fn send(&self, path: Path, contents: &[u8], segment: usize) {
        match path.carrier {
            Carrier::Udp => self.send_udp(path.remote, contents, segment),
            carrier @ (Carrier::Tcp(_) | Carrier::Relay(_)) => {
                let Some(outgoing) = self.connections.get(&carrier) else {
                    return;
                };
                let queue = match carrier {
                    Carrier::Relay(_) => "turn_out",
                    Carrier::Tcp(_) | Carrier::Udp => "tcp_out",
                };
                for frame in contents.chunks(segment.max(1)) {
                    let bytes = Bytes::copy_from_slice(frame);
                    if outgoing.try_send(Outbound { carrier, bytes }).is_err() {
                        self.metrics.queue_dropped(queue, 1);
                    }
                }
            }
        }
    }

    fn send_udp(&self, remote: SocketAddr, contents: &[u8], segment: usize) {
        let result = self
            .socket
            .try_send(self.destination(remote), contents, Some(segment));
        let (sent, reason) = match result {
            Ok(sent) => (sent, "send_buffer_full"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, "send_buffer_full"),
            Err(error) => {
                tracing::debug!(%error, "UDP send");
                (0, "send_error")
            }
        };
        let lost = contents.len().saturating_sub(sent).div_ceil(segment.max(1));
        if lost > 0 {
            self.metrics
                .dropped(reason, u64::try_from(lost).unwrap_or(u64::MAX));
        }
    }

    fn destination(&self, remote: SocketAddr) -> SocketAddr {
        match remote.ip() {
            IpAddr::V4(ip) if self.mapped => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), remote.port())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => remote,
        }
    }
}
