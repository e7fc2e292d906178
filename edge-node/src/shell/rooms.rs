//! Rooms served by this edge.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::RoomId;
use tokio::sync::{OnceCell, mpsc};

use super::edge::{OpenError, SharedEdge};
use super::room::{self, Mail};
use super::session::Mail as SessionMail;
use crate::core::room::Join;

/// Where a room's task takes its mail.
pub type Mailbox = mpsc::Sender<Mail>;

/// How often a join is tried when its room ends at the same moment.
const JOIN_TRIES: usize = 3;

/// Brings a participant into a room, whose mail for it goes to `session`. `None` when the room cannot be entered.
pub async fn join(
    edge: &SharedEdge,
    name: &RoomId,
    request: impl Fn() -> Join,
    session: mpsc::Sender<SessionMail>,
) -> Option<Mailbox> {
    for _ in 0..JOIN_TRIES {
        let request = request();
        let config = request.grants.room_configuration();
        let entered = edge.rooms.enter(edge, name, &config).await.ok()?;
        let join = Mail::Join(Box::new(request), session.clone());
        if entered.send(join).await.is_ok() {
            return Some(entered);
        }
    }
    None
}

/// Rooms served by this edge.
#[derive(Debug, Default)]
pub struct Rooms {
    open: Mutex<HashMap<RoomId, Arc<OnceCell<Mailbox>>>>,
}

impl Rooms {
    /// The room's mailbox; a room that is not served here yet is asked of the control plane, once for all that wait for it.
    /// `config` is a `livekit.RoomConfiguration` for a room that begins with this, or empty.
    ///
    /// # Errors
    /// When the control plane cannot be asked.
    pub async fn enter(
        &self,
        edge: &SharedEdge,
        name: &RoomId,
        config: &[u8],
    ) -> Result<Mailbox, OpenError> {
        let cell = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(open.entry(name.clone()).or_default())
        };
        let mailbox = cell
            .get_or_try_init(|| room::open(edge, name, config))
            .await;
        if mailbox.is_err() {
            self.forget_unopened(name);
        }
        mailbox.cloned()
    }

    /// The room's mailbox, when it is served here.
    pub fn find(&self, name: &RoomId) -> Option<Mailbox> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(name).and_then(|cell| cell.get().cloned())
    }

    /// All rooms served here.
    pub fn all(&self) -> Vec<Mailbox> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values()
            .filter_map(|cell| cell.get().cloned())
            .collect()
    }

    /// Takes a room off the list if nothing waits in its mailbox. Under the list's lock, so that nobody gets a mailbox that closes.
    pub fn close(&self, name: &RoomId, mailbox: &mut mpsc::Receiver<Mail>) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !mailbox.is_empty() {
            return false;
        }
        mailbox.close();
        open.remove(name);
        true
    }

    fn forget_unopened(&self, name: &RoomId) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(name).is_some_and(|cell| cell.get().is_none()) {
            open.remove(name);
        }
    }
}
