//! Several replicas: each hears all nodes and follows all rooms; the owner of a room plans it, saves it and tells of it. The
//! others stand by, so that a room moves to another owner with everything that is known of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use proto::RoomId;
use proto::control::{RoomPlan, RoomSummary};

use super::events::Event;
use super::room::Room;
use super::{CONFIRM_WITHIN, Core, Output, Timer};
use crate::ring::Ring;
use crate::store::{RoomRecord, Update};

/// Events that a replica keeps which does not own their rooms. An owner that dies may not have saved them.
const EVENTS_MAX: usize = 10_000;
/// How long it keeps them, milliseconds: longer than an owner waits for the durable store, which has a limit of its own.
const EVENTS_KEPT_MS: u64 = 600_000;

/// What a replica needs while it does not own a room, and while it takes one over.
#[derive(Debug)]
pub(super) struct Standby {
    ring: Ring,
    /// The rings since this replica took over last. A room that was its own in all of them it has known of ever since.
    rings: Vec<Ring>,
    /// Rooms that became this replica's and wait for what the durable store has of them.
    gained: BTreeSet<RoomId>,
    events: VecDeque<Event>,
    /// What is shown here of rooms that others own.
    shown: BTreeMap<RoomId, RoomSummary>,
}

impl Standby {
    pub(super) fn new(ring: Ring) -> Self {
        Self {
            rings: vec![ring.clone()],
            ring,
            gained: BTreeSet::new(),
            events: VecDeque::new(),
            shown: BTreeMap::new(),
        }
    }

    fn keep(&mut self, event: Event) {
        let old = event.at_ms.saturating_sub(EVENTS_KEPT_MS);
        self.events.push_back(event);
        let is_old = |event: &Event| event.at_ms < old;
        while self.events.len() > EVENTS_MAX || self.events.front().is_some_and(is_old) {
            self.events.pop_front();
        }
    }

    fn take(&mut self, room: &RoomId) -> Vec<Event> {
        let (theirs, others) = std::mem::take(&mut self.events)
            .into_iter()
            .partition::<Vec<_>, _>(|event| event.room == *room);
        self.events = others.into();
        theirs
    }
}

impl Core {
    /// Whether a room is this replica's.
    pub(super) fn owns(&self, room: &RoomId) -> bool {
        self.standby.ring.owns(room.as_str())
    }

    /// Whether this replica plans a room now: it owns it and knows what the durable store has of it.
    pub(super) fn plans(&self, room: &RoomId) -> bool {
        self.owns(room) && !self.standby.gained.contains(room)
    }

    /// How many rooms are this replica's.
    pub(super) fn owned_count(&self) -> usize {
        self.rooms.keys().filter(|room| self.owns(room)).count()
    }

    /// Shows something of a room or a node of this name: everywhere if it is this replica's, else here alone.
    pub(super) fn show(&mut self, name: &str, update: Update) {
        self.outputs.push_back(if self.standby.ring.owns(name) {
            Output::Update(update)
        } else {
            Output::Shadow(update)
        });
    }

    /// Tells of an event, or keeps it for the case that its room becomes this replica's.
    pub(super) fn tell_event(&mut self, event: Event) {
        if self.plans(&event.room) {
            self.outputs.push_back(Output::Event(event));
        } else {
            self.standby.keep(event);
        }
    }

    /// Other replicas take part from now on.
    pub(super) fn set_ring(&mut self, now: Instant, ring: Ring) {
        self.standby.rings.push(ring.clone());
        let before = std::mem::replace(&mut self.standby.ring, ring);
        for name in self.rooms.keys().cloned().collect::<Vec<_>>() {
            match (before.owns(name.as_str()), self.owns(&name)) {
                (false, true) => drop(self.standby.gained.insert(name)),
                (true, false) => self.lose(now, &name),
                (true, true) | (false, false) => {}
            }
        }
        let nodes: Vec<_> = self.registry.iter().map(|(id, _)| id.clone()).collect();
        nodes.iter().for_each(|node| self.show_node(node));
    }

    fn lose(&mut self, now: Instant, name: &RoomId) {
        self.standby.gained.remove(name);
        if let Some(room) = self.rooms.get_mut(name) {
            room.forget_plan();
            self.stand_by(now, name);
        }
    }

