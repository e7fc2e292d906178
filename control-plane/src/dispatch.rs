//! Hands what is asked of this replica to the one that can do it: a room's owner, or whoever has a node's session.

use std::error::Error as _;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use prost::Message as _;
use proto::control::replicas_client::ReplicasClient;
use proto::control::rooms_client::RoomsClient;
use proto::control::{AssignRequest, AssignResponse, Command, ReplicaCall, command};
use proto::{NodeId, RoomId};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::actor::{Handle, Stopped};
use crate::authority::Authority;
use crate::core::{Answer, AssignError, Call, CallError};
use crate::grpc::wire;
use crate::replicas::{Other, Owner, Replicas};

/// Says that a request was handed on: it is not handed on again.
pub(crate) const FORWARDED: &str = "antipode-forwarded";
/// How long it is tried to find a room's owner, while replicas come and go.
const SEARCH: Duration = Duration::from_millis(2_500);
/// Wait before it is looked for again.
const PAUSE: Duration = Duration::from_millis(25);
/// How long another replica may take for what it can do at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// Room for the way there and back on top of what an edge may take.
const ROUND_TRIP: Duration = Duration::from_millis(500);

/// Does what is asked for, wherever it has to be done.
#[derive(Clone, Debug)]
pub struct Dispatch {
    handle: Handle,
    replicas: Replicas,
}

/// What another replica said, or that it did not.
enum Said<T> {
    Answer(T),
    /// It refuses for the moment: it is not the owner, or is becoming it.
    Later(Status),
    /// It does not answer: whoever comes after it does.
    Dead,
    Refused(Status),
}

impl Dispatch {
    /// Over this replica's task and the others.
    pub fn new(handle: Handle, replicas: Replicas) -> Self {
        Self { handle, replicas }
    }

    /// This replica's task.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Makes an edge a member of a room; `forwarded`: another replica was asked, and takes this one for the owner.
    ///
    /// # Errors
    /// As the owner answers; `ABORTED` when the room has none for the moment.
    pub async fn assign(
        &self,
        request: AssignRequest,
        forwarded: bool,
    ) -> Result<AssignResponse, Status> {
        let began = Instant::now();
        let mut last = Status::aborted(AssignError::NotOwner.to_string());
        while began.elapsed() < SEARCH {
            let said = match self.replicas.owner(&request.room) {
                Owner::Own => self.assign_here(&request).await,
                Owner::Other(_) if forwarded => return Err(last),
                Owner::Other(other) => self.assign_there(&other, &request).await,
                Owner::Nobody => Said::Later(last.clone()),
            };
            match said {
                Said::Answer(response) => return Ok(response),
                Said::Refused(status) => return Err(status),
                Said::Later(_) if forwarded => return Err(last),
                Said::Later(status) => {
                    last = status;
                    tokio::time::sleep(PAUSE).await;
                }
                Said::Dead => {}
            }
        }
        Err(last)
    }

    async fn assign_here(&self, request: &AssignRequest) -> Said<AssignResponse> {
        let AssignRequest {
            room,
            node_id,
            room_config,
        } = request.clone();
        let (node, room) = (NodeId::from(node_id), RoomId::from(room));
        match self.handle.assign(node, room, room_config).await {
            Ok(Ok(response)) => Said::Answer(response),
            Ok(Err(error @ AssignError::NotOwner)) => Said::Later(wire::refusal(&error)),
            Ok(Err(error)) => Said::Refused(wire::refusal(&error)),
            Err(Stopped) => Said::Refused(Status::unavailable(Stopped.to_string())),
        }
    }

    async fn assign_there(&self, other: &Other, request: &AssignRequest) -> Said<AssignResponse> {
        let mut client = RoomsClient::new(other.channel.clone());
        let asked = client.assign(forwarded(request.clone()));
        let said = self.listen(other, PATIENCE, asked).await;
        match said {
            // The node may be on its way there.
            Said::Refused(status) if status.code() == Code::FailedPrecondition => {
                Said::Later(status)
            }
            said => said,
        }
    }

