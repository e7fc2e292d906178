//! One participant's session: its signalling, its peer connections' negotiation, its publications and subscriptions.

mod backup;
mod data;
mod dynacast;
mod negotiate;
mod publish;
mod relocate;
mod subscribe;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use livekit_protocol as lk;
use lk::signal_request::Message as Request;
use lk::signal_response::Message as Response;
use media::router::{ReceiveConfig, SubscriptionConfig, Target, TrackConfig, TrackKey};
use proto::{Identity, ParticipantSid, TrackSid};

use super::negotiation::answerer::Answerer;
use super::negotiation::offerer::Offerer;
use super::room::{FromSession, ToSession};
use super::sdp::{Description, LocalTransport, Setup, TransportAttributes};
use super::signal;
use super::token::Permissions;
use publish::Publishing;
use subscribe::Subscribing;

/// A client that was asked for more media sections and did not offer is asked again after this.
const REQUIREMENT_RETRY: Duration = Duration::from_secs(3);

/// Which of a session's peer connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// The one the client offers on; the only one of single-connection clients.
    Publisher,
    /// The one we offer on, of clients with two.
    Subscriber,
}

/// The time, both for timers and for what is written into messages.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic.
    pub instant: Instant,
    /// Milliseconds since the Unix epoch.
    pub unix_ms: i64,
}

/// What a session is made with.
#[derive(Debug)]
pub struct Config {
    /// The participant's session id.
    pub sid: ParticipantSid,
    /// Its identity.
    pub identity: Identity,
    /// What its token allows.
    pub permissions: Permissions,
    /// Whether the client uses two peer connections (`/rtc`) or one (`/rtc/v1`).
    pub dual: bool,
    /// Random; ids of this session derive from it.
    pub seed: u64,
    /// The server's description of itself, for `reconnect`.
    pub server_info: lk::ServerInfo,
}

/// What happens to a session.
#[derive(Debug)]
pub enum Input {
    /// The client said something. Offers and answers come parsed, by [`Input::Offer`] and [`Input::Answer`].
    Request(Box<Request>),
    /// The client offers on its publisher connection.
    Offer {
        /// Echoed in the answer.
        id: u32,
        /// The parsed description.
        description: Box<Description>,
    },
    /// The client answers our offer.
    Answer {
        /// Of the offer; 0 from clients that do not keep it.
        id: u32,
        /// The parsed description.
        description: Box<Description>,
    },
    /// The room said something.
    Room(ToSession),
    /// ICE and DTLS are up on a connection.
    Connected(Peer),
    /// Nothing has been heard on the connection to the client for long, or it is back.
    MediaLost(bool),
    /// A message on a data channel.
    Data {
        /// The channel's label.
        label: Arc<str>,
        /// The message.
        payload: Bytes,
    },
    /// The client came back on a new signalling connection.
    Resumed {
        /// The edge's TURN server with new credentials.
        ice_servers: Vec<lk::IceServer>,
    },
    /// Time passed.
    Tick,
}

/// What a session wants done.
#[derive(Debug)]
pub enum Output {
    /// Say this to the client.
    Signal(Box<Response>),
    /// Say this to the room.
    Room(FromSession),
    /// The client's side of a connection.
    SetRemote {
        /// Which.
        peer: Peer,
        /// ICE user name fragment, password and certificate fingerprints.
        remote: Remote,
    },
    /// Give the connection new ICE credentials and hand them back by [`Session::set_local`].
    RestartIce(Peer),
    /// What the client sends on its publisher connection.
    Receive(ReceiveConfig),
    /// A track of the client starts.
    Publish {
        /// Its key.
        track: TrackKey,
        /// Its id.
        sid: TrackSid,
        /// Its shape.
        config: TrackConfig,
    },
    /// A track of the client ended.
    Unpublish(TrackKey),
    /// The publisher muted or unmuted.
    SetMuted(TrackKey, bool),
    /// Send a track to the client.
    Subscribe(TrackKey, Box<SubscriptionConfig>),
    /// Send it no more.
    Unsubscribe(TrackKey),
    /// Send this much of it.
    SetTarget(TrackKey, Option<Target>),
    /// The client's own order of what it receives: 1 first, 0 = not said.
    SetPriority(TrackKey, u8),
    /// A data message for the client.
    Data {
        /// On the reliable or the lossy channel.
        reliable: bool,
        /// A `livekit.DataPacket`.
        payload: Bytes,
    },
    /// The session is over.
    Close,
}

/// The client's half of a connection's parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// ICE user name fragment.
    pub ufrag: String,
    /// ICE password.
    pub pwd: String,
    /// `sha-256 AB:CD:…`, one or more.
    pub fingerprints: Vec<String>,
    /// The client insists on being the DTLS server, so we are its client (RFC 8842 section 5).
    pub dtls_server: bool,
}

impl From<&TransportAttributes> for Remote {
    fn from(attributes: &TransportAttributes) -> Self {
        Self {
            ufrag: attributes.ufrag.clone().unwrap_or_default(),
            pwd: attributes.pwd.clone().unwrap_or_default(),
            fingerprints: attributes.fingerprints.clone(),
            dtls_server: attributes.setup == Some(Setup::Passive),
        }
    }
}

