//! Commands of the control plane: handed to the room that they are about, and answered.

use std::time::Duration;

use livekit_protocol as lk;
use prost::Message;
use proto::control::command::Request;
use proto::control::command_error::Code;
use proto::control::node_message::Message as ToControl;
use proto::control::{Command as Order, CommandAnswer, command_answer};
use proto::{RoomId, RoomSid};
use relay::drain::Asked;
use tokio::sync::mpsc::error::TrySendError;

use super::edge::{self, SharedEdge};
use super::room::Mail;
use crate::core::room::commands::error;
use crate::core::room::{Answer, Command};

/// A command for one room.
#[derive(Debug)]
pub struct ForRoom {
    /// Of the answer; 0: nobody wants one.
    pub id: u64,
    /// Which of the rooms of that name; empty: any.
    pub sid: RoomSid,
    /// What is to be done.
    pub command: Box<Command>,
    /// The other room, of a command that is about two.
    pub destination: Option<RoomId>,
}

/// Hands a command to its room.
pub(super) fn take(edge: &SharedEdge, order: Order) {
    let id = order.request_id;
    if let Some(Request::Drain(drain)) = &order.request {
        let clients = u32::try_from(edge.metrics.participants.get()).unwrap_or(0);
        let within = Duration::from_millis(drain.within_ms);
        edge.drain.begin(Asked::Operator, within, clients);
        return answer(edge, id, Ok(Vec::new()));
    }
    if matches!(order.request, Some(Request::Undrain(_))) {
        let text = "the node was told to stop (SIGTERM): it does not stay";
        let stays = edge.drain.cancel();
        let outcome = stays.then(Vec::new);
        return answer(
            edge,
            id,
            outcome.ok_or_else(|| error(Code::FailedPrecondition, text)),
        );
    }
    let Some((name, destination, command)) = order.request.and_then(decode) else {
        let text = "the edge does not know this command";
        return answer(edge, id, Err(error(Code::InvalidArgument, text)));
    };
    let Some(room) = edge.rooms.find(&name) else {
        let text = "the edge does not serve the room any more";
        return answer(edge, id, Err(error(Code::NotFound, text)));
    };
    let command = ForRoom {
        id,
        sid: RoomSid::from(order.room_sid),
        command: Box::new(command),
        destination,
    };
    match room.try_send(Mail::Command(command)) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => {
            edge.metrics.dropped.with_label_values(&["room_busy"]).inc();
            let text = "the room is too busy";
            answer(edge, id, Err(error(Code::Unavailable, text)));
        }
        Err(TrySendError::Closed(_)) => {
            let text = "the room has just ended at its edge";
            answer(edge, id, Err(error(Code::NotFound, text)));
        }
    }
}

/// Tells the control plane what came of a command.
pub(super) fn answer(edge: &SharedEdge, request_id: u64, answer: Answer) {
    if request_id == 0 {
        return;
    }
    let result = match answer {
        Ok(response) => command_answer::Result::Response(response),
        Err(error) => command_answer::Result::Error(error),
    };
    let answer = CommandAnswer {
        request_id,
        result: Some(result),
    };
    if let Err(error) = edge.control.send(ToControl::Answer(answer)) {
        // Whoever waits for it hears that the session ended, or that the time is up.
        tracing::debug!(%error, "answer not sent");
    }
}

/// The room of a command, the other room where there is one, and what is to be done.
fn decode(request: Request) -> Option<(RoomId, Option<RoomId>, Command)> {
    fn read<T: Message + Default>(bytes: &[u8]) -> Option<T> {
        T::decode(bytes).ok()
    }
    let (room, destination, command) = match request {
        Request::DeleteRoom(bytes) => {
            let request: lk::DeleteRoomRequest = read(&bytes)?;
            (request.room, None, Command::Delete)
        }
        Request::RemoveParticipant(bytes) => {
            let request: lk::RoomParticipantIdentity = read(&bytes)?;
            (request.room.clone(), None, Command::Remove(request))
        }
        Request::MutePublishedTrack(bytes) => {
            let request: lk::MuteRoomTrackRequest = read(&bytes)?;
            (request.room.clone(), None, Command::Mute(request))
        }
        Request::UpdateParticipant(bytes) => {
            let request: lk::UpdateParticipantRequest = read(&bytes)?;
            (
                request.room.clone(),
                None,
                Command::Update(Box::new(request)),
            )
        }
        Request::UpdateSubscriptions(bytes) => {
            let request: lk::UpdateSubscriptionsRequest = read(&bytes)?;
            (request.room.clone(), None, Command::Subscriptions(request))
        }
        Request::SendData(bytes) => {
            let request: lk::SendDataRequest = read(&bytes)?;
            (request.room.clone(), None, Command::Data(request))
        }
        Request::PerformRpc(bytes) => {
            let request: lk::PerformRpcRequest = read(&bytes)?;
            (request.room.clone(), None, Command::Rpc(request))
        }
        Request::MoveParticipant(bytes) => {
            let request: lk::MoveParticipantRequest = read(&bytes)?;
            // Nobody leaves the project.
            let room = RoomId::from(request.room.as_str());
            let destination = room.beside(&request.destination_room).ok()?;
            (
                request.room.clone(),
                Some(destination),
                Command::Move(request),
            )
        }
        Request::ForwardParticipant(bytes) => {
            let request: lk::ForwardParticipantRequest = read(&bytes)?;
            let sid = edge::participant_sid();
            (request.room.clone(), None, Command::Forward(request, sid))
        }
        // These are about the edge itself.
        Request::Drain(_) | Request::Undrain(_) => return None,
    };
    Some((RoomId::from(room), destination, command))
}