    /// What came of a call to another replica.
    async fn listen<T>(
        &self,
        other: &Other,
        patience: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Said<T> {
        match tokio::time::timeout(patience, call).await {
            Ok(Ok(response)) => Said::Answer(response.into_inner()),
            Ok(Err(status)) if status.code() == Code::Aborted => Said::Later(status),
            // What the transport says has a source; what the other one says has none.
            Ok(Err(status)) if status.source().is_some() => {
                tracing::debug!(replica = other.id, %status, "control replica does not answer");
                self.replicas.suspect(&other.id);
                Said::Dead
            }
            Ok(Err(status)) => Said::Refused(status),
            Err(_) => Said::Refused(Status::unavailable(
                "the room's owner did not answer in time",
            )),
        }
    }

    /// A call that concerns a room is for its owner.
    async fn call_owner(&self, room: &RoomId, call: Call) -> Result<Answer, CallError> {
        let began = Instant::now();
        while began.elapsed() < SEARCH {
            let answer = match self.replicas.owner(room.as_str()) {
                Owner::Own => self.handle.call(call.clone()).await,
                Owner::Other(other) => match self.call_there(&other, &call, PATIENCE).await {
                    Said::Answer(answer) => answer,
                    Said::Later(_) => Err(CallError::NotOwner),
                    Said::Dead => continue,
                    Said::Refused(_) => return Err(CallError::TimedOut),
                },
                Owner::Nobody => Err(CallError::NotOwner),
            };
            match answer {
                Err(CallError::NotOwner) => tokio::time::sleep(PAUSE).await,
                answer => return answer,
            }
        }
        Err(CallError::NotOwner)
    }

    /// What a node is to do: by the owner of the room that it concerns, so that the answer comes after what everybody can read; by
    /// anybody who has the node's session otherwise.
    async fn call_node(
        &self,
        command: &Command,
        within: Duration,
        call: Call,
    ) -> Result<Answer, CallError> {
        let owner = room_of(command).map(|room| self.replicas.owner(&room));
        let mut first = None;
        if let Some(Owner::Other(other)) = owner {
            let said = self.call_there(&other, &call, within + ROUND_TRIP).await;
            match said {
                Said::Answer(Err(CallError::NotConnected | CallError::Stopped))
                | Said::Later(_) => first = Some(other.id),
                // Whether it was done is not known.
                Said::Dead if repeatable(command) => first = Some(other.id),
                Said::Dead | Said::Refused(_) => return Err(CallError::TimedOut),
                Said::Answer(answer) => return answer,
            }
        }
        match self.handle.call(call.clone()).await {
            Err(CallError::NotConnected) => {}
            answer => return answer,
        }
        let others = self.replicas.living().into_iter();
        for other in others.filter(|other| Some(&other.id) != first.as_ref()) {
            match self.call_there(&other, &call, within + ROUND_TRIP).await {
                Said::Answer(Err(CallError::NotConnected)) => {}
                Said::Answer(answer) => return answer,
                Said::Later(_) | Said::Dead | Said::Refused(_) => {}
            }
        }
        Err(CallError::NotConnected)
    }

    async fn call_there(
        &self,
        other: &Other,
        call: &Call,
        patience: Duration,
    ) -> Said<Result<Answer, CallError>> {
        let mut client = ReplicasClient::new(other.channel.clone());
        let request: ReplicaCall = wire::call(call.clone());
        let said = self.listen(other, patience, client.call(request)).await;
        match said {
            Said::Answer(answer) => Said::Answer(wire::answered(answer)),
            Said::Later(status) => Said::Later(status),
            Said::Dead => Said::Dead,
            Said::Refused(status) => Said::Refused(status),
        }
    }
}

impl Authority for Dispatch {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<Answer, CallError>> {
        Box::pin(async move {
            if let Some(room) = call.room() {
                return self.call_owner(&room, call).await;
            }
            match &call {
                Call::Command {
                    command, within, ..
                } => {
                    let (command, within) = (command.clone(), *within);
                    self.call_node(&command, within, call).await
                }
                Call::Create(_)
                | Call::SetMetadata { .. }
                | Call::Revoke { .. }
                | Call::Delete(_) => self.handle.call(call).await,
            }
        })
    }
}

/// Whether doing it twice is doing it once.
fn repeatable(command: &Command) -> bool {
    use command::Request::{ForwardParticipant, MoveParticipant, PerformRpc, SendData};
    !matches!(
        command.request,
        Some(SendData(_) | PerformRpc(_) | MoveParticipant(_) | ForwardParticipant(_))
    )
}

fn forwarded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let yes = MetadataValue::from_static("1");
    request.metadata_mut().insert(FORWARDED, yes);
    request
}

/// The room that a command concerns: all requests of `livekit.RoomService` name it in their first field.
fn room_of(command: &Command) -> Option<String> {
    use command::Request::{
        DeleteRoom, Drain, ForwardParticipant, MoveParticipant, MutePublishedTrack, PerformRpc,
        RemoveParticipant, SendData, Undrain, UpdateParticipant, UpdateSubscriptions,
    };
    let encoded = match command.request.as_ref()? {
        DeleteRoom(request)
        | RemoveParticipant(request)
        | MutePublishedTrack(request)
        | UpdateParticipant(request)
        | UpdateSubscriptions(request)
        | SendData(request)
        | PerformRpc(request)
        | ForwardParticipant(request)
        | MoveParticipant(request) => request,
        Drain(_) | Undrain(_) => return None,
    };
    let named = livekit_protocol::DeleteRoomRequest::decode(encoded.as_slice()).ok()?;
    Some(named.room).filter(|room| !room.is_empty())
}
