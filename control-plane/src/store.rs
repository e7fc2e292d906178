//! Where state lives. Durable state outlives the process; ephemeral state is rebuilt from what nodes report.
//!
//! Durable state is in PostgreSQL or a SQLite file ([`sql`]), ephemeral state in Redis ([`redis`]) or in the process
//! ([`memory`]). One suite of tests runs against both of each.

pub mod audit;
pub mod catalogue;
pub mod ephemeral;
pub mod keys;
pub mod memory;
pub mod open;
pub mod probe;
pub mod redis;
pub mod sealed;
pub mod sql;
pub mod webhooks;

use std::collections::BTreeSet;
use std::fmt;

use futures_util::future::BoxFuture;
use proto::control::{Hello, RoomSettings};
use proto::{NodeId, RoomId, RoomSid};

pub use audit::Audit;
pub use catalogue::Catalogue;
pub use ephemeral::{Ephemeral, Update};
pub use keys::Keys;
pub use webhooks::Outbox;

/// A store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused or is not there.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// A file or folder of the embedded database could not be made or read.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
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
    /// A secret could not be sealed or opened.
    #[error(transparent)]
    Sealed(#[from] sealed::Error),
    /// There is one of this name already.
    #[error("{0} exists already")]
    Exists(String),
    /// There is none of this name.
    #[error("{0} does not exist")]
    Missing(String),
    /// Redis refused or is not there.
    #[error("Redis: {0}")]
    Redis(#[from] ::redis::RedisError),
    /// The store took too long.
    #[error("no answer in time")]
    TimedOut,
}

/// A room that lives.
#[derive(Clone, PartialEq, Debug)]
pub struct RoomRecord {
    /// Its name.
    pub room: RoomId,
    /// Its session id.
    pub sid: RoomSid,
    /// Epoch of its latest plan.
    pub epoch: u64,
    /// Edges that serve it.
    pub members: BTreeSet<NodeId>,
    /// When it began, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// What applications set it to.
    pub settings: RoomSettings,
}

/// A room whose change was not saved: another process planned it, began one of its name, or ended it meanwhile.
#[derive(Clone, PartialEq, Debug)]
pub struct Fenced {
    /// The room's session id in the change.
    pub sid: RoomSid,
    /// The room's name.
    pub room: RoomId,
    /// The room of that name that lives, as the other process left it; `None` when there is none. The next change may
    /// go on from here.
    pub current: Option<RoomRecord>,
    /// No plan of a room of that name had a higher epoch.
    pub epoch_max: u64,
}

impl Fenced {
    /// Whether the room of the change is over: none lives under its name, or another one. Otherwise what happened in it
    /// happened, whoever plans it.
    pub fn is_over(&self) -> bool {
        self.current
            .as_ref()
            .is_none_or(|room| room.sid != self.sid)
    }
}

/// One durable change.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// A room began or has a new plan. Saved if its row still is as this process read or wrote it last, and no plan of
    /// that name had this epoch or a higher one.
    Room(RoomRecord),
    /// A room ended. Saved under the same condition.
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
    /// A node died. It stays in the catalogue.
    NodeForgotten(NodeId),
    /// A participant joined.
    Joined(catalogue::Session),
    /// A participant left.
    Left {
        /// The participant's session id, `PA_…`.
        participant: String,
        /// When, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// An event that one of the application's URLs is to hear of. Saving it again does nothing; it is left out when a room of
    /// its name was, whose change came before it, and that room is over.
    Webhook(webhooks::Webhook),
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
pub trait Durable: Keys + Catalogue + Outbox + Audit + fmt::Debug + Send + Sync {
    /// Reads what was saved. Later changes of rooms go on from there.
    fn load(&self) -> BoxFuture<'_, Result<Saved, Error>>;

    /// Saves changes in one transaction: all or none, but for the rooms that are returned, whose changes are left out.
    fn save<'a>(&'a self, changes: &'a [Change]) -> BoxFuture<'a, Result<Vec<Fenced>, Error>>;

    /// Reads one room that lives. Later changes of it go on from there.
    fn room<'a>(&'a self, room: &'a RoomId) -> BoxFuture<'a, Result<Option<RoomRecord>, Error>>;

    /// Drops what ended or happened longer ago than it is kept: rooms and participants' sessions that ended, ids of
    /// events. Epochs are not forgotten.
    fn prune(&self, before_ms: u64) -> BoxFuture<'_, Result<(), Error>>;

    /// Whether the store answers.
    fn ping(&self) -> BoxFuture<'_, Result<(), Error>>;
}
