//! Names of keys. All of a mesh are in one slot of a cluster, for scripts may touch several.

use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    pub(super) fn new(mesh: &str) -> Self {
        Self {
            prefix: format!("antipode:{{{mesh}}}:").into(),
        }
    }

    fn named(&self, kind: &str, name: &str) -> String {
        format!("{}{kind}:{name}", self.prefix)
    }

    /// Sorted set of node ids by the end of their lifetime.
    pub(super) fn nodes(&self) -> String {
        format!("{}nodes", self.prefix)
    }

    /// Sorted set of room names by the end of their lifetime.
    pub(super) fn rooms(&self) -> String {
        format!("{}rooms", self.prefix)
    }

    /// A node, as a message.
    pub(super) fn node(&self, id: &str) -> String {
        self.named("node", id)
    }

    /// A node's links, as a message.
    pub(super) fn links(&self, id: &str) -> String {
        self.named("links", id)
    }

    /// A room, as a hash: `summary`, `epoch`, and `plan:` and `report:` of nodes.
    pub(super) fn room(&self, name: &str) -> String {
        self.named("room", name)
    }

    pub(super) fn bucket(&self, name: &str) -> String {
        self.named("bucket", name)
    }

    pub(super) fn value(&self, name: &str) -> String {
        self.named("value", name)
    }

    /// Channel of the replicas' events.
    pub(super) fn events(&self) -> String {
        format!("{}events", self.prefix)
    }
}
