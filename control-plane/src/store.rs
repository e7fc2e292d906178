//! Where state lives. Durable state outlives the process; ephemeral state is rebuilt from what nodes report.

pub mod memory;
pub mod sqlite;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use futures_util::future::BoxFuture;
use proto::control::{
    GetRoomResponse, Hello, Link, LinkState, Node, RoomPlan, RoomReport, RoomSummary,
};
use proto::{NodeId, RoomName, RoomSid};

use crate::config::Secret;

/// A store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused or is not there.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// The database's folder could not be made.
    #[error("data folder {path}: {source}")]
    Folder {
        /// The folder.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A row cannot be what we wrote.
    #[error("row of {table} is damaged: {reason}")]
    Damaged {
        /// The table.
        table: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// A room that lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomRecord {
    /// Its name.
    pub room: RoomName,
    /// Its session id.
    pub sid: RoomSid,
    /// Epoch of its latest plan.
    pub epoch: u64,
    /// Edges that serve it.
    pub members: BTreeSet<NodeId>,
    /// When it began, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
}

/// One durable change.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// A room began or has a new plan.
    Room(RoomRecord),
    /// A room ended.
    RoomEnded {
        /// Its session id.
        sid: RoomSid,
        /// Epoch of its last plan.
        epoch: u64,
        /// When, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// A node joined or came back.
    Node(Hello),
    /// A node died.
    NodeForgotten(NodeId),
}

/// All that was saved, for a process that starts.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Saved {
    /// Rooms that lived.
    pub rooms: Vec<RoomRecord>,
    /// Nodes that were not dead.
    pub nodes: Vec<Hello>,
    /// No plan ever had an epoch above this.
    pub epoch_max: u64,
}

/// State that outlives the process.
pub trait Durable: fmt::Debug + Send + Sync {
    /// Reads what was saved.
    fn load(&self) -> BoxFuture<'_, Result<Saved, Error>>;

    /// Saves changes in one transaction: all or none.
    fn save<'a>(&'a self, changes: &'a [Change]) -> BoxFuture<'a, Result<(), Error>>;

    /// Makes the configured API keys those of the store, and returns all keys there are.
    fn sync_keys<'a>(
        &'a self,
        configured: &'a BTreeMap<String, Secret>,
        now_ms: u64,
    ) -> BoxFuture<'a, Result<BTreeMap<String, Secret>, Error>>;
}

/// One change of what is known of the moment.
#[derive(Clone, PartialEq, Debug)]
pub enum Update {
    /// A node's state or load changed.
    Node(Node),
    /// A node is not shown any more.
    NodeForgotten(NodeId),
    /// A room began or has a new plan; `participants` of the summary is counted from the reports instead.
    Room {
        /// The room, its edges and epoch.
        summary: RoomSummary,
        /// Every involved node's plan.
        plans: BTreeMap<NodeId, RoomPlan>,
    },
    /// A room ended.
    RoomEnded(RoomName),
    /// What a node knows of a room.
    Report {
        /// The node.
        node: NodeId,
        /// Its report.
        report: RoomReport,
    },
    /// A node has no part in a room any more.
    ReportGone {
        /// The node.
        node: NodeId,
        /// The room.
        room: RoomName,
    },
    /// All links of a node.
    Links {
        /// The node.
        node: NodeId,
        /// Their state.
        links: Vec<LinkState>,
    },
}

/// What is known of the moment: who is where. Read by people and the gateway; the planner does not depend on it.
pub trait Ephemeral: fmt::Debug + Send + Sync {
    /// Takes changes, in order.
    fn apply(&self, updates: Vec<Update>) -> BoxFuture<'_, Result<(), Error>>;

    /// All nodes by id.
    fn nodes(&self) -> BoxFuture<'_, Result<Vec<Node>, Error>>;

    /// All rooms by name.
    fn rooms(&self) -> BoxFuture<'_, Result<Vec<RoomSummary>, Error>>;

    /// One room with what every node reported on it.
    fn room<'a>(&'a self, room: &'a str) -> BoxFuture<'a, Result<Option<GetRoomResponse>, Error>>;

    /// All links, by reporting node and peer.
    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, Error>>;
}
