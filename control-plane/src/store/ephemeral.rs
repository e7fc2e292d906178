//! What is known of the moment, and what replicas tell each other.

use std::collections::BTreeMap;
use std::fmt;

use futures_util::future::BoxFuture;
use proto::control::{
    GetRoomResponse, Link, LinkState, Node, ParticipantReport, RoomPlan, RoomReport, RoomSummary,
};
use proto::{NodeId, RoomId};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::Error;

/// Events that a slow listener may be behind; beyond it the oldest are lost to it, and it is told so.
pub(super) const EVENTS: usize = 1_024;

/// One change of what is known of the moment.
#[derive(Clone, PartialEq, Debug)]
pub enum Update {
    /// A node's state or load changed.
    Node(Node),
    /// A node is not shown any more.
    NodeForgotten(NodeId),
    /// A room began or has a new plan; `participants` and `publishers` of the summary are counted from the reports instead.
    Room {
        /// The room, its edges and epoch.
        summary: RoomSummary,
        /// Every involved node's plan.
        plans: BTreeMap<NodeId, RoomPlan>,
    },
    /// A room ended.
    RoomEnded(RoomId),
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
        room: RoomId,
    },
    /// All links of a node.
    Links {
        /// The node.
        node: NodeId,
        /// Their state.
        links: Vec<LinkState>,
    },
}

/// A room's summary with the people counted that its reports tell of.
pub(super) fn counted<'a>(
    summary: &RoomSummary,
    reports: impl Iterator<Item = &'a RoomReport>,
) -> RoomSummary {
    let (mut participants, mut publishers) = (0, 0);
    for participant in reports.flat_map(|report| &report.participants) {
        participants += 1;
        publishers += u32::from(!participant.tracks.is_empty());
    }
    RoomSummary {
        participants,
        publishers,
        ..summary.clone()
    }
}

/// What one replica tells all, itself included. May be lost: who depends on it must also look on its own now and then.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The replica that tells.
    pub from: String,
    /// What it is about, for example `keys`.
    pub topic: String,
    /// The rest.
    pub body: serde_json::Value,
}

/// Topic of the event that a replica hears when it may have missed others.
pub const MISSED: &str = "missed";

/// How much is allowed: a bucket of `burst` tokens that fills by `per_second`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rate {
    /// Tokens per second, above 0.
    pub per_second: f64,
    /// Tokens that a full bucket holds, at least 1.
    pub burst: f64,
}

/// Whether something is within its rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is.
    Allowed,
    /// It is not.
    Limited {
        /// When it will be, in milliseconds from now.
        retry_after_ms: u64,
    },
}

/// What is known of the moment: who is where. Read by people and the gateway; the planner does not depend on it.
pub trait Ephemeral: fmt::Debug + Send + Sync {
    /// Takes changes, in order. Never waits for another process.
    fn apply(&self, updates: Vec<Update>) -> BoxFuture<'_, Result<(), Error>>;

    /// Takes what this replica knows of what another one owns: shown while the others' part is not known, and told to nobody.
    fn shadow(&self, updates: Vec<Update>);

    /// Tells others all of this replica's part anew: there is more of it than before.
    fn renew(&self) {}

    /// Waits until all replicas see what was applied here before.
    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// All nodes by id.
    fn nodes(&self) -> BoxFuture<'_, Result<Vec<Node>, Error>>;

    /// All rooms by name.
    fn rooms(&self) -> BoxFuture<'_, Result<Vec<RoomSummary>, Error>>;

    /// One room with what every node reported on it.
    fn room<'a>(&'a self, room: &'a str) -> BoxFuture<'a, Result<Option<GetRoomResponse>, Error>>;

    /// All links, by reporting node and peer.
    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, Error>>;

    /// Tells all replicas something.
    fn publish<'a>(
        &'a self,
        topic: &'a str,
        body: serde_json::Value,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Hears what replicas tell from now on.
    fn subscribe(&self) -> broadcast::Receiver<Event>;

    /// Takes one token of a bucket, for example one per address. `now_ms` is milliseconds since the Unix epoch.
    fn take<'a>(
        &'a self,
        bucket: &'a str,
        rate: Rate,
        now_ms: u64,
    ) -> BoxFuture<'a, Result<Taken, Error>>;

    /// Keeps a value for so many milliseconds, in place of the one before.
    fn remember<'a>(
        &'a self,
        name: &'a str,
        value: Vec<u8>,
        valid_ms: u64,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// A value that was kept and is still valid.
    fn recall<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, Error>>;

    /// Whether all replicas' part is known. Otherwise only this one's is, and rates hold for it alone.
    fn whole(&self) -> bool;

    /// Where a participant is: its edge and what that reported of it.
    fn participant<'a>(
        &'a self,
        room: &'a str,
        identity: &'a str,
    ) -> BoxFuture<'a, Result<Option<(NodeId, ParticipantReport)>, Error>> {
        Box::pin(async move {
            let Some(found) = self.room(room).await? else {
                return Ok(None);
            };
            let reports = found.nodes.into_iter().filter_map(|node| {
                let participants = node.report?.participants.into_iter();
                let found = participants
                    .filter(|participant| participant.identity == identity)
                    .max_by_key(|participant| participant.joined_at_ms)?;
                Some((NodeId::from(node.node_id), found))
            });
            // While somebody moves, two edges may report it: the later one is right.
            Ok(reports.max_by_key(|(_, participant)| participant.joined_at_ms))
        })
    }
}

/// A bucket of tokens. Pure: the time is an argument.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bucket {
    tokens: f64,
    at_ms: u64,
}

impl Bucket {
    /// A full one.
    pub fn full(rate: Rate, now_ms: u64) -> Self {
        Self {
            tokens: rate.burst,
            at_ms: now_ms,
        }
    }

    /// Takes one token. A clock that went back fills nothing.
    pub fn take(&mut self, rate: Rate, now_ms: u64) -> Taken {
        self.tokens = self.filled(rate, now_ms);
        self.at_ms = self.at_ms.max(now_ms);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Taken::Allowed;
        }
        let wait_ms = ((1.0 - self.tokens) * 1_000.0 / rate.per_second).ceil();
        Taken::Limited {
            // Finite and not negative, so the cast only cuts what is absurdly far away.
            retry_after_ms: wait_ms as u64,
        }
    }

    /// Whether it is full again, and need not be kept.
    pub fn is_full(&self, rate: Rate, now_ms: u64) -> bool {
        self.filled(rate, now_ms) >= rate.burst
    }

    fn filled(&self, rate: Rate, now_ms: u64) -> f64 {
        // Exact up to 2^53 ms.
        let passed_ms = now_ms.saturating_sub(self.at_ms) as f64;
        (self.tokens + passed_ms * rate.per_second / 1_000.0).min(rate.burst)
    }
}
