//! What the tasks of an edge share.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use livekit_protocol as lk;
use media::router::TrackKey;
use proto::{NodeId, ParticipantSid, RoomId};
use relay::drain::Drain;
use runtime::tunnel::Tunnels;
use tokio::sync::mpsc;

use super::ice_servers::IceServers;
use super::media_plane::MediaPlane;
use super::metrics::Metrics;
use super::reports::Reports;
use super::room::Mail as RoomMail;
use super::rooms::Rooms;
use super::whip::Sessions;
use crate::core::session::Now;
use crate::core::token::{Key, KeyStore};

/// What is known of each API key.
pub type Keys = HashMap<String, Key>;

/// What the tasks of an edge share.
#[derive(Debug)]
pub struct Edge {
    /// This node.
    pub node: NodeId,
    /// Its region.
    pub region: String,
    /// Its start, milliseconds since the Unix epoch.
    pub incarnation: u64,
    /// Participants it takes.
    pub capacity: u32,
    /// Everything below signalling.
    pub plane: MediaPlane,
    /// The session with the control plane.
    pub control: relay::control::Client,
    /// Keys that tokens are signed with.
    pub keys: ArcSwap<Keys>,
    /// Whether the control plane has said which there are, if any.
    pub keys_known: AtomicBool,
    /// Rooms served here.
    pub rooms: Rooms,
    /// Whose a track is.
    pub tracks: Tracks,
    /// WHIP and WHEP sessions, by their URL.
    pub http_sessions: Sessions,
    /// How transports do.
    pub reports: Arc<Reports>,
    /// The TURN server, where there is one.
    pub turn: Option<IceServers>,
    /// Counters of signalling.
    pub metrics: Metrics,
    /// Whether the edge lets its clients go elsewhere, to end then.
    pub drain: Drain,
    /// Ways to other edges, for signalling that is handed on.
    pub tunnels: Tunnels,
}

impl Edge {
    /// What clients are told about the server.
    pub fn server_info(&self) -> lk::ServerInfo {
        lk::ServerInfo {
            edition: lk::server_info::Edition::Standard as i32,
            // Clients switch features by the version of the server whose protocol this is.
            version: PROTOCOL_SERVER_VERSION.to_owned(),
            protocol: PROTOCOL_VERSION,
            region: self.region.clone(),
            node_id: self.node.to_string(),
            debug_info: format!("antipode {}", env!("CARGO_PKG_VERSION")),
            agent_protocol: 0,
        }
    }
}

/// The version of the protocol that we speak, as clients count it.
const PROTOCOL_VERSION: i32 = 17;
/// The server release whose behaviour clients may expect.
const PROTOCOL_SERVER_VERSION: &str = "1.9.0";

impl KeyStore for Edge {
    fn key(&self, key: &str) -> Option<Key> {
        self.keys.load().get(key).cloned()
    }
}

/// The time for cores.
pub fn now() -> Now {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        instant: Instant::now(),
        unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX),
    }
}

/// The time for tokens and credentials: Unix seconds.
pub fn unix_s() -> u64 {
    u64::try_from(now().unix_ms / 1000).unwrap_or(0)
}

/// A further room that shows a track.
type Sharer = (RoomId, mpsc::Sender<RoomMail>);

/// Which room a track on the media plane belongs to.
#[derive(Debug, Default)]
pub struct Tracks {
    rooms: Mutex<HashMap<TrackKey, mpsc::Sender<RoomMail>>>,
    /// Further rooms that show a track.
    shared: Mutex<HashMap<TrackKey, Vec<Sharer>>>,
}

impl Tracks {
    /// A track of the room.
    pub fn insert(&self, track: TrackKey, room: mpsc::Sender<RoomMail>) {
        self.rooms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(track, room);
    }

    /// Another room shows the track too.
    pub fn share(&self, track: TrackKey, name: RoomId, room: mpsc::Sender<RoomMail>) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.entry(track).or_default().push((name, room));
    }

    /// That room shows it no more.
    pub fn unshare(&self, track: TrackKey, name: &RoomId) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rooms) = shared.get_mut(&track) {
            rooms.retain(|(room, _)| room != name);
            if rooms.is_empty() {
                shared.remove(&track);
            }
        }
    }

    /// The further rooms that show a track.
    pub fn shared(&self, track: TrackKey) -> Vec<mpsc::Sender<RoomMail>> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let rooms = shared.get(&track).map(Vec::as_slice).unwrap_or_default();
        rooms.iter().map(|(_, room)| room.clone()).collect()
    }

    /// The track ended.
    pub fn remove(&self, track: TrackKey) {
        self.rooms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&track);
    }

    /// The room of a track.
    pub fn room(&self, track: TrackKey) -> Option<mpsc::Sender<RoomMail>> {
        self.rooms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&track)
            .cloned()
    }
}

/// A shared edge.
pub type SharedEdge = Arc<Edge>;

/// A random 64-bit number for ids and seeds.
pub fn random() -> u64 {
    rand::random()
}

/// A participant's session id.
pub fn participant_sid() -> ParticipantSid {
    ParticipantSid::from(format!("PA_{:012x}", random() >> 16))
}

/// Why a room could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The room is not served here and the control plane cannot be asked.
    #[error(
        "room {} is not served by this edge and the control plane cannot be reached ({source}); try again shortly",
        room.name()
    )]
    Control {
        /// Which.
        room: RoomId,
        /// Why not.
        source: relay::control::Error,
    },
}
