//! Rooms of the core: who serves them, their plans and epochs.

mod end;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::control::control_message::Message as Down;
use proto::control::{self, AssignResponse, RoomClosed, RoomReport, RoomSettings, RoomSummary};
use proto::{BadName, NodeId, RoomId, RoomSid, check_name};
use rand::Rng;
use rand::distr::Alphanumeric;

use super::presence::Presence;
use super::{CONFIRM_WITHIN, Core, Output, Timer, calls};
use crate::planner::{self, Decision, Hop, Problem, Request, Role, Solution};
use crate::registry::SessionId;
use crate::store::{Change, RoomRecord, Update};

/// Length of a room's name in bytes.
pub(super) const ROOM_NAME_LENGTH_MAX: usize = 512;
/// Rooms that may live at once.
pub(super) const ROOMS_MAX: usize = 100_000;
/// Epochs stay exact in JSON's numbers. A report beyond is nonsense and must not use up what is left.
const EPOCH_MAX: u64 = 1 << 53;
/// Random characters of a session id, 62 values each.
const SID_CHARACTERS: usize = 12;
/// Length of a session id that a report may bring along.
const SID_LENGTH_MAX: usize = 64;

/// Why an edge gets no plan.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AssignError {
    /// No room may have this name.
    #[error("the room's name {0}")]
    BadName(BadName),
    /// The room's name is too long.
    #[error("room name has {0} bytes; 1 to {ROOM_NAME_LENGTH_MAX} are allowed")]
    RoomName(usize),
    /// The node is not known, dead, or no edge.
    #[error("node {0:?} is not a connected edge")]
    Node(String),
    /// The edge lets its clients go elsewhere.
    #[error("edge {0} is draining: it takes no further rooms")]
    Draining(NodeId),
    /// Too many rooms.
    #[error("{ROOMS_MAX} rooms live already")]
    Full,
    /// The plan's epoch could not be saved.
    #[error("the plan could not be saved")]
    NotSaved,
    /// Another replica planned the room at the same time.
    #[error("another replica planned the room at the same time; ask again")]
    Fenced,
    /// The room is another replica's, or changes hands just now.
    #[error("another control replica owns the room; ask again")]
    NotOwner,
    /// The edge is where the room must not be.
    #[error("the room is confined to {allowed}; the edge is in {region}")]
    Residency {
        /// The edge's region.
        region: String,
        /// Where the room may be.
        allowed: String,
    },
}

/// A room that lives.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) sid: RoomSid,
    created_at_ms: u64,
    epoch: u64,
    /// Edges that serve it. Doubted ones came back lately and have not reported the room yet.
    members: BTreeMap<NodeId, Membership>,
    /// What the latest plan was made from, and the plan.
    problem: Option<Problem>,
    solution: Solution,
    /// Whom the latest plan was sent to: all that have a part in it, or had one in the plan before.
    addressed: BTreeSet<NodeId>,
    /// The latest plan did not reach them, or they know a later epoch: it has to be sent again under a new one.
    unsent: bool,
    /// When it ends, if it is empty.
    ends_at: Option<Instant>,
    /// What applications set it to.
    pub(super) settings: RoomSettings,
    /// Who is in it.
    pub(super) presence: Presence,
    /// Nobody has been in it yet.
    unvisited: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Membership {
    Certain,
    Doubted,
}

impl Room {
    pub(super) fn restored(record: RoomRecord) -> Self {
        let members = record
            .members
            .into_iter()
            .map(|node| (node, Membership::Certain));
        Self {
            sid: record.sid,
            created_at_ms: record.created_at_ms,
            epoch: record.epoch,
            members: members.collect(),
            problem: None,
            solution: Solution::default(),
            addressed: BTreeSet::new(),
            unsent: false,
            ends_at: None,
            settings: record.settings,
            presence: Presence::default(),
            unvisited: false,
        }
    }

    /// How long it stays without edges.
    fn patience(&self, usual: Duration) -> Duration {
        let set = if self.unvisited {
            self.settings.empty_timeout_s
        } else {
            self.settings.departure_timeout_s
        };
        if set > 0 {
            Duration::from_secs(set.into())
        } else {
            usual
        }
    }

    /// Begins to count its time without edges, if it has none and does not do so already: when it ends.
    pub(super) fn begin_to_wait(&mut self, now: Instant, usual: Duration) -> Option<Instant> {
        if !self.members.is_empty() || self.ends_at.is_some() {
            return None;
        }
        let at = now + self.patience(usual);
        self.ends_at = Some(at);
        Some(at)
    }

    /// Whether no edge serves it.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Epoch of its latest plan that is known here.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its plan is another replica's to make, or has to be made from the start.
    pub(super) fn forget_plan(&mut self) {
        self.problem = None;
        self.solution = Solution::default();
        self.addressed.clear();
        self.unsent = false;
    }

