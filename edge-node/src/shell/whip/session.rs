//! The task of one WHIP or WHEP session.

use std::time::Duration;

use livekit_protocol as lk;
use proto::{ParticipantSid, RoomId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::{Order, Patched};
use crate::core::room::{FromSession, Join, ToSession};
use crate::core::sdp::{Description, LocalTransport, Media};
use crate::core::session::{self, Input, Output, Peer};
use crate::core::token::Grants;
use crate::core::whip;
use crate::core::whip::fragment::{self, Fragment};
use crate::core::whip::headers::{self, IfMatch};
use crate::core::whip::player::{self, Player};
use crate::core::whip::publisher::Publisher;
use crate::shell::edge::{self, SharedEdge};
use crate::shell::media_plane::{Transport, TransportEvent};
use crate::shell::reports::Owner;
use crate::shell::room::Mail as RoomMail;
use crate::shell::rooms::{self, Mailbox};
use crate::shell::session::{MAILBOX, Mail, MediaSide, forget_tracks};

/// Events waiting from the peer connection.
const EVENTS: usize = 256;
/// Timers of a session have this granularity.
const TICK: Duration = Duration::from_millis(250);
/// How long a client may take from the answer to the end of its DTLS handshake.
const CONNECT_WAIT: Duration = Duration::from_secs(30);
/// How long a session outlives its media: ICE has heard nothing for 15 s already, unless the client closed DTLS.
const RESTART_WAIT: Duration = Duration::from_secs(3);

/// What a session is for.
#[derive(Debug)]
pub(in crate::shell) enum Work {
    /// Publishes what the offer sends.
    Publish(Box<session::Config>),
    /// Plays.
    Play(player::Config),
}

/// What a session is started with.
#[derive(Debug)]
pub(in crate::shell) struct Start {
    /// The shared edge.
    pub(in crate::shell) edge: SharedEdge,
    /// What the token grants.
    pub(in crate::shell) grants: Grants,
    /// The session's id, and what requests to its URL ask for.
    pub(in crate::shell) orders: (String, mpsc::Receiver<Order>),
    /// The client's offer.
    pub(in crate::shell) offer: Box<Description>,
    /// What it is for.
    pub(in crate::shell) work: Work,
    /// Takes the answer.
    pub(in crate::shell) answer: oneshot::Sender<Result<Answered, Failed>>,
}

/// Why a session did not come to be.
#[derive(Debug)]
pub(in crate::shell) enum Failed {
    /// The offer.
    Offer(whip::Error),
    /// The room ended again and again.
    Room,
}

/// The answer to the request that made a session.
#[derive(Debug)]
pub(in crate::shell) struct Answered {
    /// The session description.
    pub(in crate::shell) sdp: String,
    /// Entity tag of the ICE session.
    pub(in crate::shell) tag: String,
}

/// The core of a session.
enum Core {
    Publisher(Box<Publisher>),
    Player(Box<Player>),
}

impl Core {
    fn handle_input(&mut self, input: Input) {
        match self {
            Self::Publisher(publisher) => publisher.handle_input(edge::now(), input),
            Self::Player(player) => player.handle_input(input),
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        match self {
            Self::Publisher(publisher) => publisher.poll_output(),
            Self::Player(player) => player.poll_output(),
        }
    }

    fn sid(&self) -> &ParticipantSid {
        match self {
            Self::Publisher(publisher) => publisher.sid(),
            Self::Player(player) => player.sid(),
        }
    }
}

struct Task {
    edge: SharedEdge,
    room: (RoomId, Mailbox),
    core: Core,
    transport: Transport,
    /// The client's user fragment.
    remote_ufrag: String,
    /// The section of the client that stands for the bundle.
    first_section: Option<Media>,
    /// When the session ends unless media flows by then.
    deadline: Option<Instant>,
    connected: bool,
    closed: bool,
}

/// Runs a session to its end.
pub(in crate::shell) async fn run(start: Start) {
    let (id, mut orders) = start.orders;
    let closing = Closing {
        edge: start.edge.clone(),
        id,
    };
    let (events, mut received) = mpsc::channel(EVENTS);
    let transport = start.edge.plane.open_transport(events);
    let local: LocalTransport = transport.local().into();
    let tag = headers::entity_tag(&local.ufrag);
    let play = matches!(start.work, Work::Play(_));
    let remote_ufrag = start.offer.transport().and_then(|t| t.ufrag.clone());
    let first_section = start.offer.media.iter().find(|m| !m.rejected).cloned();
    let (core, answer) = match core(start.work, &start.edge, start.offer, local) {
        Ok(made) => made,
        Err(error) => {
            drop(start.answer.send(Err(Failed::Offer(error))));
            return;
        }
    };
    let (mailbox, mut mail) = mpsc::channel(MAILBOX);
    let sid = core.sid().clone();
    let join = || Join {
        sid: sid.clone(),
        grants: start.grants.clone(),
        dual: false,
        auto_subscribe: play,
        client: lk::ClientInfo::default(),
        // Told by `Link` fields of the response.
        ice_servers: Vec::new(),
        signals: false,
        moved: None,
    };
    let Some(room) = rooms::join(&start.edge, &start.grants.room, join, mailbox).await else {
        drop(start.answer.send(Err(Failed::Room)));
        return;
    };
    let owner = Owner {
        room: start.grants.room.clone(),
        identity: start.grants.identity.clone(),
        sid: sid.clone(),
        peer: Peer::Publisher,
    };
    start.edge.reports.open(transport.key, owner);
    let mut task = Task {
        edge: start.edge,
        room: (start.grants.room, room),
        core,
        transport,
        remote_ufrag: remote_ufrag.unwrap_or_default(),
        first_section,
        deadline: Some(Instant::now() + CONNECT_WAIT),
        connected: false,
        closed: false,
    };
    task.settle().await;
    let answered = Answered { sdp: answer, tag };
    if start.answer.send(Ok(answered)).is_ok() {
        task.serve(&mut mail, &mut orders, &mut received).await;
    } else {
        // A client that does not wait for its answer has no use for the session.
        task.leave(lk::DisconnectReason::JoinFailure).await;
    }
    drop(closing);
    tracing::info!(participant_id = %sid, "session without signalling ended");
}

/// Takes the session off the list, however its task ends.
struct Closing {
    edge: SharedEdge,
    id: String,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.edge.http_sessions.close(&self.id);
    }
}

/// Makes the core and its answer.
fn core(
    work: Work,
    shared: &SharedEdge,
    offer: Box<Description>,
    local: LocalTransport,
) -> Result<(Core, String), whip::Error> {
    match work {
        Work::Play(config) => {
            let (player, answer) = Player::new(config, &offer, &local)?;
            Ok((Core::Player(Box::new(player)), answer.to_sdp()))
        }
        Work::Publish(config) => {
            let keys = || shared.plane.next_track_key();
            let now = edge::now();
            let (publisher, answer) = Publisher::new(now, *config, offer, local, keys)?;
            Ok((Core::Publisher(Box::new(publisher)), answer))
        }
    }
}

impl Task {
    async fn serve(
        &mut self,
        mail: &mut mpsc::Receiver<Mail>,
        orders: &mut mpsc::Receiver<Order>,
        events: &mut mpsc::Receiver<TransportEvent>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                mail = mail.recv() => match mail {
                    Some(Mail::Room(messages)) => self.take_room(messages),
                    // A client without signalling does not resume.
                    Some(Mail::Attach(_)) => {}
                    // It sees its media end and asks again, which sends it elsewhere.
                    Some(Mail::Depart(_)) => return self.leave(lk::DisconnectReason::Migration).await,
                    // Nor can it be told that it is elsewhere now.
                    Some(Mail::Move(_)) => return,
                    // The room let go of us; what it said before has been done.
                    None => return,
                },
                Some(order) = orders.recv() => match order {
                    Order::Patch { fragment, if_match, outcome } => {
                        let patched = self.patch(&fragment, if_match.as_deref());
                        drop(outcome.send(patched));
                    }
                    Order::Delete(done) => {
                        self.leave(lk::DisconnectReason::ClientInitiated).await;
                        drop(done);
                        return;
                    }
                },
                Some(event) = events.recv() => self.transport_event(event),
                _ = ticks.tick() => self.core.handle_input(Input::Tick),
            }
            self.settle().await;
            if self.closed {
                return;
            }
            if self
                .deadline
                .is_some_and(|deadline| deadline <= Instant::now())
            {
                let reason = if self.connected {
                    lk::DisconnectReason::ConnectionTimeout
                } else {
                    lk::DisconnectReason::JoinFailure
                };
                self.leave(reason).await;
                return;
            }
        }
    }

    fn take_room(&mut self, messages: Vec<ToSession>) {
        for message in messages {
            self.core.handle_input(Input::Room(message));
        }
    }

    fn transport_event(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::DtlsConnected => {
                self.connected = true;
                self.deadline = None;
                self.core.handle_input(Input::Connected(Peer::Publisher));
            }
            TransportEvent::IceConnected if self.connected => self.deadline = None,
            TransportEvent::Disconnected => {
                self.deadline
                    .get_or_insert_with(|| Instant::now() + RESTART_WAIT);
            }
            TransportEvent::Failed { reason } => {
                tracing::info!(%reason, participant_id = %self.core.sid(), "peer connection failed");
                self.deadline = Some(Instant::now());
            }
            TransportEvent::IceConnected
            | TransportEvent::Data { .. }
            | TransportEvent::DataChannelOpen { .. } => {}
        }
    }

    /// RFC 9725 section 4.3: candidates for the ICE session that `if_match` names, or a new one for `*`.
    fn patch(&mut self, fragment: &Fragment, if_match: Option<&str>) -> Patched {
        let current = headers::entity_tag(&self.transport.local().ufrag);
        let same = fragment.ufrag == self.remote_ufrag;
        match headers::if_match(if_match, &current) {
            IfMatch::Any | IfMatch::Current if same => Patched::Trickled,
            IfMatch::Any => self.restart(fragment),
            IfMatch::Current => Patched::OtherSession,
            refused @ (IfMatch::Missing | IfMatch::Other) => Patched::Refused(refused),
        }
    }

    fn restart(&mut self, fragment: &Fragment) -> Patched {
        let (ufrag, pwd) = self.transport.restart_ice();
        self.remote_ufrag.clone_from(&fragment.ufrag);
        let tag = headers::entity_tag(&ufrag);
        let local = LocalTransport {
            ufrag,
            pwd,
            ..self.transport.local().into()
        };
        let fragment = fragment::restarted(self.first_section.as_ref(), &local);
        Patched::Restarted { fragment, tag }
    }

    async fn leave(&mut self, reason: lk::DisconnectReason) {
        self.tell_room(FromSession::Leave(reason)).await;
        self.closed = true;
    }

    async fn tell_room(&mut self, message: FromSession) {
        let mail = RoomMail::Session(self.core.sid().clone(), message);
        if self.room.1.send(mail).await.is_err() {
            self.closed = true;
        }
    }

    /// Does what the core wants.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others need no waiting")]
    async fn settle(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Room(message) => self.tell_room(message).await,
                other => self.perform(other),
            }
        }
    }

    /// What is neither for the media plane nor about the connection is for clients with signalling.
    fn perform(&mut self, output: Output) {
        let media = MediaSide {
            edge: &self.edge,
            room: (&self.room.0, &self.room.1),
            uplink: &self.transport,
            downlink: &self.transport,
        };
        match media.perform(output) {
            Some(Output::SetRemote { remote, .. }) => self.transport.set_remote(remote.into()),
            Some(Output::Close) => self.closed = true,
            _ => {}
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.edge.reports.close(self.transport.key);
        if let Core::Publisher(publisher) = &self.core {
            forget_tracks(&self.edge, publisher.published_keys());
        }
    }
}
