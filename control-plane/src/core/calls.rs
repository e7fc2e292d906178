//! What applications' servers ask for: rooms are made, set and ended here; the rest is for the edge that has the participant.

use std::time::{Duration, Instant};

use livekit_protocol as lk;
use prost::Message as _;
use proto::control::control_message::Message as Down;
use proto::control::{
    Command, CommandAnswer, CommandError, RoomReport, RoomSettings, command, command_answer,
};
use proto::{NodeId, RoomId, RoomSid};

use super::room::{ROOM_NAME_LENGTH_MAX, ROOMS_MAX};
use super::{Core, Output, Ticket, Timer};
use crate::registry::SessionId;

/// How long a room that was made ahead of its participants waits for the first, unless it is said, in seconds.
const EMPTY_TIMEOUT_S: u32 = 300;
/// Size of a room's metadata in bytes.
pub(crate) const METADATA_MAX: usize = 64 * 1_024;
/// Calls that wait for an edge's answer.
const PENDING_MAX: usize = 10_000;
/// Participants of one room whose tokens may be revoked.
const REVOKED_MAX: usize = 1_000;
/// Session ids of deleted rooms that are remembered for edges that did not hear of it.
const DELETED_MAX: usize = 1_024;

/// Something that is asked for. Plain data, so that a replica can hand it to the one that owns the room, or has the node's
/// session.
#[derive(Clone, PartialEq, Debug)]
pub enum Call {
    /// Makes a room, or changes what a living one is set to.
    Create(Box<lk::CreateRoomRequest>),
    /// Changes a room's metadata.
    SetMetadata {
        /// The room.
        room: RoomId,
        /// What it is to be.
        metadata: String,
    },
    /// Tokens of a participant that were issued before do not let it in any more.
    Revoke {
        /// The room.
        room: RoomId,
        /// Whose.
        identity: String,
        /// Seconds since the Unix epoch; a token's `nbf` must not be before it.
        before_s: i64,
    },
    /// Ends a room; everybody leaves.
    Delete(RoomId),
    /// For an edge.
    Command {
        /// The edge.
        node: NodeId,
        /// What it is to do; the request id is set here.
        command: Box<Command>,
        /// How long it may take.
        within: Duration,
    },
}

impl Call {
    /// The room that it is about, whose owner carries it out; `None` for what an edge does.
    pub fn room(&self) -> Option<RoomId> {
        match self {
            Self::Create(request) => Some(RoomId::from(request.name.as_str())),
            Self::SetMetadata { room, .. } | Self::Revoke { room, .. } | Self::Delete(room) => {
                Some(room.clone())
            }
            Self::Command { .. } => None,
        }
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// The room as it is now.
    Room(Box<lk::Room>),
    /// It is done.
    Done,
    /// The edge's answer: the response message of `livekit.RoomService`, encoded.
    Response(Vec<u8>),
}

/// Why nothing came of it.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum CallError {
    /// There is no such room.
    #[error("there is no room of that name")]
    NoRoom,
    /// The room's name is empty or too long.
    #[error("room name has {0} bytes; 1 to {ROOM_NAME_LENGTH_MAX} are allowed")]
    RoomName(usize),
    /// The metadata is too large.
    #[error("metadata has {0} bytes; at most {METADATA_MAX} are allowed")]
    Metadata(usize),
    /// Too much is going on.
    #[error("too many rooms live, or calls wait, already")]
    Full,
    /// The edge has no session.
    #[error("the participant's edge is not connected to the control plane")]
    NotConnected,
    /// The edge did not answer in time.
    #[error("the participant's edge did not answer in time")]
    TimedOut,
    /// The edge said no.
    #[error("{}", .0.message)]
    Edge(CommandError),
    /// The change could not be saved.
    #[error("the change could not be saved")]
    NotSaved,
    /// The room is another replica's, or changes hands just now.
    #[error("another control replica owns the room; ask again")]
    NotOwner,
    /// The control plane is stopping.
    #[error("the control plane is stopping")]
    Stopped,
}

/// A call that waits for an edge.
#[derive(Debug)]
pub(super) struct Pending {
    ticket: Ticket,
    session: SessionId,
}

