//! `Admin`: what operators look at.

use std::sync::Arc;

use proto::control::admin_server;
use proto::control::{
    GetRoomRequest, GetRoomResponse, ListLinksRequest, ListLinksResponse, ListNodesRequest,
    ListNodesResponse, ListRoomsRequest, ListRoomsResponse,
};
use tonic::{Request, Response, Status};

use crate::store::{Ephemeral, Error};

/// The service.
#[derive(Debug)]
pub(super) struct Admin {
    ephemeral: Arc<dyn Ephemeral>,
}

impl Admin {
    pub(super) fn new(ephemeral: Arc<dyn Ephemeral>) -> Self {
        Self { ephemeral }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unavailable(error: Error) -> Status {
    Status::unavailable(error.to_string())
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
}
