//! Point-to-point link to a network namespace through two [`Pipe`]s: whatever runs inside, a browser for example, sits
//! behind that path without knowing.
//!
//! Two TUN devices, one here and one inside, and a thread that moves IP packets between them. It waits in `ppoll`, as
//! [`super::Proxy`] does. Both ends are addresses of this host, so nothing is routed: servers are reached at
//! [`Tunnel::here`].

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::{Namespace, Path, Pipe, PipeStats};

/// Largest IP packet, as on Ethernet.
const MTU: u16 = 1500;
/// A /30 holds the two ends.
const PREFIX: u8 = 30;
/// Packets that the kernel holds for a device before they are read; the pipes are the queue, not this.
const DEVICE_QUEUE: u32 = 2000;
/// Packets read from one device before the other gets its turn.
const READ_BATCH: usize = 64;
/// Longest wait without anything to do.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// Emptied packet buffers that are kept for reuse; more are freed.
const SPARE_MAX: usize = 4096;

/// A way through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From here into the namespace: what a client inside downloads.
    Down,
    /// From the namespace to here: what a client inside uploads.
    Up,
}

/// State of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelStats {
    /// Counters since the start. Bytes are of IP packets.
    pub pipe: PipeStats,
    /// How long a packet that arrived now would wait for the bottleneck.
    pub queue: Duration,
    /// Longest such wait since the statistics were taken last.
    pub queue_max: Duration,
    /// Packets that the kernel did not take at the far end.
    pub send_errors: u64,
}

#[derive(Debug)]
struct Way {
    pipe: Pipe<Vec<u8>>,
    send_errors: u64,
}

impl Way {
    fn new(path: Path) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            pipe: Pipe::new(path),
            send_errors: 0,
        }))
    }
}

type Ways = [Arc<Mutex<Way>>; 2];

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running tunnel; dropping it takes both devices away, packets under way are lost.
#[derive(Debug)]
pub struct Tunnel {
    here: Ipv4Addr,
    there: Ipv4Addr,
    ways: Ways,
    /// Closing it ends the thread; a byte makes it look at the pipes anew.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Tunnel {
    /// Connects this host, as 10.77.`network`.1, with the namespace, as 10.77.`network`.2, whose default route this
    /// becomes. Both devices are called `wan` and the number.
    ///
    /// # Errors
    /// When a device cannot be made: no rights (root is needed), or the number is in use.
    pub fn start(namespace: &Namespace, network: u8, down: Path, up: Path) -> io::Result<Self> {
        let here = Ipv4Addr::new(10, 77, network, 1);
        let there = Ipv4Addr::new(10, 77, network, 2);
        let name = format!("wan{network}");
        let near = device(&name, here)?;
        let far = namespace.run(|| device(&name, there))?;
        namespace.ip(&["route", "add", "default", "via", &here.to_string()])?;
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let ways = [Way::new(down), Way::new(up)];
        let worker = Worker {
            devices: [near, far],
            ways: ways.clone(),
            woken,
            spare: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || worker.run())?;
        Ok(Self {
            here,
            there,
            ways,
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// Address of this host that the namespace reaches.
    pub fn here(&self) -> Ipv4Addr {
        self.here
    }

    /// Address of the namespace.
    pub fn there(&self) -> Ipv4Addr {
        self.there
    }

    /// What the direction does at the moment.
    pub fn path(&self, direction: Direction) -> Path {
        lock(self.way(direction)).pipe.path().clone()
    }

    /// Changes the direction for packets from now on.
    pub fn set(&self, direction: Direction, path: Path) {
        lock(self.way(direction)).pipe.set_path(path);
        if let Some(mut wake) = self.wake.as_ref() {
            // A full stream means that the thread is about to look anyway.
            let _written = io::Write::write(&mut wake, &[0]).is_ok();
        }
    }

    /// State of the direction; the longest wait starts anew.
    pub fn take_stats(&self, direction: Direction) -> TunnelStats {
        let mut way = lock(self.way(direction));
        TunnelStats {
            pipe: way.pipe.stats(),
            queue: way.pipe.queue_delay(Instant::now()),
            queue_max: way.pipe.take_queue_delay_max(),
            send_errors: way.send_errors,
        }
    }

    fn way(&self, direction: Direction) -> &Mutex<Way> {
        let [down, up] = &self.ways;
        match direction {
            Direction::Down => down,
            Direction::Up => up,
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(here = %self.here, "WAN tunnel thread panicked");
        }
    }
}

fn device(name: &str, address: Ipv4Addr) -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new()
        .name(name)
        .ipv4(address, PREFIX, None)
        .mtu(MTU)
        .tx_queue_len(DEVICE_QUEUE)
        .build_sync()?;
    device.set_nonblocking(true)?;
    Ok(device)
}

struct Worker {
    /// Here and inside. What is read from the one goes through the way of the same index to the other.
    devices: [SyncDevice; 2],
    ways: Ways,
    woken: UnixStream,
    spare: Vec<Vec<u8>>,
}

impl Worker {
    fn run(mut self) {
        loop {
            let Some([woken, near, far]) = self.wait() else {
                return;
            };
            if woken && self.closed() {
                return;
            }
            for (index, readable) in [near, far].into_iter().enumerate() {
                if readable {
                    self.read(index);
                }
            }
            self.deliver();
        }
    }

    /// Waits until something is readable or a packet is due; which are: the wake stream, then the devices.
    fn wait(&self) -> Option<[bool; 3]> {
        let now = Instant::now();
        let due = self
            .ways
            .iter()
            .filter_map(|way| lock(way).pipe.poll_timeout());
        let timeout = due
            .map(|due| due.saturating_duration_since(now))
            .fold(WAIT_MAX, Duration::min);
        let [near, far] = &self.devices;
        let mut fds = [self.woken.as_fd(), near.as_fd(), far.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "WAN tunnel cannot wait");
                return None;
            }
        }
        Some(fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty())))
    }

    /// Drains the wake stream; true when the handle is gone.
    fn closed(&self) -> bool {
        let mut buffer = [0_u8; 64];
        loop {
            match io::Read::read(&mut &self.woken, &mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    fn read(&mut self, index: usize) {
        let (Some(device), Some(way)) = (self.devices.get(index), self.ways.get(index)) else {
            return;
        };
        for _ in 0..READ_BATCH {
            let mut packet = self.spare.pop().unwrap_or_default();
            packet.resize(usize::from(MTU), 0);
            let Ok(len) = device.recv(&mut packet) else {
                self.spare.push(packet);
                return;
            };
            packet.truncate(len);
            if is_ipv4(&packet) {
                // A drop is counted by the pipe.
                let _dropped = lock(way).pipe.push(Instant::now(), len, packet).is_err();
            }
        }
    }

    fn deliver(&mut self) {
        let [near, far] = &self.devices;
        for (way, device) in self.ways.iter().zip([far, near]) {
            let mut way = lock(way);
            while let Some(packet) = way.pipe.pop(Instant::now()) {
                if device.send(&packet).is_err() {
                    way.send_errors += 1;
                }
                if self.spare.len() < SPARE_MAX {
                    self.spare.push(packet);
                }
            }
        }
    }
}

/// Neighbour discovery and the like of IPv6, which both kernels send unasked, is none of the path's business.
fn is_ipv4(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4)
}
