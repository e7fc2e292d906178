//! From the mesh worker's thread to the shards.

use super::metrics::Metrics;
use super::shard::{Bell, RingPacket};
use super::wiring::ShardMasks;
use media::packet::PacketRef;
use media::router::{StreamIndex, TrackKey};
use relay::{MeshEvent, MeshSink};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Which shards get which streams of a remote track.
pub(super) type Route = (TrackKey, ShardMasks);

/// Pushes packets of remote tracks into the rings of the shards that want them.
pub(super) struct Sink {
    pub(super) outlets: Vec<Outlet>,
    pub(super) routes: mpsc::Receiver<Route>,
    pub(super) events: mpsc::Sender<MeshEvent>,
    pub(super) metrics: Metrics,
    pub(super) table: HashMap<TrackKey, ShardMasks>,
}

/// The way to one shard.
pub(super) struct Outlet {
    ring: rtrb::Producer<RingPacket>,
    bell: Arc<Bell>,
    pushed: bool,
}

impl Outlet {
    pub(super) fn new(ring: rtrb::Producer<RingPacket>, bell: Arc<Bell>) -> Self {
        Self {
            ring,
            bell,
            pushed: false,
        }
    }

    /// Queues a packet; false when the ring is full.
    pub(super) fn push(&mut self, packet: RingPacket) -> bool {
        let pushed = self.ring.push(packet).is_ok();
        self.pushed |= pushed;
        pushed
    }

    /// Wakes the shard if there is something for it.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.bell.ring();
        }
    }
}

impl MeshSink for Sink {
    fn media(&mut self, track: TrackKey, stream: StreamIndex, packet: PacketRef) {
        while let Ok((track, masks)) = self.routes.try_recv() {
            if masks.is_empty() {
                self.table.remove(&track);
            } else {
                self.table.insert(track, masks);
            }
        }
        // Not wanted any more: the mesh has not heard of it yet.
        let Some(masks) = self.table.get(&track) else {
            return;
        };
        for shard in masks.shards(stream) {
            let packet = PacketRef::clone(&packet);
            if let Some(outlet) = self.outlets.get_mut(shard)
                && !outlet.push(RingPacket {
                    track,
                    stream,
                    packet,
                })
            {
                self.metrics.queue_dropped("mesh_ring", 1);
            }
        }
    }

    fn event(&mut self, event: MeshEvent) {
        // A closed one means that the edge stops.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            self.metrics.queue_dropped("mesh_events", 1);
            tracing::warn!("event of the mesh dropped: the media plane does not keep up");
        }
    }

    fn flush(&mut self) {
        for outlet in &mut self.outlets {
            outlet.flush();
        }
    }
}
