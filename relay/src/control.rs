//! A node's session with the control plane: one gRPC stream to the first replica that answers, opened again whenever it
//! breaks, for as long as the node lives. Media does not depend on it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::control::node_message::Message;
use proto::control::node_session_client::NodeSessionClient;
use proto::control::rooms_client::RoomsClient;
use proto::control::{
    AssignRequest, AssignResponse, ControlMessage, FlowReport, Hello, LinkReport, LinkState, Load,
    NodeMessage, PlaceRequest, PlaceResponse,
};
use proto::{NodeId, RoomId};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::mesh::stats::LinkStats;

/// First wait before the control plane is tried again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between tries.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How long one replica may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one replica may take to accept a session.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often load and links are reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How long an `Assign` may take; people wait for it.
const ASSIGN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a room is asked for that replicas plan at the same time.
const ASSIGN_TRIES: u32 = 3;
/// Messages waiting in either direction. Beyond it [`Client::send`] refuses.
const QUEUE: usize = 4096;

/// What a session needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base URLs of control replicas (`http://host:port`), tried in turn.
    pub urls: Vec<String>,
    /// The first message of every session.
    pub hello: Hello,
}

/// What is reported every second.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Load of this node.
    pub load: Load,
    /// State of its links.
    pub links: LinkReport,
}

/// Why the control plane did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no session at the moment.
    #[error("no session with the control plane")]
    Disconnected,
    /// Too many messages are waiting to be sent.
    #[error("too many messages are waiting for the control plane")]
    Overloaded,
    /// It refused, or the session broke meanwhile.
    #[error("the control plane answered {:?}: {}", .0.code(), .0.message())]
    Refused(Box<tonic::Status>),
}

/// A node's session with the control plane. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    node: NodeId,
    session: watch::Receiver<Option<Session>>,
}

#[derive(Clone, Debug)]
struct Session {
    /// Counts sessions of this process.
    number: u64,
    channel: Channel,
    outgoing: mpsc::Sender<NodeMessage>,
}

impl Client {
    /// Starts a task that keeps a session open until `shutdown`; must be called within a tokio runtime. `status` is asked
    /// once per second. Messages of the control plane come out of the receiver; the first of every new session is a
    /// `Welcome`, upon which the node repeats what it had reported, rooms included.
    pub fn connect(
        config: Config,
        status: impl Fn() -> Status + Send + Sync + 'static,
        shutdown: CancellationToken,
    ) -> (Self, mpsc::Receiver<ControlMessage>) {
        let (incoming, receiver) = mpsc::channel(QUEUE);
        let (published, session) = watch::channel(None);
        let client = Self {
            node: NodeId::from(config.hello.node_id.as_str()),
            session,
        };
        let keeper = Keeper {
            sessions: AtomicU64::new(0),
            config,
            incoming,
            published,
        };
        tokio::spawn(async move {
            tokio::select! {
                () = keeper.keep(&status) => {}
                () = shutdown.cancelled() => {}
            }
        });
        (client, receiver)
    }

    /// Whether a session is open.
    pub fn is_connected(&self) -> bool {
        self.session.borrow().is_some()
    }

    /// Which session is open, by count; 0 for none. What was reported in one is not known in the next.
    pub fn session(&self) -> u64 {
        self.session.borrow().as_ref().map_or(0, |s| s.number)
    }

    /// Queues a message for the control plane.
    ///
    /// # Errors
    /// [`Error::Disconnected`] without a session (say it again after the next `Welcome`), [`Error::Overloaded`] when 4,096
    /// messages are waiting.
    pub fn send(&self, message: Message) -> Result<(), Error> {
        let session = self.session.borrow();
        let session = session.as_ref().ok_or(Error::Disconnected)?;
        let message = NodeMessage {
            message: Some(message),
        };
        session
            .outgoing
            .try_send(message)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Error::Overloaded,
                mpsc::error::TrySendError::Closed(_) => Error::Disconnected,
            })
    }

    /// Asks for the plan of a room that this edge gets the first participant of. `room_config` is a
    /// `livekit.RoomConfiguration` for a room that begins with that, or empty.
    ///
    /// # Errors
    /// [`Error::Disconnected`] without a session, [`Error::Refused`] when the control plane says no, takes longer than 5 s,
    /// or dies meanwhile.
    pub async fn assign(&self, room: &RoomId, room_config: &[u8]) -> Result<AssignResponse, Error> {
        let channel = self
            .session
            .borrow()
            .as_ref()
            .map(|session| session.channel.clone());
        let mut rooms = RoomsClient::new(channel.ok_or(Error::Disconnected)?);
        let asking = async {
            let mut tries = ASSIGN_TRIES;
            loop {
                let mut request = tonic::Request::new(AssignRequest {
                    room: room.as_str().to_owned(),
                    node_id: self.node.as_str().to_owned(),
                    room_config: room_config.to_vec(),
                });
                request.set_timeout(ASSIGN_TIMEOUT);
                tries -= 1;
                match rooms.assign(request).await {
                    // Two replicas planned the room at once; it is settled by now.
                    Err(status) if status.code() == tonic::Code::Aborted && tries > 0 => {}
                    answer => return answer,
                }
            }
        };
        let answer = tokio::time::timeout(ASSIGN_TIMEOUT, asking).await;
        let answer = answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer")));
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| Error::Refused(Box::new(status)))
    }

    /// Asks which edge a participant belongs at; `None` when it is to be where it is already, and that is nowhere.
    ///
    /// # Errors
    /// [`Error::Disconnected`] without a session, [`Error::Refused`] when no edge is ready or the control plane does not answer
    /// within `within`.
    pub async fn place(
        &self,
        request: PlaceRequest,
        within: Duration,
    ) -> Result<Option<PlaceResponse>, Error> {
        let session = self.session.borrow().clone();
        let channel = session.ok_or(Error::Disconnected)?.channel;
        let mut rooms = RoomsClient::new(channel);
        let answer = tokio::time::timeout(within, rooms.place(request)).await;
        match answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer"))) {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(Error::Refused(Box::new(status))),
        }
    }
}

