//! `Rooms`: edges ask for plans.

use std::net::IpAddr;
use std::time::Instant;

use proto::control::rooms_server;
use proto::control::{AssignRequest, AssignResponse, PlaceRequest, PlaceResponse};
use proto::{NodeId, RoomId};
use tonic::{Request, Response, Status};

use crate::actor::{Handle, Stopped};
use crate::core::AssignError;
use crate::explain::{self, Explainer};
use crate::metrics::Metrics;
use crate::placement::{Asked, Edge};

/// The service.
#[derive(Debug)]
pub struct Rooms {
    handle: Handle,
    metrics: Metrics,
    explainer: Explainer,
}

impl Rooms {
    /// Asks the control plane's task, and placement.
    pub(crate) fn new(handle: Handle, metrics: Metrics, explainer: Explainer) -> Self {
        Self {
            handle,
            metrics,
            explainer,
        }
    }

    /// Where a participant belongs; `None` when it is nowhere and only that would do.
    async fn seat(&self, request: &PlaceRequest) -> Result<Option<Edge>, explain::Error> {
        let room = RoomId::from(request.room.as_str());
        let serving = self.explainer.serving(&room, &request.identity).await?;
        if serving.is_some() || request.serving {
            return Ok(serving);
        }
        let asked = Asked {
            room: Some(&room),
            // It is only a hint: one that cannot be read is none.
            address: request.address.parse::<IpAddr>().ok(),
            ..Asked::default()
        };
        self.explainer.edge_for(&asked).await
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

    async fn place(
        &self,
        request: Request<PlaceRequest>,
    ) -> Result<Response<PlaceResponse>, Status> {
        let seat = self.seat(&request.into_inner()).await;
        // Whatever the reason, another time may be better.
        let seat = seat.map_err(|error| Status::unavailable(error.to_string()))?;
        let edge = seat.ok_or_else(|| Status::not_found("no edge serves the participant"))?;
        Ok(Response::new(PlaceResponse {
            node_id: edge.node_id,
            region: edge.region,
            client_url: edge.url,
        }))
    }
}

fn status(error: &AssignError) -> Status {
    let message = error.to_string();
    match error {
        AssignError::RoomName(_) | AssignError::BadName(_) => Status::invalid_argument(message),
        AssignError::Node(_) | AssignError::Residency { .. } => {
            Status::failed_precondition(message)
        }
        AssignError::Draining(_) => Status::unavailable(message),
        AssignError::Full => Status::resource_exhausted(message),
        AssignError::NotSaved => Status::unavailable(message),
        AssignError::Fenced => Status::aborted(message),
    }
}
