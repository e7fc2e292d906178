//! What applications' servers have done in the room, by way of the control plane.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use livekit_protocol as lk;
use lk::leave_request::Action;
use prost::Message as _;
use proto::control::CommandError;
use proto::control::command_error::Code;
use proto::{ParticipantSid, TrackSid};

use super::{Home, Moving, Now, Output, Room, ToSession, signal};
use crate::core::token::Permissions;
use crate::core::track::Track;

/// How long a called participant may take to acknowledge: the SDKs' own limit.
const RPC_ROUND_TRIP: Duration = Duration::from_secs(7);
/// Calls that wait for participants of one room.
const RPCS_MAX: usize = 1_024;
/// Version of calls that every SDK with calls understands.
const RPC_VERSION: u32 = 1;

/// Numbers of the errors of calls, as the SDKs count them.
mod rpc_error {
    pub(super) const CONNECTION_TIMEOUT: u32 = 1_501;
    pub(super) const RESPONSE_TIMEOUT: u32 = 1_502;
    pub(super) const RECIPIENT_DISCONNECTED: u32 = 1_503;
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Everybody leaves; the room is over.
    Delete,
    /// A participant leaves.
    Remove(lk::RoomParticipantIdentity),
    /// A track is muted or unmuted.
    Mute(lk::MuteRoomTrackRequest),
    /// What is said about a participant, or what it may do, changes.
    Update(Box<lk::UpdateParticipantRequest>),
    /// A participant receives tracks, or no longer.
    Subscriptions(lk::UpdateSubscriptionsRequest),
    /// A data message to participants.
    Data(lk::SendDataRequest),
    /// A call to a participant, which answers.
    Rpc(lk::PerformRpcRequest),
    /// A participant goes to another room of this edge.
    Move(lk::MoveParticipantRequest),
    /// A participant is shown in another room of this edge too, under this session id.
    Forward(lk::ForwardParticipantRequest, ParticipantSid),
}

/// What a participant says to a call of a server.
#[derive(Debug, Clone, PartialEq)]
pub enum RpcReply {
    /// It was taken.
    Ack,
    /// The answer.
    Payload(String),
    /// There is none.
    Failed(lk::RpcError),
}

/// A command's answer: the encoded response of `livekit.RoomService`.
pub type Answer = Result<Vec<u8>, CommandError>;

/// A call that waits for its participant.
#[derive(Debug)]
struct Call {
    /// Of the command.
    id: u64,
    participant: ParticipantSid,
    /// It has not been acknowledged, which it must be until then.
    ack_due: Option<Instant>,
    due: Instant,
}

/// Calls by id.
#[derive(Debug, Default)]
pub(super) struct Calls {
    waiting: BTreeMap<String, Call>,
}

/// Makes an error of a command.
pub fn error(code: Code, message: &str) -> CommandError {
    CommandError {
        code: code.into(),
        message: message.to_owned(),
        ..CommandError::default()
    }
}

fn no_participant() -> CommandError {
    error(
        Code::NotFound,
        "there is no participant of that identity at its edge",
    )
}

fn rpc_failed(code: u32, message: &str, data: &str) -> CommandError {
    CommandError {
        rpc_code: code,
        rpc_data: data.to_owned(),
        ..error(Code::Rpc, message)
    }
}

impl Room {
    pub(super) fn command(&mut self, now: Now, id: u64, command: Command) {
        let answer = match command {
            Command::Delete => self.delete(now),
            Command::Remove(request) => self.remove(now, &request.identity),
            Command::Mute(request) => self.mute(&request),
            Command::Update(request) => self.update_by_server(&request),
            Command::Subscriptions(request) => self.subscribe_by_server(request),
            Command::Data(request) => Ok(self.data_by_server(request)),
            Command::Move(request) => self.move_away(now, id, &request.identity),
            Command::Forward(request, sid) => {
                // Of the same project, whatever it is called.
                match self.config.name.beside(&request.destination_room) {
                    Ok(destination) => self.forward(&request.identity, destination, sid),
                    Err(reason) => {
                        let text = format!("destination_room {reason}");
                        Err(error(Code::InvalidArgument, &text))
                    }
                }
            }
            Command::Rpc(request) => match self.begin_call(now, id, request) {
                // Its participant answers.
                Ok(()) => return,
                Err(error) => Err(error),
            },
        };
        self.outputs.push_back(Output::Answer(id, answer));
    }

