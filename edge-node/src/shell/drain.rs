//! Drains the edge: its clients are told, one after the other, to go elsewhere, and the process ends when the last one has left or
//! the time is up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use proto::ParticipantSid;
use proto::control::PlaceResponse;
use proto::control::node_message::Message as ToControl;
use relay::control::Status;
use relay::drain::{Asked, Order};
use runtime::admin::Readiness;
use runtime::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::edge::SharedEdge;
use super::elsewhere;
use super::reports::Owner;
use super::room::Mail;
use crate::core::drain::Pace;

/// How often it is looked who is still here.
const TICK: Duration = Duration::from_millis(100);
/// The process outlives its last client by this: one that was told to go comes back once more, to be handed on.
const QUIET: Duration = Duration::from_secs(3);
/// With no other edge to go to for so long, a process that was sent SIGTERM does not wait any longer.
const HOPELESS: Duration = Duration::from_secs(10);
/// From when until the deadline whoever is left is said goodbye, so that the process is gone by then; a quarter of a short drain.
const GOODBYE: Duration = Duration::from_millis(3_500);
/// Clients that are told in one tick. Whoever thinks better of a drain, or waits for its end, is heard after each.
const BATCH: usize = 16;
/// When it is asked again where somebody may go who has nowhere to go.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long the last report has to reach the control plane.
const FAREWELL: Duration = Duration::from_millis(100);

/// Why a drain ended.
#[derive(PartialEq, Eq)]
enum End {
    /// Everybody has left, or the time is up.
    Over,
    /// The edge is to stay.
    Cancelled,
    /// The process stops anyway.
    Stopped,
}

/// Follows orders to drain, and SIGTERM as one of `within`, until the process stops.
pub async fn follow(
    edge: SharedEdge,
    status: impl Fn() -> Status + Send + Sync + 'static,
    (readiness, shutdown): (Readiness, Shutdown),
    within: Duration,
) {
    let mut orders = edge.drain.subscribe();
    let tell = || {
        // Without a session the next one begins with a report.
        edge.control.send(ToControl::Load(status().load)).ok();
    };
    loop {
        let asked = tokio::select! {
            changed = orders.changed() => changed.is_ok(),
            () = shutdown.drain_wanted() => {
                begin(&edge, within);
                true
            }
            () = shutdown.wait() => false,
        };
        if !asked {
            return;
        }
        let Some(order) = *orders.borrow_and_update() else {
            continue;
        };
        tracing::info!(clients = order.clients, "draining");
        readiness.set(false);
        edge.metrics.draining.set(1);
        tell();
        let mut departures = Departures::new(&edge, order);
        match departures.run(&mut orders, &shutdown, within).await {
            End::Cancelled => {
                tracing::info!("staying after all");
                readiness.set(true);
                edge.metrics.draining.set(0);
                tell();
            }
            End::Over => {
                let left = departures.here().len();
                tracing::info!(left, tunnels = edge.tunnels.open(), "drained");
                super::say_goodbye(&edge).await;
                edge.drain.leave();
                tell();
                tokio::time::sleep(FAREWELL).await;
                return shutdown.trigger();
            }
            End::Stopped => return,
        }
    }
}

fn begin(edge: &SharedEdge, within: Duration) {
    let clients = u32::try_from(edge.metrics.participants.get()).unwrap_or(0);
    edge.drain.begin(Asked::Signal, within, clients);
}

/// Clients on their way out.
struct Departures<'a> {
    edge: &'a SharedEdge,
    order: Order,
    pace: Pace,
    /// How many were told before the pace began.
    earlier: usize,
    told: BTreeSet<ParticipantSid>,
    /// Those that had nowhere to go when it was asked last.
    unplaced: BTreeMap<ParticipantSid, Instant>,
    /// When somebody was last here or handed on; `None` when nobody ever was.
    busy: Option<Instant>,
    /// Since when there is nowhere to go.
    stuck: Option<Instant>,
}

impl<'a> Departures<'a> {
    fn new(edge: &'a SharedEdge, order: Order) -> Self {
        let mut departures = Self {
            edge,
            order,
            pace: Pace::new(std::time::Instant::now(), 0, Duration::ZERO),
            earlier: 0,
            told: BTreeSet::new(),
            unplaced: BTreeMap::new(),
            busy: None,
            stuck: None,
        };
        departures.set_pace(order);
        departures
    }

