//! Nodes that drain, and that have left when they are done.

use std::time::Instant;

use proto::NodeId;

use super::{Core, Output};
use crate::registry::Node;
use crate::store::{Change, Update};

impl Core {
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
