//! UDP in batches: generic receive offload (many datagrams per system call) and generic segmentation offload (many
//! datagrams per send), with the offloads that the kernel lacks replaced by single calls.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

/// Socket buffer asked for in each direction, in bytes: 100 Mbit/s for 300 ms. What the kernel grants may be less.
pub const BUFFER_BYTES: usize = 4 << 20;

/// Largest send in one call, in bytes: a UDP payload over IPv4 (65,535 less 20 of IP and 8 of UDP header).
const SEND_BYTES_MAX: usize = 65_507;

/// Size of one receive buffer in bytes; the kernel coalesces datagrams up to the largest IP packet.
const RECEIVE_BYTES: usize = 65_535;

/// A non-blocking UDP socket for use within a tokio runtime.
pub struct UdpSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket")
            .field("local_addr", &self.io.local_addr().ok())
            .field("max_gso_segments", &self.max_gso_segments())
            .finish()
    }
}

impl UdpSocket {
    /// Binds with buffers of up to [`BUFFER_BYTES`]. An unspecified IPv6 address takes IPv4 as well.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        enlarge_buffers(&socket);
        Self::from_std(socket.into())
    }

    /// Takes over a bound socket with the buffers it has.
    ///
    /// # Errors
    /// When the system refuses a socket option.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            io: tokio::net::UdpSocket::from_std(socket)?,
            state,
        })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// How many segments one send may carry; 1 when the kernel has no segmentation offload. May fall while running.
    pub fn max_gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Receive and send buffer as granted, in bytes (Linux reports twice what was asked for, its bookkeeping included).
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn buffer_bytes(&self) -> io::Result<(usize, usize)> {
        let socket = UdpSockRef::from(&self.io);
        let receive = self.state.recv_buffer_size(socket)?;
        Ok((
            receive,
            self.state.send_buffer_size(UdpSockRef::from(&self.io))?,
        ))
    }

    /// Completes when there is probably something to receive.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// Completes when there is probably room to send.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    /// Receives what is there, up to the batch's capacity, without waiting; the batch's content before is gone. Returns the
    /// number of buffers filled, each of which holds one or more datagrams of one source.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else what the system said.
    pub fn try_recv_batch(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.filled = 0;
        let mut chunks = batch.bytes.chunks_exact_mut(RECEIVE_BYTES);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let meta = &mut batch.meta;
        let filled = self.io.try_io(Interest::READABLE, || {
            self.state
                .recv(UdpSockRef::from(&self.io), &mut buffers, meta)
        })?;
        batch.filled = filled;
        Ok(filled)
    }

    /// Sends `contents` to `destination` without waiting: as one datagram, or as datagrams of `segment_size` bytes each (the
    /// last may be shorter) with as few calls as the kernel allows. Returns how many bytes of `contents` were handed over:
    /// less than all only when the socket's buffer is full; the rest starts at a segment's border.
    ///
    /// # Errors
    /// `WouldBlock` when nothing could be handed over; else what the system said of the first datagram refused.
    pub fn try_send(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<usize> {
        let Some(segment) = segment_size.filter(|size| (1..contents.len()).contains(size)) else {
            return self
                .send_once(destination, contents, None)
                .map(|()| contents.len());
        };
        let mut sent = 0;
        while let Some(rest) = contents.get(sent..).filter(|rest| !rest.is_empty()) {
            let segments = self.max_gso_segments().min(SEND_BYTES_MAX / segment).max(1);
            let length = (segment * segments).min(rest.len());
            let part = rest.get(..length).unwrap_or(rest);
            match self.send_once(destination, part, Some(segment)) {
                Ok(()) => sent += part.len(),
                // The kernel has just refused segmentation: go on one datagram at a time.
                Err(_) if segments > 1 && self.max_gso_segments() == 1 => {}
                Err(error) if sent > 0 && error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn send_once(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        };
        let send = || self.state.try_send(UdpSockRef::from(&self.io), &transmit);
        match send() {
            // Once more under the reactor's eyes, so that it wakes `writable` when there is room. Not the first time
            // already: a new socket counts as full until the reactor has looked at it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.io.try_io(Interest::WRITABLE, send)
            }
            result => result,
        }
    }
}

/// Asks for large buffers, past the system's limit where the process is allowed to; less is no error.
fn enlarge_buffers(socket: &Socket) {
    let asked = socket
        .set_recv_buffer_size(BUFFER_BYTES)
        .and_then(|()| socket.set_send_buffer_size(BUFFER_BYTES));
    if let Err(error) = asked {
        tracing::warn!(%error, "socket buffers keep their default size");
    }
    let receive = socket.recv_buffer_size().unwrap_or(0);
    if receive < BUFFER_BYTES
        && setsockopt(socket, RcvBufForce, &BUFFER_BYTES).is_err()
        && receive < BUFFER_BYTES / 8
    {
        tracing::warn!(
            bytes = receive,
            "receive buffer is small; raise net.core.rmem_max"
        );
    }
    let send = socket.send_buffer_size().unwrap_or(0);
    if send < BUFFER_BYTES && setsockopt(socket, SndBufForce, &BUFFER_BYTES).is_err() {
        tracing::debug!(bytes = send, "send buffer is smaller than asked for");
    }
}

/// Buffers for one batch of received datagrams, allocated once and reused.
pub struct RecvBatch {
    bytes: Box<[u8]>,
    meta: [RecvMeta; BATCH_SIZE],
    filled: usize,
}

impl fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBatch")
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}