    fn set_pace(&mut self, order: Order) {
        let within = order.deadline.saturating_duration_since(Instant::now());
        self.order = order;
        self.earlier = self.told.len();
        self.pace = Pace::new(std::time::Instant::now(), self.here().len(), within);
    }

    async fn run(
        &mut self,
        orders: &mut watch::Receiver<Option<Order>>,
        shutdown: &Shutdown,
        within: Duration,
    ) -> End {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = orders.changed() => match *orders.borrow_and_update() {
                    Some(order) => self.set_pace(order),
                    None => return End::Cancelled,
                },
                () = shutdown.drain_wanted(), if self.order.asked == Asked::Operator => {
                    // Whoever sent it does not wait for as long as an operator would.
                    let left = self.order.deadline.saturating_duration_since(Instant::now());
                    begin(self.edge, within.min(left));
                }
                () = shutdown.wait() => return End::Stopped,
            }
            if self.is_over() {
                return End::Over;
            }
            // Rooms and the control plane may be slow, the deadline is not.
            let told = tokio::time::timeout_at(self.goodbye_at(), self.tell_next());
            told.await.ok();
        }
    }

    /// Everybody who is here, room by room.
    fn here(&self) -> BTreeMap<(String, ParticipantSid), Owner> {
        let owners = self.edge.reports.owners().into_iter();
        owners
            .map(|owner| ((owner.room.to_string(), owner.sid.clone()), owner))
            .collect()
    }

    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        let connected = self.edge.metrics.participants.get() > 0;
        if connected || self.edge.tunnels.open() > 0 || !self.here().is_empty() {
            self.busy = Some(now);
        }
        let quiet = self.busy.is_none_or(|busy| now - busy >= QUIET);
        let signal = self.order.asked == Asked::Signal;
        let hopeless = self.stuck.is_some_and(|since| now - since >= HOPELESS);
        quiet || now >= self.goodbye_at() || (signal && hopeless)
    }

    /// From when on there is only time for a goodbye.
    fn goodbye_at(&self) -> Instant {
        let Order {
            since, deadline, ..
        } = self.order;
        deadline - GOODBYE.min(deadline.saturating_duration_since(since) / 4)
    }

    /// Tells those who are due. Who has nowhere to go, because a room is confined to a country, holds up nobody else.
    async fn tell_next(&mut self) {
        let now = Instant::now();
        let due = self.pace.due(now.into_std());
        let due = due.saturating_sub(self.told.len() - self.earlier);
        let asked_lately = |asked: &Instant| now - *asked < ASK_AGAIN;
        let mut waiting: Vec<_> = self.here().into_values().collect();
        waiting.retain(|owner| !self.told.contains(&owner.sid));
        let mut next: Vec<_> = waiting.iter().collect();
        next.retain(|owner| !self.unplaced.get(&owner.sid).is_some_and(asked_lately));
        next.truncate(due.min(BATCH));
        let edge = self.edge;
        let asking = next.into_iter().map(|owner| async move {
            let who = (&owner.room, &owner.identity);
            (owner, elsewhere::ask(edge, who, None, false).await)
        });
        for (owner, answer) in join_all(asking).await {
            match answer {
                Ok(Some(seat)) if seat.node_id != edge.node.as_str() => self.tell(owner, seat),
                outcome => {
                    tracing::debug!(?outcome, "there is no other edge for a client");
                    self.unplaced.insert(owner.sid.clone(), now);
                }
            }
        }
        let stuck = |owner: &Owner| {
            self.unplaced.contains_key(&owner.sid) && !self.told.contains(&owner.sid)
        };
        let all_stuck = !waiting.is_empty() && waiting.iter().all(stuck);
        self.stuck = all_stuck.then(|| self.stuck.unwrap_or(now));
    }

    /// Tells a client where to go, if its room takes the message now; else it is told later.
    fn tell(&mut self, owner: &Owner, seat: PlaceResponse) {
        let Some(room) = self.edge.rooms.find(&owner.room) else {
            return;
        };
        tracing::debug!(participant_id = %owner.sid, to = seat.node_id, "client is told to go elsewhere");
        let depart = Mail::Depart(owner.sid.clone(), elsewhere::directions(seat));
        if room.try_send(depart).is_ok() {
            self.edge.metrics.departures.inc();
            self.unplaced.remove(&owner.sid);
            self.told.insert(owner.sid.clone());
        }
    }
}
