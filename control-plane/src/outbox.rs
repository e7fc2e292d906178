//! What waits to be sent to one node. Bounded by what there is to say: a later message replaces an earlier one on the
//! same subject (the peers, the keys, one room's plan), since only the latest matters. Commands each matter: there may be so
//! many of them, and further ones are refused.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::control::control_message::Message;
use proto::control::{ApiKeys, Command, ControlMessage, PeerList, RoomPlan, Welcome};
use tokio::sync::Notify;
use tonic::Status;

/// Commands that may wait.
const COMMANDS_MAX: usize = 1_024;

/// What became of a message that was put in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It waits.
    Queued,
    /// It waits in the place of an earlier plan of the same room.
    Replaced,
    /// There are too many commands already.
    Refused,
}

/// The queue of one session: filled by the control plane's task, emptied by the session's stream.
#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    welcome: Option<Welcome>,
    keys: Option<ApiKeys>,
    peers: Option<PeerList>,
    plans: BTreeMap<String, RoomPlan>,
    commands: VecDeque<Command>,
    closed: Option<Status>,
}

impl Waiting {
    /// Welcome first, then what plans refer to, then plans, then what is to be done in rooms.
    fn next(&mut self) -> Option<Message> {
        let head = self.welcome.take().map(Message::Welcome);
        let head = head.or_else(|| self.keys.take().map(Message::Keys));
        let head = head.or_else(|| self.peers.take().map(Message::Peers));
        let head = head.or_else(|| self.plans.pop_first().map(|(_, plan)| Message::Plan(plan)));
        head.or_else(|| self.commands.pop_front().map(Message::Command))
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change is one assignment: nothing is half done after a panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message in.
    pub fn push(&self, message: ControlMessage) -> Pushed {
        let mut waiting = self.lock();
        let mut pushed = Pushed::Queued;
        match message.message {
            Some(Message::Welcome(welcome)) => waiting.welcome = Some(welcome),
            Some(Message::Keys(keys)) => waiting.keys = Some(keys),
            Some(Message::Peers(peers)) => waiting.peers = Some(peers),
            Some(Message::Plan(plan)) => {
                let before = waiting.plans.insert(plan.room.clone(), plan);
                if before.is_some() {
                    pushed = Pushed::Replaced;
                }
            }
            Some(Message::Command(_)) if waiting.commands.len() >= COMMANDS_MAX => {
                pushed = Pushed::Refused;
            }
            Some(Message::Command(command)) => waiting.commands.push_back(command),
            None => {}
        }
        drop(waiting);
        self.changed.notify_one();
        pushed
    }

    /// Ends the session; what waits is dropped.
    pub fn close(&self, reason: Status) {
        self.lock().closed.get_or_insert(reason);
        self.changed.notify_one();
        self.ended.notify_one();
    }

    /// The next message, as soon as there is one; `Err` once when the session is closed.
    ///
    /// # Errors
    /// The reason for which the session was closed.
    pub async fn next(&self) -> Result<ControlMessage, Status> {
        loop {
            let changed = self.changed.notified();
            {
                let mut waiting = self.lock();
                if let Some(reason) = &waiting.closed {
                    return Err(reason.clone());
                }
                if let Some(message) = waiting.next() {
                    return Ok(ControlMessage {
                        message: Some(message),
                    });
                }
            }
            changed.await;
        }
    }

    /// Completes when the session is closed. For one waiter.
    pub async fn closed(&self) {
        self.ended.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(room: &str, epoch: u64) -> ControlMessage {
        let plan = RoomPlan {
            room: room.to_owned(),
            epoch,
            ..RoomPlan::default()
        };
        ControlMessage {
            message: Some(Message::Plan(plan)),
        }
    }

    fn command(request_id: usize) -> ControlMessage {
        let command = Command {
            request_id: u64::try_from(request_id).expect("fits"),
            ..Command::default()
        };
        ControlMessage {
            message: Some(Message::Command(command)),
        }
    }

    #[tokio::test]
    async fn the_latest_plan_of_a_room_is_sent_after_the_welcome() {
        let outbox = Outbox::default();
        assert_eq!(outbox.push(plan("R", 1)), Pushed::Queued);
        assert_eq!(outbox.push(plan("R", 2)), Pushed::Replaced);
        let welcome = ControlMessage {
            message: Some(Message::Welcome(Welcome::default())),
        };
        outbox.push(welcome.clone());
        assert_eq!(outbox.next().await.expect("open"), welcome);
        assert_eq!(outbox.next().await.expect("open"), plan("R", 2));
        for request_id in 0..COMMANDS_MAX {
            assert_eq!(outbox.push(command(request_id)), Pushed::Queued);
        }
        assert_eq!(outbox.push(command(COMMANDS_MAX)), Pushed::Refused);
        assert_eq!(outbox.next().await.expect("open"), command(0));
        outbox.push(plan("S", 3));
        outbox.close(Status::aborted("replaced"));
        outbox.closed().await;
        assert_eq!(
            outbox.next().await.expect_err("closed").message(),
            "replaced"
        );
    }
}