/// One received datagram, mutable so that it can be decrypted in place.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Who sent it. An IPv4 sender seen by a dual-stack socket is an IPv4-mapped IPv6 address.
    pub source: SocketAddr,
    /// The local address it was sent to, where the system tells.
    pub local_ip: Option<IpAddr>,
    /// Congestion mark (RFC 3168).
    pub ecn: Option<EcnCodepoint>,
    /// Its bytes.
    pub bytes: &'a mut [u8],
}

impl RecvBatch {
    /// An empty batch of about 2 MB; pages are touched only when datagrams need them.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; RECEIVE_BYTES * BATCH_SIZE].into_boxed_slice(),
            meta: [RecvMeta::default(); BATCH_SIZE],
            filled: 0,
        }
    }

    /// The datagrams of the last receive, in the order of arrival. Empty ones are left out.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let buffers = self.bytes.chunks_exact_mut(RECEIVE_BYTES);
        buffers
            .zip(&self.meta)
            .take(self.filled)
            .flat_map(|(buffer, meta)| {
                let length = meta.len.min(buffer.len());
                let (received, _) = buffer.split_at_mut(length);
                received
                    .chunks_mut(meta.stride.max(1))
                    .map(|bytes| Datagram {
                        source: meta.addr,
                        local_ip: meta.dst_ip,
                        ecn: meta.ecn,
                        bytes,
                    })
            })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let any = "127.0.0.1:0".parse().unwrap();
        (UdpSocket::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
    }

    async fn receive(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut batch = RecvBatch::new();
        let mut all = Vec::new();
        while all.len() < count {
            tokio::time::timeout(Duration::from_secs(2), socket.readable())
                .await
                .unwrap()
                .unwrap();
            match socket.try_recv_batch(&mut batch) {
                Ok(_) => all.extend(batch.datagrams().map(|datagram| datagram.bytes.to_vec())),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        all
    }

    #[tokio::test]
    async fn segments_arrive_as_datagrams_of_their_own() {
        let (from, to) = pair();
        let contents: Vec<u8> = (0..100_u8)
            .flat_map(|n| vec![n; 1200])
            .chain([7; 55])
            .collect();
        let sent = from
            .try_send(to.local_addr().unwrap(), &contents, Some(1200))
            .unwrap();
        assert_eq!(sent, contents.len());
        let received = receive(&to, 101).await;
        assert_eq!(received.len(), 101);
        for (datagram, expected) in received.iter().zip(contents.chunks(1200)) {
            assert_eq!(datagram, expected);
        }
    }

    #[tokio::test]
    async fn single_datagrams_keep_their_borders_and_source() {
        let (from, to) = pair();
        let address = to.local_addr().unwrap();
        assert_eq!(from.try_send(address, b"one", None).unwrap(), 3);
        assert_eq!(from.try_send(address, b"longer", Some(6)).unwrap(), 6);
        assert_eq!(receive(&to, 2).await, [b"one".to_vec(), b"longer".to_vec()]);
        from.try_send(address, b"x", None).unwrap();
        to.readable().await.unwrap();
        let mut batch = RecvBatch::new();
        to.try_recv_batch(&mut batch).unwrap();
        let datagram = batch.datagrams().next().unwrap();
        assert_eq!(datagram.source, from.local_addr().unwrap());
    }

    #[tokio::test]
    async fn nothing_there_would_block_and_empties_the_batch() {
        let (_, to) = pair();
        let mut batch = RecvBatch::new();
        let error = to.try_recv_batch(&mut batch).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(batch.datagrams().count(), 0);
    }

    #[tokio::test]
    async fn a_refused_port_does_not_end_the_socket() {
        let (from, to) = pair();
        let gone = to.local_addr().unwrap();
        drop(to);
        for _ in 0..3 {
            assert_eq!(from.try_send(gone, b"x", None).unwrap(), 1);
        }
        let here = from.local_addr().unwrap();
        from.try_send(here, b"self", None).unwrap();
        assert_eq!(receive(&from, 1).await, [b"self".to_vec()]);
    }

    #[tokio::test]
    async fn buffers_are_larger_than_the_default() {
        let (socket, _) = pair();
        let (receive, send) = socket.buffer_bytes().unwrap();
        assert!(receive >= 212_992 && send >= 212_992, "{receive} {send}");
    }
}
