//! A node's sessions with the control plane: one gRPC stream to every replica, each opened again whenever it breaks, for as
//! long as the node lives. Whichever replica owns a room speaks to the node directly, and the death of one costs the node
//! nothing. Media depends on none of them.

mod line;
mod merge;
mod replicas;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::control::node_message::Message;
use proto::control::rooms_client::RoomsClient;
use proto::control::{
    AssignRequest, AssignResponse, ControlMessage, FlowReport, Hello, LinkReport, LinkState, Load,
    NodeMessage, PlaceRequest, PlaceResponse,
};
use proto::{NodeId, RoomId};
use runtime::discovery::srv;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use crate::mesh::stats::LinkStats;

/// How long an `Assign` may take in all; people wait for it.
const ASSIGN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one replica may take while there are others to ask.
const ASSIGN_PATIENCE: Duration = Duration::from_millis(1_500);
/// How often all replicas are asked for a room that two of them plan at the same time.
const ASSIGN_ROUNDS: u32 = 4;
/// Wait before they are asked again.
const ASSIGN_PAUSE: Duration = Duration::from_millis(50);
/// Messages waiting in either direction of a session. Beyond it [`Client::send`] refuses.
const QUEUE: usize = 4096;

/// What sessions need to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base URLs of control replicas (`http://host:port`).
    pub urls: Vec<String>,
    /// A name whose SRV records say where more of them are.
    pub srv: Option<srv::Name>,
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

/// A node's sessions with the control plane. Clones share them.
#[derive(Clone, Debug)]
pub struct Client {
    node: NodeId,
    open: watch::Receiver<Open>,
    /// Whom to ask first: they take turns.
    turn: Arc<AtomicUsize>,
}

/// The sessions that are open, by URL, and how many there have been.
#[derive(Clone, Debug, Default)]
struct Open {
    count: u64,
    sessions: BTreeMap<String, Session>,
}

#[derive(Clone, Debug)]
struct Session {
    /// Which one of all.
    serial: u64,
    /// The replica's name, once it said it.
    replica: Option<String>,
    channel: Channel,
    outgoing: mpsc::Sender<NodeMessage>,
}

impl Client {
    /// Starts tasks that keep sessions open until `shutdown`; must be called within a tokio runtime. `status` is asked
    /// once per second and session. Messages of all replicas come out of the receiver, their peer lists as one; the first of
    /// every new session is a `Welcome`, upon which the node repeats what it had reported, rooms included.
    ///
    /// # Errors
    /// When replicas are to be found by name and the system's name servers are not known.
    pub fn connect(
        config: Config,
        status: impl Fn() -> Status + Send + Sync + 'static,
        shutdown: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<ControlMessage>), srv::NoNameServer> {
        let (incoming, receiver) = mpsc::channel(QUEUE);
        let (published, open) = watch::channel(Open::default());
        let client = Self {
            node: NodeId::from(config.hello.node_id.as_str()),
            open,
            turn: Arc::default(),
        };
        let named = config.srv.as_ref();
        let named = named.map(|name| srv::follow(name, shutdown.clone()));
        let lines = line::Lines {
            hello: config.hello,
            status: Box::new(status),
            published,
            merged: merge::Merged::new(incoming),
        };
        let replicas = replicas::Replicas::new(config.urls, named.transpose()?);
        tokio::spawn(replicas.keep(Arc::new(lines), shutdown));
        Ok((client, receiver))
    }

    /// Whether a session is open.
    pub fn is_connected(&self) -> bool {
        !self.open.borrow().sessions.is_empty()
    }

    /// Which session was opened last, by count; 0 while there is none. What was reported before is not known in it.
    pub fn session(&self) -> u64 {
        let open = self.open.borrow();
        if open.sessions.is_empty() {
            0
        } else {
            open.count
        }
    }