/// Links as the control plane is told of them.
pub fn link_report(stats: &[LinkStats]) -> LinkReport {
    let links = stats.iter().map(|link| LinkState {
        peer: link.peer.as_str().to_owned(),
        up: link.up,
        rtt_us: u32::try_from(link.rtt.as_micros()).unwrap_or(u32::MAX),
        loss: link.loss,
        packets_sent: link.packets_sent,
        bytes_sent: link.bytes_sent,
        packets_received: link.packets_received,
        bytes_received: link.bytes_received,
        packets_lost: link.packets_lost,
        packets_repaired: link.packets_repaired,
    });
    LinkReport {
        links: links.collect(),
    }
}

/// What is sent over the links, by room, as the control plane is told of it.
pub fn flow_reports(stats: &[LinkStats]) -> BTreeMap<RoomId, Vec<FlowReport>> {
    let mut rooms: BTreeMap<RoomId, Vec<FlowReport>> = BTreeMap::new();
    for link in stats {
        for flow in &link.flows {
            rooms
                .entry(flow.room.clone())
                .or_default()
                .push(FlowReport {
                    peer: link.peer.as_str().to_owned(),
                    track_sid: flow.track.as_str().to_owned(),
                    layers: u32::from(flow.streams),
                });
        }
    }
    rooms
}

/// Turns counters of this process into rates for [`Load`].
#[derive(Debug)]
pub struct LoadMeter {
    last: Mutex<(Instant, f64, u64)>,
}

impl LoadMeter {
    /// A meter whose first reading covers the time from now.
    #[expect(clippy::new_without_default, reason = "reads the clock")]
    pub fn new() -> Self {
        Self {
            last: Mutex::new((Instant::now(), runtime::process::cpu_seconds(), 0)),
        }
    }

    /// CPU use in cores, and bits per second, since the reading before. `bytes_sent` is a counter.
    pub fn read(&self, bytes_sent: u64) -> (f64, u64) {
        let now = (Instant::now(), runtime::process::cpu_seconds(), bytes_sent);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.0.duration_since(last.0).max(Duration::from_millis(1));
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let bits = now.2.saturating_sub(last.2).saturating_mul(8);
        let bits_per_second = bits.saturating_mul(1_000_000) / elapsed_us;
        let rates = (
            (now.1 - last.1).max(0.0) / elapsed.as_secs_f64(),
            bits_per_second,
        );
        *last = now;
        rates
    }
}

/// The task behind a [`Client`].
struct Keeper {
    sessions: AtomicU64,
    config: Config,
    incoming: mpsc::Sender<ControlMessage>,
    published: watch::Sender<Option<Session>>,
}

impl Keeper {
    /// Runs sessions for ever. Ends only when nobody takes messages any more.
    async fn keep(&self, status: &(impl Fn() -> Status + Sync)) {
        let mut backoff = BACKOFF_MIN;
        while !self.incoming.is_closed() {
            for url in &self.config.urls {
                let opened = Instant::now();
                let ended = self.session(url, status).await;
                self.published.send_replace(None);
                tracing::warn!(url, reason = %ended, "no session with the control plane");
                if opened.elapsed() > BACKOFF_MAX {
                    backoff = BACKOFF_MIN;
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// One session with one replica, until it breaks; returns why it did.
    async fn session(&self, url: &str, status: &(impl Fn() -> Status + Sync)) -> tonic::Status {
        let endpoint = match Endpoint::from_shared(url.to_owned()) {
            Ok(endpoint) => endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(2))
                .keep_alive_timeout(Duration::from_secs(3))
                .keep_alive_while_idle(true),
            Err(error) => return tonic::Status::invalid_argument(error.to_string()),
        };
        let channel = match endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => return tonic::Status::unavailable(error.to_string()),
        };
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let hello = NodeMessage {
            message: Some(Message::Hello(self.config.hello.clone())),
        };
        if outgoing.try_send(hello).is_err() {
            return tonic::Status::internal("queue of a new session is full");
        }
        let mut client = NodeSessionClient::new(channel.clone());
        let opening = tokio::time::timeout(OPEN_TIMEOUT, client.open(ReceiverStream::new(queue)));
        let mut messages = match opening.await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return status,
            Err(_) => return tonic::Status::deadline_exceeded("session was not accepted"),
        };
        tracing::info!(url, "session with the control plane");
        self.published.send_replace(Some(Session {
            number: 1 + self.sessions.fetch_add(1, Ordering::Relaxed),
            channel,
            outgoing: outgoing.clone(),
        }));

        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.message() => match message {
                    Ok(Some(message)) => if self.incoming.send(message).await.is_err() {
                        return tonic::Status::cancelled("nobody takes messages");
                    },
                    Ok(None) => return tonic::Status::unavailable("closed"),
                    Err(status) => return status,
                },
                _ = ticks.tick() => report(&outgoing, status()),
            }
        }
    }
}

/// Reports are of the moment: when the queue is full this one is left out.
fn report(outgoing: &mpsc::Sender<NodeMessage>, status: Status) {
    for message in [Message::Load(status.load), Message::Links(status.links)] {
        if outgoing
            .try_send(NodeMessage {
                message: Some(message),
            })
            .is_err()
        {
            tracing::debug!("report left out: queue to the control plane is full");
        }
    }
}
