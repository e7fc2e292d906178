//! Methods on rooms.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use livekit_protocol as lk;
use prost::Message as _;
use proto::control::{GetRoomResponse, command};
use proto::{NodeId, RoomId};

use super::{COMMAND_TIMEOUT, Caller, Code, Error};
use crate::core::{Answer, Call, METADATA_MAX};
use crate::view::{self, Located};

/// Largest data message, in bytes: the clients' own limit.
const DATA_MAX: usize = 64_000;
/// Length of a topic in bytes.
const TOPIC_MAX: usize = 1_024;

impl Caller<'_> {
    /// The room with what its edges say.
    pub(super) async fn room(&self, room: &RoomId) -> Result<GetRoomResponse, Error> {
        let found = self.gateway.ephemeral.room(room.as_str()).await?;
        found.ok_or_else(|| Error::new(Code::NotFound, "there is no room of that name"))
    }

    /// Has the room's owner do something with it.
    async fn ask_for_room(&self, call: Call) -> Result<lk::Room, Error> {
        match self.gateway.authority.call(call).await? {
            Answer::Room(room) => Ok(*room),
            Answer::Done | Answer::Response(_) => {
                Err(Error::new(Code::Internal, "an answer to another question"))
            }
        }
    }
}

pub(super) async fn create(
    caller: &Caller<'_>,
    mut request: lk::CreateRoomRequest,
) -> Result<lk::Room, Error> {
    caller.may_create()?;
    request.name = caller.named("name", &request.name)?.to_string();
    if request.egress.is_some() || !request.agents.is_empty() {
        let text = "rooms with egress or agents are not supported";
        return Err(Error::new(Code::Unimplemented, text));
    }
    caller.ask_for_room(Call::Create(Box::new(request))).await
}

pub(super) async fn list(
    caller: &Caller<'_>,
    request: lk::ListRoomsRequest,
) -> Result<lk::ListRoomsResponse, Error> {
    caller.may_list()?;
    let names: BTreeSet<String> = request.names.into_iter().collect();
    let rooms = caller.gateway.ephemeral.rooms().await?;
    let wanted = rooms.iter().filter(|room| {
        let room = RoomId::from(room.room.as_str());
        let named = names.is_empty() || names.contains(room.name());
        named && room.project() == caller.bearer.project
    });
    let rooms = wanted.map(|room| view::room(room, (room.participants, room.publishers)));
    Ok(lk::ListRoomsResponse {
        rooms: rooms.collect(),
    })
}

pub(super) async fn delete(
    caller: &Caller<'_>,
    request: lk::DeleteRoomRequest,
) -> Result<lk::DeleteRoomResponse, Error> {
    caller.may_create()?;
    let call = Call::Delete(caller.named("room", &request.room)?);
    caller.gateway.authority.call(call).await?;
    Ok(lk::DeleteRoomResponse {})
}

pub(super) async fn update_metadata(
    caller: &Caller<'_>,
    request: lk::UpdateRoomMetadataRequest,
) -> Result<lk::Room, Error> {
    let room = caller.may_administer(&request.room)?;
    if request.metadata.len() > METADATA_MAX {
        return Err(Error::argument("metadata", "is larger than 65536 bytes"));
    }
    let metadata = request.metadata;
    caller
        .ask_for_room(Call::SetMetadata { room, metadata })
        .await
}

/// A message to everybody in the room, or to those it names: by way of every edge that has one of them.
#[expect(deprecated, reason = "older SDKs address session ids")]
pub(super) async fn send_data(
    caller: &Caller<'_>,
    mut request: lk::SendDataRequest,
) -> Result<lk::SendDataResponse, Error> {
    let id = caller.may_administer(&request.room)?;
    if request.data.len() > DATA_MAX {
        return Err(Error::argument("data", "is larger than 64000 bytes"));
    }
    if request.topic.as_ref().is_some_and(|t| t.len() > TOPIC_MAX) {
        return Err(Error::argument("topic", "is longer than 1024 bytes"));
    }
    request.room = id.to_string();
    let room = caller.room(&id).await?;
    let all = request.destination_identities.is_empty() && request.destination_sids.is_empty();
    let addressed = |p: &Located| {
        all || request.destination_identities.contains(&p.info.identity)
            || request.destination_sids.contains(&p.info.sid)
    };
    let everybody = view::participants(&room);
    let edges = everybody.iter().filter(|p| addressed(p));
    let edges: BTreeMap<&str, ()> = edges.map(|p| (p.node.as_str(), ())).collect();
    let encoded = request.encode_to_vec();
    let sent = edges.into_keys().map(|node| {
        let request = command::Request::SendData(encoded.clone());
        caller.command(NodeId::from(node), request, COMMAND_TIMEOUT)
    });
    for sent in join_all(sent).await {
        sent?;
    }
    Ok(lk::SendDataResponse {})
}
