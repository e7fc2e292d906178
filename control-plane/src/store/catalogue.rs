//! What is known over the years: nodes, prices, rooms and who was in them.

use futures_util::future::BoxFuture;
use proto::control::Hello;
use proto::{RoomId, RoomSid};

use super::Error;
use super::audit::By;

/// A participant's time in a room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// The participant's session id, `PA_…`.
    pub participant: String,
    /// The room's session id.
    pub room_sid: RoomSid,
    /// The room's name.
    pub room: RoomId,
    /// The participant's identity.
    pub identity: proto::Identity,
    /// The participant's name for people.
    pub name: String,
    /// The edge it was connected to.
    pub node: proto::NodeId,
    /// When it joined, milliseconds since the Unix epoch.
    pub joined_at_ms: u64,
    /// When it left, milliseconds since the Unix epoch; `None` while it is there.
    pub left_at_ms: Option<u64>,
}

/// A room that was, or is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PastRoom {
    /// Its name.
    pub room: RoomId,
    /// Its session id.
    pub sid: RoomSid,
    /// Epoch of its last plan.
    pub epoch: u64,
    /// When it began, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When it ended, milliseconds since the Unix epoch; `None` while it lives.
    pub ended_at_ms: Option<u64>,
}

/// What it costs to send from one place to another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkPrice {
    /// A node id, a region's code, or `*` for any.
    pub source: String,
    /// The same for where it goes.
    pub destination: String,
    /// Millionths of a dollar per 10⁹ bytes.
    pub microdollars_per_gb: u64,
}

/// A node that is or was part of the mesh.
#[derive(Clone, PartialEq, Debug)]
pub struct CatalogueNode {
    /// What it last said of itself.
    pub hello: Hello,
    /// Whether it is dead.
    pub gone: bool,
}

/// Configuration of rooms, prices, and history.
pub trait Catalogue {
    /// Keeps a room's configuration, a JSON object, for when the room begins and while it lives.
    fn put_room_config<'a>(
        &'a self,
        project: &'a str,
        room: &'a RoomId,
        config: &'a serde_json::Value,
        at_ms: u64,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// A room's configuration.
    fn room_config<'a>(
        &'a self,
        project: &'a str,
        room: &'a RoomId,
    ) -> BoxFuture<'a, Result<Option<serde_json::Value>, Error>>;

    /// Forgets a room's configuration. True when there was one.
    fn drop_room_config<'a>(
        &'a self,
        project: &'a str,
        room: &'a RoomId,
    ) -> BoxFuture<'a, Result<bool, Error>>;

    /// Sets prices; those of other links stay.
    fn set_prices<'a>(
        &'a self,
        prices: &'a [LinkPrice],
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// All prices, by source and destination.
    fn prices(&self) -> BoxFuture<'_, Result<Vec<LinkPrice>, Error>>;

    /// All nodes there are or were, by id.
    fn catalogue_nodes(&self) -> BoxFuture<'_, Result<Vec<CatalogueNode>, Error>>;

    /// Rooms of a name, the latest first, at most `limit`.
    fn past_rooms<'a>(
        &'a self,
        room: &'a RoomId,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<PastRoom>, Error>>;

    /// Who was or is in a room, in the order of joining.
    fn sessions<'a>(&'a self, room_sid: &'a RoomSid) -> BoxFuture<'a, Result<Vec<Session>, Error>>;
}
