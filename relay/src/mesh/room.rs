//! Rooms: plans, next hops, and the replicas of room state that go from every edge to the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proto::link::link_message::Message;
use proto::link::{Data, RoomGone, RoomState, Speakers};
use proto::{NodeId, RoomId};

use super::command::{MeshEvent, NextHop, RoomPlan};
use super::peer::PeerKey;
use super::{Mesh, Output};

/// Longest lossy data message sent as a datagram, in bytes; longer ones take the sender's stream.
const DATA_DATAGRAM_MAX: usize = 1150;

/// A room as this node knows it.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Of the plan; 0 without one.
    epoch: u64,
    pub(super) members: Vec<NodeId>,
    plan: BTreeMap<NodeId, NextHop>,
    /// The neighbour used towards each other member right now.
    hops: BTreeMap<NodeId, PeerKey>,
    /// Last state of each edge that is ours or came by here.
    states: BTreeMap<NodeId, RoomState>,
    /// Indexes of tracks.
    pub(super) tracks: BTreeSet<usize>,
}

impl Room {
    fn is_empty(&self) -> bool {
        self.plan.is_empty()
            && self.members.is_empty()
            && self.states.is_empty()
            && self.tracks.is_empty()
    }
}

impl Mesh {
    pub(super) fn set_plan(&mut self, now: Instant, plan: RoomPlan) {
        let room = self.rooms.entry(plan.room.clone()).or_default();
        if plan.epoch <= room.epoch {
            self.stale_plans += 1;
            return;
        }
        room.epoch = plan.epoch;
        room.members = plan.members;
        room.plan = plan
            .next_hops
            .into_iter()
            .map(|hop| (hop.edge.clone(), hop))
            .collect();
        if room.members.is_empty() {
            room.epoch = 0;
        }
        let gone: Vec<NodeId> = room
            .states
            .keys()
            .filter(|origin| **origin != self.config.node && !room.members.contains(origin))
            .cloned()
            .collect();
        for origin in gone {
            self.forget_state(&plan.room, &origin);
        }
        self.refresh_room(now, &plan.room);
    }

