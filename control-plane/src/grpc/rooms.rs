//! `Rooms`: edges ask for plans.

use std::time::Instant;

use proto::control::rooms_server;
use proto::control::{AssignRequest, AssignResponse};
use tonic::{Request, Response, Status};

use crate::dispatch::{Dispatch, FORWARDED};
use crate::metrics::Metrics;

/// The service.
#[derive(Debug)]
pub struct Rooms {
    dispatch: Dispatch,
    metrics: Metrics,
}

impl Rooms {
    /// Asks whoever owns the room.
    pub(crate) fn new(dispatch: Dispatch, metrics: Metrics) -> Self {
        Self { dispatch, metrics }
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
}
