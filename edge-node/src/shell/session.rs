//! The task of one participant: socket, peer connections and room mail go into the core, its outputs to all of them.

mod media;

use std::collections::BTreeMap;
use std::time::Duration;

use livekit_protocol as lk;
use lk::signal_request::Message as Request;
use lk::signal_response::Message as Response;
use proto::{ParticipantSid, RoomId};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::edge::{self, SharedEdge};
use super::media_plane::{Transport, TransportEvent};
use super::reports::Owner;
use super::room::Mail as RoomMail;
use super::rooms::{self, Mailbox};
use super::socket::{Received, Socket};
use crate::core::room::{FromSession, Join, Moving, ToSession};
use crate::core::sdp::{self, LocalTransport};
use crate::core::session::{Config, Input, Output, Peer, Session};
use crate::core::signal;
use crate::core::token::{self, Grants};
use crate::core::turn::Participant;

pub(super) use media::MediaSide;
pub(super) use media::forget_tracks;

/// Batches of room messages waiting for one session.
pub const MAILBOX: usize = 512;
/// Events waiting from one peer connection.
const EVENTS: usize = 1024;
/// Timers of a session have this granularity.
const TICK: Duration = Duration::from_millis(250);
/// How long a session waits for its client to come back on a new socket.
const RESUME_WAIT: Duration = Duration::from_secs(30);
/// How long a client that is to join elsewhere may take to leave; what it had goes on until then.
const DEPART_WAIT: Duration = Duration::from_secs(10);
/// How often the client gets a new token.
const TOKEN_INTERVAL: Duration = Duration::from_secs(300);
/// How long such a token is valid.
const TOKEN_VALIDITY: Duration = Duration::from_secs(600);

/// What a session's task is sent.
#[derive(Debug)]
pub enum Mail {
    /// The room says something.
    Room(Vec<ToSession>),
    /// The client came back on this socket.
    Attach(Box<Socket>),
    /// The participant is taken to another room.
    Move(Box<Relocation>),
    /// The client is to join at another edge.
    Depart(lk::RegionSettings),
}

/// Where a session goes on.
#[derive(Debug)]
pub struct Relocation {
    /// The other room.
    pub room: RoomId,
    /// What was known of the participant in the room before.
    pub moving: Box<Moving>,
}

/// What a session is started with.
#[derive(Debug)]
pub struct Start {
    /// The shared edge.
    pub edge: SharedEdge,
    /// The session's configuration.
    pub config: Config,
    /// What the token grants.
    pub grants: Grants,
    /// The room it joined.
    pub room: Mailbox,
    /// Its mail.
    pub mail: mpsc::Receiver<Mail>,
    /// Its client.
    pub socket: Socket,
    /// Requests that came with the connection: announcements and the first offer.
    pub first: Vec<Request>,
}

/// Why a session's task ended.
enum Ended {
    /// It was closed, by either side.
    Closed,
    /// The client did not come back.
    Lost,
}

struct Task {
    edge: SharedEdge,
    room_name: RoomId,
    grants: Grants,
    core: Session,
    peers: BTreeMap<Peer, Transport>,
    room: Mailbox,
    socket: Option<Socket>,
    detached_at: Option<Instant>,
    media_lost: bool,
    token_due: Instant,
    closed: bool,
    /// When the session ends of a client that was told to join elsewhere.
    departs_at: Option<Instant>,
}

