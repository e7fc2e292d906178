//! What waits to be saved.

use std::collections::{BTreeMap, VecDeque};

use proto::{NodeId, RoomId};

use crate::store::{Change, Fenced};

/// Participants' sessions and events that wait while the store is away.
const HISTORY_MAX: usize = 100_000;
/// Of those, how many are saved at once: what piled up must not hold up rooms for longer than some tenths of a second.
const HISTORY_BATCH: usize = 500;

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

    /// All changes, of the history the oldest: ends of rooms before beginnings, so that a room of the same name may begin. One that began and ended
    /// unsaved has no row and gets none.
    pub(super) fn changes(&self) -> Vec<Change> {
        let living = self
            .rooms
            .iter()
            .filter(|(sid, _)| !self.ended.contains_key(*sid));
        let rooms = self.ended.values().chain(living.map(|(_, change)| change));
        rooms
            .chain(self.nodes.values())
            .chain(self.history.iter().take(HISTORY_BATCH))
            .cloned()
            .collect()
    }

    /// Forgets what [`Unsaved::changes`] gave.
    pub(super) fn saved(&mut self) {
        self.ended.clear();
        self.rooms.clear();
        self.nodes.clear();
        let count = self.history.len().min(HISTORY_BATCH);
        self.history.drain(..count);
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
        self.rooms.is_empty()
            && self.ended.is_empty()
            && self.nodes.is_empty()
            && self.history.is_empty()
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
