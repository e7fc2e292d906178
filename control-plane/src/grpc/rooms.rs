//! `Rooms`: edges ask for plans.

use std::net::IpAddr;
use std::time::Instant;

use proto::RoomId;
use proto::control::rooms_server;
use proto::control::{AssignRequest, AssignResponse, PlaceRequest, PlaceResponse};
use tonic::{Request, Response, Status};

use crate::dispatch::{Dispatch, FORWARDED};
use crate::explain::{self, Explainer};
use crate::metrics::Metrics;
use crate::placement::{Asked, Edge};

/// The service.
#[derive(Debug)]
pub struct Rooms {
    dispatch: Dispatch,
    metrics: Metrics,
    explainer: Explainer,
}

impl Rooms {
    /// Asks whoever owns the room, and placement.
    pub(crate) fn new(dispatch: Dispatch, metrics: Metrics, explainer: Explainer) -> Self {
        Self {
            dispatch,
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
        let forwarded = request.metadata().contains_key(FORWARDED);
        let answer = self.dispatch.assign(request.into_inner(), forwarded).await;
        self.metrics
            .assign_seconds
            .observe(began.elapsed().as_secs_f64());
        answer.map(Response::new)
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
