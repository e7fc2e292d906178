//! One room as one edge knows it: the authority over its own participants, a replica of everybody else's.

mod backup;
pub mod commands;
mod forward;
mod join;
mod messages;
mod quality;
mod replica;
mod report;
mod settings;
mod speakers;
mod streams;
mod subscriptions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use livekit_protocol as lk;
use lk::leave_request::Action;
use lk::signal_response::Message as Response;
use media::router::{TrackKey, TransportReport};
use proto::control::RoomSettings;
use proto::{Identity, NodeId, ParticipantSid, RoomId, RoomSid, TrackSid};

use super::session::Now;
use super::signal;
use super::token::Permissions;
use super::track::Track;
use commands::Calls;
use quality::Quality;
use replica::Replicas;
use report::Told;
use speakers::Speakers;

pub use commands::{Answer, Command, RpcReply};
pub use forward::Mirror;
pub use join::{Join, Moving};

/// What a session tells its room.
#[derive(Debug)]
pub enum FromSession {
    /// Media can flow to the participant.
    Active,
    /// Nothing has been heard of the participant's media connection for long, or it is back.
    MediaLost(bool),
    /// A track is published, or what is said about it changed.
    Published(Arc<Track>),
    /// A track ended.
    Unpublished(TrackSid),
    /// Subscribe to tracks, or no longer.
    Subscription(lk::UpdateSubscription),
    /// The participant cannot decode the first codec of a track, or needs the track no more.
    NeedsBackup(TrackSid, bool),
    /// Who may receive the participant's tracks.
    SubscriptionPermission(lk::SubscriptionPermission),
    /// New name, metadata or attributes.
    UpdateMetadata(lk::UpdateParticipantMetadata),
    /// A data message.
    Data {
        /// Ordered and repeated until it arrives.
        reliable: bool,
        /// Identities it is for; empty: everybody.
        destinations: Vec<String>,
        /// A stamped `livekit.DataPacket`.
        payload: Bytes,
    },
    /// What the participant says to a call of an application's server, by the call's id.
    Reply(String, RpcReply),
    /// The client came back and wants to know everything again.
    Resync,
    /// The participant leaves.
    Leave(lk::DisconnectReason),
}

/// What a room tells a session.
#[derive(Debug)]
pub enum ToSession {
    /// Say this to the client.
    Signal(Box<Response>),
    /// Send this track to the client.
    Subscribe(Arc<Track>),
    /// What is said about a subscribed track changed.
    TrackChanged(Arc<Track>),
    /// Send it no more.
    Unsubscribe(TrackSid),
    /// What subscribers here and in the mesh want of a codec of a track: bit n for layer n.
    Demand(TrackKey, u8),
    /// Somebody needs the backup codec of a track, or nobody does.
    BackupWanted(TrackSid, bool),
    /// A data message for the client.
    Data {
        /// On which channel.
        reliable: bool,
        /// A `livekit.DataPacket`.
        payload: Bytes,
    },
    /// What the participant may do changed.
    Permissions(Permissions),
    /// A track of the participant is muted, or no more.
    Mute(TrackSid, bool),
    /// End the session.
    Close {
        /// What the client should do.
        action: Action,
        /// Why.
        reason: lk::DisconnectReason,
    },
}

/// What happens to a room.
#[derive(Debug)]
pub enum Input {
    /// A participant joins.
    Join(Box<Join>),
    /// One of our participants' sessions said something.
    Session(ParticipantSid, FromSession),
    /// How loud a published track is.
    AudioLevel {
        /// Whose.
        track: TrackKey,
        /// 0 is loudest, 127 silence (RFC 6464).
        level_dbov: u8,
    },
    /// What is wanted of a track of ours, here and elsewhere, changed: bit n for layer n.
    Demand(TrackKey, u8),
    /// A participant's subscription is paused because it does not fit its path, or goes on.
    StreamState {
        /// The receiver.
        participant: ParticipantSid,
        /// What it receives.
        track: TrackKey,
        /// Whether nothing of it is sent.
        paused: bool,
    },
    /// How connections of our participants were doing in the last second.
    Reports(Vec<(ParticipantSid, TransportReport)>),
    /// Another edge's state.
    State(proto::link::RoomState),
    /// Who speaks at another edge.
    Speakers(proto::link::Speakers),
    /// Another edge left the room.
    Gone(NodeId),
    /// A data message from another edge.
    Data(proto::link::Data),
    /// The edges that serve the room, by the newest plan.
    Members {
        /// Of the plan.
        epoch: u64,
        /// All of them, ourselves included.
        edges: Vec<NodeId>,
    },
    /// What the room is set to, by the newest plan.
    Settings(RoomSettings),
    /// Something that an application's server wants done; the number is of the answer.
    Command(u64, Box<Command>),
    /// How a participant of another room is that is shown here.
    Mirror(Box<Mirror>),
    /// Another room shows a participant of ours, by its session id there, no more.
    ForwardEnded(ParticipantSid),
    /// A link to another node came up or went down.
    Link {
        /// The node.
        peer: NodeId,
        /// Whether it is up.
        up: bool,
    },
    /// Time passed.
    Tick,
}