impl Core {
    pub(super) fn call(&mut self, now: Instant, ticket: Ticket, call: Call) {
        let result = match call {
            call if call.room().is_some_and(|room| !self.plans(&room)) => Err(CallError::NotOwner),
            Call::Create(request) => self.create(now, &request),
            Call::SetMetadata { room, metadata } => self.set_metadata(now, &room, metadata),
            Call::Revoke {
                room,
                identity,
                before_s,
            } => self.revoke(now, &room, identity, before_s),
            Call::Delete(room) => self.delete(now, &room),
            Call::Command {
                node,
                command,
                within,
            } => match self.command(now, (ticket, &node), *command, within) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
        };
        self.outputs.push_back(Output::Answered { ticket, result });
    }

    fn create(
        &mut self,
        now: Instant,
        request: &lk::CreateRoomRequest,
    ) -> Result<Answer, CallError> {
        let name = RoomId::from(request.name.as_str());
        let length = name.name().len();
        if length == 0 || length > ROOM_NAME_LENGTH_MAX {
            return Err(CallError::RoomName(length));
        }
        if request.metadata.len() > METADATA_MAX {
            return Err(CallError::Metadata(request.metadata.len()));
        }
        if !self.rooms.contains_key(&name) {
            if self.rooms.len() >= ROOMS_MAX {
                return Err(CallError::Full);
            }
            let sid = self.new_sid();
            let settings = RoomSettings {
                empty_timeout_s: EMPTY_TIMEOUT_S,
                ..RoomSettings::default()
            };
            self.begin(now, &name, (sid, settings));
            self.set(&name, |settings| apply(settings, request));
            self.tell_started(now, &name);
        } else {
            self.set(&name, |settings| apply(settings, request));
        }
        self.settle(now, &name)
    }

    fn set_metadata(
        &mut self,
        now: Instant,
        name: &RoomId,
        metadata: String,
    ) -> Result<Answer, CallError> {
        if metadata.len() > METADATA_MAX {
            return Err(CallError::Metadata(metadata.len()));
        }
        self.set(name, |settings| settings.metadata = metadata);
        self.settle(now, name)
    }

    fn revoke(
        &mut self,
        now: Instant,
        name: &RoomId,
        identity: String,
        before_s: i64,
    ) -> Result<Answer, CallError> {
        let revoked = self.rooms.get(name).map_or(0, |r| r.settings.revoked.len());
        if revoked >= REVOKED_MAX {
            return Err(CallError::Full);
        }
        self.set(name, |settings| {
            settings.revoked.insert(identity, before_s);
        });
        self.settle(now, name)
    }

    fn set(&mut self, name: &RoomId, change: impl FnOnce(&mut RoomSettings)) {
        if let Some(room) = self.rooms.get_mut(name) {
            let before = room.settings.clone();
            change(&mut room.settings);
            room.settings.version = before.version + u64::from(before != room.settings);
        }
    }

    /// Sends a room's settings to its edges with a new plan, and starts its timeout anew while it is empty.
    fn settle(&mut self, now: Instant, name: &RoomId) -> Result<Answer, CallError> {
        if let Some(room) = self.rooms.get_mut(name) {
            room.wait_anew();
        }
        self.plan_again(now, name);
        let room = self.rooms.get(name).ok_or(CallError::NoRoom)?;
        let shown = crate::view::room(&room.summary(name), room.presence.counts());
        Ok(Answer::Room(Box::new(shown)))
    }

    /// Ends a room at once. Its edges send everybody away; one that hears nothing of it now does when it reports the room.
    fn delete(&mut self, now: Instant, name: &RoomId) -> Result<Answer, CallError> {
        let room = self.rooms.get_mut(name).ok_or(CallError::NoRoom)?;
        let (sid, members) = room.close();
        let news = room.presence.clear(lk::DisconnectReason::RoomDeleted);
        self.tell(now, name, news);
        for node in members {
            self.depart(now, &node, name);
            let session = self.registry.get(&node).and_then(|node| node.session);
            if let Some(session) = session {
                self.order_deletion(session, name, &sid);
            }
        }
        // Relays and edges forget the plan.
        self.plan_again(now, name);
        self.deleted.push_back(sid);
        if self.deleted.len() > DELETED_MAX {
            self.deleted.pop_front();
        }
        self.end(now, name, lk::RoomEndReason::RoomEndApiDelete);
        Ok(Answer::Done)
    }

