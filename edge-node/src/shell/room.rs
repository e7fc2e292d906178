//! The task of one room: its mail goes into the core, the core's outputs to sessions, media plane, mesh and control plane.

use std::collections::BTreeMap;
use std::time::Duration;

use media::router::TrackKey;
use proto::control::node_message::Message as ToControl;
use proto::control::{FlowReport, RoomReport};
use proto::{Identity, NodeId, ParticipantSid, RoomName, RoomSid};
use relay::{MeshCommand, RoomPlan};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::edge::{self, OpenError, SharedEdge};
use super::rooms::Mailbox;
use super::session::Mail as SessionMail;
use super::socket::Socket;
use crate::core::room::{Config, FromSession, Input, Join, Output, Room, ToSession};

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
    /// The edge stops.
    Shutdown,
}

/// Asks the control plane for the room and starts its task.
///
/// # Errors
/// When the control plane cannot be asked.
pub async fn open(edge: &SharedEdge, name: &RoomName) -> Result<Mailbox, OpenError> {
    let assigned = edge.control.assign(name).await;
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
        report_due: false,
        reported_at: None,
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

struct Task {
    edge: SharedEdge,
    name: RoomName,
    room: Room,
    mailbox: Mailbox,
    sessions: BTreeMap<ParticipantSid, mpsc::Sender<SessionMail>>,
    report_due: bool,
    reported_at: Option<Instant>,
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
            self.report();
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
            Mail::Report => self.report_due = true,
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
                    SessionMail::Room(_) => return,
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
    fn drain(&mut self) {
        let mut mails: BTreeMap<ParticipantSid, Vec<ToSession>> = BTreeMap::new();
        while let Some(output) = self.room.poll_output() {
            match output {
                Output::Session(sid, message) => mails.entry(sid).or_default().push(message),
                Output::AddRemoteTrack { track, origin } => {
                    let config = track.config();
                    let name = (self.name.clone(), track.mesh_sid.clone(), origin);
                    self.edge.tracks.insert(track.key, self.mailbox.clone());
                    self.edge.reports.name(track.key, track.sid.clone());
                    self.edge.plane.add_remote_track(track.key, name, config);
                }
                Output::RemoveRemoteTrack(track) => self.remove_track(track),
                Output::State(state) => self
                    .edge
                    .plane
                    .mesh()
                    .command(MeshCommand::RoomState(state)),
                Output::Speakers(speakers) => self
                    .edge
                    .plane
                    .mesh()
                    .command(MeshCommand::Speakers(speakers)),
                Output::Speaking { track, speaking } => {
                    self.edge.plane.set_speaking(track, speaking);
                }
                Output::Data(data) => self.edge.plane.mesh().command(MeshCommand::Data(data)),
                Output::Changed => self.report_due = true,
                Output::Empty => self.empty_since = Some(Instant::now()),
            }
        }
        for (sid, messages) in mails {
            self.deliver(&sid, messages);
        }
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
        self.report_due = true;
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
            self.report_due = true;
        }
    }

    /// Tells the control plane what changed, not too often.
    fn report(&mut self) {
        let recent = self
            .reported_at
            .is_some_and(|at| at.elapsed() < REPORT_INTERVAL);
        if !self.report_due || recent {
            return;
        }
        self.report_due = false;
        self.reported_at = Some(Instant::now());
        let report = RoomReport {
            flows: self.flows.clone(),
            ..self.room.report()
        };
        if let Err(error) = self.edge.control.send(ToControl::Room(report)) {
            // Everything is said again once there is a session.
            tracing::debug!(%error, "room report not sent");
        }
    }

    fn is_over(&self) -> bool {
        self.room.is_empty()
            && self
                .empty_since
                .is_some_and(|since| since.elapsed() >= LINGER)
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
        };
        if let Err(error) = self.edge.control.send(ToControl::RoomClosed(closed)) {
            tracing::debug!(%error, "room end not sent");
        }
        self.edge.metrics.rooms.dec();
        tracing::info!(room = %self.name, "room closed");
    }
}