    /// What replanning is for a room that is not this replica's to plan: what is shown of it follows, and it is forgotten
    /// when nobody has been in it for long.
    pub(super) fn stand_by(&mut self, now: Instant, name: &RoomId) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        if let Some(at) = room.begin_to_wait(now, self.settings.empty_room) {
            self.timers.insert((at, Timer::Empty(name.clone())));
        }
        let summary = room.summary(name);
        if self.owns(name) || self.standby.shown.get(name) == Some(&summary) {
            return;
        }
        let plan = |node: &String| {
            let plan = RoomPlan {
                room: summary.room.clone(),
                room_sid: summary.room_sid.clone(),
                epoch: summary.epoch,
                members: summary.edges.clone(),
                ..RoomPlan::default()
            };
            (node.as_str().into(), plan)
        };
        let plans = summary.edges.iter().map(plan).collect();
        self.standby.shown.insert(name.clone(), summary.clone());
        self.outputs
            .push_back(Output::Shadow(Update::Room { summary, plans }));
    }

    /// People are in a room under this session id. If it is another owner's and was known by another one, that room ended.
    pub(super) fn follow_session(&mut self, name: &RoomId, sid: &str) {
        let other = |room: &Room| !sid.is_empty() && room.sid.as_str() != sid;
        if !self.plans(name) && self.rooms.get(name).is_some_and(other) {
            self.forget_room(name);
        }
    }

    /// A room is gone here.
    pub(super) fn stood_by(&mut self, name: &RoomId) {
        self.standby.shown.remove(name);
        self.standby.gained.remove(name);
    }

    /// Takes over the rooms that became this replica's, with what the durable store has of them: `living` are all rooms that live.
    pub(super) fn adopt(&mut self, now: Instant, living: Vec<RoomRecord>) {
        let mut gained = std::mem::take(&mut self.standby.gained);
        let mut recorded = BTreeSet::new();
        for record in living {
            let name = record.room.clone();
            // One that was this replica's all the time and is not known has ended here: what was read is older.
            let own = self
                .standby
                .rings
                .iter()
                .all(|ring| ring.owns(name.as_str()));
            let new = !own && !self.rooms.contains_key(&name);
            if self.owns(&name) && (new || gained.contains(&name)) {
                self.adopt_record(now, record);
                gained.insert(name.clone());
                recorded.insert(name);
            }
        }
        for name in gained {
            self.standby.shown.remove(&name);
            let empty = self.rooms.get(&name).is_some_and(Room::is_empty);
            for event in self.standby.take(&name) {
                self.outputs.push_back(Output::Event(event));
            }
            if empty && !recorded.contains(&name) {
                // The owner before ended it.
                self.forget_room(&name);
                continue;
            }
            if let Some(room) = self.rooms.get_mut(&name) {
                room.forget_plan();
            }
            tracing::info!(room = name.as_str(), "room taken over");
            self.replan(now, &name, None);
        }
        self.standby.rings = vec![self.standby.ring.clone()];
    }

    /// Members that the record has and nobody reports are doubted: those that are there will say so.
    fn adopt_record(&mut self, now: Instant, record: RoomRecord) {
        let name = record.room.clone();
        let there = record.members.iter();
        let there: Vec<_> = there
            .filter(|node| self.registry.get(node).is_some() && self.resides(&name, node))
            .cloned()
            .collect();
        let room = self.rooms.entry(name).or_insert_with(|| {
            let members = BTreeSet::new();
            Room::restored(RoomRecord {
                members,
                ..record.clone()
            })
        });
        room.adopt(&record, &there);
        for node in there {
            self.timers
                .insert((now + CONFIRM_WITHIN, Timer::Confirm(node)));
        }
    }

    /// A room ended elsewhere, or nobody has been in it for long: it is gone here.
    pub(super) fn forget_room(&mut self, name: &RoomId) {
        if let Some(room) = self.rooms.remove(name) {
            self.epoch_floor = self.epoch_floor.max(room.epoch());
        }
        self.stood_by(name);
        let ended = Update::RoomEnded(name.clone());
        self.outputs.push_back(Output::Shadow(ended));
    }
}
