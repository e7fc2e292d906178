//! Methods on participants. What changes one is done by its edge.

use std::time::Duration;

use livekit_protocol as lk;
use prost::Message;
use proto::control::{Command, command};
use proto::{NodeId, RoomId};

use super::{COMMAND_TIMEOUT, Caller, Code, Error};
use crate::core::{Answer, Call, METADATA_MAX};
use crate::view::{self, Located};

/// Length of a name in bytes, as in tokens.
const NAME_MAX: usize = 512;
/// Size of all attributes' names and values in bytes.
const ATTRIBUTES_MAX: usize = 64 * 1_024;
/// Size of a call's payload in bytes: the SDKs' own limit for what goes in one packet.
const RPC_PAYLOAD_MAX: usize = 15 * 1_024;
/// Length of a called method's name in bytes: the SDKs' own limit.
const RPC_METHOD_MAX: usize = 64;
/// How long a called participant may take to answer, unless it is said: the SDKs' own default.
const RPC_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that may be said.
const RPC_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// How long the participant's acknowledgement may take on top, and the edge's answer: the SDKs' own limit, and a little more.
const RPC_ROUND_TRIP: Duration = Duration::from_secs(8);

impl Caller<'_> {
    /// A participant by identity.
    async fn locate(&self, room: &RoomId, identity: &str) -> Result<Located, Error> {
        if identity.is_empty() {
            return Err(Error::argument("identity", "is missing"));
        }
        let room = self.room(room).await?;
        let found = view::participants(&room)
            .into_iter()
            .find(|p| p.info.identity == identity);
        found.ok_or_else(|| {
            Error::new(
                Code::NotFound,
                "there is no participant of that identity in the room",
            )
        })
    }

    /// Has an edge do something, and returns its answer.
    pub(super) async fn command(
        &self,
        node: NodeId,
        request: command::Request,
        within: Duration,
    ) -> Result<Vec<u8>, Error> {
        let command = Box::new(Command {
            request: Some(request),
            ..Command::default()
        });
        let call = Call::Command {
            node,
            command,
            within,
        };
        match self.gateway.authority.call(call).await? {
            Answer::Response(response) => Ok(response),
            Answer::Room(_) | Answer::Done => {
                Err(Error::new(Code::Internal, "an answer to another question"))
            }
        }
    }

    /// Has a participant's edge do something.
    async fn order<A: Message + Default>(
        &self,
        (room, identity): (&RoomId, &str),
        request: command::Request,
        within: Duration,
    ) -> Result<A, Error> {
        let node = self.locate(room, identity).await?.node;
        let answer = self.command(NodeId::from(node), request, within).await?;
        A::decode(answer.as_slice())
            .map_err(|_| Error::new(Code::Internal, "the edge's answer cannot be read"))
    }
}

pub(super) async fn list(
    caller: &Caller<'_>,
    request: &lk::ListParticipantsRequest,
) -> Result<lk::ListParticipantsResponse, Error> {
    let room = caller.may_administer(&request.room)?;
    let everybody = view::participants(&caller.room(&room).await?);
    Ok(lk::ListParticipantsResponse {
        participants: everybody.into_iter().map(|p| p.info).collect(),
    })
}

pub(super) async fn get(
    caller: &Caller<'_>,
    request: &lk::RoomParticipantIdentity,
) -> Result<lk::ParticipantInfo, Error> {
    let room = caller.may_administer(&request.room)?;
    let found = caller.locate(&room, &request.identity).await?;
    Ok(found.info)
}

pub(super) async fn remove(
    caller: &Caller<'_>,
    mut request: lk::RoomParticipantIdentity,
) -> Result<lk::RemoveParticipantResponse, Error> {
    let room = caller.may_administer(&request.room)?;
    let found = caller.locate(&room, &request.identity).await;
    if request.revoke_token_ts > 0 {
        // Also for one that has left, so that it does not come back.
        caller.room(&room).await?;
        let revoke = Call::Revoke {
            room: room.clone(),
            identity: request.identity.clone(),
            before_s: request.revoke_token_ts,
        };
        caller.gateway.authority.call(revoke).await?;
    }
    found?;
    request.room = room.to_string();
    let order = command::Request::RemoveParticipant(request.encode_to_vec());
    let whom = (&room, request.identity.as_str());
    caller.order(whom, order, COMMAND_TIMEOUT).await
}

