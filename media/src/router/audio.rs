//! Top-N audio: which packets of a room's audio tracks this router's subscribers get.

use std::time::Instant;

use super::track::Track;
use super::{Router, Stats};
use crate::audio::{Counters, Selector, TalkerKey};
use crate::packet::Packet;

/// The audio tracks of one room.
#[derive(Debug)]
pub(super) struct Group {
    room: u32,
    selector: Selector,
}

/// A track's place in its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Talker {
    group: usize,
    key: TalkerKey,
}

impl Router {
    /// How many audio tracks of a room are forwarded at a time; 0 = all. Holds until the room's last track is gone.
    pub(super) fn set_audio_limit(&mut self, room: u32, streams: u16) {
        match self.group_of(room) {
            Some(group) => {
                if let Some(group) = self.groups.get_mut(group) {
                    let before = Moment::of(&group.selector);
                    group.selector.set_places(streams);
                    self.stats.note(before, Moment::of(&group.selector));
                }
            }
            None => {
                let selector = Selector::new(streams);
                self.groups.insert(Group { room, selector });
            }
        }
    }

    fn group_of(&self, room: u32) -> Option<usize> {
        let mut groups = self.groups.iter();
        groups
            .find(|(_, group)| group.room == room)
            .map(|(slot, _)| slot)
    }

    /// An audio track of a room with a limit gets its place among the room's talkers.
    pub(super) fn join_group(&mut self, slot: usize) {
        let Some(room) = self.tracks.get(slot).filter(|track| track.is_audio()) else {
            return;
        };
        let Some(index) = self.group_of(room.config.room) else {
            return;
        };
        if let (Some(group), Some(track)) = (self.groups.get_mut(index), self.tracks.get_mut(slot))
        {
            let key = group.selector.add();
            track.talker = Some(Talker { group: index, key });
        }
    }

    /// A track is gone, and its group with the last one.
    pub(super) fn leave_group(&mut self, track: &Track) {
        let Some(talker) = track.talker else { return };
        let Some(group) = self.groups.get_mut(talker.group) else {
            return;
        };
        let before = Moment::of(&group.selector);
        group.selector.remove(talker.key);
        self.stats.note(before, Moment::of(&group.selector));
        if group.selector.is_empty() {
            self.groups.remove(talker.group);
        }
    }

    /// Whether subscribers get this packet of a track.
    #[inline]
    pub(super) fn is_selected(&mut self, now: Instant, slot: usize, packet: &Packet) -> bool {
        let Some(talker) = self.tracks.get(slot).and_then(|track| track.talker) else {
            return true;
        };
        let Some(group) = self.groups.get_mut(talker.group) else {
            return true;
        };
        // A hop before that left out what was before has let it in just now.
        let vouched = packet.left_out > 0;
        let level = packet.ext.audio_level;
        let before = Moment::of(&group.selector);
        let selected = group.selector.packet(now, talker.key, level, vouched);
        self.stats.note(before, Moment::of(&group.selector));
        selected
    }
}

/// What a selector tells at one time.
#[derive(Clone, Copy)]
struct Moment {
    selected: u64,
    counters: Counters,
}

impl Moment {
    fn of(selector: &Selector) -> Self {
        Self {
            selected: selector.selected() as u64,
            counters: selector.counters(),
        }
    }
}

impl Stats {
    #[inline]
    fn note(&mut self, before: Moment, after: Moment) {
        self.audio_selected = (self.audio_selected + after.selected) - before.selected;
        self.audio_suppressed_packets += after.counters.suppressed - before.counters.suppressed;
        self.audio_changes += after.counters.changes - before.counters.changes;
    }
}
