//! What waits to be sent to one node. Bounded by what there is to say: a later message replaces an earlier one on the
//! same subject (the peers, the keys, one room's plan), since only the latest matters.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::control::control_message::Message;
use proto::control::{ApiKeys, ControlMessage, PeerList, RoomPlan, Welcome};
use tokio::sync::Notify;
use tonic::Status;

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
    closed: Option<Status>,
}

impl Waiting {
    /// Welcome first, then what plans refer to, then plans.
    fn next(&mut self) -> Option<Message> {
        let head = self.welcome.take().map(Message::Welcome);
        let head = head.or_else(|| self.keys.take().map(Message::Keys));
        let head = head.or_else(|| self.peers.take().map(Message::Peers));
        head.or_else(|| self.plans.pop_first().map(|(_, plan)| Message::Plan(plan)))
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change is one assignment: nothing is half done after a panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message in. True when it replaced a plan that was still waiting.
    pub fn push(&self, message: ControlMessage) -> bool {
        let mut waiting = self.lock();
        let replaced = match message.message {
            Some(Message::Welcome(welcome)) => {
                waiting.welcome = Some(welcome);
                false
            }
            Some(Message::Keys(keys)) => {
                waiting.keys = Some(keys);
                false
            }
            Some(Message::Peers(peers)) => {
                waiting.peers = Some(peers);
                false
            }
            Some(Message::Plan(plan)) => waiting.plans.insert(plan.room.clone(), plan).is_some(),
            None => false,
        };
        drop(waiting);
        self.changed.notify_one();
        replaced
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

    #[tokio::test]
    async fn the_latest_plan_of_a_room_is_sent_after_the_welcome() {
        let outbox = Outbox::default();
        assert!(!outbox.push(plan("R", 1)));
        assert!(outbox.push(plan("R", 2)));
        let welcome = ControlMessage {
            message: Some(Message::Welcome(Welcome::default())),
        };
        outbox.push(welcome.clone());
        assert_eq!(outbox.next().await.expect("open"), welcome);
        assert_eq!(outbox.next().await.expect("open"), plan("R", 2));
        outbox.push(plan("S", 3));
        outbox.close(Status::aborted("replaced"));
        outbox.closed().await;
        assert_eq!(
            outbox.next().await.expect_err("closed").message(),
            "replaced"
        );
    }
}
