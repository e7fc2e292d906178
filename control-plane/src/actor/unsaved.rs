//! What waits to be saved.

use std::collections::{BTreeMap, VecDeque};

use proto::{NodeId, RoomId};

use crate::store::{Change, Fenced};

/// Participants' sessions and events that wait while the store is away.
const HISTORY_MAX: usize = 100_000;
/// Of those, how many are saved at once: what piled up must not hold up rooms for longer than some tenths of a second.
const HISTORY_BATCH: usize = 500;

/// Rooms and nodes that are saved at once: some tenths of a second as well, far from what a save may take.
const STATE_BATCH: usize = 500;

/// Changes that wait to be saved: the latest of each room and node.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    ended: BTreeMap<String, Change>,
    rooms: BTreeMap<String, Change>,
    nodes: BTreeMap<NodeId, Change>,
    /// What happened, in order.
    history: VecDeque<Change>,
}

impl Unsaved {
    pub(super) fn add(&mut self, change: Change) {
        match &change {
            Change::Room(room) => drop(self.rooms.insert(room.sid.to_string(), change)),
            Change::RoomEnded { sid, .. } => drop(self.ended.insert(sid.to_string(), change)),
            Change::Node(hello) => {
                drop(
                    self.nodes
                        .insert(NodeId::from(hello.node_id.as_str()), change),
                );
            }
            Change::NodeForgotten(node) => drop(self.nodes.insert(node.clone(), change)),
            Change::Joined(_) | Change::Left { .. } | Change::Webhook(_) => {
                self.history.push_back(change);
            }
        }
    }

    /// Drops the oldest history beyond what is kept while the store is away; returns how much.
    pub(super) fn bound(&mut self) -> usize {
        let excess = self.history.len().saturating_sub(HISTORY_MAX);
        self.history.drain(..excess);
        excess
    }

    /// What is to be saved next: ends of rooms before beginnings, so that a room of the same name may begin, and after both what
    /// happened, the oldest first. A room that began and ended unsaved has no row and gets none.
    pub(super) fn changes(&self) -> Vec<Change> {
        let part = self.part();
        let rooms = self.rooms.iter().take(part.rooms);
        let living = rooms.filter(|(sid, _)| !self.ended.contains_key(*sid));
        let ended = self.ended.values().take(part.ended);
        ended
            .chain(living.map(|(_, change)| change))
            .chain(self.nodes.values().take(part.nodes))
            .chain(self.history.iter().take(part.history))
            .cloned()
            .collect()
    }

    /// Forgets what [`Unsaved::changes`] gave.
    pub(super) fn saved(&mut self) {
        let part = self.part();
        drop_first(&mut self.ended, part.ended);
        drop_first(&mut self.rooms, part.rooms);
        drop_first(&mut self.nodes, part.nodes);
        self.history.drain(..part.history);
    }

    /// How much of each is saved next.
    fn part(&self) -> Part {
        let mut left = STATE_BATCH;
        let mut some = |there: usize| {
            let taken = there.min(left);
            left -= taken;
            taken
        };
        // A room that ended since must not be forgotten before its end is saved.
        let ended = some(self.ended.len());
        let rooms = if ended == self.ended.len() {
            some(self.rooms.len())
        } else {
            0
        };
        let nodes = some(self.nodes.len());
        let all = ended == self.ended.len() && rooms == self.rooms.len();
        let history = if all {
            self.history.len().min(HISTORY_BATCH)
        } else {
            0
        };
        Part {
            ended,
            rooms,
            nodes,
            history,
        }
    }

    /// Whether rooms or nodes wait.
    pub(super) fn has_state(&self) -> bool {
        !(self.rooms.is_empty() && self.ended.is_empty() && self.nodes.is_empty())
    }

    /// Drops what is still to be told of rooms that are not those that live under their names.
    pub(super) fn drop_events(&mut self, fenced: &[Fenced]) {
        let of_fenced = |room: &RoomId| {
            let mut others = fenced.iter().filter(|fenced| fenced.is_over());
            others.any(|fenced| fenced.room == *room)
        };
        self.history.retain(|change| match change {
            Change::Webhook(webhook) => !of_fenced(&webhook.room),
            _ => true,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.has_state() && self.history.is_empty()
    }

    pub(super) fn rooms(&self) -> Vec<RoomId> {
        let name = |change: &Change| match change {
            Change::Room(room) => Some(room.room.clone()),
            Change::RoomEnded { .. }
            | Change::Node(_)
            | Change::NodeForgotten(_)
            | Change::Joined(_)
            | Change::Left { .. }
            | Change::Webhook(_) => None,
        };
        self.rooms.values().filter_map(name).collect()
    }
}

/// How many of each kind.
struct Part {
    ended: usize,
    rooms: usize,
    nodes: usize,
    history: usize,
}

fn drop_first<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, count: usize) {
    match map.keys().nth(count).cloned() {
        Some(next) => *map = map.split_off(&next),
        None => map.clear(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(number: usize) -> Change {
        Change::Left {
            participant: format!("PA_{number}"),
            at_ms: 1,
        }
    }

    #[test]
    fn history_is_saved_in_parts_and_bounded() {
        let mut unsaved = Unsaved::default();
        for number in 0..HISTORY_BATCH + 1 {
            unsaved.add(left(number));
        }
        unsaved.add(Change::NodeForgotten("a".into()));
        let first = unsaved.changes();
        assert_eq!(first.len(), 1 + HISTORY_BATCH);
        assert_eq!(first[1], left(0));
        unsaved.saved();
        assert_eq!(unsaved.changes(), [left(HISTORY_BATCH)]);
        unsaved.saved();
        assert!(unsaved.is_empty());

        for number in 0..HISTORY_MAX + 3 {
            unsaved.add(left(number));
        }
        assert_eq!(unsaved.bound(), 3);
        assert_eq!(unsaved.changes()[0], left(3), "the oldest go");
        assert_eq!(unsaved.bound(), 0);
    }
}
