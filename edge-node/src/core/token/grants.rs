//! What a token means for one participant in one room.

use std::collections::BTreeMap;
use std::fmt;

use livekit_protocol::participant_info::Kind;
use livekit_protocol::{ParticipantInfo, ParticipantPermission, RoomConfiguration, TrackSource};
use prost::Message as _;
use proto::{Identity, RoomId, check_name};

use super::Error;
use super::claims::{Claims, VideoGrant};

/// Longest identity and room name, in bytes: the limits of the LiveKit server.
const MAX_NAME_BYTES: usize = 256;

/// A checked right to join one room. Its `Debug` shows nothing that names a person.
#[derive(Clone, PartialEq)]
pub struct Grants {
    /// Who joins.
    pub identity: Identity,
    /// Display name; may be empty.
    pub name: String,
    /// Application's metadata; may be empty.
    pub metadata: String,
    /// Application's attributes.
    pub attributes: BTreeMap<String, String>,
    /// Kind of participant.
    pub kind: Kind,
    /// The room.
    pub room: RoomId,
    /// What the participant may do there.
    pub permissions: Permissions,
    /// Whether the bearer may administer the room.
    pub room_admin: bool,
    /// Whether the room may be created by this join.
    pub room_create: bool,
    /// Settings for the room if this join creates it (`livekit.RoomConfiguration` as JSON).
    pub room_config: Option<serde_json::Value>,
    /// What it all came from, for [`super::mint`].
    pub claims: Claims,
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants")
            .field("identity", &self.identity)
            .field("kind", &self.kind)
            .field("room", &self.room)
            .field("permissions", &self.permissions)
            .finish_non_exhaustive()
    }
}

/// What a participant may do, with defaults applied.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent rights, as in the protocol"
)]
pub struct Permissions {
    /// May publish tracks.
    pub can_publish: bool,
    /// May subscribe to others' tracks.
    pub can_subscribe: bool,
    /// May send data packets.
    pub can_publish_data: bool,
    /// Sources that may be published; all if empty.
    pub can_publish_sources: Vec<TrackSource>,
    /// May change its own name, metadata and attributes.
    pub can_update_metadata: bool,
    /// Not shown to others.
    pub hidden: bool,
    /// Is a recorder.
    pub recorder: bool,
    /// Is an agent.
    pub agent: bool,
}

impl Grants {
    /// The bearer is in another room from now on, as the participant that it was in the one before.
    pub fn move_to(&mut self, room: &RoomId, info: &ParticipantInfo, permissions: &Permissions) {
        self.name.clone_from(&info.name);
        self.metadata.clone_from(&info.metadata);
        self.attributes = info.attributes.clone().into_iter().collect();
        self.permissions = permissions.clone();
        self.room = room.clone();
        self.claims.name.clone_from(&self.name);
        self.claims.metadata.clone_from(&self.metadata);
        self.claims.attributes.clone_from(&self.attributes);
        let video = self.claims.video.get_or_insert_default();
        room.name().clone_into(&mut video.room);
        video.can_publish = Some(permissions.can_publish);
        video.can_subscribe = Some(permissions.can_subscribe);
        video.can_publish_data = Some(permissions.can_publish_data);
        video.can_update_own_metadata = Some(permissions.can_update_metadata);
        video.hidden = Some(permissions.hidden);
        let sources = permissions.can_publish_sources.iter();
        video.can_publish_sources = sources
            .map(|source| source.as_str_name().to_ascii_lowercase())
            .collect();
    }

    /// Settings for the room as `livekit.RoomConfiguration`, encoded; empty without them, or when they make no sense.
    pub fn room_configuration(&self) -> Vec<u8> {
        let said = self.room_config.clone();
        let read = said.and_then(|json| serde_json::from_value::<RoomConfiguration>(json).ok());
        read.map(|said| said.encode_to_vec()).unwrap_or_default()
    }
}

