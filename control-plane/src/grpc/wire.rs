//! Calls and their answers as replicas tell them to each other.

use std::time::Duration;

use livekit_protocol as lk;
use prost::Message as _;
use proto::control::call_failure::Reason;
use proto::control::replica_answer::Answer as Told;
use proto::control::replica_call::Call as Asked;
use proto::control::{
    CallFailure, Done, NodeCommand, ReplicaAnswer, ReplicaCall, RevokeTokens, SetMetadata,
};
use proto::{NodeId, RoomId};
use tonic::Status;

use crate::core::{Answer, AssignError, Call, CallError};

/// Why an edge gets no plan.
pub(crate) fn refusal(error: &AssignError) -> Status {
    let message = error.to_string();
    match error {
        AssignError::RoomName(_) | AssignError::BadName(_) => Status::invalid_argument(message),
        AssignError::Node(_) => Status::failed_precondition(message),
        AssignError::Residency { .. } => Status::permission_denied(message),
        AssignError::Full => Status::resource_exhausted(message),
        AssignError::NotSaved | AssignError::Draining(_) => Status::unavailable(message),
        AssignError::Fenced | AssignError::NotOwner => Status::aborted(message),
    }
}

/// A call for another replica.
pub(crate) fn call(call: Call) -> ReplicaCall {
    let asked = match call {
        Call::Create(request) => Asked::Create(request.encode_to_vec()),
        Call::SetMetadata { room, metadata } => Asked::SetMetadata(SetMetadata {
            room: room.to_string(),
            metadata,
        }),
        Call::Revoke {
            room,
            identity,
            before_s,
        } => Asked::Revoke(RevokeTokens {
            room: room.to_string(),
            identity,
            before_s,
        }),
        Call::Delete(room) => Asked::Delete(room.to_string()),
        Call::Command {
            node,
            command,
            within,
        } => Asked::Command(NodeCommand {
            node_id: node.to_string(),
            command: Some(*command),
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        }),
    };
    ReplicaCall { call: Some(asked) }
}

/// What another replica asks for.
///
/// # Errors
/// When it is of a later version, or damaged.
pub(crate) fn asked(call: ReplicaCall) -> Result<Call, Status> {
    let unknown = || Status::unimplemented("a call of a later version");
    Ok(match call.call.ok_or_else(unknown)? {
        Asked::Create(request) => {
            let request = lk::CreateRoomRequest::decode(request.as_slice());
            let damaged = |_| Status::invalid_argument("a damaged request");
            Call::Create(Box::new(request.map_err(damaged)?))
        }
        Asked::SetMetadata(SetMetadata { room, metadata }) => Call::SetMetadata {
            room: RoomId::from(room),
            metadata,
        },
        Asked::Revoke(RevokeTokens {
            room,
            identity,
            before_s,
        }) => Call::Revoke {
            room: RoomId::from(room),
            identity,
            before_s,
        },
        Asked::Delete(room) => Call::Delete(RoomId::from(room)),
        Asked::Command(NodeCommand {
            node_id,
            command,
            within_ms,
        }) => Call::Command {
            node: NodeId::from(node_id),
            command: Box::new(command.unwrap_or_default()),
            within: Duration::from_millis(within_ms),
        },
    })
}

/// What came of a call, for the replica that asked.
pub(crate) fn answer(result: Result<Answer, CallError>) -> ReplicaAnswer {
    let told = match result {
        Ok(Answer::Room(room)) => Told::Room(room.encode_to_vec()),
        Ok(Answer::Done) => Told::Done(Done {}),
        Ok(Answer::Response(response)) => Told::Response(response),
        Err(error) => Told::Failure(failure(error)),
    };
    ReplicaAnswer { answer: Some(told) }
}