/// What a room wants done.
#[derive(Debug)]
pub enum Output {
    /// Tell a session.
    Session(ParticipantSid, ToSession),
    /// A track of another edge appeared.
    AddRemoteTrack {
        /// It.
        track: Arc<Track>,
        /// Its edge.
        origin: NodeId,
    },
    /// A track of another edge ended.
    RemoveRemoteTrack(TrackKey),
    /// Our state for the other edges.
    State(proto::link::RoomState),
    /// Who of ours speaks, for the other edges.
    Speakers(proto::link::Speakers),
    /// The owner of a track speaks now, or no more.
    Speaking {
        /// The track.
        track: TrackKey,
        /// Whether its owner speaks.
        speaking: bool,
    },
    /// A data message for the other edges.
    Data(proto::link::Data),
    /// Something that the control plane shows changed.
    Changed,
    /// The last participant of ours left.
    Empty,
    /// The answer to a command.
    Answer(u64, Answer),
    /// By that command, a participant that has just left goes on in another room.
    Move(u64, ParticipantSid, Box<Moving>),
    /// A participant of ours is to be shown in another room.
    Forward(RoomId, Box<Mirror>),
    /// A participant of that room is shown here no more.
    ForwardEnded(RoomId, ParticipantSid),
    /// A track of another room of this edge is to be had in this one, from other edges too.
    OfferTrack(Arc<Track>),
    /// And no more.
    WithdrawTrack(TrackKey),
}

/// What a room is made with.
pub struct Config {
    /// Which room it is.
    pub name: RoomId,
    /// Its session id, the same on all edges.
    pub sid: RoomSid,
    /// When it came to be, milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// This edge.
    pub node: NodeId,
    /// The edge's start, milliseconds since the Unix epoch: newer state of a restarted edge wins by it.
    pub incarnation: u64,
    /// The edge's region.
    pub region: String,
    /// What clients are told about the server.
    pub server_info: lk::ServerInfo,
    /// Makes a key for a track of another edge.
    pub next_key: Box<dyn Fn() -> TrackKey + Send>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("name", &self.name)
            .field("sid", &self.sid)
            .finish()
    }
}

/// A participant, ours or another edge's.
#[derive(Debug)]
struct Participant {
    info: lk::ParticipantInfo,
    identity: Identity,
    tracks: BTreeMap<TrackSid, Arc<Track>>,
    /// Who may receive its tracks; everybody without one.
    permission: Option<lk::SubscriptionPermission>,
    home: Home,
}

/// Where a participant is connected.
#[derive(Debug)]
enum Home {
    /// Here.
    Local(Box<Local>),
    /// At another edge; its tracks may be restricted to some identities.
    Remote {
        origin: NodeId,
        allowed: BTreeMap<TrackSid, BTreeSet<String>>,
    },
}

/// What only the participant's own edge knows.
#[derive(Debug)]
struct Local {
    permissions: Permissions,
    auto_subscribe: bool,
    /// What the client asked for track by track; overrides `auto_subscribe`.
    asked: BTreeMap<TrackSid, bool>,
    subscribed: BTreeSet<TrackSid>,
    /// Tracks whose publisher knows that somebody receives them.
    acknowledged: BTreeSet<TrackSid>,
    /// Tracks that it cannot decode in their first codec.
    needs_backup: BTreeSet<TrackSid>,
    /// Tracks of its own whose backup codec it was asked for.
    backup_asked: BTreeSet<TrackSid>,
    /// Subscriptions that its path has no room for.
    paused: BTreeSet<TrackSid>,
    quality: Quality,
    /// Its client can be told to go elsewhere.
    signals: bool,
    /// The room that it is forwarded from; it has no session here then.
    forwarded_from: Option<RoomId>,
    /// Rooms that it is forwarded to, and its session ids there.
    forwards: BTreeMap<RoomId, ParticipantSid>,
}

/// One room.
#[derive(Debug)]
pub struct Room {
    config: Config,
    participants: BTreeMap<ParticipantSid, Participant>,
    metadata: String,
    metadata_version: u64,
    epoch: u64,
    replicas: Replicas,
    speakers: Speakers,
    /// Who needs which backup codec may have changed.
    backups_stale: bool,
    /// What the other edges were last told of it.
    backups_told: Vec<String>,
    /// The next look at everybody's connection.
    quality_due: Option<Instant>,
    /// State changed since it was last sent to the other edges.
    dirty: bool,
    version: u64,
    last_state: Option<Instant>,
    /// What applications set the room to.
    settings: RoomSettings,
    /// Calls of servers that wait for participants.
    calls: Calls,
    /// Forwardings that ended lately.
    forwards_ended: VecDeque<ParticipantSid>,
    /// What the control plane knows.
    told: Told,
    outputs: VecDeque<Output>,
}

