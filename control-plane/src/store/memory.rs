//! The ephemeral store of a control plane that is one process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use proto::control::{
    GetRoomResponse, Link, LinkState, Node, NodeRoom, RoomPlan, RoomReport, RoomSummary,
};
use proto::{NodeId, RoomId};
use tokio::sync::broadcast;

use super::ephemeral::{Bucket, EVENTS, Event, Rate, Taken, counted};
use super::{Ephemeral, Error, Update};

/// Buckets and values that are kept; beyond it full buckets and old values go, then any.
const KEPT_MAX: usize = 65_536;

/// Keeps everything in memory. Readers wait for a writer only as long as it takes to swap a few map entries.
#[derive(Debug)]
pub struct Memory {
    replica: String,
    state: RwLock<State>,
    buckets: Mutex<HashMap<String, (Bucket, Rate)>>,
    values: Mutex<HashMap<String, (Vec<u8>, Instant)>>,
    events: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<NodeId, Node>,
    /// Nodes that another replica shows.
    foreign: BTreeSet<NodeId>,
    rooms: BTreeMap<RoomId, Room>,
    links: BTreeMap<NodeId, Vec<LinkState>>,
}

#[derive(Debug, Default)]
struct Room {
    summary: RoomSummary,
    plans: BTreeMap<NodeId, RoomPlan>,
    reports: BTreeMap<NodeId, RoomReport>,
    /// Another replica owns it.
    foreign: bool,
}

impl Room {
    fn summary(&self) -> RoomSummary {
        counted(&self.summary, self.reports.values())
    }
}

impl State {
    fn apply(&mut self, update: Update, foreign: bool) {
        match update {
            Update::Node(node) => {
                let id = node
                    .hello
                    .as_ref()
                    .map(|hello| NodeId::from(hello.node_id.as_str()));
                if let Some(id) = id {
                    if foreign {
                        self.foreign.insert(id.clone());
                    } else {
                        self.foreign.remove(&id);
                    }
                    self.nodes.insert(id, node);
                }
            }
            Update::NodeForgotten(node) => {
                self.nodes.remove(&node);
                self.foreign.remove(&node);
                self.links.remove(&node);
            }
            Update::Room { summary, plans } => {
                let room = self
                    .rooms
                    .entry(RoomId::from(summary.room.as_str()))
                    .or_default();
                if room.summary.epoch > summary.epoch {
                    return;
                }
                room.reports.retain(|node, _| plans.contains_key(node));
                room.summary = summary;
                room.plans = plans;
                room.foreign = foreign;
            }
            Update::RoomEnded(room) => {
                self.rooms.remove(&room);
            }
            Update::Report { node, report } => {
                // A report on a room that is not there, or of a node that has no part in it, is late.
                let room = self.rooms.get_mut(report.room.as_str());
                if let Some(room) = room.filter(|room| room.plans.contains_key(&node)) {
                    room.reports.insert(node, report);
                }
            }
            Update::ReportGone { node, room } => {
                if let Some(room) = self.rooms.get_mut(&room) {
                    room.reports.remove(&node);
                }
            }
            Update::Links { node, links } => {
                self.links.insert(node, links);
            }
        }
    }

    fn room(&self, name: &str) -> Option<GetRoomResponse> {
        let room = self.rooms.get(name)?;
        let nodes = room.plans.iter().map(|(id, plan)| NodeRoom {
            node_id: id.to_string(),
            region: self
                .nodes
                .get(id)
                .and_then(|node| node.hello.as_ref())
                .map_or_else(String::new, |hello| hello.region.clone()),
            report: room.reports.get(id).cloned(),
            plan: Some(plan.clone()),
        });
        Some(GetRoomResponse {
            nodes: nodes.collect(),
            summary: Some(room.summary()),
        })
    }

    fn links(&self) -> Vec<Link> {
        let of_node = |(node, links): (&NodeId, &Vec<LinkState>)| {
            let node_id = node.to_string();
            links
                .iter()
                .map(|link| Link {
                    node_id: node_id.clone(),
                    state: Some(link.clone()),
                })
                .collect::<Vec<_>>()
        };
        self.links.iter().flat_map(of_node).collect()
    }
}

impl Memory {
    /// An empty one. `replica` is the name under which it tells others something.
    pub fn new(replica: impl Into<String>) -> Self {
        Self {
            replica: replica.into(),
            state: RwLock::default(),
            buckets: Mutex::default(),
            values: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
        }
    }