/// An offer that names a track whose announcement has not arrived.
#[derive(Debug)]
struct HeldOffer {
    id: u32,
    description: Box<Description>,
    until: Instant,
}

/// One participant's session.
#[derive(Debug)]
pub struct Session {
    config: Config,
    local: BTreeMap<Peer, LocalTransport>,
    remote: BTreeMap<Peer, Remote>,
    answerer: Answerer,
    offerer: Option<Offerer>,
    /// The client's last offer: which sections there are.
    offered: Option<Box<Description>>,
    held: Option<HeldOffer>,
    /// When the client was asked for sections without having offered since.
    requirement_sent: Option<Instant>,
    /// A subscription on a section of the client's ended, which the client learns by the next answer.
    sections_stale: bool,
    publishing: Publishing,
    subscribing: Subscribing,
    /// Sequence of the last reliable data message from the client.
    last_data_sequence: u32,
    active: bool,
    outputs: VecDeque<Output>,
}

impl Session {
    /// A session with its local connection parameters; dual ones get an offer at once.
    pub fn new(config: Config, local: BTreeMap<Peer, LocalTransport>) -> Self {
        let offerer = config.dual.then(|| Offerer::new(config.seed >> 1));
        Self {
            publishing: Publishing::new(config.seed),
            subscribing: Subscribing::new(config.seed),
            config,
            local,
            remote: BTreeMap::new(),
            answerer: Answerer::default(),
            offerer,
            offered: None,
            held: None,
            requirement_sent: None,
            sections_stale: false,
            last_data_sequence: 0,
            active: false,
            outputs: VecDeque::new(),
        }
    }

    /// New local parameters after [`Output::RestartIce`] or for an offer with [`Session::restarts_ice`].
    pub fn set_local(&mut self, peer: Peer, local: LocalTransport) {
        self.local.insert(peer, local);
    }

    /// Whether the description has other ICE credentials than the ones before (RFC 8839 section 4.4.1.1.1).
    pub fn restarts_ice(&self, peer: Peer, description: &Description) -> bool {
        let ufrag = description.transport().and_then(|t| t.ufrag.as_ref());
        match (self.remote.get(&peer), ufrag) {
            (Some(before), Some(now)) => before.ufrag != *now,
            _ => false,
        }
    }

    /// The participant's session id.
    pub fn sid(&self) -> &ParticipantSid {
        &self.config.sid
    }

    /// The connection that carries media and data to the client.
    pub fn downlink(&self) -> Peer {
        if self.config.dual {
            Peer::Subscriber
        } else {
            Peer::Publisher
        }
    }

    /// Takes one input; its effects are then drained by [`Session::poll_output`].
    pub fn handle_input(&mut self, now: Now, input: Input) {
        match input {
            Input::Request(request) => self.handle_request(now, *request),
            Input::Offer { id, description } => self.handle_offer(now, id, description),
            Input::Answer { id, description } => self.handle_answer(now, id, &description),
            Input::Room(message) => self.handle_room(now, message),
            Input::Connected(peer) => self.handle_connected(peer),
            Input::MediaLost(lost) => self.tell_room(FromSession::MediaLost(lost)),
            Input::Data { label, payload } => self.handle_data(&label, payload),
            Input::Resumed { ice_servers } => self.handle_resumed(ice_servers),
            Input::Tick => self.handle_tick(now),
        }
    }

    /// The next effect.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Asks for what the last inputs made necessary: an offer, or sections from the client. Call it after a batch of inputs.
    pub fn settle(&mut self, now: Now) {
        self.negotiate(now);
    }

    fn signal(&mut self, response: Response) {
        self.outputs.push_back(Output::Signal(Box::new(response)));
    }

    fn tell_room(&mut self, message: FromSession) {
        self.outputs.push_back(Output::Room(message));
    }

    #[expect(deprecated, reason = "older clients still send update_layers")]
    fn handle_request(&mut self, now: Now, request: Request) {
        match request {
            Request::AddTrack(request) => self.add_track(now, &request),
            Request::Mute(mute) => self.mute(&mute),
            Request::UpdateAudioTrack(update) => self.update_audio_track(&update),
            Request::UpdateVideoTrack(update) => self.update_video_track(&update),
            Request::TrackSetting(settings) => self.set_track_settings(&settings),
            Request::Subscription(subscription) => {
                self.tell_room(FromSession::Subscription(subscription));
            }
            Request::SubscriptionPermission(permission) => {
                self.tell_room(FromSession::SubscriptionPermission(permission));
            }
            Request::UpdateMetadata(update) => self.update_metadata(update),
            Request::SyncState(state) => self.sync_state(&state),
            Request::Leave(leave) => self.client_leaves(&leave),
            Request::Simulate(scenario) => self.simulate(&scenario),
            Request::Ping(_) => self.signal(Response::Pong(now.unix_ms)),
            Request::PingReq(ping) => self.signal(Response::PongResp(lk::Pong {
                last_ping_timestamp: ping.timestamp,
                timestamp: now.unix_ms,
            })),
            Request::PublishDataTrackRequest(request) => {
                let refused = lk::request_response::Request::PublishDataTrack(request);
                self.refuse(0, "data tracks are not supported", refused);
            }
            Request::UnpublishDataTrackRequest(request) => {
                let refused = lk::request_response::Request::UnpublishDataTrack(request);
                self.refuse(0, "data tracks are not supported", refused);
            }
            // Offers and answers come parsed. We are ICE-lite: the client's candidates show by its checks. Layers are in the packets.
            Request::Offer(_)
            | Request::Answer(_)
            | Request::Trickle(_)
            | Request::UpdateLayers(_)
            | Request::UpdateDataSubscription(_)
            | Request::StoreDataBlobRequest(_)
            | Request::GetDataBlobRequest(_) => {}
        }
    }