    /// A participant of ours.
    fn ours(&self, identity: &str) -> Result<ParticipantSid, CommandError> {
        let found = self
            .participants
            .iter()
            .find(|(_, p)| p.identity.as_str() == identity && matches!(p.home, Home::Local(_)));
        found.map(|(sid, _)| sid.clone()).ok_or_else(no_participant)
    }

    /// A participant of ours that is here in person.
    pub(super) fn with_session(&self, identity: &str) -> Result<ParticipantSid, CommandError> {
        let sid = self.ours(identity)?;
        let home = self.participants.get(&sid).map(|p| &p.home);
        if matches!(home, Some(Home::Local(local)) if local.forwarded_from.is_some()) {
            let text = "the participant is forwarded from another room; address it there";
            return Err(error(Code::FailedPrecondition, text));
        }
        Ok(sid)
    }

    fn delete(&mut self, now: Now) -> Answer {
        let ours = self
            .participants
            .iter()
            .filter(|(_, p)| matches!(p.home, Home::Local(_)));
        let ours: Vec<ParticipantSid> = ours.map(|(sid, _)| sid.clone()).collect();
        for sid in ours {
            self.dismiss(now, &sid, lk::DisconnectReason::RoomDeleted);
        }
        Ok(lk::DeleteRoomResponse {}.encode_to_vec())
    }

    fn remove(&mut self, now: Now, identity: &str) -> Answer {
        let sid = self.ours(identity)?;
        self.dismiss(now, &sid, lk::DisconnectReason::ParticipantRemoved);
        Ok(lk::RemoveParticipantResponse {}.encode_to_vec())
    }

    /// Ends a session of ours for good.
    pub(super) fn dismiss(&mut self, now: Now, sid: &ParticipantSid, reason: lk::DisconnectReason) {
        let action = Action::Disconnect;
        let close = ToSession::Close { action, reason };
        self.outputs.push_back(Output::Session(sid.clone(), close));
        self.leave(now, sid, reason);
    }

    /// Mutes for everybody at once; the client hears of it and does the same.
    fn mute(&mut self, request: &lk::MuteRoomTrackRequest) -> Answer {
        let owner = self.with_session(&request.identity)?;
        let sid = TrackSid::from(request.track_sid.as_str());
        let participant = self.participants.get_mut(&owner);
        let known = participant.as_ref().and_then(|p| p.tracks.get(&sid));
        let known = known.ok_or_else(|| {
            error(
                Code::NotFound,
                "the participant publishes no track of that sid",
            )
        })?;
        let mut track = Track::clone(known);
        track.info.muted = request.muted;
        let track = Arc::new(track);
        let answer = lk::MuteRoomTrackResponse {
            track: Some(track.info.clone()),
        };
        if *known != track {
            self.published(&owner, &track);
            let message = ToSession::Mute(sid, request.muted);
            self.outputs.push_back(Output::Session(owner, message));
        }
        Ok(answer.encode_to_vec())
    }

    fn update_by_server(&mut self, request: &lk::UpdateParticipantRequest) -> Answer {
        let sid = self.with_session(&request.identity)?;
        if let Some(participant) = self.participants.get_mut(&sid) {
            let info = &mut participant.info;
            describe(
                info,
                (&request.name, &request.metadata),
                &request.attributes,
            );
        }
        if let Some(permission) = &request.permission {
            self.permit(&sid, permission);
        }
        self.participant_changed(&sid);
        let info = self.participants.get(&sid).map(|p| p.info.encode_to_vec());
        info.ok_or_else(no_participant)
    }

    /// A participant may do other things than before.
    fn permit(&mut self, sid: &ParticipantSid, permission: &lk::ParticipantPermission) {
        let Some(participant) = self.participants.get_mut(sid) else {
            return;
        };
        let Home::Local(local) = &mut participant.home else {
            return;
        };
        let permissions = Permissions::from_proto(permission);
        let before = std::mem::replace(&mut local.permissions, permissions.clone());
        participant.info.permission = Some(permission.clone());
        let subscribed: Vec<TrackSid> = local.subscribed.iter().cloned().collect();
        if before.can_subscribe && !permissions.can_subscribe {
            for track in subscribed {
                self.drop_subscription(sid, &track);
            }
        } else if permissions.can_subscribe && !before.can_subscribe {
            self.subscribe_to_all(sid);
        }
        if permissions.hidden && !before.hidden {
            self.vanish(sid);
        }
        let message = ToSession::Permissions(permissions);
        self.outputs
            .push_back(Output::Session(sid.clone(), message));
    }

