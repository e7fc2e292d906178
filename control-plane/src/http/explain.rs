//! `/api/v1/rooms/{room}/explain` and `/api/v1/explain`: every candidate with each term, as JSON. Needs the same grants as the
//! room's inventory, since it names participants and networks.

use std::net::IpAddr;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use proto::RoomId;
use serde::Deserialize;

use super::error::ApiError;
use super::{Gateway, auth};
use crate::explain::{self, RoomExplanation};

/// A would-be client.
#[derive(Debug, Deserialize)]
pub(super) struct Client {
    address: Option<IpAddr>,
    resolver: Option<IpAddr>,
    region: Option<String>,
    #[serde(default)]
    decision: bool,
    /// Whose room, where a request may be about any.
    project: Option<String>,
}

pub(super) async fn room(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
    client: Result<Query<Client>, QueryRejection>,
) -> Result<Json<RoomExplanation>, ApiError> {
    let Path(room) = path.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let client = client.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let scope = auth::require(&gateway, &headers, |grants| {
        grants.room_list || (grants.room_admin && grants.room == room)
    })?;
    if client.address.is_some() || client.resolver.is_some() || client.decision {
        // Where clients of that network were, and what the mesh costs, is not this project's alone.
        scope.of_operator()?;
    }
    let room = scope.room(&room, client.project.as_deref())?;
    answer(&gateway, Some(room), client).await
}

pub(super) async fn client(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    client: Result<Query<Client>, QueryRejection>,
) -> Result<Json<RoomExplanation>, ApiError> {
    let client = client.map_err(|error| ApiError::bad_request(error.body_text()))?;
    auth::require(&gateway, &headers, |grants| grants.room_list)?.of_operator()?;
    answer(&gateway, None, client).await
}

async fn answer(
    gateway: &Gateway,
    room: Option<RoomId>,
    Query(client): Query<Client>,
) -> Result<Json<RoomExplanation>, ApiError> {
    let query = explain::Query {
        room,
        address: client.address,
        resolver: client.resolver,
        region: client.region,
        decision: client.decision,
    };
    Ok(Json(gateway.explainer.explain(&query).await?))
}
