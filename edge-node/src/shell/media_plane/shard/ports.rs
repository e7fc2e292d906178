//! How datagrams leave a shard: by UDP with segmentation offload, or as frames of a TCP connection.

use super::super::metrics::Metrics;
use crate::core::ice::{Carrier, Path};
use bytes::Bytes;
use runtime::udp::UdpSocket;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::sync::mpsc;

/// The UDP socket and the TCP connections.
pub(super) struct Ports {
    pub(super) socket: UdpSocket,
    /// An IPv6 socket reaches IPv4 by mapped addresses.
    mapped: bool,
    connections: HashMap<u32, mpsc::Sender<Bytes>>,
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

    /// A TCP connection may be written to.
    pub(super) fn open(&mut self, path: Path, outgoing: mpsc::Sender<Bytes>) {
        if let Carrier::Tcp(connection) = path.carrier {
            self.connections.insert(connection, outgoing);
        }
    }

    /// A TCP connection is over; its task ends when it was not the one to say so.
    pub(super) fn close(&mut self, path: Path) {
        if let Carrier::Tcp(connection) = path.carrier {
            self.connections.remove(&connection);
        }
    }

    /// Sends datagrams of `segment` bytes each, the last may be shorter. What does not leave at once is dropped: congestion
    /// control and retransmission know what to do about it, a queue here would only add delay.
    pub(super) fn send(&self, path: Path, contents: &[u8], segment: usize) {
        match path.carrier {
            Carrier::Udp => self.send_udp(path.remote, contents, segment),
            Carrier::Tcp(connection) => {
                let Some(outgoing) = self.connections.get(&connection) else {
                    return;
                };
                for frame in contents.chunks(segment.max(1)) {
                    if outgoing.try_send(Bytes::copy_from_slice(frame)).is_err() {
                        self.metrics.queue_dropped("tcp_out", 1);
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
