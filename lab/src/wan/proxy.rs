//! UDP proxy around two [`Pipe`]s: clients dial the proxy's address, it dials the target.
//!
//! One thread per proxy waits in `ppoll`, whose time-out has nanosecond resolution (tokio's timers
//! have 1 ms), so an idle path costs nothing and a packet leaves within some 100 µs of its time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::{Path, Pipe, PipeStats};

/// Clients that one proxy keeps a mapping for; the least recently active one makes room.
const CLIENTS_MAX: usize = 1024;
/// A mapping without traffic is forgotten after this, as a NAT does (RFC 4787 asks for >= 2 min).
const CLIENT_IDLE_MAX: Duration = Duration::from_secs(120);
/// Datagrams read from one socket before the others get their turn.
const READ_BATCH: usize = 64;
/// Longest wait without anything to do, so that new settings and idle mappings are noticed.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// Largest UDP payload.
const DATAGRAM_MAX: usize = 65_535;
/// Kernel buffer per socket, bytes: 160 ms at 50 Mbps.
const SOCKET_BUFFER: usize = 1 << 20;
/// Emptied packet buffers that are kept for reuse; more are freed.
const SPARE_MAX: usize = 4096;

/// Counters of a proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProxyStats {
    /// From clients to the target.
    pub forward: PipeStats,
    /// From the target to clients.
    pub backward: PipeStats,
    /// Clients with a mapping now.
    pub clients: usize,
    /// Datagrams the kernel did not take (destination gone or buffer full), and failed mappings.
    pub send_errors: u64,
}

#[derive(Debug)]
struct Shared {
    /// Paths that the thread has not taken over yet.
    next: Option<(Path, Path)>,
    stats: ProxyStats,
}