fn failure(error: CallError) -> CallFailure {
    let plain = |reason: Reason| CallFailure {
        reason: reason.into(),
        ..CallFailure::default()
    };
    let sized = |reason: Reason, length: usize| CallFailure {
        length: u64::try_from(length).unwrap_or(u64::MAX),
        ..plain(reason)
    };
    match error {
        CallError::NoRoom => plain(Reason::NoRoom),
        CallError::RoomName(length) => sized(Reason::RoomName, length),
        CallError::Metadata(length) => sized(Reason::Metadata, length),
        CallError::Full => plain(Reason::Full),
        CallError::NotConnected => plain(Reason::NotConnected),
        CallError::TimedOut => plain(Reason::TimedOut),
        CallError::Edge(error) => CallFailure {
            error: Some(error),
            ..plain(Reason::Edge)
        },
        CallError::NotSaved => plain(Reason::NotSaved),
        CallError::NotOwner => plain(Reason::NotOwner),
        CallError::Stopped => plain(Reason::Stopped),
    }
}

/// What another replica says came of a call.
pub(crate) fn answered(answer: ReplicaAnswer) -> Result<Answer, CallError> {
    match answer.answer {
        Some(Told::Room(room)) => {
            let room = lk::Room::decode(room.as_slice()).map_err(|_| CallError::Stopped)?;
            Ok(Answer::Room(Box::new(room)))
        }
        Some(Told::Done(Done {})) => Ok(Answer::Done),
        Some(Told::Response(response)) => Ok(Answer::Response(response)),
        Some(Told::Failure(failure)) => Err(failed(failure)),
        // Of a later version.
        None => Err(CallError::Stopped),
    }
}

fn failed(failure: CallFailure) -> CallError {
    let length = usize::try_from(failure.length).unwrap_or(usize::MAX);
    match failure.reason() {
        Reason::NoRoom => CallError::NoRoom,
        Reason::RoomName => CallError::RoomName(length),
        Reason::Metadata => CallError::Metadata(length),
        Reason::Full => CallError::Full,
        Reason::NotConnected => CallError::NotConnected,
        Reason::TimedOut => CallError::TimedOut,
        Reason::Edge => CallError::Edge(failure.error.unwrap_or_default()),
        Reason::NotSaved => CallError::NotSaved,
        Reason::NotOwner => CallError::NotOwner,
        Reason::Stopped | Reason::Unknown => CallError::Stopped,
    }
}

#[cfg(test)]
mod tests {
    use proto::control::{Command, CommandError, command};

    use super::*;

    #[test]
    fn calls_and_answers_come_through_as_they_are() {
        let command = Command {
            request: Some(command::Request::SendData(vec![1, 2])),
            ..Command::default()
        };
        let calls = [
            Call::Create(Box::new(lk::CreateRoomRequest {
                name: "R".to_owned(),
                ..lk::CreateRoomRequest::default()
            })),
            Call::SetMetadata {
                room: "R".into(),
                metadata: "m".to_owned(),
            },
            Call::Revoke {
                room: "R".into(),
                identity: "i".to_owned(),
                before_s: 7,
            },
            Call::Delete("R".into()),
            Call::Command {
                node: "edge".into(),
                command: Box::new(command),
                within: Duration::from_millis(1_500),
            },
        ];
        for asked_for in calls {
            assert_eq!(asked(call(asked_for.clone())).unwrap(), asked_for);
        }
        assert!(asked(ReplicaCall::default()).is_err());
        let error = CommandError {
            message: "no".to_owned(),
            ..CommandError::default()
        };
        let answers = [
            Ok(Answer::Room(Box::default())),
            Ok(Answer::Done),
            Ok(Answer::Response(vec![3])),
            Err(CallError::NoRoom),
            Err(CallError::RoomName(600)),
            Err(CallError::Metadata(70_000)),
            Err(CallError::Full),
            Err(CallError::NotConnected),
            Err(CallError::TimedOut),
            Err(CallError::Edge(error)),
            Err(CallError::NotSaved),
            Err(CallError::NotOwner),
            Err(CallError::Stopped),
        ];
        for told in answers {
            assert_eq!(answered(answer(told.clone())), told);
        }
    }
}