    /// Goes on from what its owner before left; `there` are members that it had.
    pub(super) fn adopt(&mut self, record: &RoomRecord, there: &[NodeId]) {
        self.sid = record.sid.clone();
        self.created_at_ms = record.created_at_ms;
        self.epoch = self.epoch.max(record.epoch);
        if record.settings.version > self.settings.version {
            self.settings = record.settings.clone();
        }
        for node in there {
            self.members
                .entry(node.clone())
                .or_insert(Membership::Doubted);
        }
    }

    /// Its time without edges begins anew.
    pub(super) fn wait_anew(&mut self) {
        self.ends_at = None;
    }

    /// Takes all edges out of it; its session id, and who they were.
    pub(super) fn close(&mut self) -> (RoomSid, Vec<NodeId>) {
        let members = std::mem::take(&mut self.members);
        (self.sid.clone(), members.into_keys().collect())
    }

    /// Whether the room's plan tells this node anything.
    pub(super) fn involves(&self, node: &NodeId) -> bool {
        self.solution.hops.contains_key(node)
    }

    /// Whether what is known of this node went into the room's plan.
    pub(super) fn depends_on(&self, node: &NodeId) -> bool {
        let problem = self.problem.as_ref();
        problem.is_some_and(|problem| problem.concerns(node))
    }

    pub(super) fn decision(&self) -> Option<Decision> {
        Some(Decision {
            epoch: self.epoch,
            problem: self.problem.clone()?,
            solution: self.solution.clone(),
        })
    }

    pub(super) fn remove_members(&mut self, nodes: &[NodeId]) {
        self.members.retain(|member, _| !nodes.contains(member));
    }

    /// The node came back: what it does not report soon it does not serve.
    pub(super) fn doubt(&mut self, node: &NodeId) {
        if let Some(membership) = self.members.get_mut(node) {
            *membership = Membership::Doubted;
        }
    }

    fn is_doubted(&self, node: &NodeId) -> bool {
        self.members.get(node) == Some(&Membership::Doubted)
    }

    fn record(&self, room: &RoomId) -> RoomRecord {
        RoomRecord {
            room: room.clone(),
            sid: self.sid.clone(),
            epoch: self.epoch,
            members: self.members.keys().cloned().collect(),
            created_at_ms: self.created_at_ms,
            settings: self.settings.clone(),
        }
    }

    fn plan(&self, room: &RoomId, hops: &[Hop]) -> control::RoomPlan {
        let text = |node: &NodeId| node.to_string();
        let next_hops = hops.iter().map(|hop| control::NextHop {
            edge: text(&hop.edge),
            via: text(&hop.via),
            backup: hop.backup.as_ref().map_or_else(String::new, text),
        });
        control::RoomPlan {
            room: room.to_string(),
            room_sid: self.sid.to_string(),
            epoch: self.epoch,
            members: self.members.keys().map(text).collect(),
            next_hops: next_hops.collect(),
            settings: None,
        }
    }

    fn plan_for(&self, room: &RoomId, node: &NodeId) -> control::RoomPlan {
        let member = self.members.contains_key(node);
        let hops = self.solution.hops.get(node);
        control::RoomPlan {
            settings: member.then(|| self.settings.clone()),
            ..self.plan(room, hops.map_or(&[], Vec::as_slice))
        }
    }

    pub(super) fn summary(&self, room: &RoomId) -> RoomSummary {
        RoomSummary {
            room: room.to_string(),
            room_sid: self.sid.to_string(),
            epoch: self.epoch,
            participants: 0,
            edges: self.members.keys().map(NodeId::to_string).collect(),
            created_at_ms: self.created_at_ms,
            settings: Some(self.settings.clone()),
            publishers: 0,
        }
    }

    fn update(&self, room: &RoomId) -> Update {
        let plans = self
            .solution
            .hops
            .iter()
            .map(|(node, hops)| (node.clone(), self.plan(room, hops)));
        Update::Room {
            summary: self.summary(room),
            plans: plans.collect(),
        }
    }
}

