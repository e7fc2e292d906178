//! One track: where it comes from, and who wants what of it.

use super::RemoteName;
use super::demand::{STREAMS_MAX, ShardMasks};
use media::router::{SenderClock, StreamIndex, TrackConfig};
use std::collections::BTreeMap;

/// Where a track's packets enter this node.
pub(super) enum Origin {
    /// On the shard of its publisher's transport.
    Local { home: usize },
    /// From the mesh.
    Remote(RemoteName),
}

/// What one shard has to do with a track.
#[derive(Clone, Copy, Default)]
struct Share {
    subscribers: u32,
    /// Bit n: stream n is wanted.
    demand: u8,
}

/// One track.
pub(super) struct Track {
    pub(super) origin: Origin,
    pub(super) config: TrackConfig,
    pub(super) muted: bool,
    /// Its owner speaks now.
    pub(super) speaking: bool,
    /// Streams that the rest of the mesh wants of a local track.
    pub(super) mesh_demand: u8,
    shares: BTreeMap<usize, Share>,
    clocks: [Option<SenderClock>; STREAMS_MAX],
}

impl Track {
    pub(super) fn new(origin: Origin, config: TrackConfig) -> Self {
        Self {
            origin,
            config,
            muted: false,
            speaking: false,
            mesh_demand: 0,
            shares: BTreeMap::new(),
            clocks: [None; STREAMS_MAX],
        }
    }

    fn home(&self) -> Option<usize> {
        match self.origin {
            Origin::Local { home } => Some(home),
            Origin::Remote(_) => None,
        }
    }

    /// Shards that hold an instance because somebody there subscribes; never the home.
    pub(super) fn instances(&self) -> Vec<usize> {
        self.shares
            .keys()
            .copied()
            .filter(|shard| Some(*shard) != self.home())
            .collect()
    }

    /// All shards whose router knows the track.
    pub(super) fn shards(&self) -> Vec<usize> {
        self.home().into_iter().chain(self.instances()).collect()
    }

    /// One more subscription on a shard; true when that shard's router has to hear of the track first.
    pub(super) fn add_subscriber(&mut self, shard: usize) -> bool {
        let home = self.home();
        let share = self.shares.entry(shard).or_default();
        share.subscribers += 1;
        share.subscribers == 1 && home != Some(shard)
    }

    /// One subscription on a shard less; true when that shard's router is to forget the track.
    pub(super) fn remove_subscriber(&mut self, shard: usize) -> bool {
        let Some(share) = self.shares.get_mut(&shard) else {
            return false;
        };
        share.subscribers = share.subscribers.saturating_sub(1);
        if share.subscribers > 0 {
            return false;
        }
        self.shares.remove(&shard);
        self.home() != Some(shard)
    }

    /// What the subscriptions of one shard want now. A shard without any has nothing to say: its news is old.
    pub(super) fn set_demand(&mut self, shard: usize, streams: u8) {
        if let Some(share) = self.shares.get_mut(&shard) {
            share.demand = streams;
        }
    }

    /// What everybody wants together.
    pub(super) fn wanted(&self) -> u8 {
        self.shares
            .values()
            .fold(self.mesh_demand, |all, share| all | share.demand)
    }

    /// What everybody but one shard wants together.
    pub(super) fn wanted_outside(&self, shard: usize) -> u8 {
        let others = self.shares.iter().filter(|(other, _)| **other != shard);
        others.fold(self.mesh_demand, |all, (_, share)| all | share.demand)
    }

    /// Shards by wanted stream, except one.
    pub(super) fn masks(&self, except: Option<usize>) -> ShardMasks {
        let mut masks = ShardMasks::default();
        for (shard, share) in &self.shares {
            if Some(*shard) != except {
                masks.add(*shard, share.demand);
            }
        }
        masks
    }

    /// Remembers the publisher's clock for shards that come later.
    pub(super) fn note_clock(&mut self, stream: StreamIndex, clock: SenderClock) {
        if let Some(slot) = self.clocks.get_mut(usize::from(stream)) {
            *slot = Some(clock);
        }
    }

    /// The clocks known.
    pub(super) fn clocks(&self) -> impl Iterator<Item = (StreamIndex, SenderClock)> + '_ {
        (0..)
            .zip(&self.clocks)
            .filter_map(|(stream, clock)| clock.map(|clock| (stream, clock)))
    }
}
