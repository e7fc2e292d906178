//! The control plane's core: who serves which room, and what every node is told. Sans-IO: inputs and the time go in,
//! outputs come out in the order in which they take effect.

mod attendance;
mod calls;
mod events;
mod nodes;
mod presence;
mod room;
mod standby;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proto::control::control_message::Message as Down;
use proto::control::node_message::Message as Up;
use proto::control::{
    ApiKeys, AssignResponse, ControlMessage, Hello, LinkReport, LinkState, NodeState, PeerList,
};
use proto::{NodeId, RoomId, RoomSid};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};

use crate::planner::{Decision, Observation, Role, Topology};
use crate::prices::Prices;
use crate::registry::{Node, Refused, Registry, SessionId};
use crate::ring::Ring;
use crate::rules::{Rules, Terms};
use crate::store::{Change, Fenced, RoomRecord, Saved, Update};
use attendance::Attendance;
pub(crate) use calls::METADATA_MAX;
use calls::Pending;
pub use calls::{Answer, Call, CallError};
pub use events::Event;
pub(crate) use presence::info as participant_info;
pub use room::AssignError;
use room::Room;
use standby::Standby;

/// How long a node that is back has to report the rooms it serves.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// How long until rooms whose save failed are planned anew.
const SAVE_RETRY: Duration = Duration::from_millis(500);
/// Links of one node that are looked at.
const LINKS_MAX: usize = 1_024;
/// How long measurements that change plans are gathered, so that one event changes them once.
const GATHER: Duration = Duration::from_secs(1);
/// With nothing due, the core still wants to be called this often.
const IDLE: Duration = Duration::from_secs(60);

/// A call that waits for its answer, unique in this process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// What the core needs to know from the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this replica.
    pub control_id: String,
    /// The replicas that own rooms, at first.
    pub ring: Ring,
    /// Name of the mesh.
    pub mesh: String,
    /// How rooms cross the mesh, and where they may.
    pub rules: Rules,
    /// What traffic costs.
    pub prices: Prices,
    /// API keys for the edges: key and secret.
    pub keys: ApiKeys,
    /// How long a node whose session ended may stay away.
    pub node_grace: Duration,
    /// The same for nodes that were known before the start.
    pub restart_grace: Duration,
    /// How long a room without edges keeps its session id.
    pub empty_room: Duration,
    /// The instant at which the wall clock showed `origin_ms`.
    pub origin: Instant,
    /// Milliseconds since the Unix epoch at `origin`.
    pub origin_ms: u64,
    /// Seed for room session ids.
    pub seed: [u8; 32],
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The process starts with what was saved. Comes first, if at all.
    Restore(Saved),
    /// A session's first message.
    Connected {
        /// The session.
        session: SessionId,
        /// Who it is.
        hello: Hello,
    },
    /// A message of a session after the first.
    Message {
        /// The session.
        session: SessionId,
        /// The message.
        message: Up,
    },
    /// A session ended.
    Disconnected {
        /// The session.
        session: SessionId,
    },
    /// An edge got the first participant of a room.
    Assign {
        /// The call.
        ticket: Ticket,
        /// The edge.
        node: NodeId,
        /// The room.
        room: RoomId,
        /// `livekit.RoomConfiguration` of the participant, for a room that begins with it; empty: none.
        room_config: Vec<u8>,
    },
    /// An application's server asks for something.
    Call {
        /// The call.
        ticket: Ticket,
        /// What is asked for.
        call: Call,
    },
    /// Changes of these rooms could not be saved, so their plans were not sent.
    SaveFailed {
        /// The rooms.
        rooms: Vec<RoomId>,
    },
    /// Another replica planned, began or ended these rooms meanwhile: their changes were not saved and their plans not sent.
    Fenced(Vec<Fenced>),
    /// There are other API keys from now on.
    Keys(ApiKeys),
    /// Other replicas own rooms from now on. What this one gained waits for `Adopt`.
    Ring(Ring),
    /// All rooms that live, as the durable store has them: after `Ring`.
    Adopt(Vec<RoomRecord>),
    /// Nothing but time passed.
    Timeout,
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// To be saved before any later `Transmit` of a plan or `Assigned` takes effect.
    Save(Change),
    /// To be sent to a node.
    Transmit {
        /// The node's session.
        session: SessionId,
        /// The message.
        message: ControlMessage,
    },
    /// An `Assign` call's answer.
    Assigned {
        /// The call.
        ticket: Ticket,
        /// The edge's plan, or why there is none.
        result: Result<AssignResponse, AssignError>,
    },
    /// The answer to an [`Input::Call`].
    Answered {
        /// The call.
        ticket: Ticket,
        /// What came of it.
        result: Result<Answer, CallError>,
    },
    /// Something happened that applications may want to hear of.
    Event(Event),
    /// A session to be closed.
    Close {
        /// The session.
        session: SessionId,
        /// Why it was refused; `None` when another session of the node took over.
        reason: Option<Refused>,
    },
    /// For the ephemeral store.
    Update(Update),
    /// The same about what another replica owns: to be shown here while that cannot be asked for.
    Shadow(Update),
    /// Nothing more to do before this.
    Timeout(Instant),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    /// A node's state is looked at.
    Node(NodeId),
    /// A node that came back has reported its rooms by now.
    Confirm(NodeId),
    /// A room without edges ends.
    Empty(RoomId),
    /// Rooms whose save failed.
    Unsaved,
    /// Plans follow what was measured.
    Measured,
    /// An edge has had its time to answer.
    Call(u64),
}