    fn refuse(&mut self, id: u32, text: &str, request: lk::request_response::Request) {
        let reason = lk::request_response::Reason::UnsupportedType;
        self.signal(signal::request_response(id, reason, text, Some(request)));
    }

    fn handle_room(&mut self, now: Now, message: ToSession) {
        match message {
            ToSession::Signal(response) => self.signal(*response),
            ToSession::Subscribe(track) => self.subscribe(track),
            ToSession::TrackChanged(track) => self.track_changed(track),
            ToSession::Unsubscribe(sid) => self.unsubscribe(&sid),
            ToSession::Demand(key, streams) => self.demand(now, key, streams),
            ToSession::BackupWanted(sid, wanted) => self.backup_wanted(now, &sid, wanted),
            ToSession::Data { reliable, payload } => {
                self.outputs.push_back(Output::Data { reliable, payload });
            }
            ToSession::Permissions(permissions) => self.permit(now, permissions),
            ToSession::Mute(sid, muted) => self.mute_by_server(&sid, muted),
            ToSession::Close { action, reason } => {
                self.signal(signal::leave(action, reason));
                self.outputs.push_back(Output::Close);
            }
        }
    }

    fn handle_connected(&mut self, peer: Peer) {
        if peer == self.downlink() && !self.active {
            self.active = true;
            self.tell_room(FromSession::Active);
        }
    }

    fn handle_resumed(&mut self, ice_servers: Vec<lk::IceServer>) {
        self.signal(Response::Reconnect(lk::ReconnectResponse {
            ice_servers,
            client_configuration: None,
            server_info: Some(self.config.server_info.clone()),
            last_message_seq: self.last_data_sequence,
        }));
        self.tell_room(FromSession::Resync);
        self.repeat_qualities();
        self.requirement_sent = None;
        if let Some(offerer) = &mut self.offerer {
            offerer.restart();
            self.outputs.push_back(Output::RestartIce(Peer::Subscriber));
        }
    }

    fn handle_tick(&mut self, now: Now) {
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.until <= now.instant)
        {
            self.release_held_offer(now);
        }
        let overdue = |sent: Instant| now.instant.duration_since(sent) >= REQUIREMENT_RETRY;
        if self.requirement_sent.is_some_and(overdue) {
            self.requirement_sent = None;
        }
        self.tick_publications(now);
        self.tick_subscriptions(now);
    }

    fn update_metadata(&mut self, update: lk::UpdateParticipantMetadata) {
        if self.config.permissions.can_update_metadata {
            self.tell_room(FromSession::UpdateMetadata(update));
            return;
        }
        let reason = lk::request_response::Reason::NotAllowed;
        let text = "the token does not grant canUpdateOwnMetadata";
        let id = update.request_id;
        let request = lk::request_response::Request::UpdateMetadata(update);
        self.signal(signal::request_response(id, reason, text, Some(request)));
    }

    fn client_leaves(&mut self, leave: &lk::LeaveRequest) {
        let reason = if leave.reason() == lk::DisconnectReason::UnknownReason {
            lk::DisconnectReason::ClientInitiated
        } else {
            leave.reason()
        };
        self.tell_room(FromSession::Leave(reason));
        self.outputs.push_back(Output::Close);
    }

    fn simulate(&mut self, scenario: &lk::SimulateScenario) {
        use lk::leave_request::Action;
        use lk::simulate_scenario::Scenario;
        let (action, reason) = match scenario.scenario {
            Some(Scenario::ServerLeave(true)) => {
                (Action::Disconnect, lk::DisconnectReason::ServerShutdown)
            }
            Some(Scenario::LeaveRequestFullReconnect(true) | Scenario::NodeFailure(true)) => {
                (Action::Reconnect, lk::DisconnectReason::ServerShutdown)
            }
            Some(Scenario::Migration(true)) => (Action::Resume, lk::DisconnectReason::Migration),
            _ => return,
        };
        self.signal(signal::leave(action, reason));
        if action != Action::Resume {
            self.tell_room(FromSession::Leave(reason));
            self.outputs.push_back(Output::Close);
        }
    }
}