    pub(super) fn forget_room(&mut self, now: Instant, name: &RoomId) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.epoch = 0;
            room.members.clear();
            room.plan.clear();
            room.hops.clear();
            room.states.clear();
            self.refresh_room(now, name);
        }
    }

    /// Works out next hops anew. Members that are reached another way than before get all state again, since what was on
    /// the old way may be lost; tracks change upstream.
    pub(super) fn refresh_room(&mut self, now: Instant, name: &RoomId) {
        let Some(room) = self.rooms.get(name) else {
            return;
        };
        let others = room
            .members
            .iter()
            .filter(|member| **member != self.config.node);
        let hops: BTreeMap<NodeId, PeerKey> = others
            .filter_map(|member| Some((member.clone(), self.next_hop(Some(room), member)?)))
            .collect();
        let moved = hops
            .iter()
            .filter(|(member, hop)| room.hops.get(*member) != Some(hop));
        let moved: Vec<NodeId> = moved.map(|(member, _)| member.clone()).collect();
        let states: Vec<RoomState> = if moved.is_empty() {
            Vec::new()
        } else {
            room.states.values().cloned().collect()
        };
        let tracks: Vec<usize> = room.tracks.iter().copied().collect();
        if let Some(room) = self.rooms.get_mut(name) {
            room.hops = hops;
        }
        for state in states {
            let own = state.origin == self.config.node.as_str();
            // Ours goes to everybody; another edge's only on to those that it passes here for.
            let wanted =
                |member: &&NodeId| own || state.destinations.iter().any(|d| d == member.as_str());
            let destinations: Vec<NodeId> = moved.iter().filter(wanted).cloned().collect();
            self.send_state(name, &state, &destinations);
        }
        for track in tracks {
            self.refresh_track(now, track);
        }
        self.drop_empty_room(name);
    }

    pub(super) fn refresh_rooms(&mut self, now: Instant) {
        let names: Vec<RoomId> = self.rooms.keys().cloned().collect();
        for name in names {
            self.refresh_room(now, &name);
        }
    }

    pub(super) fn drop_empty_room(&mut self, name: &RoomId) {
        if self.rooms.get(name).is_some_and(Room::is_empty) {
            self.rooms.remove(name);
        }
    }

    /// The neighbour to take towards an edge: the plan's next hop while its link is up and it stays, else the backup; without
    /// a plan the edge itself.
    pub(super) fn next_hop(&self, room: Option<&Room>, edge: &NodeId) -> Option<PeerKey> {
        let Some(hop) = room.and_then(|room| room.plan.get(edge)) else {
            return self.usable(edge);
        };
        let via = self.usable(&hop.via);
        let backup = hop.backup.as_ref().and_then(|backup| self.usable(backup));
        let stays = |peer: &PeerKey| self.peers.get(peer.0).is_some_and(|peer| !peer.draining);
        via.filter(stays)
            .or_else(|| backup.filter(stays))
            .or(via)
            .or(backup)
    }

    fn usable(&self, node: &NodeId) -> Option<PeerKey> {
        let key = *self.by_node.get(node)?;
        self.peers.get(key.0).filter(|peer| peer.up).map(|_| key)
    }

    /// Splits destinations by next hop. What came from a peer does not go back to it.
    fn by_hop<'a>(
        &self,
        name: &RoomId,
        destinations: impl IntoIterator<Item = &'a NodeId>,
        from: Option<PeerKey>,
    ) -> BTreeMap<PeerKey, Vec<String>> {
        let room = self.rooms.get(name);
        let mut split: BTreeMap<PeerKey, Vec<String>> = BTreeMap::new();
        for destination in destinations {
            if *destination == self.config.node {
                continue;
            }
            if let Some(hop) = self
                .next_hop(room, destination)
                .filter(|hop| Some(*hop) != from)
            {
                split
                    .entry(hop)
                    .or_default()
                    .push(destination.as_str().to_owned());
            }
        }
        split
    }

    /// Whether something of `origin` may be passed on when it comes from this peer: only along the tree that our own plan
    /// sees, so that differing plans make no circles.
    fn on_the_way(&self, name: &RoomId, origin: &str, from: PeerKey) -> bool {
        let Some(peer) = self.peers.get(from.0) else {
            return false;
        };
        let hop = self.rooms.get(name).and_then(|room| room.plan.get(origin));
        peer.node.as_str() == origin
            || hop
                .is_some_and(|hop| hop.via == peer.node || hop.backup.as_ref() == Some(&peer.node))
    }

    fn send_state(&mut self, name: &RoomId, state: &RoomState, destinations: &[NodeId]) {
        for (peer, destinations) in self.by_hop(name, destinations, None) {
            let state = RoomState {
                destinations,
                ..state.clone()
            };
            self.send(peer, Message::RoomState(state));
        }
    }

    /// The other members of a room.
    fn others(&self, name: &RoomId) -> Vec<NodeId> {
        let members = self.rooms.get(name).map(|room| room.members.iter());
        members
            .into_iter()
            .flatten()
            .filter(|member| **member != self.config.node)
            .cloned()
            .collect()
    }

    /// This edge's own state.
    pub(super) fn publish_state(&mut self, mut state: RoomState) {
        let name = RoomId::from(state.room.as_str());
        state.origin = self.config.node.as_str().to_owned();
        let others = self.others(&name);
        self.send_state(&name, &state, &others);
        let room = self.rooms.entry(name).or_default();
        room.states.insert(self.config.node.clone(), state);
    }

    /// Who speaks here.
    pub(super) fn publish_speakers(&mut self, mut speakers: Speakers) {
        let name = RoomId::from(speakers.room.as_str());
        speakers.origin = self.config.node.as_str().to_owned();
        let others = self.others(&name);
        self.send_speakers(&name, &speakers, (&others, None));
        self.keep_speakers(&name, &speakers);
    }

    pub(super) fn handle_speakers(&mut self, from: PeerKey, speakers: &Speakers) {
        let name = RoomId::from(speakers.room.as_str());
        if speakers.origin == self.config.node.as_str() {
            return;
        }
        let destinations = speakers.destinations.iter();
        let destinations: Vec<NodeId> = destinations
            .map(|node| NodeId::from(node.as_str()))
            .collect();
        if self.on_the_way(&name, &speakers.origin, from) {
            self.send_speakers(&name, speakers, (&destinations, Some(from)));
        }
        self.keep_speakers(&name, speakers);
        if destinations.contains(&self.config.node) {
            self.emit(MeshEvent::Speakers(speakers.clone()));
        }
    }

    fn send_speakers(
        &mut self,
        name: &RoomId,
        speakers: &Speakers,
        (destinations, from): (&[NodeId], Option<PeerKey>),
    ) {
        for (peer, destinations) in self.by_hop(name, destinations, from) {
            let speakers = Speakers {
                destinations,
                ..speakers.clone()
            };
            self.send(peer, Message::Speakers(speakers));
        }
    }

    /// Whoever gets the state again is to hear of these speakers.
    fn keep_speakers(&mut self, name: &RoomId, speakers: &Speakers) {
        let origin = NodeId::from(speakers.origin.as_str());
        let room = self.rooms.get_mut(name);
        let state = room.and_then(|room| room.states.get_mut(&origin));
        if let Some(state) = state.filter(|state| state.incarnation == speakers.incarnation) {
            state.speakers.clone_from(&speakers.speakers);
        }
    }

    /// This edge leaves the room.
    pub(super) fn publish_gone(&mut self, name: &RoomId) {
        let gone = RoomGone {
            room: name.as_str().to_owned(),
            origin: self.config.node.as_str().to_owned(),
            incarnation: self.config.incarnation,
            destinations: Vec::new(),
        };
        for (peer, destinations) in self.by_hop(name, &self.others(name), None) {
            self.send(
                peer,
                Message::RoomGone(RoomGone {
                    destinations,
                    ..gone.clone()
                }),
            );
        }
        if let Some(room) = self.rooms.get_mut(name) {
            room.states.remove(&self.config.node);
        }
        self.drop_empty_room(name);
    }

    pub(super) fn handle_state(&mut self, from: PeerKey, state: RoomState) {
        let name = RoomId::from(state.room.as_str());
        let origin = NodeId::from(state.origin.as_str());
        if origin == self.config.node {
            return;
        }
        let version = |state: &RoomState| (state.incarnation, state.version);
        let known = self
            .rooms
            .get(&name)
            .and_then(|room| room.states.get(&origin));
        if known.is_some_and(|known| version(known) > version(&state)) {
            return;
        }
        let same = known.filter(|known| version(known) == version(&state));
        let known_destinations = same
            .map(|known| known.destinations.clone())
            .unwrap_or_default();
        let destinations: Vec<NodeId> = state
            .destinations
            .iter()
            .map(|node| NodeId::from(node.as_str()))
            .collect();
        if self.on_the_way(&name, &state.origin, from) {
            for (peer, destinations) in self.by_hop(&name, &destinations, Some(from)) {
                self.send(
                    peer,
                    Message::RoomState(RoomState {
                        destinations,
                        ..state.clone()
                    }),
                );
            }
        }
        let mut kept = state.clone();
        kept.destinations.extend(known_destinations);
        kept.destinations.sort();
        kept.destinations.dedup();
        self.rooms
            .entry(name)
            .or_default()
            .states
            .insert(origin, kept);
        if destinations.contains(&self.config.node) {
            self.emit(MeshEvent::RoomState(state));
        }
    }

    pub(super) fn handle_gone(&mut self, from: PeerKey, gone: &RoomGone) {
        let name = RoomId::from(gone.room.as_str());
        let origin = NodeId::from(gone.origin.as_str());
        if origin == self.config.node {
            return;
        }
        let known = self
            .rooms
            .get(&name)
            .and_then(|room| room.states.get(&origin));
        if known.is_some_and(|state| state.incarnation > gone.incarnation) {
            return;
        }
        if self.on_the_way(&name, &gone.origin, from) {
            let destinations = gone
                .destinations
                .iter()
                .map(|node| NodeId::from(node.as_str()));
            let destinations: Vec<NodeId> = destinations.collect();
            for (peer, destinations) in self.by_hop(&name, &destinations, Some(from)) {
                self.send(
                    peer,
                    Message::RoomGone(RoomGone {
                        destinations,
                        ..gone.clone()
                    }),
                );
            }
        }
        self.forget_state(&name, &origin);
        self.drop_empty_room(&name);
    }

    /// Drops an edge's replica and says so.
    fn forget_state(&mut self, name: &RoomId, origin: &NodeId) {
        if let Some(room) = self.rooms.get_mut(name)
            && room.states.remove(origin).is_some()
        {
            self.emit(MeshEvent::RoomGone {
                room: name.clone(),
                origin: origin.clone(),
            });
        }
    }

    /// A data message of a local participant.
    pub(super) fn publish_data(&mut self, now: Instant, mut data: Data) {
        let name = RoomId::from(data.room.as_str());
        data.origin = self.config.node.as_str().to_owned();
        let destinations = if data.destinations.is_empty() {
            self.others(&name)
        } else {
            data.destinations
                .iter()
                .map(|node| NodeId::from(node.as_str()))
                .collect()
        };
        for (peer, destinations) in self.by_hop(&name, &destinations, None) {
            self.send_data(
                now,
                peer,
                Data {
                    destinations,
                    ..data.clone()
                },
            );
        }
    }

    pub(super) fn handle_data(&mut self, now: Instant, from: PeerKey, data: Data) {
        if data.origin == self.config.node.as_str() {
            return;
        }
        let name = RoomId::from(data.room.as_str());
        let destinations: Vec<NodeId> = data
            .destinations
            .iter()
            .map(|node| NodeId::from(node.as_str()))
            .collect();
        if self.on_the_way(&name, &data.origin, from) {
            for (peer, destinations) in self.by_hop(&name, &destinations, Some(from)) {
                self.send_data(
                    now,
                    peer,
                    Data {
                        destinations,
                        ..data.clone()
                    },
                );
            }
        }
        if destinations.contains(&self.config.node) {
            self.emit(MeshEvent::Data(data));
        }
    }

    fn send_data(&mut self, now: Instant, peer: PeerKey, data: Data) {
        if !data.reliable && prost::Message::encoded_len(&data) <= DATA_DATAGRAM_MAX {
            let body = prost::Message::encode_to_vec(&data);
            if let Some(link) = self
                .peers
                .get_mut(peer.0)
                .and_then(|peer| peer.link.as_mut())
            {
                link.send_data(now, body.into());
            }
        } else {
            self.outputs.push_back(Output::Data { peer, data });
        }
    }
}
