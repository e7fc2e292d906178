//! The task of one room: its mail goes into the core, the core's outputs to sessions, media plane, mesh and control plane.

use std::collections::BTreeMap;
use std::time::Duration;

use livekit_protocol as lk;
use media::router::TrackKey;
use proto::control::command_error::Code;
use proto::control::node_message::Message as ToControl;
use proto::control::{FlowReport, RoomReport};
use proto::{Identity, NodeId, ParticipantSid, RoomId, RoomSid};
use relay::{MeshCommand, RoomPlan};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::commands::{self, ForRoom};
use super::edge::{self, OpenError, SharedEdge};
use super::forward::{self, Forwards};
use super::rooms::Mailbox;
use super::session::{Mail as SessionMail, Relocation};
use super::socket::Socket;
use crate::core::room::commands::error;
use crate::core::room::{
    Command, Config, FromSession, Input, Join, Moving, Output, Room, ToSession,
};

/// Mail waiting for one room. Sessions wait for a place; events of the media plane are dropped beyond it.
const MAILBOX: usize = 4096;
/// Mails taken at once before their effects go out together.
const BATCH: usize = 256;
/// Timers of a room have this granularity.
const TICK: Duration = Duration::from_millis(100);
/// How long a room stays open after its last participant left.
const LINGER: Duration = Duration::from_secs(3);
/// Reports to the control plane are at least this far apart.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// Everything is said again at least this often, for a control plane that lost track.
const FULL_INTERVAL: Duration = Duration::from_secs(60);
/// How long a room that could not tell the control plane who left stays open for that.
const UNTOLD_LINGER: Duration = Duration::from_secs(60);

/// How often the links are looked at for the report.
const FLOW_INTERVAL: Duration = Duration::from_secs(1);

/// What a room's task is sent.
#[derive(Debug)]
pub enum Mail {
    /// A participant comes in.
    Join(Box<Join>, mpsc::Sender<SessionMail>),
    /// A session says something.
    Session(ParticipantSid, FromSession),
    /// A client wants to go on with the session of that participant; the socket comes back when there is none.
    Resume {
        /// The session.
        sid: ParticipantSid,
        /// Of the client's token.
        identity: Identity,
        /// The client.
        socket: Box<Socket>,
        /// Takes the socket back.
        refused: oneshot::Sender<Box<Socket>>,
    },
    /// Something from the media plane, the mesh or the control plane.
    Event(Box<Input>),
    /// A plan from the control plane.
    Plan(Box<proto::control::RoomPlan>),
    /// A new session with the control plane: say everything again.
    Report,
    /// A participant is to join elsewhere.
    Depart(ParticipantSid, lk::RegionSettings),
    /// The edge stops.
    Shutdown,
    /// The control plane wants something done.
    Command(ForRoom),
}

/// Asks the control plane for the room and starts its task.
///
/// # Errors
/// When the control plane cannot be asked.
pub async fn open(edge: &SharedEdge, name: &RoomId, config: &[u8]) -> Result<Mailbox, OpenError> {
    let assigned = edge.control.assign(name, config).await;
    let assigned = assigned.map_err(|source| OpenError::Control {
        room: name.clone(),
        source,
    })?;
    let plan = assigned.plan.unwrap_or_default();
    let (mailbox, mail) = mpsc::channel(MAILBOX);
    let plane = edge.plane.clone();
    let room = Room::new(Config {
        name: name.clone(),
        sid: RoomSid::from(plan.room_sid.as_str()),
        created_at_ms: i64::try_from(assigned.created_at_ms).unwrap_or(0),
        node: edge.node.clone(),
        incarnation: edge.incarnation,
        region: edge.region.clone(),
        server_info: edge.server_info(),
        next_key: Box::new(move || plane.next_track_key()),
    });
    let mut task = Task {
        edge: edge.clone(),
        name: name.clone(),
        room,
        mailbox: mailbox.clone(),
        sessions: BTreeMap::new(),
        moves: BTreeMap::new(),
        forwards: Forwards::default(),
        deleted: false,
        reporting: Reporting::default(),
        flows: Vec::new(),
        flows_at: Instant::now(),
        empty_since: Some(Instant::now()),
    };
    task.apply_plan(&plan);
    edge.metrics.rooms.inc();
    tracing::info!(room_id = %plan.room_sid, epoch = plan.epoch, members = ?plan.members, "room opened");
    tokio::spawn(task.run(mail));
    Ok(mailbox)
}