impl Room {
    /// An empty room.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            participants: BTreeMap::new(),
            metadata: String::new(),
            metadata_version: 0,
            epoch: 0,
            replicas: Replicas::default(),
            speakers: Speakers::default(),
            backups_stale: false,
            backups_told: Vec::new(),
            quality_due: None,
            dirty: false,
            version: 0,
            last_state: None,
            settings: RoomSettings::default(),
            calls: Calls::default(),
            forwards_ended: VecDeque::new(),
            told: Told::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input; its effects are then drained by [`Room::poll_output`].
    pub fn handle_input(&mut self, now: Now, input: Input) {
        match input {
            Input::Join(join) => self.join(now, *join),
            Input::Session(sid, message) => self.handle_session(now, &sid, message),
            Input::AudioLevel { track, level_dbov } => self.hear(now, track, level_dbov),
            Input::Demand(track, streams) => self.demand(track, streams),
            Input::StreamState {
                participant,
                track,
                paused,
            } => self.stream_state(&participant, track, paused),
            Input::Reports(reports) => self.take_reports(&reports),
            Input::State(state) => {
                self.apply_state(now, &state);
                self.enforce_limit(now);
            }
            Input::Speakers(speakers) => self.apply_speakers_of(&speakers),
            Input::Gone(origin) => self.forget_origin(&origin),
            Input::Data(data) => self.deliver_remote_data(&data),
            Input::Members { epoch, edges } => self.set_members(now, epoch, &edges),
            Input::Settings(settings) => self.set(settings),
            Input::Command(id, command) => self.command(now, id, *command),
            Input::Mirror(mirror) => self.apply_mirror(now, *mirror),
            Input::ForwardEnded(sid) => self.forward_ended(&sid),
            Input::Link { peer, up } => self.replicas.link(now.instant, &peer, up),
            Input::Tick => self.tick(now),
        }
        self.settle_backups();
        self.flush_state(now);
    }

    /// The next effect.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether none of our participants is left.
    pub fn is_empty(&self) -> bool {
        !self
            .participants
            .values()
            .any(|p| matches!(p.home, Home::Local(_)))
    }

    /// Its session id.
    pub fn sid(&self) -> &RoomSid {
        &self.config.sid
    }

    /// The epoch of the plan in force.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The identity of a participant of ours.
    pub fn identity(&self, sid: &ParticipantSid) -> Option<&Identity> {
        let ours = self
            .participants
            .get(sid)
            .filter(|p| matches!(p.home, Home::Local(_)));
        ours.map(|p| &p.identity)
    }

    fn handle_session(&mut self, now: Now, sid: &ParticipantSid, message: FromSession) {
        if !self.participants.contains_key(sid) {
            return;
        }
        match message {
            FromSession::Active => self.activate(sid),
            FromSession::MediaLost(lost) => self.media_lost(sid, lost),
            FromSession::Published(track) => self.published(sid, &track),
            FromSession::Unpublished(track) => self.unpublished(sid, &track),
            FromSession::Subscription(update) => self.update_subscription(sid, &update),
            FromSession::NeedsBackup(track, needed) => self.needs_backup(sid, track, needed),
            FromSession::SubscriptionPermission(permission) => {
                self.set_permission(sid, permission);
            }
            FromSession::UpdateMetadata(update) => self.update_participant(sid, update),
            FromSession::Data {
                reliable,
                destinations,
                payload,
            } => {
                self.send_data(sid, reliable, &destinations, &payload);
            }
            FromSession::Reply(call, reply) => self.take_reply(sid, &call, reply),
            FromSession::Resync => self.resync(sid),
            FromSession::Leave(reason) => self.leave(now, sid, reason),
        }
    }

    fn activate(&mut self, sid: &ParticipantSid) {
        if let Some(participant) = self.participants.get_mut(sid) {
            participant.info.state = lk::participant_info::State::Active as i32;
        }
        self.participant_changed(sid);
        self.tell_speakers(sid);
    }

    fn update_participant(&mut self, sid: &ParticipantSid, update: lk::UpdateParticipantMetadata) {
        let Some(participant) = self.participants.get_mut(sid) else {
            return;
        };
        let info = &mut participant.info;
        commands::describe(info, (&update.name, &update.metadata), &update.attributes);
        self.participant_changed(sid);
        let id = update.request_id;
        let request = lk::request_response::Request::UpdateMetadata(update);
        let reason = lk::request_response::Reason::Ok;
        self.tell(sid, signal::request_response(id, reason, "", Some(request)));
    }

