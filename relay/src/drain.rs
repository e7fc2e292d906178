//! A node's orderly end: from when it is asked to drain it takes nothing new, lets go of what it has, and ends when nothing is
//! left or its time is up. What that means is up to the role; here is what all say of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::control::DrainStatus;
use tokio::sync::watch;
use tokio::time::Instant;

/// Who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// An operator, who may think better of it.
    Operator,
    /// SIGTERM: whoever sent it waits for the process to end.
    Signal,
}

/// A drain that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Order {
    /// Who asked.
    pub asked: Asked,
    /// When it began.
    pub since: Instant,
    /// When the process ends at the latest.
    pub deadline: Instant,
    /// Participants when it began.
    pub clients: u32,
    since_ms: u64,
    deadline_ms: u64,
}

/// Whether the node drains. Clones share it.
#[derive(Clone, Debug)]
pub struct Drain {
    order: watch::Sender<Option<Order>>,
    leaving: Arc<AtomicBool>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            order: watch::Sender::new(None),
            leaving: Arc::default(),
        }
    }
}

impl Drain {
    /// The node drains from now on, or goes on to with another deadline.
    pub fn begin(&self, asked: Asked, within: Duration, clients: u32) {
        let now = Instant::now();
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = ms(wall.unwrap_or_default());
        self.order.send_modify(|order| {
            let before = *order;
            *order = Some(Order {
                asked,
                since: before.map_or(now, |before| before.since),
                since_ms: before.map_or(now_ms, |before| before.since_ms),
                clients: before.map_or(clients, |before| before.clients),
                deadline: now + within,
                deadline_ms: now_ms.saturating_add(ms(within)),
            });
        });
    }

    /// The node stays after all.
    pub fn cancel(&self) {
        self.order.send_if_modified(|order| order.take().is_some());
    }

    /// The drain that is under way.
    pub fn current(&self) -> Option<Order> {
        *self.order.borrow()
    }

    /// Whether one is.
    pub fn is_on(&self) -> bool {
        self.order.borrow().is_some()
    }

    /// Learns of every change.
    pub fn subscribe(&self) -> watch::Receiver<Option<Order>> {
        self.order.subscribe()
    }

    /// The process ends now; the next report says so.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// What the control plane is told; `tunnels` are connections that are handed on to other nodes.
    pub fn status(&self, tunnels: u32) -> Option<DrainStatus> {
        let order = self.current()?;
        Some(DrainStatus {
            since_ms: order.since_ms,
            deadline_ms: order.deadline_ms,
            clients: order.clients,
            tunnels,
            leaving: self.leaving.load(Ordering::Acquire),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_order_moves_the_deadline_and_not_the_beginning() {
        let drain = Drain::default();
        assert_eq!(drain.status(0), None);
        drain.begin(Asked::Operator, Duration::from_secs(300), 7);
        let first = drain.current().unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        drain.begin(Asked::Signal, Duration::from_secs(60), 3);
        let second = drain.current().unwrap();
        assert_eq!((second.since, second.clients), (first.since, 7));
        assert_eq!(second.deadline, first.since + Duration::from_secs(65));
        let status = drain.status(2).unwrap();
        assert_eq!((status.tunnels, status.leaving), (2, false));
        drain.leave();
        assert!(drain.status(2).unwrap().leaving);
        drain.cancel();
        assert!(!drain.is_on());
    }
}
