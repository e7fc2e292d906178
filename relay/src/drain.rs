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
    /// The node drains from now on, or goes on to with another deadline. Whoever sent SIGTERM waits: from then on a deadline is only
    /// ever moved forward.
    pub fn begin(&self, asked: Asked, within: Duration, clients: u32) {
        let now = Instant::now();
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = ms(wall.unwrap_or_default());
        self.order.send_modify(|order| {
            let before = *order;
            let by_signal = |order: Order| order.asked == Asked::Signal;
            let waited_for = asked == Asked::Signal || before.is_some_and(by_signal);
            let asked = if waited_for { Asked::Signal } else { asked };
            let left = before.map(|before| before.deadline.saturating_duration_since(now));
            let within = match left {
                Some(left) if waited_for => within.min(left),
                _ => within,
            };
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

    /// The node stays after all; false after SIGTERM: it ends.
    pub fn cancel(&self) -> bool {
        let mut stays = true;
        self.order.send_if_modified(|order| {
            stays = order.is_none_or(|order| order.asked == Asked::Operator);
            stays && order.take().is_some()
        });
        stays
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

    #[test]
    fn a_second_order_moves_the_deadline_and_not_the_beginning() {
        let drain = Drain::default();
        assert_eq!(drain.status(0), None);
        let before = Instant::now();
        drain.begin(Asked::Operator, Duration::from_secs(300), 7);
        let first = drain.current().unwrap();
        assert!(first.deadline >= before + Duration::from_secs(300));
        std::thread::sleep(Duration::from_millis(20));
        drain.begin(Asked::Signal, Duration::from_secs(60), 3);
        let second = drain.current().unwrap();
        assert_eq!((second.since, second.clients), (first.since, 7));
        assert!(second.deadline >= first.since + Duration::from_millis(60_020));
        assert!(second.deadline < first.deadline);
        let status = drain.status(2).unwrap();
        assert_eq!((status.tunnels, status.leaving), (2, false));
        drain.leave();
        assert!(drain.status(2).unwrap().leaving);
        assert!(!drain.cancel(), "whoever sent SIGTERM waits");
        drain.begin(Asked::Operator, Duration::from_secs(300), 7);
        assert!(drain.current().unwrap().deadline <= second.deadline);
        let other = Drain::default();
        other.begin(Asked::Operator, Duration::from_secs(300), 7);
        assert!(other.cancel());
        assert!(!other.is_on());
    }
}