impl Core {
    /// Makes an edge a member of a room, which begins with its first member; it is then set to what that one's
    /// participant brings along.
    pub(super) fn assign(
        &mut self,
        now: Instant,
        node: &NodeId,
        name: &RoomId,
        room_config: &[u8],
    ) -> Result<AssignResponse, AssignError> {
        check_name(name.name()).map_err(AssignError::BadName)?;
        let length = name.name().len();
        if length > ROOM_NAME_LENGTH_MAX {
            return Err(AssignError::RoomName(length));
        }
        if !self.plans(name) {
            return Err(AssignError::NotOwner);
        }
        let known = self
            .registry
            .get(node)
            .filter(|node| node.session.is_some());
        let Some(edge) = known.filter(|node| node.role == Role::Edge) else {
            return Err(AssignError::Node(node.as_str().chars().take(64).collect()));
        };
        if edge.is_draining() {
            return Err(AssignError::Draining(node.clone()));
        }
        let allow = &self.terms(name).allow;
        if !allow.permits(&edge.hello.region) {
            return Err(AssignError::Residency {
                region: edge.hello.region.clone(),
                allowed: allow.to_string(),
            });
        }
        if !self.rooms.contains_key(name) {
            if self.rooms.len() >= ROOMS_MAX {
                return Err(AssignError::Full);
            }
            let sid = self.new_sid();
            self.begin(now, name, (sid, calls::configured(room_config)));
            self.tell_started(now, name);
        }
        self.join(now, name, node);
        let room = self.rooms.get(name).ok_or(AssignError::Full)?;
        let plan = Some(room.plan_for(name, node));
        Ok(AssignResponse {
            plan,
            created_at_ms: room.created_at_ms,
        })
    }

    pub(super) fn new_sid(&mut self) -> RoomSid {
        let random = (&mut self.rng)
            .sample_iter(Alphanumeric)
            .take(SID_CHARACTERS)
            .map(char::from);
        RoomSid::from("RM_".chars().chain(random).collect::<String>())
    }

    pub(super) fn begin(
        &mut self,
        now: Instant,
        name: &RoomId,
        (sid, settings): (RoomSid, RoomSettings),
    ) {
        let room = Room {
            sid,
            created_at_ms: self.wall_ms(now),
            epoch: self.epoch_floor,
            members: BTreeMap::new(),
            problem: None,
            solution: Solution::default(),
            addressed: BTreeSet::new(),
            unsent: false,
            ends_at: None,
            settings,
            presence: Presence::default(),
            unvisited: true,
        };
        tracing::info!(room_sid = %room.sid, "room began");
        self.rooms.insert(name.clone(), room);
    }

    fn join(&mut self, now: Instant, name: &RoomId, node: &NodeId) {
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        room.ends_at = None;
        if room
            .members
            .insert(node.clone(), Membership::Certain)
            .is_none()
        {
            self.replan(now, name, None);
        }
    }

    /// Takes an edge's report into account. False when it is to be ignored.
    pub(super) fn reported(&mut self, now: Instant, node: &NodeId, report: &RoomReport) -> bool {
        let name = RoomId::from(report.room.as_str());
        let serves = !report.participants.is_empty()
            && self
                .registry
                .get(node)
                .is_some_and(|node| node.role == Role::Edge);
        if serves && !self.resides(&name, node) {
            tracing::warn!(node_id = %node, "people are in a room where it must not be; left out of its plan");
            return false;
        }
        if serves {
            self.follow_session(&name, &report.room_sid);
        }
        if serves && !self.rooms.contains_key(&name) {
            // We lost the room's record: it lives on under the session id its participants know.
            let length = name.name().len();
            if length == 0 || length > ROOM_NAME_LENGTH_MAX || self.rooms.len() >= ROOMS_MAX {
                return false;
            }
            let sid = &report.room_sid;
            let usable =
                sid.starts_with("RM_") && sid.len() <= SID_LENGTH_MAX && !self.has_sid(sid);
            let sid = if usable {
                RoomSid::from(sid.as_str())
            } else {
                self.new_sid()
            };
            self.begin(now, &name, (sid, RoomSettings::default()));
            self.tell_started(now, &name);
        }
        let Some(room) = self.rooms.get_mut(&name) else {
            return false;
        };
        if let Some(settings) = &report.settings
            && settings.version > room.settings.version
        {
            // We lost what the room was set to; its edges did not.
            room.settings = settings.clone();
        }
        if !serves {
            // A member without participants was just assigned; a relay reports flows; anybody else is late.
            return room.involves(node) || room.members.contains_key(node);
        }
        if report.epoch > room.epoch && report.epoch < EPOCH_MAX {
            // Plans of ours below that epoch would be ignored as stale.
            room.epoch = report.epoch;
            room.unsent = true;
        }
        room.ends_at = None;
        room.unvisited = false;
        room.members.insert(node.clone(), Membership::Certain);
        self.replan(now, &name, None);
        true
    }

    /// Whether a room may be where a node is.
    pub(super) fn resides(&self, name: &RoomId, node: &NodeId) -> bool {
        let allow = &self.terms(name).allow;
        let node = self.registry.get(node);
        node.is_some_and(|node| allow.permits(&node.hello.region))
    }

    fn has_sid(&self, sid: &str) -> bool {
        self.rooms.values().any(|room| room.sid.as_str() == sid)
    }

