//! The task that owns the core: feeds it, saves what it wants saved, then sends what it wants sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::control::control_message::Message as Down;
use proto::control::node_message::Message as Up;
use proto::control::{ApiKey, AssignResponse, ControlMessage, Hello, NodeState};
use proto::{NodeId, RoomId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::core::{Answer, AssignError, Call, CallError, Core, Input, Output, Settings, Ticket};
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Pushed};
use crate::planner::Decision;
use crate::registry::SessionId;
use crate::store::{Change, Durable, Ephemeral, Fenced, Saved, Update};
use crate::webhook::Webhooks;

/// Commands that wait; senders wait beyond it.
const QUEUE: usize = 4_096;
/// Commands taken at once: they share one transaction.
const BATCH: usize = 256;
/// How often gauges are set.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// Participants' sessions and events that wait while the store is away.
const HISTORY_MAX: usize = 100_000;
/// Of those, how many are saved at once: what piled up must not hold up rooms for longer than some tenths of a second.
const HISTORY_BATCH: usize = 500;
/// Longest wait for the store.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Command {
    Connect {
        session: SessionId,
        hello: Hello,
        outbox: Arc<Outbox>,
    },
    Message {
        session: SessionId,
        message: Up,
    },
    Disconnect {
        session: SessionId,
    },
    Assign {
        node: NodeId,
        room: RoomId,
        room_config: Vec<u8>,
        reply: oneshot::Sender<Result<AssignResponse, AssignError>>,
    },
    Keys(Vec<ApiKey>),
    Decision {
        room: RoomId,
        reply: oneshot::Sender<Option<Decision>>,
    },
    Call {
        call: Call,
        reply: oneshot::Sender<Result<Answer, CallError>>,
    },
}

/// The control plane's task has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the control plane is stopping")]
pub struct Stopped;

/// Speaks to the task. Clones speak to the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    sessions: Arc<AtomicU64>,
}

impl Handle {
    /// Begins a session; what the node is to hear goes into `outbox`.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn connect(&self, hello: Hello, outbox: Arc<Outbox>) -> Result<SessionId, Stopped> {
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        self.send(Command::Connect {
            session,
            hello,
            outbox,
        })
        .await?;
        Ok(session)
    }

    /// A message of a session after its hello.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn message(&self, session: SessionId, message: Up) -> Result<(), Stopped> {
        self.send(Command::Message { session, message }).await
    }

    /// Ends a session.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn disconnect(&self, session: SessionId) -> Result<(), Stopped> {
        self.send(Command::Disconnect { session }).await
    }

    /// Makes an edge a member of a room and returns its plan.
    ///
    /// # Errors
    /// When the task has ended; the inner result says why an edge gets no plan.
    pub async fn assign(
        &self,
        node: NodeId,
        room: RoomId,
        room_config: Vec<u8>,
    ) -> Result<Result<AssignResponse, AssignError>, Stopped> {
        let (reply, answer) = oneshot::channel();
        let assign = Command::Assign {
            node,
            room,
            room_config,
            reply,
        };
        self.send(assign).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// Hands all nodes other API keys.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn keys(&self, keys: Vec<ApiKey>) -> Result<(), Stopped> {
        self.send(Command::Keys(keys)).await
    }

    /// The decision that a room's plan is from; `None` for a room that does not live.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn decision(&self, room: RoomId) -> Result<Option<Decision>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Decision { room, reply }).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// Does what an application's server asks for.
    ///
    /// # Errors
    /// Why nothing came of it; [`CallError::Stopped`] when the task has ended.
    pub async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.send(Command::Call { call, reply }).await;
        sent.map_err(|Stopped| CallError::Stopped)?;
        answer.await.unwrap_or(Err(CallError::Stopped))
    }

    async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).await.map_err(|_| Stopped)
    }
}

/// Where the task's outputs go.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Outlives the process.
    pub durable: Arc<dyn Durable>,
    /// For people and the gateway.
    pub ephemeral: Arc<dyn Ephemeral>,
    /// For applications; without it nobody is told of events.
    pub webhooks: Option<Webhooks>,
}