/// The core. One writer: the task that owns it.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    registry: Registry,
    topology: Topology,
    /// Nodes whose links or load changed so much that plans have to follow.
    moved: BTreeSet<NodeId>,
    rooms: BTreeMap<RoomId, Room>,
    /// No plan had an epoch above this when its room ended: where the next room's epochs start.
    epoch_floor: u64,
    unsaved: BTreeSet<RoomId>,
    /// Calls that wait for an edge, by request.
    pending: BTreeMap<u64, Pending>,
    requests: u64,
    /// Rooms that were deleted lately.
    deleted: VecDeque<RoomSid>,
    attendance: Attendance,
    standby: Standby,
    peers_sent: BTreeMap<SessionId, PeerList>,
    timers: BTreeSet<(Instant, Timer)>,
    outputs: VecDeque<Output>,
    rng: StdRng,
}

impl Core {
    /// A core that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        let mut rng = StdRng::from_seed(settings.seed);
        // Nodes answer all replicas: no two may ask under the same number.
        let requests = rng.random::<u64>() >> 1;
        Self {
            registry: Registry::default(),
            topology: Topology::new(settings.prices.clone()),
            standby: Standby::new(settings.ring.clone()),
            settings,
            moved: BTreeSet::new(),
            rooms: BTreeMap::new(),
            epoch_floor: 0,
            unsaved: BTreeSet::new(),
            pending: BTreeMap::new(),
            requests,
            deleted: VecDeque::new(),
            attendance: Attendance::default(),
            peers_sent: BTreeMap::new(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
            rng,
        }
    }