    /// Raises a participant's version and tells everybody, the participant included.
    fn participant_changed(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else {
            return;
        };
        participant.info.version += 1;
        participant.info.tracks = participant
            .tracks
            .values()
            .map(|track| track.info.clone())
            .collect();
        participant.info.is_publisher = !participant.tracks.is_empty();
        let info = participant.info.clone();
        let hidden = info.permission.as_ref().is_some_and(|p| p.hidden);
        self.dirty = true;
        if hidden {
            self.tell(sid, signal::update(vec![info]));
        } else {
            self.tell_all(&signal::update(vec![info]));
        }
        self.mirror(sid, None);
    }

    /// A participant of ours leaves: everybody hears, its tracks end.
    fn leave(&mut self, now: Now, sid: &ParticipantSid, reason: lk::DisconnectReason) {
        self.mirror(sid, Some(reason));
        let Some(mut participant) = self.participants.remove(sid) else {
            return;
        };
        self.stop_forwarding(sid, &participant);
        self.told.departed(now.instant, &participant.info, reason);
        for track in participant.tracks.values() {
            self.speakers.forget(track.key);
            self.end_track(&track.sid);
        }
        self.dirty = true;
        self.backups_stale = true;
        participant.info.state = lk::participant_info::State::Disconnected as i32;
        participant.info.disconnect_reason = reason as i32;
        participant.info.version += 1;
        participant.info.tracks.clear();
        self.end_calls(sid);
        if !participant
            .info
            .permission
            .as_ref()
            .is_some_and(|p| p.hidden)
        {
            self.tell_all(&signal::update(vec![participant.info]));
        }
        self.settle_backups();
        if self.is_empty() {
            // The other edges hear at once that nobody is left here.
            self.last_state = None;
            self.flush_state(now);
            self.outputs.push_back(Output::Empty);
        }
    }

    fn resync(&mut self, sid: &ParticipantSid) {
        let everybody = self.visible_to(sid, true);
        self.tell(sid, signal::update(everybody));
        let update = lk::RoomUpdate {
            room: Some(self.info()),
        };
        self.tell(sid, Response::RoomUpdate(update));
        self.tell_states(sid);
        self.tell_qualities(sid);
    }

    /// The room as clients see it.
    fn info(&self) -> lk::Room {
        let visible = |p: &&Participant| !p.info.permission.as_ref().is_some_and(|p| p.hidden);
        let count = self.participants.values().filter(visible).count();
        let publishers = self
            .participants
            .values()
            .filter(|p| !p.tracks.is_empty())
            .count();
        lk::Room {
            sid: self.config.sid.to_string(),
            name: self.config.name.name().to_owned(),
            creation_time: self.config.created_at_ms / 1000,
            creation_time_ms: self.config.created_at_ms,
            empty_timeout: self.settings.empty_timeout_s,
            departure_timeout: self.settings.departure_timeout_s,
            max_participants: self.settings.max_participants,
            metadata: self.metadata.clone(),
            num_participants: u32::try_from(count).unwrap_or(u32::MAX),
            num_publishers: u32::try_from(publishers).unwrap_or(u32::MAX),
            ..Default::default()
        }
    }

    /// Everybody that `sid` may see; itself only with `own`.
    fn visible_to(&self, sid: &ParticipantSid, own: bool) -> Vec<lk::ParticipantInfo> {
        let hidden = |p: &Participant| p.info.permission.as_ref().is_some_and(|p| p.hidden);
        self.participants
            .iter()
            .filter(|(other, p)| if *other == sid { own } else { !hidden(p) })
            .map(|(_, p)| p.info.clone())
            .collect()
    }

    fn tell(&mut self, sid: &ParticipantSid, response: Response) {
        self.outputs.push_back(Output::Session(
            sid.clone(),
            ToSession::Signal(Box::new(response)),
        ));
    }

    fn tell_all(&mut self, response: &Response) {
        for (sid, participant) in &self.participants {
            if matches!(participant.home, Home::Local(_)) {
                let message = ToSession::Signal(Box::new(response.clone()));
                self.outputs
                    .push_back(Output::Session(sid.clone(), message));
            }
        }
    }

    fn tick(&mut self, now: Now) {
        for origin in self.replicas.overdue(now.instant) {
            self.forget_origin(&origin);
        }
        self.tick_speakers(now);
        self.tick_quality(now);
        self.tick_calls(now);
    }

    fn set_members(&mut self, now: Now, epoch: u64, edges: &[NodeId]) {
        if epoch < self.epoch {
            return;
        }
        self.epoch = epoch;
        self.replicas.set_members(now.instant, edges);
    }
}