    /// The others see a participant leave that they are not to see any more.
    fn vanish(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else {
            return;
        };
        let gone = lk::ParticipantInfo {
            state: lk::participant_info::State::Disconnected as i32,
            version: participant.info.version + 1,
            tracks: Vec::new(),
            ..participant.info.clone()
        };
        let locals = self
            .participants
            .iter()
            .filter(|(other, p)| *other != sid && matches!(p.home, Home::Local(_)));
        let others: Vec<ParticipantSid> = locals.map(|(other, _)| other.clone()).collect();
        for other in others {
            self.tell(&other, signal::update(vec![gone.clone()]));
        }
    }

    fn subscribe_by_server(&mut self, request: lk::UpdateSubscriptionsRequest) -> Answer {
        let sid = self.with_session(&request.identity)?;
        let update = lk::UpdateSubscription {
            track_sids: request.track_sids,
            subscribe: request.subscribe,
            participant_tracks: request.participant_tracks,
        };
        self.update_subscription(&sid, &update);
        Ok(lk::UpdateSubscriptionsResponse {}.encode_to_vec())
    }

    /// A message that no participant sent, to ours that it is for.
    #[expect(
        deprecated,
        reason = "older clients read the fields of the inner packet"
    )]
    fn data_by_server(&mut self, request: lk::SendDataRequest) -> Vec<u8> {
        let reliable = request.kind == lk::data_packet::Kind::Reliable as i32;
        let all = request.destination_sids.is_empty() && request.destination_identities.is_empty();
        let addressed = |sid: &ParticipantSid, identity: &str| {
            all || request.destination_identities.iter().any(|d| d == identity)
                || request.destination_sids.iter().any(|d| d == sid.as_str())
        };
        let ours = self.participants.iter().filter(|(sid, p)| {
            matches!(p.home, Home::Local(_)) && addressed(sid, p.identity.as_str())
        });
        let receivers: Vec<ParticipantSid> = ours.map(|(sid, _)| sid.clone()).collect();
        let packet = lk::DataPacket {
            kind: request.kind,
            destination_identities: request.destination_identities.clone(),
            value: Some(lk::data_packet::Value::User(lk::UserPacket {
                payload: request.data,
                destination_identities: request.destination_identities,
                topic: request.topic,
                nonce: request.nonce,
                ..lk::UserPacket::default()
            })),
            ..lk::DataPacket::default()
        };
        let payload = Bytes::from(packet.encode_to_vec());
        for sid in receivers {
            let message = ToSession::Data {
                reliable,
                payload: payload.clone(),
            };
            self.outputs.push_back(Output::Session(sid, message));
        }
        lk::SendDataResponse {}.encode_to_vec()
    }

    /// Takes a participant out of the room; its session goes on in another one.
    fn move_away(&mut self, now: Now, id: u64, identity: &str) -> Answer {
        let sid = self.with_session(identity)?;
        let Some(participant) = self.participants.get_mut(&sid) else {
            return Err(no_participant());
        };
        let Home::Local(local) = &mut participant.home else {
            return Err(no_participant());
        };
        if !local.signals {
            let text = "the participant came by WHIP or WHEP, so its client cannot be told to move";
            return Err(error(Code::FailedPrecondition, text));
        }
        let moving = Moving {
            info: participant.info.clone(),
            permissions: local.permissions.clone(),
            auto_subscribe: local.auto_subscribe,
        };
        let subscribed: BTreeSet<TrackSid> = std::mem::take(&mut local.subscribed);
        for track in subscribed {
            let message = ToSession::Unsubscribe(track);
            self.outputs
                .push_back(Output::Session(sid.clone(), message));
        }
        self.leave(now, &sid, lk::DisconnectReason::Migration);
        self.outputs
            .push_back(Output::Move(id, sid, Box::new(moving)));
        Ok(lk::MoveParticipantResponse {}.encode_to_vec())
    }

    fn begin_call(
        &mut self,
        now: Now,
        id: u64,
        request: lk::PerformRpcRequest,
    ) -> Result<(), CommandError> {
        let participant = self.with_session(&request.destination_identity)?;
        if self.calls.waiting.len() >= RPCS_MAX {
            let text = "too many calls wait for participants of the room";
            return Err(error(Code::ResourceExhausted, text));
        }
        let timeout = Duration::from_millis(request.response_timeout_ms.into());
        // The participant answers to whoever called: an identity that nobody has, and by which we know the answer.
        let call_id = format!("server-{}-{id}", self.config.incarnation);
        let packet = lk::DataPacket {
            participant_identity: call_id.clone(),
            destination_identities: vec![request.destination_identity],
            value: Some(lk::data_packet::Value::RpcRequest(lk::RpcRequest {
                id: call_id.clone(),
                method: request.method,
                payload: request.payload,
                response_timeout_ms: request.response_timeout_ms,
                version: RPC_VERSION,
                ..lk::RpcRequest::default()
            })),
            ..lk::DataPacket::default()
        };
        let message = ToSession::Data {
            reliable: true,
            payload: packet.encode_to_vec().into(),
        };
        self.outputs
            .push_back(Output::Session(participant.clone(), message));
        let call = Call {
            id,
            participant,
            ack_due: Some(now.instant + RPC_ROUND_TRIP),
            due: now.instant + RPC_ROUND_TRIP + timeout,
        };
        self.calls.waiting.insert(call_id, call);
        Ok(())
    }

    /// A participant of ours answers a call.
    pub(super) fn take_reply(&mut self, sid: &ParticipantSid, call_id: &str, reply: RpcReply) {
        let Some(call) = self.calls.waiting.get_mut(call_id) else {
            return;
        };
        if call.participant != *sid {
            return;
        }
        let answer = match reply {
            RpcReply::Ack => {
                call.ack_due = None;
                return;
            }
            RpcReply::Payload(payload) => Ok(lk::PerformRpcResponse { payload }.encode_to_vec()),
            RpcReply::Failed(error) => Err(rpc_failed(error.code, &error.message, &error.data)),
        };
        let id = call.id;
        self.calls.waiting.remove(call_id);
        self.outputs.push_back(Output::Answer(id, answer));
    }

    /// Gives up calls that were not answered in time.
    pub(super) fn tick_calls(&mut self, now: Now) {
        self.give_up_calls(|call| {
            let late = |due: Instant| due <= now.instant;
            if call.ack_due.is_some_and(late) {
                let text = "the participant did not acknowledge the call";
                return Some(rpc_failed(rpc_error::CONNECTION_TIMEOUT, text, ""));
            }
            let text = "the participant did not answer the call in time";
            late(call.due).then(|| rpc_failed(rpc_error::RESPONSE_TIMEOUT, text, ""))
        });
    }

    /// A participant left: it answers nothing any more.
    pub(super) fn end_calls(&mut self, sid: &ParticipantSid) {
        let text = "the participant left before it answered the call";
        self.give_up_calls(|call| {
            let theirs = call.participant == *sid;
            theirs.then(|| rpc_failed(rpc_error::RECIPIENT_DISCONNECTED, text, ""))
        });
    }

    fn give_up_calls(&mut self, why: impl Fn(&Call) -> Option<CommandError>) {
        let outputs = &mut self.outputs;
        self.calls.waiting.retain(|_, call| match why(call) {
            None => true,
            Some(error) => {
                outputs.push_back(Output::Answer(call.id, Err(error)));
                false
            }
        });
    }
}

/// Changes what is said about a participant; what is empty stays, and an empty attribute is taken away.
pub(super) fn describe(
    info: &mut lk::ParticipantInfo,
    (name, metadata): (&str, &str),
    attributes: &HashMap<String, String>,
) {
    if !metadata.is_empty() {
        metadata.clone_into(&mut info.metadata);
    }
    if !name.is_empty() {
        name.clone_into(&mut info.name);
    }
    #[expect(clippy::iter_over_hash_type, reason = "each key is set on its own")]
    for (key, value) in attributes {
        if value.is_empty() {
            info.attributes.remove(key);
        } else {
            info.attributes.insert(key.clone(), value.clone());
        }
    }
}