    /// Everything of this replica's own as changes that lead to it.
    pub(super) fn snapshot(&self) -> Vec<Update> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let own = |node: &NodeId| !state.foreign.contains(node);
        let nodes = state.nodes.iter().filter(|(id, _)| own(id));
        let nodes = nodes.map(|(_, node)| Update::Node(node.clone()));
        let links = state.links.iter().filter(|(id, _)| own(id));
        let links = links.map(|(node, links)| Update::Links {
            node: node.clone(),
            links: links.clone(),
        });
        let rooms = state.rooms.values().filter(|room| !room.foreign);
        let rooms = rooms.flat_map(|room| {
            let begun = Update::Room {
                summary: room.summary.clone(),
                plans: room.plans.clone(),
            };
            let reports = room.reports.iter().map(|(node, report)| Update::Report {
                node: node.clone(),
                report: report.clone(),
            });
            std::iter::once(begun).chain(reports).collect::<Vec<_>>()
        });
        nodes.chain(links).chain(rooms).collect()
    }

    /// Hands an event to those who listen here.
    pub(super) fn hear(&self, event: Event) {
        // Nobody may be listening.
        self.events.send(event).ok();
    }

    fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T,
    ) -> BoxFuture<'_, Result<T, Error>> {
        // A writer that panicked left whole entries behind: they are still good to look at.
        let found = look(&self.state.read().unwrap_or_else(PoisonError::into_inner));
        Box::pin(std::future::ready(Ok(found)))
    }
}

impl Ephemeral for Memory {
    fn apply(&self, updates: Vec<Update>) -> BoxFuture<'_, Result<(), Error>> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        updates
            .into_iter()
            .for_each(|update| state.apply(update, false));
        Box::pin(std::future::ready(Ok(())))
    }

    fn shadow(&self, updates: Vec<Update>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        updates
            .into_iter()
            .for_each(|update| state.apply(update, true));
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<Node>, Error>> {
        self.read(|state| state.nodes.values().cloned().collect())
    }

    fn rooms(&self) -> BoxFuture<'_, Result<Vec<RoomSummary>, Error>> {
        self.read(|state| state.rooms.values().map(Room::summary).collect())
    }

    fn room<'a>(&'a self, room: &'a str) -> BoxFuture<'a, Result<Option<GetRoomResponse>, Error>> {
        self.read(|state| state.room(room))
    }

    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, Error>> {
        self.read(State::links)
    }

    fn publish<'a>(
        &'a self,
        topic: &'a str,
        body: serde_json::Value,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.hear(Event {
            from: self.replica.clone(),
            topic: topic.to_owned(),
            body,
        });
        Box::pin(std::future::ready(Ok(())))
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn take<'a>(
        &'a self,
        bucket: &'a str,
        rate: Rate,
        now_ms: u64,
    ) -> BoxFuture<'a, Result<Taken, Error>> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= KEPT_MAX && !buckets.contains_key(bucket) {
            buckets.retain(|_, (bucket, rate)| !bucket.is_full(*rate, now_ms));
            if buckets.len() >= KEPT_MAX {
                buckets.clear();
            }
        }
        let (kept, kept_rate) = buckets
            .entry(bucket.to_owned())
            .or_insert_with(|| (Bucket::full(rate, now_ms), rate));
        *kept_rate = rate;
        Box::pin(std::future::ready(Ok(kept.take(rate, now_ms))))
    }

    fn remember<'a>(
        &'a self,
        name: &'a str,
        value: Vec<u8>,
        valid_ms: u64,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let now = Instant::now();
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if values.len() >= KEPT_MAX && !values.contains_key(name) {
            values.retain(|_, (_, until)| *until > now);
            if values.len() >= KEPT_MAX {
                values.clear();
            }
        }
        values.insert(
            name.to_owned(),
            (value, now + Duration::from_millis(valid_ms)),
        );
        Box::pin(std::future::ready(Ok(())))
    }

    fn recall<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, Error>> {
        let now = Instant::now();
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = values.get(name).filter(|(_, until)| *until > now);
        let value = kept.map(|(value, _)| value.clone());
        Box::pin(std::future::ready(Ok(value)))
    }

    fn whole(&self) -> bool {
        true
    }
}