    /// An edge's last participant of a room left.
    pub(super) fn room_closed(&mut self, now: Instant, node: &NodeId, closed: &RoomClosed) {
        let name = &RoomId::from(closed.room.as_str());
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        if !closed.room_sid.is_empty() && closed.room_sid != room.sid.as_str() {
            // A room of that name that is over; the edge may serve the new one already.
            return;
        }
        let news = room.presence.node_gone(node);
        self.tell(now, name, news);
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        if room.members.remove(node).is_some() {
            self.replan(now, name, Some(node));
        }
        self.depart(now, node, name);
        let gone = Update::ReportGone {
            node: node.clone(),
            room: name.clone(),
        };
        self.show(name.as_str(), gone);
    }

    /// A node died or started anew: it serves no room.
    pub(super) fn leave_all(&mut self, now: Instant, node: &NodeId) {
        self.leave_where(now, node, |room| room.members.contains_key(node));
    }

    /// A node that came back did not report these rooms in time.
    pub(super) fn drop_doubted(&mut self, now: Instant, node: &NodeId) {
        let had_ms = u64::try_from(CONFIRM_WITHIN.as_millis()).unwrap_or(u64::MAX);
        let connected = self
            .registry
            .get(node)
            .filter(|node| node.session.is_some());
        let since_ms = connected.map_or(u64::MAX, |node| node.connected_at_ms);
        if since_ms.saturating_add(had_ms) > self.wall_ms(now) {
            // Away again, or back again: a later look is due.
            return;
        }
        let doubted = |room: &&Room| room.is_doubted(node);
        let rooms = self.rooms.values().filter(doubted).count();
        if rooms > 0 {
            tracing::info!(node_id = %node, rooms, "edge does not report rooms that it served: left out of their plans");
        }
        self.leave_where(now, node, |room| room.is_doubted(node));
    }

    fn leave_where(&mut self, now: Instant, node: &NodeId, leaves: impl Fn(&Room) -> bool) {
        let left = self
            .rooms
            .iter_mut()
            .filter(|(_, room)| leaves(room))
            .map(|(name, room)| {
                room.members.remove(node);
                name.clone()
            });
        for name in left.collect::<Vec<_>>() {
            let news = match self.rooms.get_mut(&name) {
                Some(room) => room.presence.node_gone(node),
                None => Vec::new(),
            };
            self.tell(now, &name, news);
            self.depart(now, node, &name);
            self.replan(now, &name, None);
        }
    }

    /// Plans a room; when that changes anything, under a new epoch, saved and sent to all concerned. `closed` is an
    /// edge that closed the room itself and need not hear of it.
    pub(super) fn replan(&mut self, now: Instant, name: &RoomId, closed: Option<&NodeId>) {
        if !self.plans(name) {
            return self.stand_by(now, name);
        }
        let Some(room) = self.rooms.get_mut(name) else {
            return;
        };
        let members: BTreeSet<_> = room.members.keys().cloned().collect();
        let request = Request {
            room: name,
            members: &members,
            terms: self.settings.rules.of(name),
            previous: room.problem.is_some().then_some(&room.solution.shape),
        };
        let problem = Problem::of(request, &self.topology);
        let solution = planner::solve(&problem);
        if let Some(at) = room.begin_to_wait(now, self.settings.empty_room) {
            self.timers.insert((at, Timer::Empty(name.clone())));
        }
        if solution.hops == room.solution.hops && room.problem.is_some() && !room.unsent {
            return;
        }
        room.problem = Some(problem);
        let before = std::mem::replace(&mut room.solution, solution).hops;
        let addressed = std::mem::take(&mut room.addressed);
        let had_part = if room.unsent {
            addressed
        } else {
            before.into_keys().collect()
        };
        room.addressed = had_part
            .into_iter()
            .chain(room.solution.hops.keys().cloned())
            .collect();
        room.unsent = false;
        room.epoch += 1;
        let concerned = room.addressed.iter().filter(|node| Some(*node) != closed);
        let plans: Vec<_> = concerned
            .filter_map(|node| Some((self.registry.get(node)?.session?, room.plan_for(name, node))))
            .collect();
        self.outputs
            .push_back(Output::Save(Change::Room(room.record(name))));
        self.outputs.push_back(Output::Update(room.update(name)));
        for (session, plan) in plans {
            self.transmit(session, Down::Plan(plan));
        }
    }

    /// Sends a room's plan again under a new epoch.
    pub(super) fn plan_again(&mut self, now: Instant, name: &RoomId) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.unsent = true;
            self.replan(now, name, None);
        }
    }

    /// Tells a node that connected the plans it has a part in.
    pub(super) fn send_plans(&mut self, session: SessionId, node: &NodeId) {
        let plans: Vec<_> = self
            .rooms
            .iter()
            .filter(|(_, room)| room.involves(node))
            .map(|(name, room)| room.plan_for(name, node))
            .collect();
        for plan in plans {
            self.transmit(session, Down::Plan(plan));
        }
    }
}