/// Runs a session to its end.
pub async fn run(start: Start) {
    let Start {
        edge,
        config,
        grants,
        room,
        mut mail,
        socket,
        first,
    } = start;
    let (events, mut received) = mpsc::channel(EVENTS);
    let mut peers = BTreeMap::new();
    peers.insert(Peer::Publisher, open(&edge, Peer::Publisher, &events));
    if config.dual {
        peers.insert(Peer::Subscriber, open(&edge, Peer::Subscriber, &events));
    }
    drop(events);
    let local = peers
        .iter()
        .map(|(&peer, transport)| (peer, transport.local().into()))
        .collect();
    let mut task = Task {
        room_name: grants.room.clone(),
        grants,
        core: Session::new(config, local),
        edge,
        peers,
        room,
        socket: Some(socket),
        detached_at: None,
        media_lost: false,
        token_due: Instant::now(),
        closed: false,
        departs_at: None,
    };
    task.name_transports(&task.core.sid().clone());
    // The room's welcome comes first: join response, then what there is to subscribe to.
    if let Some(Mail::Room(messages)) = mail.recv().await {
        task.take_room(messages);
    }
    for request in first {
        task.request(request);
    }
    task.settle().await;
    let ended = task.serve(&mut mail, &mut received).await;
    if matches!(ended, Ended::Lost) {
        let leave = FromSession::Leave(task.lost_by());
        task.tell_room(leave).await;
    }
    tracing::info!(participant_id = %task.core.sid(), "session ended");
}

/// Opens a peer connection whose events come with its name.
fn open(edge: &SharedEdge, peer: Peer, events: &mpsc::Sender<(Peer, TransportEvent)>) -> Transport {
    let (sender, mut receiver) = mpsc::channel(EVENTS);
    let events = events.clone();
    tokio::spawn(async move {
        while let Some(event) = receiver.recv().await {
            if events.send((peer, event)).await.is_err() {
                return;
            }
        }
    });
    let transport = edge.plane.open_transport(sender);
    if peer == Peer::Subscriber {
        transport.open_data_channel("_reliable", true);
        transport.open_data_channel("_lossy", false);
    }
    transport
}