/// What is known of the last report.
#[derive(Default)]
struct Reporting {
    /// Something may be new.
    due: bool,
    /// The next one says everything.
    full: bool,
    at: Option<Instant>,
    full_at: Option<Instant>,
    /// Session with the control plane that the last one went into.
    session: u64,
    flows_changed: bool,
}

struct Task {
    edge: SharedEdge,
    name: RoomId,
    room: Room,
    mailbox: Mailbox,
    sessions: BTreeMap<ParticipantSid, mpsc::Sender<SessionMail>>,
    /// Where participants go that are on their way to another room, by command.
    moves: BTreeMap<u64, RoomId>,
    /// Rooms that participants are forwarded to.
    forwards: Forwards,
    /// The room is over, whoever comes next gets another one.
    deleted: bool,
    reporting: Reporting,
    /// What crosses our links for the room, as last looked at.
    flows: Vec<FlowReport>,
    flows_at: Instant,
    empty_since: Option<Instant>,
}

impl Task {
    async fn run(mut self, mut mail: mpsc::Receiver<Mail>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                taken = mail.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return;
                    }
                }
                _ = ticks.tick() => self.room.handle_input(edge::now(), Input::Tick),
            }
            for mail in batch.drain(..) {
                self.handle(mail);
            }
            self.drain();
            self.look_at_flows();
            self.report(false);
            if self.is_over() && self.edge.rooms.close(&self.name, &mut mail) {
                self.close();
                return;
            }
        }
    }

    fn handle(&mut self, mail: Mail) {
        let now = edge::now();
        match mail {
            Mail::Join(join, session) => {
                self.empty_since = None;
                self.sessions.insert(join.sid.clone(), session);
                self.edge.metrics.participants.inc();
                self.edge.metrics.joins.inc();
                self.room.handle_input(now, Input::Join(join));
            }
            Mail::Session(sid, message) => {
                let leaves = matches!(message, FromSession::Leave(_));
                self.room
                    .handle_input(now, Input::Session(sid.clone(), message));
                if leaves {
                    self.forget_session(&sid);
                }
            }
            Mail::Resume {
                sid,
                identity,
                socket,
                refused,
            } => {
                let known = self.room.identity(&sid) == Some(&identity);
                self.resume(known.then_some(&sid), socket, refused);
            }
            Mail::Event(input) => self.room.handle_input(now, *input),
            Mail::Plan(plan) => self.apply_plan(&plan),
            Mail::Report => {
                self.reporting.due = true;
                self.reporting.full = true;
            }
            Mail::Command(command) => self.command(command),
            Mail::Depart(sid, regions) => {
                if let Some(session) = self.sessions.get(&sid) {
                    // One that does not take its mail is on its way out already.
                    session.try_send(SessionMail::Depart(regions)).ok();
                }
            }
            Mail::Shutdown => self.shut_down(),
        }
    }

    fn resume(
        &self,
        sid: Option<&ParticipantSid>,
        socket: Box<Socket>,
        refused: oneshot::Sender<Box<Socket>>,
    ) {
        let socket = match sid.and_then(|sid| self.sessions.get(sid)) {
            None => socket,
            Some(session) => match session.try_send(SessionMail::Attach(socket)) {
                Ok(()) => return,
                Err(error) => match error.into_inner() {
                    SessionMail::Attach(socket) => socket,
                    SessionMail::Room(_) | SessionMail::Move(_) | SessionMail::Depart(_) => return,
                },
            },
        };
        // A caller that went away takes the socket with it.
        drop(refused.send(socket));
    }

    fn shut_down(&self) {
        let action = livekit_protocol::leave_request::Action::Reconnect;
        let reason = livekit_protocol::DisconnectReason::ServerShutdown;
        for session in self.sessions.values() {
            let close = SessionMail::Room(vec![ToSession::Close { action, reason }]);
            if session.try_send(close).is_err() {
                tracing::debug!("a session was gone already");
            }
        }
    }

    /// Hands the core's outputs on; what is for one session goes as one mail.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others are told to the planes"
    )]
    fn drain(&mut self) {
        let mut mails: BTreeMap<ParticipantSid, Vec<ToSession>> = BTreeMap::new();
        let mut answers = Vec::new();
        while let Some(output) = self.room.poll_output() {
            match output {
                Output::Session(sid, message) => mails.entry(sid).or_default().push(message),
                Output::Changed => self.reporting.due = true,
                Output::Empty => self.empty_since = Some(Instant::now()),
                Output::Answer(id, answer) => answers.push((id, answer)),
                Output::Forward(room, mirror) => self.forwards.send(&self.edge, room, mirror),
                Output::ForwardEnded(room, sid) => forward::ended(&self.edge, &room, sid),
                Output::Move(id, sid, moving) => {
                    // What ends here has to be said first.
                    if let Some(messages) = mails.remove(&sid) {
                        self.deliver(&sid, messages);
                    }
                    self.move_on(id, &sid, moving);
                }
                other => self.tell_planes(other),
            }
        }
        for (sid, messages) in mails {
            self.deliver(&sid, messages);
        }
        if answers.is_empty() {
            return;
        }
        // Who asks again after the answer is to find what it says.
        self.report(true);
        for (id, answer) in answers {
            commands::answer(&self.edge, id, answer);
        }
    }

    /// What is for the media plane and the mesh.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others are the caller's"
    )]
    fn tell_planes(&self, output: Output) {
        let mesh = self.edge.plane.mesh();
        match output {
            Output::AddRemoteTrack { track, origin } => {
                let config = track.config();
                let name = (self.name.clone(), track.mesh_sid.clone(), origin);
                self.edge.tracks.insert(track.key, self.mailbox.clone());
                self.edge.reports.name(track.key, track.sid.clone());
                self.edge.plane.add_remote_track(track.key, name, config);
            }
            Output::RemoveRemoteTrack(track) => self.remove_track(track),
            Output::State(state) => mesh.command(MeshCommand::RoomState(state)),
            Output::Speakers(speakers) => mesh.command(MeshCommand::Speakers(speakers)),
            Output::Speaking { track, speaking } => {
                self.edge.plane.set_speaking(track, speaking);
            }
            Output::Data(data) => mesh.command(MeshCommand::Data(data)),
            Output::OfferTrack(track) => {
                let (room, mailbox) = (self.name.clone(), self.mailbox.clone());
                self.edge.tracks.share(track.key, room.clone(), mailbox);
                let name = (room, track.mesh_sid.clone());
                self.edge.plane.share_track(track.key, name);
            }
            Output::WithdrawTrack(track) => {
                self.edge.tracks.unshare(track, &self.name);
                self.edge.plane.unshare_track(track, self.name.clone());
            }
            _ => {}
        }
    }

    fn command(&mut self, command: ForRoom) {
        let ForRoom {
            id,
            sid,
            command,
            destination,
        } = command;
        if !sid.as_str().is_empty() && sid != *self.room.sid() {
            let text = "the edge serves another room of that name";
            let error = error(Code::NotFound, text);
            return commands::answer(&self.edge, id, Err(error));
        }
        self.deleted |= matches!(*command, Command::Delete);
        if let Some(destination) = destination {
            self.moves.insert(id, destination);
        }
        let input = Input::Command(id, command);
        self.room.handle_input(edge::now(), input);
        self.drain();
        self.moves.remove(&id);
    }

    /// Has a participant's session go on in another room.
    fn move_on(&mut self, id: u64, sid: &ParticipantSid, moving: Box<Moving>) {
        let (Some(session), Some(room)) = (self.sessions.get(sid), self.moves.remove(&id)) else {
            return;
        };
        let sent = session.try_send(SessionMail::Move(Box::new(Relocation { room, moving })));
        if sent.is_err() {
            let dropped = &self.edge.metrics.dropped;
            dropped.with_label_values(&["session_stuck"]).inc();
        }
        self.forget_session(sid);
    }

    fn deliver(&mut self, sid: &ParticipantSid, messages: Vec<ToSession>) {
        let closes = messages
            .iter()
            .any(|m| matches!(m, ToSession::Close { .. }));
        let Some(session) = self.sessions.get(sid) else {
            return;
        };
        if session.try_send(SessionMail::Room(messages)).is_err() {
            // It does not take its mail any more: its client is gone or hopelessly slow.
            self.edge
                .metrics
                .dropped
                .with_label_values(&["session_stuck"])
                .inc();
            tracing::info!(participant_id = %sid, "session dropped: it does not take its mail");
            let reason = livekit_protocol::DisconnectReason::SignalClose;
            let leave = Input::Session(sid.clone(), FromSession::Leave(reason));
            self.room.handle_input(edge::now(), leave);
            self.forget_session(sid);
        } else if closes {
            self.forget_session(sid);
        }
    }

    fn forget_session(&mut self, sid: &ParticipantSid) {
        if self.sessions.remove(sid).is_some() {
            self.edge.metrics.participants.dec();
        }
    }

    fn remove_track(&self, track: TrackKey) {
        self.edge.tracks.remove(track);
        self.edge.reports.forget(track);
        self.edge.plane.remove_track(track);
    }

    fn apply_plan(&mut self, plan: &proto::control::RoomPlan) {
        if plan.epoch <= self.room.epoch() {
            return;
        }
        tracing::debug!(room_id = %self.room.sid(), epoch = plan.epoch, members = ?plan.members, next_hops = ?plan.next_hops, "plan");
        self.edge
            .plane
            .mesh()
            .command(MeshCommand::SetPlan(RoomPlan::from(plan)));
        let edges = plan
            .members
            .iter()
            .map(|m| NodeId::from(m.as_str()))
            .collect();
        let members = Input::Members {
            epoch: plan.epoch,
            edges,
        };
        self.room.handle_input(edge::now(), members);
        if let Some(settings) = &plan.settings {
            let settings = Input::Settings(settings.clone());
            self.room.handle_input(edge::now(), settings);
        }
        self.reporting.due = true;
    }

    /// Notices when other tracks cross our links than before.
    fn look_at_flows(&mut self) {
        if self.flows_at.elapsed() < FLOW_INTERVAL {
            return;
        }
        self.flows_at = Instant::now();
        let mut rooms = relay::control::flow_reports(&self.edge.plane.mesh().stats());
        let flows = rooms.remove(&self.name).unwrap_or_default();
        if flows != self.flows {
            self.flows = flows;
            self.reporting.due = true;
            self.reporting.flows_changed = true;
        }
    }

    /// Tells the control plane what changed; not too often, unless somebody waits for it.
    fn report(&mut self, at_once: bool) {
        let within = |at: Option<Instant>, interval| at.is_some_and(|at| at.elapsed() < interval);
        let wanted = at_once || (self.reporting.due && !within(self.reporting.at, REPORT_INTERVAL));
        if !wanted {
            return;
        }
        let session = self.edge.control.session();
        let full = self.reporting.full
            || session != self.reporting.session
            || !within(self.reporting.full_at, FULL_INTERVAL);
        let (report, news) = self.room.report(edge::now(), full);
        let flows_changed = std::mem::take(&mut self.reporting.flows_changed);
        self.reporting.due = false;
        if !full && !news && !flows_changed {
            return;
        }
        let now = Some(Instant::now());
        self.reporting.at = now;
        let report = RoomReport {
            flows: self.flows.clone(),
            ..report
        };
        let sent = self.edge.control.send(ToControl::Room(report));
        if sent.is_err() || self.edge.control.session() != session {
            // It went nowhere, or into a session that has not heard what came before.
            self.reporting.due = true;
            self.reporting.full = true;
            return;
        }
        self.reporting.session = session;
        if full {
            self.reporting.full = false;
            self.reporting.full_at = now;
        }
    }

    fn is_over(&self) -> bool {
        self.room.is_empty()
            && self.empty_since.is_some_and(|since| {
                let lingered = since.elapsed() >= LINGER || self.deleted;
                // Who left is still to be told.
                let told = !self.reporting.due || since.elapsed() >= UNTOLD_LINGER;
                lingered && told
            })
    }

    fn close(&self) {
        for track in self.room.remote_tracks() {
            self.remove_track(track);
        }
        let mesh = self.edge.plane.mesh();
        mesh.command(MeshCommand::RoomGone(self.name.clone()));
        mesh.command(MeshCommand::ForgetRoom(self.name.clone()));
        let closed = proto::control::RoomClosed {
            room: self.name.to_string(),
            room_sid: self.room.sid().to_string(),
        };
        if let Err(error) = self.edge.control.send(ToControl::RoomClosed(closed)) {
            tracing::debug!(%error, "room end not sent");
        }
        self.edge.metrics.rooms.dec();
        tracing::info!(room = %self.name, "room closed");
    }
}
