//! `Rooms`: edges ask for plans.

use std::time::Instant;

use proto::control::rooms_server;
use proto::control::{AssignRequest, AssignResponse};
use proto::{NodeId, RoomId};
use tonic::{Request, Response, Status};

use crate::actor::{Handle, Stopped};
use crate::core::AssignError;
use crate::metrics::Metrics;

/// The service.
#[derive(Debug)]
pub struct Rooms {
    handle: Handle,
    metrics: Metrics,
}

impl Rooms {
    /// Asks the control plane's task.
    pub(crate) fn new(handle: Handle, metrics: Metrics) -> Self {
        Self { handle, metrics }
    }
}

#[tonic::async_trait]
impl rooms_server::Rooms for Rooms {
    async fn assign(
        &self,
        request: Request<AssignRequest>,
    ) -> Result<Response<AssignResponse>, Status> {
        let began = Instant::now();
        let AssignRequest {
            room,
            node_id,
            room_config,
        } = request.into_inner();
        let answer = self
            .handle
            .assign(NodeId::from(node_id), RoomId::from(room), room_config)
            .await;
        self.metrics
            .assign_seconds
            .observe(began.elapsed().as_secs_f64());
        match answer {
            Ok(Ok(response)) => Ok(Response::new(response)),
            Ok(Err(error)) => Err(status(&error)),
            Err(Stopped) => Err(Status::unavailable(Stopped.to_string())),
        }
    }
}

fn status(error: &AssignError) -> Status {
    let message = error.to_string();
    match error {
        AssignError::RoomName(_) | AssignError::BadName(_) => Status::invalid_argument(message),
        AssignError::Node(_) | AssignError::Residency { .. } => {
            Status::failed_precondition(message)
        }
        AssignError::Full => Status::resource_exhausted(message),
        AssignError::NotSaved => Status::unavailable(message),
        AssignError::Fenced => Status::aborted(message),
    }
}
