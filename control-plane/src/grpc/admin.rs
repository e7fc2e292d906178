//! `Admin`: what operators look at.

use std::net::IpAddr;
use std::sync::Arc;

use proto::RoomId;
use proto::control::admin_server;
use proto::control::{
    CreateKeyRequest, CreateKeyResponse, CreateProjectRequest, CreateProjectResponse,
    DrainNodeRequest, DrainNodeResponse, ExplainRequest, ExplainResponse, GetRoomRequest,
    GetRoomResponse, ListAuditRequest, ListAuditResponse, ListKeysRequest, ListKeysResponse,
    ListLinksRequest, ListLinksResponse, ListNodesRequest, ListNodesResponse, ListProjectsRequest,
    ListProjectsResponse, ListRoomsRequest, ListRoomsResponse, RevokeKeyRequest, RevokeKeyResponse,
    RotateKeyRequest, RotateKeyResponse, UndrainNodeRequest, UndrainNodeResponse,
    VerifyAuditRequest, VerifyAuditResponse,
};
use tonic::{Request, Response, Status};

use super::drain::{self, Drains};
use super::keys::{self, Operator};
use crate::authority::Authority;
use crate::explain::{self, Explainer, Query};
use crate::store::{Durable, Ephemeral, Error};

/// The service.
#[derive(Debug)]
pub(super) struct Admin {
    ephemeral: Arc<dyn Ephemeral>,
    operator: Operator,
    drains: Drains,
    explainer: Explainer,
}

impl Admin {
    pub(super) fn new(
        (durable, ephemeral): (Arc<dyn Durable>, Arc<dyn Ephemeral>),
        authority: Arc<dyn Authority>,
        explainer: Explainer,
    ) -> Self {
        Self {
            drains: Drains {
                durable: Arc::clone(&durable),
                ephemeral: Arc::clone(&ephemeral),
                authority,
            },
            operator: Operator::new(durable, Arc::clone(&ephemeral)),
            ephemeral,
            explainer,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unavailable(error: Error) -> Status {
    Status::unavailable(error.to_string())
}

/// What an operator asks, checked.
fn query(request: ExplainRequest) -> Result<Query, Status> {
    let filled = |text: String| Some(text).filter(|text| !text.is_empty());
    let address = |text: String| {
        let parsed = filled(text).map(|text| text.parse::<IpAddr>()).transpose();
        parsed.map_err(|_| Status::invalid_argument("an address is not an IP address"))
    };
    Ok(Query {
        room: filled(request.room).map(RoomId::from),
        address: address(request.address)?,
        resolver: address(request.resolver)?,
        region: filled(request.region),
        decision: request.decision,
    })
}

fn unexplained(error: explain::Error) -> Status {
    let message = error.to_string();
    match error {
        explain::Error::NoRoom(_) => Status::not_found(message),
        explain::Error::Placement(_) => Status::invalid_argument(message),
        explain::Error::Store(error) => unavailable(error),
        explain::Error::Stopped(_) => Status::unavailable(message),
    }
}

#[tonic::async_trait]
impl admin_server::Admin for Admin {
    async fn list_nodes(
        &self,
        _: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let nodes = self.ephemeral.nodes().await.map_err(unavailable)?;
        Ok(Response::new(ListNodesResponse { nodes }))
    }

    async fn list_rooms(
        &self,
        _: Request<ListRoomsRequest>,
    ) -> Result<Response<ListRoomsResponse>, Status> {
        let rooms = self.ephemeral.rooms().await.map_err(unavailable)?;
        Ok(Response::new(ListRoomsResponse { rooms }))
    }

    async fn get_room(
        &self,
        request: Request<GetRoomRequest>,
    ) -> Result<Response<GetRoomResponse>, Status> {
        let room = request.into_inner().room;
        let found = self.ephemeral.room(&room).await.map_err(unavailable)?;
        found
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("no room {room:?}")))
    }

    async fn list_links(
        &self,
        _: Request<ListLinksRequest>,
    ) -> Result<Response<ListLinksResponse>, Status> {
        let links = self.ephemeral.links().await.map_err(unavailable)?;
        Ok(Response::new(ListLinksResponse { links }))
    }

    async fn create_project(
        &self,
        request: Request<CreateProjectRequest>,
    ) -> Result<Response<CreateProjectResponse>, Status> {
        let done = self.operator.create_project(request.into_inner()).await;
        done.map(Response::new).map_err(keys::status)
    }

    async fn list_projects(
        &self,
        _: Request<ListProjectsRequest>,
    ) -> Result<Response<ListProjectsResponse>, Status> {
        let done = self.operator.list_projects().await;
        done.map(Response::new).map_err(keys::status)
    }

    async fn create_key(
        &self,
        request: Request<CreateKeyRequest>,
    ) -> Result<Response<CreateKeyResponse>, Status> {
        let done = self.operator.create_key(request.into_inner()).await;
        done.map(Response::new).map_err(keys::status)
    }

    async fn list_keys(
        &self,
        request: Request<ListKeysRequest>,
    ) -> Result<Response<ListKeysResponse>, Status> {
        let done = self.operator.list_keys(request.into_inner()).await;
        done.map(Response::new).map_err(keys::status)
    }

    async fn rotate_key(
        &self,
        request: Request<RotateKeyRequest>,
    ) -> Result<Response<RotateKeyResponse>, Status> {
        let done = self.operator.rotate_key(request.into_inner()).await;
        done.map(Response::new).map_err(keys::status)
    }

    async fn revoke_key(
        &self,
        request: Request<RevokeKeyRequest>,
    ) -> Result<Response<RevokeKeyResponse>, Status> {
        let done = self.operator.revoke_key(request.into_inner()).await;
        done.map(Response::new).map_err(keys::status)
    }

    async fn list_audit(
        &self,
        request: Request<ListAuditRequest>,
    ) -> Result<Response<ListAuditResponse>, Status> {
        let done = self.operator.list_audit(request.into_inner()).await;
        done.map(Response::new).map_err(keys::status)
    }

    async fn verify_audit(
        &self,
        _: Request<VerifyAuditRequest>,
    ) -> Result<Response<VerifyAuditResponse>, Status> {
        let done = self.operator.verify_audit().await;
        done.map(Response::new).map_err(keys::status)
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let query = query(request.into_inner())?;
        let explanation = self.explainer.explain(&query).await.map_err(unexplained)?;
        let json = serde_json::to_string(&explanation);
        let json = json.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ExplainResponse { json }))
    }

    async fn drain_node(
        &self,
        request: Request<DrainNodeRequest>,
    ) -> Result<Response<DrainNodeResponse>, Status> {
        let done = self.drains.drain(request.into_inner()).await;
        done.map(Response::new).map_err(drain::status)
    }

    async fn undrain_node(
        &self,
        request: Request<UndrainNodeRequest>,
    ) -> Result<Response<UndrainNodeResponse>, Status> {
        let done = self.drains.undrain(request.into_inner()).await;
        done.map(Response::new).map_err(drain::status)
    }
}
