//! The task that owns the core: feeds it, saves what it wants saved, then sends what it wants sent.

mod saving;
mod unsaved;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::control::control_message::Message as Down;
use proto::control::node_message::Message as Up;
use proto::control::{ApiKeys, AssignResponse, ControlMessage, Hello, NodeState};
use proto::{NodeId, RoomId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::core::{Answer, AssignError, Call, CallError, Core, Input, Output, Settings, Ticket};
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Pushed};
use crate::planner::Decision;
use crate::registry::SessionId;
use crate::ring::Ring;
use crate::store::{Durable, Ephemeral, Fenced, RoomRecord, Saved, Update};
use crate::webhook::Webhooks;
use unsaved::Unsaved;

/// Commands that wait; senders wait beyond it.
const QUEUE: usize = 4_096;
/// Commands taken at once: they share one transaction.
const BATCH: usize = 256;
/// How often gauges are set.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for the store.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a store that is away is looked for. Until it is back nothing is saved, and nobody waits for it.
const LOOK: Duration = Duration::from_millis(250);

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
    Keys(ApiKeys),
    Decision {
        room: RoomId,
        reply: oneshot::Sender<Option<Decision>>,
    },
    Call {
        call: Call,
        reply: oneshot::Sender<Result<Answer, CallError>>,
    },
    Ring(Ring),
    Adopt {
        rooms: Vec<RoomRecord>,
        reply: oneshot::Sender<()>,
    },
    Settled {
        reply: oneshot::Sender<bool>,
    },
    StoreBack,
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
    pub async fn keys(&self, keys: ApiKeys) -> Result<(), Stopped> {
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

    /// Has this replica own what the ring says.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn ring(&self, ring: Ring) -> Result<(), Stopped> {
        self.send(Command::Ring(ring)).await
    }

    /// Has it take over the rooms that it gained by the ring, with all rooms that live as the durable store has them.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn adopt(&self, rooms: Vec<RoomRecord>) -> Result<(), Stopped> {
        let (reply, done) = oneshot::channel();
        self.send(Command::Adopt { rooms, reply }).await?;
        done.await.map_err(|_| Stopped)
    }

    /// Whether all nodes that were known at the start have a session, or are dead.
    ///
    /// # Errors
    /// When the task has ended.
    pub async fn is_settled(&self) -> Result<bool, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Settled { reply }).await?;
        answer.await.map_err(|_| Stopped)
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
        adopting: Vec::new(),
        commands: commands.downgrade(),
        away: false,
    };
    let handle = Handle {
        commands,
        sessions: Arc::new(AtomicU64::new(1)),
    };
    (handle, tokio::spawn(actor.run(saved, queue, shutdown)))
}

/// What may be done once changes are saved.
#[derive(Debug, Default)]
struct Effects {
    messages: Vec<(SessionId, ControlMessage)>,
    assigned: Vec<(Ticket, Result<AssignResponse, AssignError>)>,
    answers: Vec<(Ticket, Result<Answer, CallError>)>,
    closes: Vec<(SessionId, Status)>,
    updates: Vec<Update>,
    shadows: Vec<Update>,
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
    /// Who waits for rooms to be taken over.
    adopting: Vec<oneshot::Sender<()>>,
    /// Of this task, for one that looks for the store.
    commands: mpsc::WeakSender<Command>,
    /// The durable store did not answer the last time and has not been found again.
    away: bool,
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
            Command::Ring(ring) => Input::Ring(ring),
            Command::Adopt { rooms, reply } => {
                self.adopting.push(reply);
                Input::Adopt(rooms)
            }
            Command::Settled { reply } => {
                reply.send(self.core.is_settled()).ok();
                return;
            }
            Command::StoreBack => {
                self.away = false;
                return;
            }
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
                Output::Shadow(update) => effects.shadows.push(update),
                Output::Timeout(at) => break at,
            }
        };
        let outcome = if self.unsaved.is_empty() {
            Some(Vec::new())
        } else if self.away {
            self.drop_excess();
            None
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

    /// Acts on what was saved, but for the rooms that were fenced; `None` when nothing was saved.
    async fn act(&mut self, effects: Effects, outcome: Option<&[Fenced]>) {
        if let Err(error) = self.stores.ephemeral.apply(effects.updates).await {
            tracing::warn!(%error, "ephemeral store refused changes");
        }
        self.stores.ephemeral.shadow(effects.shadows);
        for done in self.adopting.drain(..) {
            done.send(()).ok();
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
        let fenced_sid = |sid: &str| {
            let rooms = outcome.unwrap_or_default().iter();
            rooms.into_iter().any(|fenced| fenced.sid.as_str() == sid)
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
                Ok(Answer::Room(room)) if fenced_sid(&room.sid) => Err(CallError::NotSaved),
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
