//! The ephemeral store of a control plane that is one process.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use futures_util::future::BoxFuture;
use proto::control::{
    GetRoomResponse, Link, LinkState, Node, NodeRoom, RoomPlan, RoomReport, RoomSummary,
};
use proto::{NodeId, RoomName};

use super::{Ephemeral, Error, Update};

/// Keeps everything in memory. Readers wait for a writer only as long as it takes to swap a few map entries.
#[derive(Debug, Default)]
pub struct Memory {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<NodeId, Node>,
    rooms: BTreeMap<RoomName, Room>,
    links: BTreeMap<NodeId, Vec<LinkState>>,
}

#[derive(Debug, Default)]
struct Room {
    summary: RoomSummary,
    plans: BTreeMap<NodeId, RoomPlan>,
    reports: BTreeMap<NodeId, RoomReport>,
}

impl Room {
    fn summary(&self) -> RoomSummary {
        let everybody = self.reports.values().flat_map(|r| &r.participants);
        let publishers = everybody.clone().filter(|p| !p.tracks.is_empty()).count();
        RoomSummary {
            participants: u32::try_from(everybody.count()).unwrap_or(u32::MAX),
            publishers: u32::try_from(publishers).unwrap_or(u32::MAX),
            ..self.summary.clone()
        }
    }
}

impl State {
    fn apply(&mut self, update: Update) {
        match update {
            Update::Node(node) => {
                let id = node
                    .hello
                    .as_ref()
                    .map(|hello| NodeId::from(hello.node_id.as_str()));
                if let Some(id) = id {
                    self.nodes.insert(id, node);
                }
            }
            Update::NodeForgotten(node) => {
                self.nodes.remove(&node);
                self.links.remove(&node);
            }
            Update::Room { summary, plans } => {
                let room = self
                    .rooms
                    .entry(RoomName::from(summary.room.as_str()))
                    .or_default();
                room.reports.retain(|node, _| plans.contains_key(node));
                room.summary = summary;
                room.plans = plans;
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
        updates.into_iter().for_each(|update| state.apply(update));
        Box::pin(std::future::ready(Ok(())))
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
}