    /// Queues a message for every replica.
    ///
    /// # Errors
    /// [`Error::Disconnected`] without a session (say it again after the next `Welcome`), [`Error::Overloaded`] when 4,096
    /// messages are waiting for one of them.
    pub fn send(&self, message: Message) -> Result<(), Error> {
        let open = self.open.borrow();
        let message = NodeMessage {
            message: Some(message),
        };
        let mut outcome = Err(Error::Disconnected);
        let mut overloaded = false;
        for session in open.sessions.values() {
            match session.outgoing.try_send(message.clone()) {
                Ok(()) => outcome = Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => overloaded = true,
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
        if overloaded {
            return Err(Error::Overloaded);
        }
        outcome
    }

    /// Asks for the plan of a room that this edge gets the first participant of: one replica, and when that does not answer
    /// the next. `room_config` is a `livekit.RoomConfiguration` for a room that begins with that, or empty.
    ///
    /// # Errors
    /// [`Error::Disconnected`] without a session, [`Error::Refused`] when the control plane says no or takes longer than 5 s.
    pub async fn assign(&self, room: &RoomId, room_config: &[u8]) -> Result<AssignResponse, Error> {
        let request = AssignRequest {
            room: room.as_str().to_owned(),
            node_id: self.node.as_str().to_owned(),
            room_config: room_config.to_vec(),
        };
        let asking = tokio::time::timeout(ASSIGN_TIMEOUT, self.ask_replicas(&request));
        asking.await.unwrap_or_else(|_| {
            let late = tonic::Status::deadline_exceeded("no answer");
            Err(Error::Refused(Box::new(late)))
        })
    }

    /// Asks which edge a participant belongs at; `None` when it is to be where it is already, and that is nowhere.
    ///
    /// # Errors
    /// [`Error::Disconnected`] without a session, [`Error::Refused`] when no edge is ready or no replica answers within `within`.
    pub async fn place(
        &self,
        request: PlaceRequest,
        within: Duration,
    ) -> Result<Option<PlaceResponse>, Error> {
        let channels = self.channels();
        let patience = within / u32::try_from(channels.len().max(1)).unwrap_or(u32::MAX);
        let mut last = Error::Disconnected;
        for channel in channels {
            let mut rooms = RoomsClient::new(channel);
            let asked = tokio::time::timeout(patience, rooms.place(request.clone())).await;
            match asked.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer"))) {
                Ok(response) => return Ok(Some(response.into_inner())),
                Err(status) if status.code() == Code::NotFound => return Ok(None),
                Err(status) => last = Error::Refused(Box::new(status)),
            }
        }
        Err(last)
    }

    async fn ask_replicas(&self, request: &AssignRequest) -> Result<AssignResponse, Error> {
        let mut last = Error::Disconnected;
        for _ in 0..ASSIGN_ROUNDS {
            let channels = self.channels();
            let patience = match channels.len() {
                0 => return Err(Error::Disconnected),
                1 => ASSIGN_TIMEOUT,
                _ => ASSIGN_PATIENCE,
            };
            let mut again = false;
            for channel in channels {
                let mut request = tonic::Request::new(request.clone());
                request.set_timeout(patience);
                let mut rooms = RoomsClient::new(channel);
                let asked = tokio::time::timeout(patience, rooms.assign(request)).await;
                let answer = asked.unwrap_or_else(|_| Err(tonic::Status::cancelled("no answer")));
                let status = match answer {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) => status,
                };
                match status.code() {
                    // Two replicas planned the room at once, or it changes hands; it is settled soon. Or this one is dead, or
                    // cannot: another may, now or when it has found out.
                    Code::Aborted
                    | Code::Unavailable
                    | Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Unknown
                    | Code::Internal => again = true,
                    _ => return Err(Error::Refused(Box::new(status))),
                }
                last = Error::Refused(Box::new(status));
            }
            if !again {
                break;
            }
            tokio::time::sleep(ASSIGN_PAUSE).await;
        }
        Err(last)
    }

    /// The replicas with a session, another one first every time.
    fn channels(&self) -> Vec<Channel> {
        let open = self.open.borrow();
        let sessions = open.sessions.values();
        let mut channels: Vec<_> = sessions.map(|session| session.channel.clone()).collect();
        if !channels.is_empty() {
            let first = self.turn.fetch_add(1, Ordering::Relaxed) % channels.len();
            channels.rotate_left(first);
        }
        channels
    }
}

/// The name that configuration gives, if it gives one.
pub fn named(name: Option<&str>, server: Option<SocketAddr>) -> Option<srv::Name> {
    name.map(|name| srv::Name {
        name: name.to_owned(),
        server,
    })
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
