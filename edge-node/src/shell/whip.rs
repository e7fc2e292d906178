//! Participants by WHIP and WHEP: sessions that were made by one HTTP request and have no signalling connection.

mod session;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use proto::{Identity, RoomId};
use tokio::sync::{mpsc, oneshot};

use super::edge;
use crate::core::whip::fragment::Fragment;
use crate::core::whip::headers::IfMatch;

pub(super) use session::{Answered, Failed, Start, Work, run};

/// Requests that wait for one session.
const ORDERS: usize = 16;

/// Which of the two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// The client publishes.
    Whip,
    /// The client plays.
    Whep,
}

impl Protocol {
    /// First segment of its paths.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Whip => "whip",
            Self::Whep => "whep",
        }
    }
}

/// Sessions of an edge, by the last segment of their URL.
#[derive(Debug, Default)]
pub struct Sessions {
    open: Mutex<HashMap<String, Entry>>,
}

/// One session, as requests find it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its protocol.
    pub(super) protocol: Protocol,
    /// Its room.
    pub(super) room: RoomId,
    /// Its participant.
    pub(super) identity: Identity,
    /// Where its task takes orders.
    pub(super) orders: mpsc::Sender<Order>,
}

/// What a request asks of a session.
pub(super) enum Order {
    /// `PATCH`: candidates, or new ICE credentials.
    Patch {
        /// What the body says.
        fragment: Fragment,
        /// The `If-Match` field.
        if_match: Option<String>,
        /// Takes the outcome.
        outcome: oneshot::Sender<Patched>,
    },
    /// `DELETE`; the sender is dropped once the participant has left.
    Delete(oneshot::Sender<()>),
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Patch { .. } => "Patch",
            Self::Delete(_) => "Delete",
        })
    }
}

/// What came of a `PATCH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Patched {
    /// Candidates were taken.
    Trickled,
    /// A new ICE session, as a fragment, and its entity tag.
    Restarted { fragment: String, tag: String },
    /// The precondition does not hold.
    Refused(IfMatch),
    /// The fragment names credentials of another ICE session, without asking for a restart.
    OtherSession,
}

impl Sessions {
    /// A place for a new session, under an id that nobody guesses.
    pub(super) fn open(
        &self,
        protocol: Protocol,
        room: RoomId,
        identity: Identity,
    ) -> (String, mpsc::Receiver<Order>) {
        let id = format!("{:016x}{:016x}", edge::random(), edge::random());
        let (orders, taken) = mpsc::channel(ORDERS);
        let entry = Entry {
            protocol,
            room,
            identity,
            orders,
        };
        self.lock().insert(id.clone(), entry);
        (id, taken)
    }

    /// The session of that id.
    pub(super) fn find(&self, id: &str) -> Option<Entry> {
        self.lock().get(id).cloned()
    }

    /// The session is over.
    pub(super) fn close(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