pub(super) async fn update(
    caller: &Caller<'_>,
    mut request: lk::UpdateParticipantRequest,
) -> Result<lk::ParticipantInfo, Error> {
    let room = caller.may_administer(&request.room)?;
    if request.metadata.len() > METADATA_MAX {
        return Err(Error::argument("metadata", "is larger than 65536 bytes"));
    }
    if request.name.len() > NAME_MAX {
        return Err(Error::argument("name", "is longer than 512 bytes"));
    }
    let sizes = request.attributes.iter().map(|(k, v)| k.len() + v.len());
    if sizes.sum::<usize>() > ATTRIBUTES_MAX {
        return Err(Error::argument("attributes", "are larger than 65536 bytes"));
    }
    request.room = room.to_string();
    let order = command::Request::UpdateParticipant(request.encode_to_vec());
    let whom = (&room, request.identity.as_str());
    caller.order(whom, order, COMMAND_TIMEOUT).await
}

pub(super) async fn mute_track(
    caller: &Caller<'_>,
    mut request: lk::MuteRoomTrackRequest,
) -> Result<lk::MuteRoomTrackResponse, Error> {
    let room = caller.may_administer(&request.room)?;
    if request.track_sid.is_empty() {
        return Err(Error::argument("track_sid", "is missing"));
    }
    request.room = room.to_string();
    let order = command::Request::MutePublishedTrack(request.encode_to_vec());
    let whom = (&room, request.identity.as_str());
    caller.order(whom, order, COMMAND_TIMEOUT).await
}

pub(super) async fn update_subscriptions(
    caller: &Caller<'_>,
    mut request: lk::UpdateSubscriptionsRequest,
) -> Result<lk::UpdateSubscriptionsResponse, Error> {
    let room = caller.may_administer(&request.room)?;
    request.room = room.to_string();
    let order = command::Request::UpdateSubscriptions(request.encode_to_vec());
    let whom = (&room, request.identity.as_str());
    caller.order(whom, order, COMMAND_TIMEOUT).await
}

pub(super) async fn perform_rpc(
    caller: &Caller<'_>,
    mut request: lk::PerformRpcRequest,
) -> Result<lk::PerformRpcResponse, Error> {
    let room = caller.may_administer(&request.room)?;
    if request.method.is_empty() || request.method.len() > RPC_METHOD_MAX {
        return Err(Error::argument("method", "has 1 to 64 bytes"));
    }
    if request.payload.len() > RPC_PAYLOAD_MAX {
        return Err(Error::argument("payload", "is larger than 15360 bytes"));
    }
    let timeout = match request.response_timeout_ms {
        0 => RPC_TIMEOUT,
        ms => Duration::from_millis(ms.into()).min(RPC_TIMEOUT_MAX),
    };
    request.response_timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    request.room = room.to_string();
    let order = command::Request::PerformRpc(request.encode_to_vec());
    let whom = (&room, request.destination_identity.as_str());
    caller.order(whom, order, timeout + RPC_ROUND_TRIP).await
}

pub(super) async fn forward(
    caller: &Caller<'_>,
    mut request: lk::ForwardParticipantRequest,
) -> Result<lk::ForwardParticipantResponse, Error> {
    let room = caller.may_send_to(&request.room, &request.destination_room)?;
    request.room = room.to_string();
    let order = command::Request::ForwardParticipant(request.encode_to_vec());
    let whom = (&room, request.identity.as_str());
    caller.order(whom, order, COMMAND_TIMEOUT).await
}

/// Moves a participant, unless the other room takes no more.
pub(super) async fn relocate(
    caller: &Caller<'_>,
    mut request: lk::MoveParticipantRequest,
) -> Result<lk::MoveParticipantResponse, Error> {
    let room = caller.may_send_to(&request.room, &request.destination_room)?;
    let destination = caller.named("destination_room", &request.destination_room)?;
    let ephemeral = &caller.gateway.ephemeral;
    let found = ephemeral.room(destination.as_str()).await?;
    let summary = found.and_then(|room| room.summary);
    let limit = summary.as_ref().and_then(|room| room.settings.as_ref());
    let limit = limit.map_or(0, |settings| settings.max_participants);
    if limit > 0 && summary.is_some_and(|room| room.participants >= limit) {
        let text = "the other room has as many participants as it takes";
        return Err(Error::new(Code::FailedPrecondition, text));
    }
    request.room = room.to_string();
    let order = command::Request::MoveParticipant(request.encode_to_vec());
    let whom = (&room, request.identity.as_str());
    caller.order(whom, order, COMMAND_TIMEOUT).await
}