impl Claims {
    /// What these claims allow in the room that they name.
    ///
    /// # Errors
    /// [`Error::NoRoomJoin`], [`Error::NoRoom`], [`Error::NoIdentity`], [`Error::TooLong`], [`Error::BadName`].
    pub fn join_grants(self) -> Result<Grants, Error> {
        let video = self
            .video
            .as_ref()
            .filter(|v| v.room_join)
            .ok_or(Error::NoRoomJoin)?;
        if video.room.is_empty() {
            return Err(Error::NoRoom);
        }
        if self.sub.is_empty() {
            return Err(Error::NoIdentity);
        }
        for (name, value) in [("identity", &self.sub), ("room", &video.room)] {
            if value.len() > MAX_NAME_BYTES {
                return Err(Error::TooLong {
                    name,
                    limit: MAX_NAME_BYTES,
                });
            }
            check_name(value).map_err(|reason| Error::BadName { name, reason })?;
        }
        let room = RoomId::new(&self.project, &video.room);
        Ok(Grants {
            identity: Identity::from(self.sub.as_str()),
            name: self.name.clone(),
            metadata: self.metadata.clone(),
            attributes: self.attributes.clone(),
            kind: Kind::from_str_name(&self.kind.to_ascii_uppercase()).unwrap_or(Kind::Standard),
            room: room.map_err(|reason| Error::BadName {
                name: "room",
                reason,
            })?,
            permissions: Permissions::from(video),
            room_admin: video.room_admin,
            room_create: video.room_create,
            room_config: self.room_config.clone(),
            claims: self,
        })
    }
}

impl From<&VideoGrant> for Permissions {
    fn from(video: &VideoGrant) -> Self {
        let can_publish = video.can_publish.unwrap_or(true);
        let sources = video.can_publish_sources.iter();
        Self {
            can_publish,
            can_subscribe: video.can_subscribe.unwrap_or(true),
            can_publish_data: video.can_publish_data.unwrap_or(can_publish),
            // A name that is not known allows nothing, but the list must not become empty, which would allow all.
            can_publish_sources: sources
                .map(|s| TrackSource::from_str_name(&s.to_ascii_uppercase()).unwrap_or_default())
                .collect(),
            can_update_metadata: video.can_update_own_metadata.unwrap_or(false),
            hidden: video.hidden.unwrap_or(false),
            recorder: video.recorder,
            agent: video.agent,
        }
    }
}

impl Permissions {
    /// Whether a track of that source may be published.
    pub fn allows_source(&self, source: TrackSource) -> bool {
        self.can_publish
            && (self.can_publish_sources.is_empty() || self.can_publish_sources.contains(&source))
    }

    /// What a server says that a participant may do.
    pub fn from_proto(permission: &ParticipantPermission) -> Self {
        let sources = permission.can_publish_sources.iter();
        #[expect(deprecated, reason = "servers still send `recorder` and `agent`")]
        let (recorder, agent) = (permission.recorder, permission.agent);
        Self {
            can_publish: permission.can_publish,
            can_subscribe: permission.can_subscribe,
            can_publish_data: permission.can_publish_data,
            can_publish_sources: sources
                .map(|source| TrackSource::try_from(*source).unwrap_or_default())
                .collect(),
            can_update_metadata: permission.can_update_metadata,
            hidden: permission.hidden,
            recorder,
            agent,
        }
    }

    /// For `ParticipantInfo.permission`.
    pub fn to_proto(&self) -> ParticipantPermission {
        let sources = self.can_publish_sources.iter();
        #[expect(deprecated, reason = "clients still read `recorder` and `agent`")]
        ParticipantPermission {
            can_subscribe: self.can_subscribe,
            can_publish: self.can_publish,
            can_publish_data: self.can_publish_data,
            can_publish_sources: sources.map(|source| i32::from(*source)).collect(),
            hidden: self.hidden,
            recorder: self.recorder,
            can_update_metadata: self.can_update_metadata,
            agent: self.agent,
            can_subscribe_metrics: false,
            can_manage_agent_session: false,
        }
    }
}