/// A running proxy; dropping it stops it, packets under way are lost.
#[derive(Debug)]
pub struct Proxy {
    local_addr: SocketAddr,
    target: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    /// Closing it ends the thread; a byte makes it look at `shared`.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on `listen` (port 0 = any) and forwards to `target`: `forward` shapes what clients
    /// send, `backward` what the target answers. All clients share the two pipes: they model a path.
    ///
    /// # Errors
    /// When the address cannot be bound or the thread cannot start.
    pub fn start(
        listen: SocketAddr,
        target: SocketAddr,
        forward: Path,
        backward: Path,
    ) -> io::Result<Self> {
        let socket = bind(listen)?;
        let local_addr = socket.local_addr()?;
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Mutex::new(Shared {
            next: None,
            stats: ProxyStats::default(),
        }));
        let worker = Worker {
            socket,
            target,
            woken,
            shared: Arc::clone(&shared),
            forward: Pipe::new(forward),
            backward: Pipe::new(backward),
            clients: Vec::new(),
            next_client: 0,
            spare: Vec::new(),
            send_errors: 0,
        };
        let thread = std::thread::Builder::new()
            .name(format!("wan-{}", local_addr.port()))
            .spawn(move || worker.run())?;
        Ok(Self {
            local_addr,
            target,
            shared,
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// Address that clients dial.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Address that the proxy forwards to.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Changes both directions at once, for packets from now on.
    pub fn set(&self, forward: Path, backward: Path) {
        self.lock().next = Some((forward, backward));
        if let Some(mut wake) = self.wake.as_ref() {
            // A full pipe means that the thread is about to look anyway.
            let _written = io::Write::write(&mut wake, &[0]).is_ok();
        }
    }

    /// Counters, at most 250 ms old.
    pub fn stats(&self) -> ProxyStats {
        self.lock().stats
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(proxy = %self.local_addr, "WAN proxy thread panicked");
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Mapping of one client: a socket of its own towards the target.
#[derive(Debug)]
struct Client {
    id: u64,
    address: SocketAddr,
    upstream: UdpSocket,
    active: Instant,
}

#[derive(Debug)]
struct Datagram {
    client: u64,
    bytes: Vec<u8>,
}

struct Worker {
    socket: UdpSocket,
    target: SocketAddr,
    woken: UnixStream,
    shared: Arc<Mutex<Shared>>,
    forward: Pipe<Datagram>,
    backward: Pipe<Datagram>,
    clients: Vec<Client>,
    next_client: u64,
    spare: Vec<Vec<u8>>,
    send_errors: u64,
}

impl Worker {
    fn run(mut self) {
        let mut scratch = vec![0_u8; DATAGRAM_MAX];
        let mut ready = Vec::new();
        loop {
            if !self.wait(&mut ready) {
                return;
            }
            if ready.first().is_some_and(|ready| *ready) && self.closed() {
                return;
            }
            if ready.get(1).is_some_and(|ready| *ready) {
                self.read_clients(&mut scratch);
            }
            for (index, ready) in ready.iter().skip(2).enumerate() {
                if *ready {
                    self.read_target(index, &mut scratch);
                }
            }
            self.deliver();
            self.forget_idle();
            self.share();
        }
    }

    /// Waits until a socket is readable or a packet is due. `ready`: wake, listener, then clients.
    fn wait(&self, ready: &mut Vec<bool>) -> bool {
        let due = [self.forward.poll_timeout(), self.backward.poll_timeout()];
        let now = Instant::now();
        let timeout = due
            .into_iter()
            .flatten()
            .map(|due| due.saturating_duration_since(now))
            .min()
            .map_or(WAIT_MAX, |timeout| timeout.min(WAIT_MAX));
        let mut fds: Vec<PollFd<'_>> = [self.woken.as_fd(), self.socket.as_fd()]
            .into_iter()
            .chain(self.clients.iter().map(|client| client.upstream.as_fd()))
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "WAN proxy cannot wait");
                return false;
            }
        }
        ready.clear();
        ready.extend(
            fds.iter()
                .map(|fd| fd.revents().is_some_and(|events| !events.is_empty())),
        );
        true
    }

    /// Drains the wake stream; true when the handle is gone.
    fn closed(&self) -> bool {
        let mut buffer = [0_u8; 64];
        loop {
            match io::Read::read(&mut (&self.woken), &mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    fn read_clients(&mut self, scratch: &mut [u8]) {
        for _ in 0..READ_BATCH {
            let (len, address) = match self.socket.recv_from(scratch) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error of an earlier send; the datagrams behind it still count.
                Err(_) => continue,
            };
            let now = Instant::now();
            let Some(client) = self.client_of(address, now) else {
                self.send_errors += 1;
                continue;
            };
            let Some(payload) = scratch.get(..len) else {
                continue;
            };
            let bytes = self.copy(payload);
            // A drop is counted by the pipe.
            let _dropped = self
                .forward
                .push(now, len, Datagram { client, bytes })
                .is_err();
        }
    }

    fn read_target(&mut self, index: usize, scratch: &mut [u8]) {
        for _ in 0..READ_BATCH {
            let now = Instant::now();
            let Some(client) = self.clients.get_mut(index) else {
                return;
            };
            let len = match client.upstream.recv(scratch) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            client.active = now;
            let client = client.id;
            let Some(payload) = scratch.get(..len) else {
                continue;
            };
            let bytes = self.copy(payload);
            let _dropped = self
                .backward
                .push(now, len, Datagram { client, bytes })
                .is_err();
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while let Some(Datagram { client, bytes }) = self.forward.pop(now) {
            let sent = self
                .find(client)
                .is_some_and(|client| client.upstream.send(&bytes).is_ok());
            self.finish(sent, bytes);
        }
        while let Some(Datagram { client, bytes }) = self.backward.pop(now) {
            let sent = self
                .find(client)
                .is_some_and(|client| self.socket.send_to(&bytes, client.address).is_ok());
            self.finish(sent, bytes);
        }
    }

    fn finish(&mut self, sent: bool, mut bytes: Vec<u8>) {
        self.send_errors += u64::from(!sent);
        if self.spare.len() < SPARE_MAX {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    fn copy(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.extend_from_slice(payload);
        bytes
    }

    fn find(&self, id: u64) -> Option<&Client> {
        // Ids only grow and removal keeps the order.
        let index = self
            .clients
            .binary_search_by_key(&id, |client| client.id)
            .ok()?;
        self.clients.get(index)
    }

    fn client_of(&mut self, address: SocketAddr, now: Instant) -> Option<u64> {
        if let Some(client) = self
            .clients
            .iter_mut()
            .find(|client| client.address == address)
        {
            client.active = now;
            return Some(client.id);
        }
        if self.clients.len() >= CLIENTS_MAX {
            let oldest = self
                .clients
                .iter()
                .enumerate()
                .min_by_key(|(_, client)| client.active);
            let index = oldest.map(|(index, _)| index)?;
            self.clients.remove(index);
        }
        let any: SocketAddr = if self.target.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let upstream = bind(any).ok()?;
        upstream.connect(self.target).ok()?;
        let id = self.next_client;
        self.next_client += 1;
        self.clients.push(Client {
            id,
            address,
            upstream,
            active: now,
        });
        Some(id)
    }

    fn forget_idle(&mut self) {
        let now = Instant::now();
        self.clients
            .retain(|client| now.duration_since(client.active) < CLIENT_IDLE_MAX);
    }

    /// Takes over new paths and publishes the counters.
    fn share(&mut self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.stats = ProxyStats {
            forward: self.forward.stats(),
            backward: self.backward.stats(),
            clients: self.clients.len(),
            send_errors: self.send_errors,
        };
        if let Some((forward, backward)) = shared.next.take() {
            self.forward.set_path(forward);
            self.backward.set_path(backward);
        }
    }
}

#[cfg(test)]
mod tests;