/// Starts the task with what was saved. It ends when `shutdown` is triggered.
pub fn spawn(
    settings: Settings,
    saved: Saved,
    stores: Stores,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> (Handle, tokio::task::JoinHandle<()>) {
    let (commands, queue) = mpsc::channel(QUEUE);
    let actor = Actor {
        core: Core::new(settings),
        stores,
        metrics,
        sessions: BTreeMap::new(),
        assigns: BTreeMap::new(),
        calls: BTreeMap::new(),
        tickets: 0,
        unsaved: Unsaved::default(),
    };
    let handle = Handle {
        commands,
        sessions: Arc::new(AtomicU64::new(1)),
    };
    (handle, tokio::spawn(actor.run(saved, queue, shutdown)))
}

/// Changes that wait to be saved: the latest of each room and node.
#[derive(Debug, Default)]
struct Unsaved {
    ended: BTreeMap<String, Change>,
    rooms: BTreeMap<String, Change>,
    nodes: BTreeMap<NodeId, Change>,
    /// What happened, in order.
    history: VecDeque<Change>,
}

impl Unsaved {
    fn add(&mut self, change: Change) {
        match &change {
            Change::Room(room) => drop(self.rooms.insert(room.sid.to_string(), change)),
            Change::RoomEnded { sid, .. } => drop(self.ended.insert(sid.to_string(), change)),
            Change::Node(hello) => {
                drop(
                    self.nodes
                        .insert(NodeId::from(hello.node_id.as_str()), change),
                );
            }
            Change::NodeForgotten(node) => drop(self.nodes.insert(node.clone(), change)),
            Change::Joined(_) | Change::Left { .. } | Change::Webhook(_) => {
                self.history.push_back(change);
            }
        }
    }

    /// Drops the oldest history beyond what is kept while the store is away; returns how much.
    fn bound(&mut self) -> usize {
        let excess = self.history.len().saturating_sub(HISTORY_MAX);
        self.history.drain(..excess);
        excess
    }

    /// All changes, of the history the oldest: ends of rooms before beginnings, so that a room of the same name may begin. One that began and ended
    /// unsaved has no row and gets none.
    fn changes(&self) -> Vec<Change> {
        let living = self
            .rooms
            .iter()
            .filter(|(sid, _)| !self.ended.contains_key(*sid));
        let rooms = self.ended.values().chain(living.map(|(_, change)| change));
        rooms
            .chain(self.nodes.values())
            .chain(self.history.iter().take(HISTORY_BATCH))
            .cloned()
            .collect()
    }

    /// Forgets what [`Unsaved::changes`] gave.
    fn saved(&mut self) {
        self.ended.clear();
        self.rooms.clear();
        self.nodes.clear();
        let count = self.history.len().min(HISTORY_BATCH);
        self.history.drain(..count);
    }

    /// Drops what is still to be told of rooms whose changes were not saved.
    fn drop_events(&mut self, fenced: &[Fenced]) {
        let of_fenced = |room: &RoomId| fenced.iter().any(|fenced| fenced.room == *room);
        self.history.retain(|change| match change {
            Change::Webhook(webhook) => !of_fenced(&webhook.room),
            _ => true,
        });
    }

    fn is_empty(&self) -> bool {
        self.rooms.is_empty()
            && self.ended.is_empty()
            && self.nodes.is_empty()
            && self.history.is_empty()
    }

    fn rooms(&self) -> Vec<RoomId> {
        let name = |change: &Change| match change {
            Change::Room(room) => Some(room.room.clone()),
            Change::RoomEnded { .. }
            | Change::Node(_)
            | Change::NodeForgotten(_)
            | Change::Joined(_)
            | Change::Left { .. }
            | Change::Webhook(_) => None,
        };
        self.rooms.values().filter_map(name).collect()
    }
}

/// What may be done once changes are saved.
#[derive(Debug, Default)]
struct Effects {
    messages: Vec<(SessionId, ControlMessage)>,
    assigned: Vec<(Ticket, Result<AssignResponse, AssignError>)>,
    answers: Vec<(Ticket, Result<Answer, CallError>)>,
    closes: Vec<(SessionId, Status)>,
    updates: Vec<Update>,
}

#[derive(Debug)]
struct Actor {
    core: Core,
    stores: Stores,
    metrics: Metrics,
    sessions: BTreeMap<SessionId, Arc<Outbox>>,
    assigns: BTreeMap<Ticket, oneshot::Sender<Result<AssignResponse, AssignError>>>,
    calls: BTreeMap<Ticket, oneshot::Sender<Result<Answer, CallError>>>,
    tickets: u64,
    unsaved: Unsaved,
}

impl Actor {
    async fn run(
        mut self,
        saved: Saved,
        mut queue: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut gauges = tokio::time::interval(GAUGE_INTERVAL);
        gauges.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.core
            .handle_input(Instant::now(), Input::Restore(saved));
        loop {
            let deadline = self.work().await;
            tokio::select! {
                () = shutdown.cancelled() => break,
                taken = queue.recv_many(&mut batch, BATCH) => if taken == 0 { break },
                () = tokio::time::sleep_until(deadline.into()) => {}
                _ = gauges.tick() => self.set_gauges(),
            }
            let now = Instant::now();
            for command in batch.drain(..) {
                self.take(now, command);
            }
            self.core.handle_input(now, Input::Timeout);
        }
        for outbox in self.sessions.values() {
            outbox.close(Status::unavailable("the control plane is stopping"));
        }
    }

    fn take(&mut self, now: Instant, command: Command) {
        let input = match command {
            Command::Connect {
                session,
                hello,
                outbox,
            } => {
                self.sessions.insert(session, outbox);
                Input::Connected { session, hello }
            }
            Command::Message { session, message } => Input::Message { session, message },
            Command::Disconnect { session } => {
                self.sessions.remove(&session);
                Input::Disconnected { session }
            }
            Command::Assign {
                node,
                room,
                room_config,
                reply,
            } => {
                let ticket = self.ticket();
                self.assigns.insert(ticket, reply);
                Input::Assign {
                    ticket,
                    node,
                    room,
                    room_config,
                }
            }
            Command::Call { call, reply } => {
                let ticket = self.ticket();
                self.calls.insert(ticket, reply);
                Input::Call { ticket, call }
            }
            Command::Keys(keys) => Input::Keys(keys),
            Command::Decision { room, reply } => {
                // The caller may have gone meanwhile.
                reply.send(self.core.decision(&room)).ok();
                return;
            }
        };
        self.core.handle_input(now, input);
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Does what the core wants; returns when it wants to be called again.
    async fn work(&mut self) -> Instant {
        let mut effects = Effects::default();
        let deadline = loop {
            match self.core.poll_output(Instant::now()) {
                Output::Save(change) => self.unsaved.add(change),
                Output::Transmit { session, message } => effects.messages.push((session, message)),
                Output::Assigned { ticket, result } => effects.assigned.push((ticket, result)),
                Output::Answered { ticket, result } => effects.answers.push((ticket, result)),
                Output::Event(event) => {
                    if let Some(webhooks) = &self.stores.webhooks {
                        webhooks
                            .changes(&event)
                            .for_each(|change| self.unsaved.add(change));
                    }
                }
                Output::Close { session, reason } => {
                    let status = reason.map_or_else(
                        || Status::aborted("another session of the node took over"),
                        |refused| Status::failed_precondition(refused.to_string()),
                    );
                    effects.closes.push((session, status));
                }
                Output::Update(update) => effects.updates.push(update),
                Output::Timeout(at) => break at,
            }
        };
        let outcome = if self.unsaved.is_empty() {
            Some(Vec::new())
        } else {
            self.save().await
        };
        self.act(effects, outcome.as_deref()).await;
        let input = match outcome {
            Some(fenced) if fenced.is_empty() && self.unsaved.is_empty() => return deadline,
            // The next part of what piled up.
            Some(fenced) if fenced.is_empty() => return Instant::now(),
            Some(fenced) => Input::Fenced(fenced),
            None => Input::SaveFailed {
                rooms: self.unsaved.rooms(),
            },
        };
        let failed = matches!(input, Input::SaveFailed { .. });
        self.core.handle_input(Instant::now(), input);
        if !failed {
            // What it wants now is done at once.
            return Instant::now();
        }
        // A failed save sets a timer and does nothing else.
        if let Output::Timeout(at) = self.core.poll_output(Instant::now()) {
            at
        } else {
            deadline
        }
    }

    /// Saves what waits; the rooms that another replica planned meanwhile, or `None` when nothing was saved.
    async fn save(&mut self) -> Option<Vec<Fenced>> {
        let changes = self.unsaved.changes();
        let saving = tokio::time::timeout(SAVE_TIMEOUT, self.stores.durable.save(&changes));
        let error = match saving.await {
            Ok(Ok(fenced)) => {
                self.metrics.stores.saves.with_label_values(&["ok"]).inc();
                let count = u64::try_from(fenced.len()).unwrap_or(u64::MAX);
                self.metrics.stores.fenced.inc_by(count);
                self.unsaved.saved();
                self.unsaved.drop_events(&fenced);
                return Some(fenced);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        self.metrics
            .stores
            .saves
            .with_label_values(&["failed"])
            .inc();
        let lost = self.unsaved.bound();
        if lost > 0 {
            let count = u64::try_from(lost).unwrap_or(u64::MAX);
            let counter = self.metrics.stores.saves.with_label_values(&["lost"]);
            counter.inc_by(count);
            tracing::warn!(lost, "history dropped: the store is away for too long");
        }
        tracing::warn!(
            error,
            changes = changes.len(),
            "changes could not be saved; plans are held back"
        );
        None
    }

    /// Acts on what was saved, but for the rooms that were fenced; `None` when nothing was saved.
    async fn act(&mut self, effects: Effects, outcome: Option<&[Fenced]>) {
        if let Err(error) = self.stores.ephemeral.apply(effects.updates).await {
            tracing::warn!(%error, "ephemeral store refused changes");
        }
        if outcome.is_some()
            && let Some(webhooks) = &self.stores.webhooks
        {
            webhooks.notify();
        }
        let fenced = |room: &str| {
            let rooms = outcome.unwrap_or_default().iter();
            rooms.into_iter().any(|fenced| fenced.room.as_str() == room)
        };
        for (session, message) in effects.messages {
            let held = match &message.message {
                Some(Down::Plan(_)) if outcome.is_none() => Some("unsaved"),
                Some(Down::Plan(plan)) if fenced(&plan.room) => Some("fenced"),
                _ => None,
            };
            self.deliver(session, message, held);
        }
        for (ticket, result) in effects.assigned {
            let result = match result {
                Ok(_) if outcome.is_none() => Err(AssignError::NotSaved),
                Ok(answer) if answer.plan.as_ref().is_some_and(|plan| fenced(&plan.room)) => {
                    Err(AssignError::Fenced)
                }
                other => other,
            };
            if let Some(call) = self.assigns.remove(&ticket) {
                // The caller may have gone meanwhile.
                call.send(result).ok();
            }
        }
        for (ticket, result) in effects.answers {
            // What an edge did is done, whether or not anything else could be saved.
            let result = match result {
                Ok(Answer::Room(_) | Answer::Done) if outcome.is_none() => Err(CallError::NotSaved),
                Ok(Answer::Room(room)) if fenced(&room.name) => Err(CallError::NotSaved),
                // It does not say of which room; to end one again does no harm.
                Ok(Answer::Done) if outcome.is_some_and(|fenced| !fenced.is_empty()) => {
                    Err(CallError::NotSaved)
                }
                result => result,
            };
            if let Some(call) = self.calls.remove(&ticket) {
                call.send(result).ok();
            }
        }
        for (session, status) in effects.closes {
            if let Some(outbox) = self.sessions.remove(&session) {
                outbox.close(status);
            }
        }
    }

    /// Hands a message to its session; `held` is why a plan must not be sent.
    fn deliver(&self, session: SessionId, message: ControlMessage, held: Option<&'static str>) {
        let plan = matches!(message.message, Some(Down::Plan(_)));
        let dropped = |reason| {
            self.metrics
                .plans_dropped
                .with_label_values(&[reason])
                .inc()
        };
        if let Some(reason) = held {
            return dropped(reason);
        }
        match self.sessions.get(&session) {
            None if plan => dropped("disconnected"),
            None => {}
            Some(outbox) => {
                match outbox.push(message) {
                    Pushed::Queued => {}
                    Pushed::Replaced => dropped("replaced"),
                    // Its caller hears of it when the time is up.
                    Pushed::Refused => self.metrics.commands_refused.inc(),
                }
                if plan {
                    self.metrics.plans_sent.inc();
                }
            }
        }
    }

    fn set_gauges(&self) {
        self.metrics
            .rooms
            .set(i64::try_from(self.core.room_count()).unwrap_or(i64::MAX));
        for (state, label) in [
            (NodeState::Starting, "starting"),
            (NodeState::Ready, "ready"),
            (NodeState::Draining, "draining"),
            (NodeState::Suspect, "suspect"),
            (NodeState::Dead, "dead"),
        ] {
            let nodes = i64::try_from(self.core.node_count(state)).unwrap_or(i64::MAX);
            self.metrics.nodes.with_label_values(&[label]).set(nodes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(number: usize) -> Change {
        Change::Left {
            participant: format!("PA_{number}"),
            at_ms: 1,
        }
    }

    #[test]
    fn history_is_saved_in_parts_and_bounded() {
        let mut unsaved = Unsaved::default();
        for number in 0..HISTORY_BATCH + 1 {
            unsaved.add(left(number));
        }
        unsaved.add(Change::NodeForgotten("a".into()));
        let first = unsaved.changes();
        assert_eq!(first.len(), 1 + HISTORY_BATCH);
        assert_eq!(first[1], left(0));
        unsaved.saved();
        assert_eq!(unsaved.changes(), [left(HISTORY_BATCH)]);
        unsaved.saved();
        assert!(unsaved.is_empty());

        for number in 0..HISTORY_MAX + 3 {
            unsaved.add(left(number));
        }
        assert_eq!(unsaved.bound(), 3);
        assert_eq!(unsaved.changes()[0], left(3), "the oldest go");
        assert_eq!(unsaved.bound(), 0);
    }
}
