//! How a participant comes in.

use std::collections::{BTreeMap, BTreeSet};

use livekit_protocol as lk;
use lk::leave_request::Action;
use lk::signal_response::Message as Response;
use proto::ParticipantSid;

use super::quality::Quality;
use super::{Home, Local, Now, Output, Participant, Room, ToSession};
use crate::core::token::{Grants, Permissions};

/// Clients send a ping this often, seconds.
const PING_INTERVAL_S: i32 = 5;
/// And take the connection for lost after this without a pong, seconds.
const PING_TIMEOUT_S: i32 = 15;

/// A participant that wants to come in; its token is checked.
#[derive(Debug)]
pub struct Join {
    /// Its new session id.
    pub sid: ParticipantSid,
    /// What its token grants.
    pub grants: Grants,
    /// Whether it uses two peer connections.
    pub dual: bool,
    /// Subscribe to everything without being asked.
    pub auto_subscribe: bool,
    /// The client program.
    pub client: lk::ClientInfo,
    /// The edge's TURN server with credentials for this participant.
    pub ice_servers: Vec<lk::IceServer>,
    /// Its client has a signalling connection, so that it can be told to go elsewhere.
    pub signals: bool,
    /// It comes from another room, with a new token for its client.
    pub moved: Option<String>,
}

/// What a participant takes along to another room.
#[derive(Debug, Clone, PartialEq)]
pub struct Moving {
    /// What was said about it last.
    pub info: lk::ParticipantInfo,
    /// What it may do.
    pub permissions: Permissions,
    /// Subscribe to everything without being asked.
    pub auto_subscribe: bool,
}

impl Room {
    pub(super) fn join(&mut self, now: Now, join: Join) {
        self.evict_duplicate(now, &join);
        let sid = join.sid.clone();
        if self.is_full() || self.is_revoked(&join) {
            return self.refuse(&sid);
        }
        let dual = join.dual;
        let info = self.participant_info(now, &join);
        let participant = Participant {
            info,
            identity: join.grants.identity.clone(),
            tracks: BTreeMap::new(),
            permission: None,
            home: Home::Local(Box::new(Local {
                permissions: join.grants.permissions,
                auto_subscribe: join.auto_subscribe,
                asked: BTreeMap::new(),
                subscribed: BTreeSet::new(),
                acknowledged: BTreeSet::new(),
                needs_backup: BTreeSet::new(),
                backup_asked: BTreeSet::new(),
                paused: BTreeSet::new(),
                quality: Quality::default(),
                signals: join.signals,
                forwarded_from: None,
                forwards: BTreeMap::new(),
            })),
        };
        self.participants.insert(sid.clone(), participant);
        let welcome = match join.moved {
            None => Response::Join(lk::JoinResponse {
                ice_servers: join.ice_servers,
                ..self.join_response(&sid, dual)
            }),
            Some(token) => Response::RoomMoved(lk::RoomMovedResponse {
                room: Some(self.info()),
                token,
                participant: self.participants.get(&sid).map(|p| p.info.clone()),
                other_participants: self.visible_to(&sid, false),
            }),
        };
        self.tell(&sid, welcome);
        self.tell_speakers(&sid);
        self.tell_qualities(&sid);
        self.subscribe_to_all(&sid);
        self.participant_changed(&sid);
    }

    /// Nobody more fits into the room.
    fn refuse(&mut self, sid: &ParticipantSid) {
        let close = ToSession::Close {
            action: Action::Disconnect,
            reason: lk::DisconnectReason::JoinFailure,
        };
        self.outputs.push_back(Output::Session(sid.clone(), close));
        if self.is_empty() {
            self.outputs.push_back(Output::Empty);
        }
    }

    /// A second join with an identity ends the first, here; another edge sees ours as the newer one.
    fn evict_duplicate(&mut self, now: Now, join: &Join) {
        let same = |p: &Participant| p.identity == join.grants.identity;
        let duplicate = self
            .participants
            .iter()
            .find(|(_, p)| same(p) && matches!(p.home, Home::Local(_)))
            .map(|(sid, _)| sid.clone());
        if let Some(sid) = duplicate {
            self.evict(now, &sid);
        }
    }

    /// Ends a participant of ours that has come in again elsewhere.
    pub(super) fn evict(&mut self, now: Now, sid: &ParticipantSid) {
        let reason = lk::DisconnectReason::DuplicateIdentity;
        let close = ToSession::Close {
            action: Action::Disconnect,
            reason,
        };
        self.outputs.push_back(Output::Session(sid.clone(), close));
        self.leave(now, sid, reason);
    }

    fn participant_info(&self, now: Now, join: &Join) -> lk::ParticipantInfo {
        let grants = &join.grants;
        lk::ParticipantInfo {
            sid: join.sid.to_string(),
            identity: grants.identity.to_string(),
            name: grants.name.clone(),
            metadata: grants.metadata.clone(),
            attributes: grants.attributes.clone().into_iter().collect(),
            state: lk::participant_info::State::Joined as i32,
            joined_at: now.unix_ms / 1000,
            joined_at_ms: now.unix_ms,
            permission: Some(grants.permissions.to_proto()),
            region: self.config.region.clone(),
            kind: grants.kind as i32,
            client_protocol: join.client.client_protocol,
            capabilities: join.client.capabilities.clone(),
            ..Default::default()
        }
    }

    fn join_response(&self, sid: &ParticipantSid, dual: bool) -> lk::JoinResponse {
        let codec = |mime: &str| lk::Codec {
            mime: mime.to_owned(),
            fmtp_line: String::new(),
        };
        let mimes = [
            "audio/opus",
            "audio/red",
            "video/VP8",
            "video/VP9",
            "video/H264",
            "video/AV1",
            "video/H265",
            "video/rtx",
        ];
        lk::JoinResponse {
            room: Some(self.info()),
            participant: self.participants.get(sid).map(|p| p.info.clone()),
            other_participants: self.visible_to(sid, false),
            server_version: self.config.server_info.version.clone(),
            server_region: self.config.region.clone(),
            subscriber_primary: dual,
            ping_timeout: PING_TIMEOUT_S,
            ping_interval: PING_INTERVAL_S,
            server_info: Some(self.config.server_info.clone()),
            enabled_publish_codecs: mimes.iter().map(|mime| codec(mime)).collect(),
            fast_publish: false,
            ..Default::default()
        }
    }
}
