//! Nodes: how they come, go, drain and die, and what everybody else is told of it.

use std::time::Instant;

use proto::NodeId;
use proto::control::control_message::Message as Down;
use proto::control::{Hello, NodeState, PeerList, Welcome};

use super::{CONFIRM_WITHIN, Core, Output, Timer};
use crate::planner::Role;
use crate::registry::{Node, SessionId, Verdict};
use crate::store::{Change, Update};

impl Core {
    pub(super) fn connect(&mut self, now: Instant, session: SessionId, hello: Hello) {
        let at = (now, self.wall_ms(now));
        let welcomed = match self.registry.connect(session, hello.clone(), at) {
            Ok(welcomed) => welcomed,
            Err(refused) => {
                self.outputs.push_back(Output::Close {
                    session,
                    reason: Some(refused),
                });
                return;
            }
        };
        let node = welcomed.node;
        tracing::info!(
            node_id = %node, region = hello.region, incarnation = hello.incarnation,
            restarted = welcomed.restarted, "node connected"
        );
        if let Some(session) = welcomed.replaces {
            self.peers_sent.remove(&session);
            self.give_up_session(session);
            self.outputs.push_back(Output::Close {
                session,
                reason: None,
            });
        }
        self.outputs.push_back(Output::Save(Change::Node(hello)));
        let welcome = Welcome {
            control_id: self.settings.control_id.clone(),
            mesh: self.settings.mesh.clone(),
        };
        self.transmit(session, Down::Welcome(welcome));
        self.transmit(session, Down::Keys(self.settings.keys.clone()));
        self.node_changed(&node);
        let held_back = self.registry.get(&node).and_then(|node| node.deadline);
        if let Some(until) = held_back {
            tracing::warn!(node_id = %node, "node comes and goes too often: it is held back for a while");
            self.timers.insert((until, Timer::Node(node.clone())));
        }
        if welcomed.restarted {
            // The new process serves nobody yet.
            self.leave_all(now, &node);
        } else {
            self.rooms.values_mut().for_each(|room| room.doubt(&node));
            self.timers
                .insert((now + CONFIRM_WITHIN, Timer::Confirm(node.clone())));
        }
        self.replan_touched(now, &node);
        self.send_plans(session, &node);
    }

    pub(super) fn disconnect(&mut self, now: Instant, session: SessionId) {
        self.peers_sent.remove(&session);
        self.give_up_session(session);
        let deadline = now + self.settings.node_grace;
        if let Some(node) = self.registry.disconnect(session, now, deadline) {
            if self.registry.get(&node).is_none() {
                return self.node_left(now, &node);
            }
            tracing::info!(node_id = %node, "node's session ended");
            self.timers.insert((deadline, Timer::Node(node.clone())));
            self.node_changed(&node);
        }
    }

    pub(super) fn look_at(&mut self, now: Instant, node: &NodeId) {
        match self.registry.expire(node, now, self.settings.node_grace) {
            Verdict::Died => {
                tracing::warn!(node_id = %node, "node is dead");
                self.outputs
                    .push_back(Output::Save(Change::NodeForgotten(node.clone())));
                self.node_changed(node);
                self.leave_all(now, node);
                self.replan_touched(now, node);
            }
            Verdict::Forgotten => {
                self.show(node.as_str(), Update::NodeForgotten(node.clone()));
            }
            Verdict::Settled => self.node_changed(node),
            Verdict::Unchanged => {}
        }
        if let Some(at) = self.registry.get(node).and_then(|node| node.deadline) {
            self.timers.insert((at, Timer::Node(node.clone())));
        }
    }

    /// Follows a node's state: the planner's topology, the others' peer lists, what operators see.
    pub(super) fn node_changed(&mut self, id: &NodeId) {
        let Some(node) = self.registry.get(id) else {
            return;
        };
        match node.state {
            NodeState::Ready | NodeState::Suspect => self.topology.insert(id.clone(), node.site()),
            // Its rooms still lead to it; nothing new leads through it.
            NodeState::Draining if node.role == Role::Edge => {
                self.topology.insert(id.clone(), node.site())
            }
            NodeState::Unspecified
            | NodeState::Starting
            | NodeState::Draining
            | NodeState::Dead => self.topology.remove(id),
        };
        self.show_node(id);
        self.send_peers();
    }

    pub(super) fn show_node(&mut self, id: &NodeId) {
        if let Some(node) = self.registry.get(id) {
            let view = node.view();
            self.show(id.as_str(), Update::Node(view));
        }
    }

    /// Sends every node the list of the others, if it is not what was sent last.
    pub(super) fn send_peers(&mut self) {
        let peers: Vec<_> = self
            .registry
            .iter()
            .filter(|(_, node)| node.state != NodeState::Dead)
            .map(|(_, node)| node.peer())
            .collect();
        let sessions: Vec<_> = self
            .registry
            .iter()
            .filter_map(|(id, node)| node.session.map(|session| (id.clone(), session)))
            .collect();
        for (id, session) in sessions {
            let others = peers.iter().filter(|peer| peer.node_id != id.as_str());
            let list = PeerList {
                peers: others.cloned().collect(),
            };
            if self.peers_sent.get(&session) != Some(&list) {
                self.peers_sent.insert(session, list.clone());
                self.transmit(session, Down::Peers(list));
            }
        }
    }

    /// A node began to drain, or will stay after all.
    pub(super) fn drain_changed(&mut self, now: Instant, node: &NodeId) {
        let draining = self.registry.get(node).is_some_and(Node::is_draining);
        tracing::info!(node_id = %node, draining, "node's draining changed");
        self.node_changed(node);
        self.replan_touched(now, node);
    }

    /// A node that drained has ended: nobody waits for it.
    pub(super) fn node_left(&mut self, now: Instant, node: &NodeId) {
        tracing::info!(node_id = %node, "node has left");
        let change = Change::NodeForgotten(node.clone());
        self.outputs.push_back(Output::Save(change));
        self.topology.remove(node);
        self.leave_all(now, node);
        self.replan_touched(now, node);
        self.show(node.as_str(), Update::NodeForgotten(node.clone()));
        self.send_peers();
    }
}
