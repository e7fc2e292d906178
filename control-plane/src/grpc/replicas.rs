//! `Replicas`: what other control replicas ask of this one.

use std::sync::Arc;

use proto::RoomId;
use proto::control::{
    PingRequest, PingResponse, RecallRequest, RecallResponse, ReplicaAnswer, ReplicaCall,
    replicas_server,
};
use tonic::{Request, Response, Status};

use super::wire;
use crate::explain::Explainer;
use crate::replicas::Replicas;
use crate::store::Ephemeral;

/// The service.
#[derive(Debug)]
pub(super) struct Service {
    replicas: Replicas,
    ephemeral: Arc<dyn Ephemeral>,
    explainer: Explainer,
}

impl Service {
    pub(super) fn new(
        replicas: Replicas,
        ephemeral: Arc<dyn Ephemeral>,
        explainer: Explainer,
    ) -> Self {
        Self {
            replicas,
            ephemeral,
            explainer,
        }
    }
}

#[tonic::async_trait]
impl replicas_server::Replicas for Service {
    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let identity = self.replicas.identity();
        Ok(Response::new(PingResponse {
            replica: identity.id.clone(),
            mesh: identity.mesh.clone(),
            incarnation: identity.incarnation,
            ready: self.replicas.is_ready(),
        }))
    }

    async fn call(&self, request: Request<ReplicaCall>) -> Result<Response<ReplicaAnswer>, Status> {
        let call = wire::asked(request.into_inner())?;
        let result = self.explainer.handle().call(call).await;
        // Whoever asked may read at once what came of it, from any replica.
        self.ephemeral.settle().await;
        Ok(Response::new(wire::answer(result)))
    }

    async fn recall(
        &self,
        request: Request<RecallRequest>,
    ) -> Result<Response<RecallResponse>, Status> {
        let room = RoomId::from(request.into_inner().room);
        let unavailable = |error: crate::actor::Stopped| Status::unavailable(error.to_string());
        let decision = self.explainer.handle().decision(room.clone()).await;
        let decision = decision.map_err(unavailable)?;
        let damaged = |error: serde_json::Error| Status::internal(error.to_string());
        let decision = decision.map(|decision| serde_json::to_string(&decision));
        let placed = self.explainer.placer().remembered(&room);
        Ok(Response::new(RecallResponse {
            decision: decision.transpose().map_err(damaged)?.unwrap_or_default(),
            placed: serde_json::to_string(&placed).map_err(damaged)?,
        }))
    }
}
