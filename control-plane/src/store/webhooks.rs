//! The queue of events for the application's servers. Each is delivered at least once to every URL, those of one
//! room in order.

use futures_util::future::BoxFuture;
use proto::RoomId;

use super::Error;

/// An event to be delivered to one URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Webhook {
    /// The event's id, `EV_…`: the same with every attempt, so that receivers can tell a repetition.
    pub id: String,
    /// What stands for the URL. With the id it names this delivery.
    pub target: String,
    /// The room whose events for a target are kept in order.
    pub room: RoomId,
    /// Its kind, for example `participant_joined`.
    pub event: String,
    /// The body to be sent, JSON.
    pub payload: String,
    /// When it happened, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
}

/// An event that a worker is to deliver until its lease ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// The event.
    pub webhook: Webhook,
    /// How often it was claimed, this time included.
    pub attempts: u32,
    /// What went wrong the last time; empty at first.
    pub last_error: String,
}

/// A worker's wish for work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim<'a> {
    /// The worker, unique among all replicas.
    pub worker: &'a str,
    /// The time, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// For how long nobody else gets what is claimed, milliseconds.
    pub lease_ms: u64,
    /// How many events at most.
    pub limit: u32,
}

/// How an event that was not delivered goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Again<'a> {
    /// When it is due again, milliseconds since the Unix epoch.
    pub due_at_ms: u64,
    /// What went wrong.
    pub error: &'a str,
}

/// The queue. Events come in by [`super::Change::Webhook`], in one transaction with what they tell of.
pub trait Outbox {
    /// Claims events that are due: of each room the oldest one for each target, if nobody else has it. Later ones of that room wait until
    /// it is done.
    fn claim<'a>(&'a self, claim: Claim<'a>) -> BoxFuture<'a, Result<Vec<Delivery>, Error>>;

    /// Takes a delivered event out. False when the worker's lease had passed to another one.
    fn delivered<'a>(
        &'a self,
        webhook: &'a Webhook,
        worker: &'a str,
    ) -> BoxFuture<'a, Result<bool, Error>>;

    /// Gives an event back, to be tried again later. False when the worker's lease had passed to another
    /// one.
    fn reschedule<'a>(
        &'a self,
        webhook: &'a Webhook,
        worker: &'a str,
        again: Again<'a>,
    ) -> BoxFuture<'a, Result<bool, Error>>;

    /// How many events wait.
    fn backlog(&self) -> BoxFuture<'_, Result<u64, Error>>;
}