    fn order_deletion(&mut self, session: SessionId, name: &RoomId, sid: &RoomSid) {
        let request = lk::DeleteRoomRequest {
            room: name.to_string(),
        };
        let command = Command {
            request_id: 0,
            room_sid: sid.to_string(),
            request: Some(command::Request::DeleteRoom(request.encode_to_vec())),
        };
        self.transmit(session, Down::Command(command));
    }

    /// Whether a report is on a room that was deleted; its edge is told so again.
    pub(super) fn is_deleted(&mut self, session: SessionId, report: &RoomReport) -> bool {
        let sid = RoomSid::from(report.room_sid.as_str());
        if !self.deleted.contains(&sid) {
            return false;
        }
        if !report.participants.is_empty() {
            let name = RoomId::from(report.room.as_str());
            self.order_deletion(session, &name, &sid);
        }
        true
    }

    fn command(
        &mut self,
        now: Instant,
        (ticket, node): (Ticket, &NodeId),
        command: Command,
        within: Duration,
    ) -> Result<(), CallError> {
        let node = self.registry.get(node).ok_or(CallError::NotConnected)?;
        let session = node.session.ok_or(CallError::NotConnected)?;
        if self.pending.len() >= PENDING_MAX {
            return Err(CallError::Full);
        }
        self.requests += 1;
        let request_id = self.requests;
        let command = Command {
            request_id,
            ..command
        };
        self.pending.insert(request_id, Pending { ticket, session });
        self.timers.insert((now + within, Timer::Call(request_id)));
        self.transmit(session, Down::Command(command));
        Ok(())
    }

    /// An edge answered.
    pub(super) fn answered(&mut self, session: SessionId, answer: CommandAnswer) {
        let id = answer.request_id;
        let Some(pending) = self.pending.get(&id).filter(|p| p.session == session) else {
            // Too late, or no answer to anything that this node was asked.
            return;
        };
        let ticket = pending.ticket;
        self.pending.remove(&id);
        let nothing = || CommandError {
            message: "the edge's answer is of a later version".to_owned(),
            ..CommandError::default()
        };
        let result = match answer.result {
            Some(command_answer::Result::Response(response)) => Ok(Answer::Response(response)),
            Some(command_answer::Result::Error(error)) => Err(CallError::Edge(error)),
            None => Err(CallError::Edge(nothing())),
        };
        self.outputs.push_back(Output::Answered { ticket, result });
    }

    /// An edge has not answered, or will not any more.
    pub(super) fn give_up(&mut self, id: u64, error: CallError) {
        if let Some(pending) = self.pending.remove(&id) {
            self.outputs.push_back(Output::Answered {
                ticket: pending.ticket,
                result: Err(error),
            });
        }
    }

    /// A session ended: nothing that was asked over it is answered any more.
    pub(super) fn give_up_session(&mut self, session: SessionId) {
        let theirs = self.pending.iter().filter(|(_, p)| p.session == session);
        let theirs: Vec<u64> = theirs.map(|(id, _)| *id).collect();
        for id in theirs {
            self.give_up(id, CallError::NotConnected);
        }
    }
}

/// What a request does not say stays as it is.
fn apply(settings: &mut RoomSettings, request: &lk::CreateRoomRequest) {
    let said = |value: u32, before: u32| if value > 0 { value } else { before };
    settings.empty_timeout_s = said(request.empty_timeout, settings.empty_timeout_s);
    settings.departure_timeout_s = said(request.departure_timeout, settings.departure_timeout_s);
    settings.max_participants = said(request.max_participants, settings.max_participants);
    if !request.metadata.is_empty() {
        settings.metadata.clone_from(&request.metadata);
    }
}

/// What a room that begins with a participant is set to by that participant's token; nothing, when that makes no sense.
pub(super) fn configured(encoded: &[u8]) -> RoomSettings {
    let Ok(said) = lk::RoomConfiguration::decode(encoded) else {
        return RoomSettings::default();
    };
    let nothing = said == lk::RoomConfiguration::default();
    let metadata = said.metadata;
    RoomSettings {
        // Standbys and edges take what has a later version than what they know.
        version: u64::from(!nothing),
        empty_timeout_s: said.empty_timeout,
        departure_timeout_s: said.departure_timeout,
        max_participants: said.max_participants,
        metadata: if metadata.len() > METADATA_MAX {
            String::new()
        } else {
            metadata
        },
        ..RoomSettings::default()
    }
}