impl Task {
    async fn serve(
        &mut self,
        mail: &mut mpsc::Receiver<Mail>,
        events: &mut mpsc::Receiver<(Peer, TransportEvent)>,
    ) -> Ended {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                received = receive(&mut self.socket) => self.received(received),
                taken = mail.recv() => match taken {
                    Some(Mail::Room(messages)) => self.take_room(messages),
                    Some(Mail::Attach(socket)) => self.attach(*socket),
                    Some(Mail::Depart(regions)) => {
                        self.departs_at = Some(Instant::now() + DEPART_WAIT);
                        self.say(signal::depart(regions));
                    }
                    Some(Mail::Move(to)) => match self.relocate(*to).await {
                        Some(mailbox) => *mail = mailbox,
                        None => return Ended::Closed,
                    },
                    // The room let go of us; what it said before has been done.
                    None => return Ended::Closed,
                },
                Some((peer, event)) = events.recv() => self.transport_event(peer, event),
                _ = ticks.tick() => {
                    self.input(Input::Tick);
                    self.refresh_token();
                }
            }
            self.settle().await;
            if self.closed {
                return Ended::Closed;
            }
            if self.is_lost() {
                return Ended::Lost;
            }
        }
    }

    fn input(&mut self, input: Input) {
        if self.core.needs_key() {
            self.core.reserve_key(self.edge.plane.next_track_key());
        }
        self.core.handle_input(edge::now(), input);
    }

    fn take_room(&mut self, messages: Vec<ToSession>) {
        for message in messages {
            self.input(Input::Room(message));
        }
    }

    fn received(&mut self, received: Received) {
        match received {
            Received::Request(request) => self.request(*request),
            Received::Garbage => {
                self.edge
                    .metrics
                    .dropped
                    .with_label_values(&["undecodable"])
                    .inc();
            }
            Received::Closed => {
                self.socket = None;
                self.detached_at = Some(Instant::now());
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only descriptions are parsed here"
    )]
    fn request(&mut self, request: Request) {
        match request {
            Request::Offer(offer) => {
                let id = offer.id;
                if let Some(description) = self.description(Peer::Publisher, &offer.sdp) {
                    self.input(Input::Offer { id, description });
                }
            }
            Request::Answer(answer) => {
                let id = answer.id;
                if let Some(description) = self.description(Peer::Subscriber, &answer.sdp) {
                    self.input(Input::Answer { id, description });
                }
            }
            other => self.input(Input::Request(Box::new(other))),
        }
    }

    /// Parses a description; one that restarts ICE gets new credentials of ours first.
    fn description(&mut self, peer: Peer, text: &str) -> Option<Box<sdp::Description>> {
        let description = match sdp::parse(text) {
            Ok(description) => description,
            Err(error) => {
                tracing::info!(%error, "session description refused");
                self.edge.metrics.dropped.with_label_values(&["sdp"]).inc();
                return None;
            }
        };
        if peer == Peer::Publisher && self.core.restarts_ice(peer, &description) {
            self.restart_ice(peer);
        }
        Some(Box::new(description))
    }

    fn restart_ice(&mut self, peer: Peer) {
        let Some(transport) = self.peers.get(&peer) else {
            return;
        };
        let (ufrag, pwd) = transport.restart_ice();
        let fresh = LocalTransport {
            ufrag,
            pwd,
            ..transport.local().into()
        };
        self.core.set_local(peer, fresh);
    }

    /// TURN for a client that came back: the credentials last as long as the token that it is about to be sent.
    fn ice_servers(&self, host: Option<&str>) -> Vec<lk::IceServer> {
        let claims = &self.grants.claims;
        let now = edge::unix_s();
        let keys = self.edge.keys.load();
        let renewed = keys.get(&claims.iss).is_some_and(|key| key.signed(claims));
        let expires = if renewed {
            now + TOKEN_VALIDITY.as_secs()
        } else {
            claims.exp.unwrap_or(now)
        };
        let participant = Participant {
            sid: self.core.sid(),
            identity: &self.grants.identity,
            room: &self.grants.room,
        };
        let turn = self.edge.turn.as_ref();
        turn.map_or_else(Vec::new, |turn| {
            turn.servers(host, (now, expires), participant)
        })
    }

    fn attach(&mut self, socket: Socket) {
        let host = socket.host.clone();
        self.socket = Some(socket);
        self.detached_at = None;
        self.token_due = Instant::now();
        self.edge.metrics.resumes.inc();
        let ice_servers = self.ice_servers(host.as_deref());
        self.input(Input::Resumed { ice_servers });
    }

    /// Goes on in another room; `None` when that cannot be entered, and the client was told to join anew.
    async fn relocate(&mut self, to: Relocation) -> Option<mpsc::Receiver<Mail>> {
        let Relocation { room, moving } = to;
        let sid = edge::participant_sid();
        self.grants
            .move_to(&room, &moving.info, &moving.permissions);
        let token = self.fresh_token().unwrap_or_default();
        let join = || Join {
            sid: sid.clone(),
            grants: self.grants.clone(),
            dual: self.peers.len() > 1,
            auto_subscribe: moving.auto_subscribe,
            client: lk::ClientInfo {
                client_protocol: moving.info.client_protocol,
                capabilities: moving.info.capabilities.clone(),
                ..lk::ClientInfo::default()
            },
            signals: true,
            // Its connections stay, and allocations with them.
            ice_servers: Vec::new(),
            moved: Some(token.clone()),
        };
        let (mailbox, mail) = mpsc::channel(MAILBOX);
        let Some(entered) = rooms::join(&self.edge, &room, join, mailbox).await else {
            let reason = lk::DisconnectReason::JoinFailure;
            self.say(signal::leave(lk::leave_request::Action::Reconnect, reason));
            return None;
        };
        tracing::info!(participant_id = %self.core.sid(), moved_to = %sid, "participant moves to another room");
        self.room_name = room;
        self.room = entered;
        // Not every client takes the token that comes with the news.
        self.token_due = Instant::now();
        self.name_transports(&sid);
        self.core.relocate(edge::now(), &sid);
        Some(mail)
    }

    /// Says whose the transports are.
    fn name_transports(&self, sid: &ParticipantSid) {
        for (&peer, transport) in &self.peers {
            let owner = Owner {
                room: self.room_name.clone(),
                identity: self.grants.identity.clone(),
                sid: sid.clone(),
                peer,
            };
            self.edge.reports.open(transport.key, owner);
        }
    }

    fn transport_event(&mut self, peer: Peer, event: TransportEvent) {
        match event {
            TransportEvent::DtlsConnected => self.input(Input::Connected(peer)),
            TransportEvent::IceConnected => {
                if peer == self.core.downlink() {
                    self.set_media_lost(false);
                }
            }
            TransportEvent::Data { label, payload } => self.input(Input::Data { label, payload }),
            TransportEvent::Disconnected => {
                if peer == self.core.downlink() {
                    self.set_media_lost(true);
                }
            }
            TransportEvent::Failed { reason } => {
                tracing::info!(?peer, %reason, participant_id = %self.core.sid(), "peer connection failed");
                if peer == self.core.downlink() {
                    self.set_media_lost(true);
                }
            }
            TransportEvent::DataChannelOpen { label } => {
                tracing::debug!(?peer, %label, "data channel open");
            }
        }
    }

    fn set_media_lost(&mut self, lost: bool) {
        if std::mem::replace(&mut self.media_lost, lost) != lost {
            self.input(Input::MediaLost(lost));
        }
    }

    /// Whether nobody is there any more: no socket for long, or neither socket nor media.
    fn is_lost(&self) -> bool {
        if let Some(at) = self.departs_at {
            return self.detached_at.is_some() || Instant::now() >= at;
        }
        let Some(detached) = self.detached_at else {
            return false;
        };
        detached.elapsed() >= RESUME_WAIT || self.media_lost
    }

    /// Why others see it leave that is lost.
    fn lost_by(&self) -> lk::DisconnectReason {
        match self.departs_at {
            Some(_) => lk::DisconnectReason::Migration,
            None => lk::DisconnectReason::SignalClose,
        }
    }

    fn refresh_token(&mut self) {
        if Instant::now() < self.token_due {
            return;
        }
        self.token_due = Instant::now() + TOKEN_INTERVAL;
        if let Some(token) = self.fresh_token() {
            self.say(Response::RefreshToken(token));
        }
    }

    /// A token that says the same for longer.
    fn fresh_token(&self) -> Option<String> {
        let claims = &self.grants.claims;
        let keys = self.edge.keys.load();
        let key = keys.get(&claims.iss).filter(|key| key.signed(claims))?;
        let now = std::time::SystemTime::now();
        let token = token::mint(claims, &claims.iss, &key.secret, TOKEN_VALIDITY, now);
        token
            .inspect_err(|error| tracing::warn!(%error, "token not refreshed"))
            .ok()
    }

    fn say(&mut self, response: Response) {
        let Some(socket) = &self.socket else { return };
        if !socket.send(response) {
            self.edge
                .metrics
                .dropped
                .with_label_values(&["client_slow"])
                .inc();
            self.socket = None;
            self.detached_at = Some(Instant::now());
        }
    }

    async fn tell_room(&mut self, message: FromSession) {
        let mail = RoomMail::Session(self.core.sid().clone(), message);
        if self.room.send(mail).await.is_err() {
            self.closed = true;
        }
    }

    /// Lets the core ask for what is due, and does what it wants.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others need no waiting")]
    async fn settle(&mut self) {
        self.core.settle(edge::now());
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Room(message) => self.tell_room(message).await,
                Output::RestartIce(peer) => {
                    self.restart_ice(peer);
                    self.core.settle(edge::now());
                }
                other => self.perform(other),
            }
        }
    }

    fn perform(&mut self, output: Output) {
        let Some(uplink) = self.peers.get(&Peer::Publisher) else {
            return;
        };
        let media = MediaSide {
            edge: &self.edge,
            room: (&self.room_name, &self.room),
            uplink,
            downlink: self.peers.get(&self.core.downlink()).unwrap_or(uplink),
        };
        match media.perform(output) {
            Some(Output::Signal(response)) => self.say(*response),
            Some(Output::SetRemote { peer, remote }) => {
                if let Some(transport) = self.peers.get(&peer) {
                    transport.set_remote(remote.into());
                }
            }
            Some(Output::Close) => self.closed = true,
            Some(_) | None => {}
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        for transport in self.peers.values() {
            self.edge.reports.close(transport.key);
        }
        forget_tracks(&self.edge, self.core.published_keys());
    }
}

/// The next thing from the client; never, while there is no socket.
async fn receive(socket: &mut Option<Socket>) -> Received {
    match socket {
        Some(socket) => socket.receive().await,
        None => std::future::pending().await,
    }
}
