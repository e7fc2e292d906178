//! What other threads hold of a mesh worker.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use media::packet::PacketRef;
use media::router::{StreamIndex, TrackKey};
use tokio::sync::{Notify, mpsc, watch};

use crate::mesh::command::{MeshCommand, MeshEvent};
use crate::mesh::stats::LinkStats;

/// Packets a [`MediaSender`] holds before it drops new ones: 100 ms at 40,000 packets per second.
const MEDIA_RING_SLOTS: usize = 4096;

/// Receives what the mesh has for this node, on the worker's thread; it must not block.
pub trait MeshSink: Send {
    /// A packet of a remote track that was asked for by `Demand`.
    fn media(&mut self, track: TrackKey, stream: StreamIndex, packet: PacketRef);
    /// News.
    fn event(&mut self, event: MeshEvent);
    /// End of a batch: wake whoever reads what was delivered.
    fn flush(&mut self);
}

/// One packet on its way to the worker.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) track: TrackKey,
    pub(crate) stream: StreamIndex,
    pub(crate) packet: PacketRef,
}

/// Wakes the worker when a ring got packets; cheap when it is awake already.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicBool,
    notify: Notify,
}

impl Bell {
    pub(crate) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// Waits until somebody rings; a ring before the call counts.
    pub(crate) async fn rung(&self) {
        self.notify.notified().await;
        self.rung.swap(false, Ordering::AcqRel);
    }
}

/// Counts what callers could not hand over.
#[derive(Debug, Default)]
pub(crate) struct HandleCounters {
    pub(crate) media_dropped: AtomicU64,
    pub(crate) commands_dropped: AtomicU64,
}

/// Parts of a [`MeshHandle`] that the worker has the other end of.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Receiver<MeshCommand>,
    pub(crate) rings: mpsc::Receiver<rtrb::Consumer<Exported>>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) stats: watch::Sender<Vec<LinkStats>>,
    pub(crate) counters: Arc<HandleCounters>,
}

/// A node's mesh worker. Clones refer to the same worker.
#[derive(Clone)]
pub struct MeshHandle {
    local: SocketAddr,
    commands: mpsc::Sender<MeshCommand>,
    rings: mpsc::Sender<rtrb::Consumer<Exported>>,
    bell: Arc<Bell>,
    stats: watch::Receiver<Vec<LinkStats>>,
    counters: Arc<HandleCounters>,
}

impl fmt::Debug for MeshHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshHandle")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl MeshHandle {
    /// A handle to a worker that listens on `local`, and the worker's ends of it.
    pub(crate) fn new(local: SocketAddr) -> (Self, Ends) {
        // Commands change state, so they must not be lost: room for a burst of a whole node's tracks.
        let (commands, command_end) = mpsc::channel(65_536);
        // One ring per caller thread.
        let (rings, ring_end) = mpsc::channel(256);
        let (stats_end, stats) = watch::channel(Vec::new());
        let bell = Arc::new(Bell::default());
        let counters = Arc::new(HandleCounters::default());
        let ends = Ends {
            commands: command_end,
            rings: ring_end,
            bell: Arc::clone(&bell),
            stats: stats_end,
            counters: Arc::clone(&counters),
        };
        (
            Self {
                local,
                commands,
                rings,
                bell,
                stats,
                counters,
            },
            ends,
        )
    }

    /// Where the worker listens for peers.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Gives an order. Never blocks; lost (counted, and logged) only when 65,536 orders are waiting or the worker has ended.
    pub fn command(&self, command: MeshCommand) {
        if self.commands.try_send(command).is_err() {
            let dropped = self
                .counters
                .commands_dropped
                .fetch_add(1, Ordering::Relaxed)
                + 1;
            tracing::warn!(
                dropped,
                "mesh command dropped: worker overloaded or stopped"
            );
        }
    }

    /// A way for one thread to hand over media of tracks published here.
    pub fn media(&self) -> MediaSender {
        let (producer, consumer) = rtrb::RingBuffer::new(MEDIA_RING_SLOTS);
        if self.rings.try_send(consumer).is_err() {
            tracing::warn!("media ring refused: worker overloaded or stopped");
        }
        MediaSender {
            producer,
            bell: Arc::clone(&self.bell),
            counters: Arc::clone(&self.counters),
        }
    }

    /// Completes when the worker has closed its links and ended.
    pub async fn stopped(&self) {
        let mut stats = self.stats.clone();
        while stats.changed().await.is_ok() {}
    }

    /// The state of every link, at most 250 ms old.
    pub fn stats(&self) -> Vec<LinkStats> {
        self.stats.borrow().clone()
    }
}

/// One thread's ring towards the mesh worker.
pub struct MediaSender {
    producer: rtrb::Producer<Exported>,
    bell: Arc<Bell>,
    counters: Arc<HandleCounters>,
}

impl fmt::Debug for MediaSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MediaSender").finish_non_exhaustive()
    }
}

impl MediaSender {
    /// Queues a packet of a track published here. When the ring is full the packet is dropped and counted.
    pub fn push(&mut self, track: TrackKey, stream: StreamIndex, packet: PacketRef) {
        if self
            .producer
            .push(Exported {
                track,
                stream,
                packet,
            })
            .is_err()
        {
            self.counters.media_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends a batch: wakes the worker.
    pub fn flush(&mut self) {
        self.bell.ring();
    }
}