    /// Takes one input. Drain [`Core::poll_output`] before the clock moves on; several inputs may share one drain.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Restore(saved) => self.restore(now, saved),
            Input::Connected { session, hello } => self.connect(now, session, hello),
            Input::Message { session, message } => self.message(now, session, message),
            Input::Disconnected { session } => self.disconnect(now, session),
            Input::Assign {
                ticket,
                node,
                room,
                room_config,
            } => {
                let result = self.assign(now, &node, &room, &room_config);
                self.outputs.push_back(Output::Assigned { ticket, result });
            }
            Input::Call { ticket, call } => self.call(now, ticket, call),
            Input::SaveFailed { rooms } => {
                if self.unsaved.is_empty() && !rooms.is_empty() {
                    self.timers.insert((now + SAVE_RETRY, Timer::Unsaved));
                }
                self.unsaved.extend(rooms);
            }
            Input::Fenced(rooms) => {
                rooms
                    .into_iter()
                    .for_each(|fenced| self.yield_to(now, fenced));
            }
            Input::Keys(keys) => self.set_keys(keys),
            Input::Ring(ring) => self.set_ring(now, ring),
            Input::Adopt(rooms) => self.adopt(now, rooms),
            Input::Timeout => self.run_timers(now),
        }
    }

    /// The next thing to do; `Timeout` when there is nothing more.
    pub fn poll_output(&mut self, now: Instant) -> Output {
        self.outputs.pop_front().unwrap_or_else(|| {
            let due = self.timers.first().map(|(at, _)| *at);
            Output::Timeout(due.unwrap_or(now + IDLE))
        })
    }

    /// How many rooms live that are this replica's.
    pub fn room_count(&self) -> usize {
        self.owned_count()
    }

    /// Whether all nodes that were known at the start have a session, or are dead.
    pub fn is_settled(&self) -> bool {
        let mut nodes = self.registry.iter();
        nodes.all(|(_, node)| node.session.is_some() || node.state == NodeState::Dead)
    }

    /// How many nodes are in a state.
    pub fn node_count(&self, state: NodeState) -> usize {
        self.registry
            .iter()
            .filter(|(_, node)| node.state == state)
            .count()
    }

    /// Milliseconds since the Unix epoch.
    fn wall_ms(&self, now: Instant) -> u64 {
        let passed = now
            .saturating_duration_since(self.settings.origin)
            .as_millis();
        self.settings
            .origin_ms
            .saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    fn restore(&mut self, now: Instant, saved: Saved) {
        self.epoch_floor = saved.epoch_max;
        let deadline = now + self.settings.restart_grace;
        for hello in saved.nodes {
            match self.registry.restore(hello, now, deadline) {
                Ok(node) => {
                    self.timers.insert((deadline, Timer::Node(node.clone())));
                    self.node_changed(&node);
                }
                Err(error) => tracing::warn!(%error, "saved node left out"),
            }
        }
        for record in saved.rooms {
            let name = record.room.clone();
            let members = record.members.iter();
            let gone: Vec<_> = members
                .filter(|node| !self.resides(&name, node))
                .cloned()
                .collect();
            self.rooms.insert(name.clone(), Room::restored(record));
            if let Some(room) = self.rooms.get_mut(&name) {
                room.remove_members(&gone);
            }
            self.replan(now, &name, None);
        }
    }

    fn set_keys(&mut self, keys: ApiKeys) {
        if keys == self.settings.keys {
            return;
        }
        self.settings.keys = keys;
        let nodes = self.registry.iter();
        let sessions: Vec<_> = nodes.filter_map(|(_, node)| node.session).collect();
        for session in sessions {
            let keys = self.settings.keys.clone();
            self.transmit(session, Down::Keys(keys));
        }
    }

    fn message(&mut self, now: Instant, session: SessionId, message: Up) {
        // Messages of a session that was replaced meanwhile are late.
        let Some(node) = self.registry.node_of(session).cloned() else {
            return;
        };
        match message {
            Up::Hello(_) => tracing::debug!(node_id = %node, "second hello of a session ignored"),
            Up::Load(load) => {
                let turned = self.registry.set_load(&node, load);
                self.follow_load(now, &node);
                if turned {
                    self.drain_changed(now, &node);
                } else {
                    self.show_node(&node);
                }
            }
            Up::Links(LinkReport { mut links }) => {
                links.truncate(LINKS_MAX);
                for peer in self.registry.set_links(&node, &links, now) {
                    self.node_changed(&peer);
                }
                self.follow_links(now, &node, &links);
                self.show(node.clone().as_str(), Update::Links { node, links });
            }
            Up::Room(report) => self.report(now, (session, &node), report),
            // The session hands these to placement.
            Up::Clients(_) => {}
            Up::RoomClosed(closed) => self.room_closed(now, &node, &closed),
            Up::Answer(answer) => self.answered(session, answer),
        }
    }

    fn follow_links(&mut self, now: Instant, node: &NodeId, links: &[LinkState]) {
        for link in links {
            let peer = NodeId::from(link.peer.as_str());
            let seen = Observation {
                up: link.up,
                rtt: Duration::from_micros(link.rtt_us.into()),
                loss: link.loss,
            };
            if self.topology.observe(node, &peer, seen) {
                self.plans_follow(now, [node.clone(), peer]);
            }
        }
    }

    fn follow_load(&mut self, now: Instant, node: &NodeId) {
        let load = self.registry.get(node).map_or(0.0, Node::load_share);
        if self.topology.observe_load(node, load) {
            self.plans_follow(now, [node.clone()]);
        }
    }

    fn plans_follow(&mut self, now: Instant, nodes: impl IntoIterator<Item = NodeId>) {
        if self.moved.is_empty() {
            self.timers.insert((now + GATHER, Timer::Measured));
        }
        self.moved.extend(nodes);
    }

    /// Plans the rooms whose plans may look different after what was measured.
    fn replan_measured(&mut self, now: Instant) {
        let moved = std::mem::take(&mut self.moved);
        let rooms: Vec<_> = self
            .rooms
            .iter()
            .filter(|(_, room)| moved.iter().any(|node| room.depends_on(node)))
            .map(|(name, _)| name.clone())
            .collect();
        rooms.iter().for_each(|room| self.replan(now, room, None));
    }

    /// What holds for a room.
    fn terms(&self, room: &RoomId) -> &Terms {
        self.settings.rules.of(room)
    }

    /// The decision that a room's plan is from; `None` for a room that does not live.
    pub fn decision(&self, room: &RoomId) -> Option<Decision> {
        self.rooms.get(room)?.decision()
    }

    /// Plans the rooms that a node's coming or going may change.
    fn replan_touched(&mut self, now: Instant, node: &NodeId) {
        let relay = self
            .registry
            .get(node)
            .is_none_or(|node| node.role == Role::Relay);
        let named = self.settings.rules.name(node.as_str());
        // An edge changes only the rooms it is in, unless the policy names it.
        let rooms: Vec<_> = self
            .rooms
            .iter()
            .filter(|(_, room)| relay || named || room.involves(node))
            .map(|(name, _)| name.clone())
            .collect();
        rooms.iter().for_each(|room| self.replan(now, room, None));
    }

    fn run_timers(&mut self, now: Instant) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            match self.timers.pop_first() {
                Some((_, Timer::Node(node))) => self.look_at(now, &node),
                Some((_, Timer::Confirm(node))) => self.drop_doubted(now, &node),
                Some((_, Timer::Empty(room))) => self.end_if_empty(now, &room),
                Some((_, Timer::Measured)) => self.replan_measured(now),
                Some((_, Timer::Call(id))) => self.give_up(id, CallError::TimedOut),
                Some((_, Timer::Unsaved)) => {
                    for room in std::mem::take(&mut self.unsaved) {
                        self.plan_again(now, &room);
                    }
                }
                None => break,
            }
        }
    }

    fn transmit(&mut self, session: SessionId, message: Down) {
        let message = ControlMessage {
            message: Some(message),
        };
        self.outputs
            .push_back(Output::Transmit { session, message });
    }
}

#[cfg(test)]
mod tests;
