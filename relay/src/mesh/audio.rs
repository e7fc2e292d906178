//! Top-N audio on links: of a room's audio tracks a neighbour is sent those that speak, chosen by the hop header alone.

use std::collections::BTreeMap;
use std::time::Instant;

use media::audio::{Counters, Selector, TalkerKey};
use proto::RoomId;
use slab::Slab;

use super::peer::PeerKey;
use crate::link::header::PacketMeta;

/// One audio track towards one neighbour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Talker {
    selector: usize,
    key: TalkerKey,
}

#[derive(Debug)]
struct Link {
    room: RoomId,
    peer: PeerKey,
    selector: Selector,
}

/// Who speaks, by room and neighbour.
#[derive(Debug)]
pub(super) struct Voices {
    /// Tracks of a room on a link at a time; 0 = all.
    streams: u16,
    links: Slab<Link>,
    by_name: BTreeMap<(RoomId, PeerKey), usize>,
    /// What rooms counted that are gone.
    before: BTreeMap<PeerKey, Counters>,
}

impl Voices {
    pub(super) fn new(streams: u16) -> Self {
        Self {
            streams,
            links: Slab::new(),
            by_name: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }

    /// An audio track is bound towards a neighbour; `None` when there is no limit.
    pub(super) fn add(&mut self, room: &RoomId, peer: PeerKey) -> Option<Talker> {
        if self.streams == 0 {
            return None;
        }
        let name = (room.clone(), peer);
        let selector = if let Some(&selector) = self.by_name.get(&name) {
            selector
        } else {
            let link = Link {
                room: room.clone(),
                peer,
                selector: Selector::new(self.streams),
            };
            let selector = self.links.insert(link);
            self.by_name.insert(name, selector);
            selector
        };
        let key = self.links.get_mut(selector)?.selector.add();
        Some(Talker { selector, key })
    }

    /// It is bound no more.
    pub(super) fn remove(&mut self, talker: Talker) {
        let Some(link) = self.links.get_mut(talker.selector) else {
            return;
        };
        link.selector.remove(talker.key);
        if !link.selector.is_empty() {
            return;
        }
        let (counters, peer) = (link.selector.counters(), link.peer);
        let before = self.before.entry(peer).or_default();
        before.suppressed += counters.suppressed;
        before.changes += counters.changes;
        self.by_name.remove(&(link.room.clone(), peer));
        self.links.remove(talker.selector);
    }

    /// Whether a packet of the track goes out.
    pub(super) fn packet(&mut self, now: Instant, talker: Talker, meta: &PacketMeta) -> bool {
        let Some(link) = self.links.get_mut(talker.selector) else {
            return true;
        };
        let vouched = meta.left_out > 0;
        link.selector
            .packet(now, talker.key, meta.audio.level, vouched)
    }

    /// Tracks sent to a neighbour, and what happened so far.
    pub(super) fn stats(&self, peer: PeerKey) -> (usize, Counters) {
        let before = self.before.get(&peer).copied().unwrap_or_default();
        let links = self.links.iter().map(|(_, link)| link);
        let of_peer = links.filter(|link| link.peer == peer);
        of_peer.fold((0, before), |(selected, sum), link| {
            let counters = link.selector.counters();
            let sum = Counters {
                suppressed: sum.suppressed + counters.suppressed,
                changes: sum.changes + counters.changes,
            };
            (selected + link.selector.selected(), sum)
        })
    }
}
