//! A shard: one thread with its UDP port, its ICE agent and its forwarding tables.
//!
//! Each tick takes everything that waits (orders, rings, frames of connections, datagrams, timers) and then flushes, so that what one
//! receiver gets within a tick leaves in as few system calls as the kernel allows.

mod ports;
mod worker;

use super::PlaneEvent;
use super::dtls::Identity;
use super::mesh_sink::Outlet;
use super::metrics::Metrics;
use super::peer;
use super::wiring::Fan;
use crate::core::ice::{Carrier, Credentials, Path};
use anyhow::Context as _;
use bytes::Bytes;
use media::packet::PacketRef;
use media::router::{Command, Event, SenderClock, StreamIndex, TrackKey, TransportKey};
use relay::MediaSender;
use runtime::shutdown::Shutdown;
use runtime::udp::UdpSocket;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, mpsc};

/// Orders waiting for a shard. They change state and must not be lost: room for a burst of a whole node's tables.
const COMMANDS: usize = 32_768;
/// DTLS datagrams use at most half of it.
const COMMANDS_FOR_STATE: usize = COMMANDS / 2;
/// Frames of ICE-TCP and TURN clients waiting for a shard; beyond that TCP connections wait, and TURN drops.
const CONNECTION_INPUTS: usize = 1024;

/// An order to a shard.
#[derive(Debug)]
pub(super) enum ShardCommand {
    /// A transport opens: ICE starts, and DTLS goes to its task.
    Open {
        transport: TransportKey,
        credentials: Credentials,
        peer: mpsc::Sender<peer::Input>,
    },
    /// New ICE credentials.
    Restart {
        transport: TransportKey,
        credentials: Credentials,
    },
    /// A transport is gone.
    Close { transport: TransportKey },
    /// A DTLS datagram for a transport's client.
    Dtls {
        transport: TransportKey,
        datagram: Bytes,
    },
    /// For the router.
    Router(Command),
    /// Where packets of a track are handed on.
    Fan { track: TrackKey, fan: Fan },
    /// The publisher's clock of a track that comes by ring.
    SenderReport {
        track: TrackKey,
        stream: StreamIndex,
        clock: SenderClock,
    },
}

/// From the task of an ICE-TCP connection, or from the TURN server about one peer of an allocation.
#[derive(Debug)]
pub(super) enum ConnectionInput {
    /// A connection, before its first frame.
    Opened {
        path: Path,
        outgoing: mpsc::Sender<Outbound>,
    },
    /// A frame without its length.
    Frame { path: Path, bytes: Vec<u8> },
    /// The connection is gone.
    Closed { path: Path },
}

/// A datagram for a client that is not reached by the shard's own socket.
#[derive(Debug)]
pub(super) struct Outbound {
    /// Which of the connections behind the same queue.
    pub(super) carrier: Carrier,
    pub(super) bytes: Bytes,
}

/// A packet on its way between threads.
#[derive(Debug)]
pub(super) struct RingPacket {
    pub(super) track: TrackKey,
    pub(super) stream: StreamIndex,
    pub(super) packet: PacketRef,
}

/// Wakes a shard; cheap when somebody has already.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicBool,
    notify: Notify,
}

impl Bell {
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// Waits for a ring; one before the call counts.
    async fn rung(&self) {
        self.notify.notified().await;
    }

    /// From here on a ring wakes again. Called before the queues are looked at, so that nothing is missed.
    fn rearm(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

/// What other threads hold of a shard.
#[derive(Debug)]
pub(super) struct ShardHandle {
    /// Where its UDP arrives.
    pub(super) address: SocketAddr,
    pub(super) bell: Arc<Bell>,
    pub(super) connections: mpsc::Sender<ConnectionInput>,
    commands: mpsc::Sender<ShardCommand>,
}

impl ShardHandle {
    /// Gives an order; false when it is lost.
    pub(super) fn command(&self, command: ShardCommand) -> bool {
        let sent = self.commands.try_send(command).is_ok();
        self.bell.ring();
        sent
    }

    /// Has a datagram sent; false when it is lost, which happens before orders are.
    pub(super) fn send_dtls(&self, transport: TransportKey, datagram: Bytes) -> bool {
        self.commands.capacity() > COMMANDS_FOR_STATE
            && self.command(ShardCommand::Dtls {
                transport,
                datagram,
            })
    }
}

/// Where packets come from and go to.
pub(super) struct Rings {
    /// From the other shards and the mesh worker.
    pub(super) inlets: Vec<rtrb::Consumer<RingPacket>>,
    /// To all shards by index; the one to itself is not used.
    pub(super) outlets: Vec<Outlet>,
    /// To the mesh worker.
    pub(super) mesh: MediaSender,
}

/// What a shard is made of.
pub(super) struct Spawn {
    pub(super) index: usize,
    pub(super) address: SocketAddr,
    pub(super) identity: Arc<Identity>,
    pub(super) rings: Rings,
    pub(super) bell: Arc<Bell>,
    pub(super) events: mpsc::Sender<(usize, Event)>,
    /// Takes reports past the tables, which have no use for them.
    pub(super) news: mpsc::Sender<PlaneEvent>,
    pub(super) metrics: Metrics,
}

/// The shard's ends of its queues.
struct Ends {
    commands: mpsc::Receiver<ShardCommand>,
    connections: mpsc::Receiver<ConnectionInput>,
}

/// Binds the socket and starts the thread.
pub(super) fn spawn(spawn: Spawn, shutdown: Shutdown) -> anyhow::Result<ShardHandle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a shard's runtime")?;
    let socket = {
        // The socket belongs to the shard's own runtime.
        let _entered = runtime.enter();
        UdpSocket::bind(spawn.address)
            .with_context(|| format!("binding shard {} to {}", spawn.index, spawn.address))?
    };
    let address = socket.local_addr().context("a shard's address")?;
    let (commands, command_end) = mpsc::channel(COMMANDS);
    let (connections, connection_end) = mpsc::channel(CONNECTION_INPUTS);
    let handle = ShardHandle {
        address,
        bell: Arc::clone(&spawn.bell),
        connections,
        commands,
    };
    let ends = Ends {
        commands: command_end,
        connections: connection_end,
    };
    std::thread::Builder::new()
        .name(format!("shard-{}", spawn.index))
        .spawn(move || {
            let _watch = Watch(shutdown.clone());
            let shard = worker::Shard::new(spawn, socket, ends);
            runtime.block_on(shard.run(&shutdown));
        })
        .context("starting a shard's thread")?;
    Ok(handle)
}

/// A shard that ends before the process does takes the process with it: clients of a half-dead edge would hang, while those of
/// a dead one move to another.
struct Watch(Shutdown);

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.0.is_triggered() {
            tracing::error!("a shard has ended, stopping");
            self.0.trigger();
        }
    }
}
