//! For clients that know only this one URL: signalling goes on to an edge through here, WHIP and WHEP are sent there.

use std::net::IpAddr;

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use runtime::tunnel;
use serde::Deserialize;

use super::auth::{self, Bearer};
use super::error::ApiError;
use super::{Gateway, client_address};
use crate::placement::{Asked, Edge};

/// Hands a signalling request to the chosen edge and its answer back. What comes after an upgrade is copied as it is.
pub(super) async fn proxy(
    State(gateway): State<Gateway>,
    request: Request,
) -> Result<Response, ApiError> {
    let bearer = caller(&gateway, request.headers(), request.uri())?;
    let address = client_address::of_request(&gateway, &request);
    let edge = edge_of(&gateway, &bearer, address).await?;
    let nothing = HeaderMap::new();
    let forwarded = gateway.edges.forward(&edge.url, request, &nothing);
    forwarded.await.map_err(|error| {
        tracing::warn!(node = edge.node_id, %error, "edge not reached");
        ApiError::Unavailable(format!("edge {} cannot be reached", edge.node_id))
    })
}

/// Sends publishers and players to an edge (RFC 9725 section 4.5): their media goes there anyway.
pub(super) async fn redirect(
    State(gateway): State<Gateway>,
    request: Request,
) -> Result<Response, ApiError> {
    let bearer = caller(&gateway, request.headers(), request.uri())?;
    let address = client_address::of_request(&gateway, &request);
    let edge = edge_of(&gateway, &bearer, address).await?;
    let location = tunnel::location(&edge.url, request.uri());
    let location = location.ok_or_else(|| unavailable("the edge has no usable URL"))?;
    Ok((
        StatusCode::TEMPORARY_REDIRECT,
        [(header::LOCATION, location)],
    )
        .into_response())
}

/// Who wants to be let in. Signalling takes the token in the query as well.
fn caller(gateway: &Gateway, headers: &HeaderMap, uri: &Uri) -> Result<Bearer, ApiError> {
    #[derive(Deserialize)]
    struct Parameters {
        access_token: Option<String>,
    }
    let missing = || {
        let text = "no access token; send it as `Authorization: Bearer …` or `access_token=…`";
        ApiError::Unauthenticated(text.to_owned())
    };
    let mut bearer = HeaderMap::new();
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        bearer.insert(header::AUTHORIZATION, value.clone());
    } else {
        let parameters = Query::<Parameters>::try_from_uri(uri).map_err(|_| missing())?;
        let token = parameters.0.access_token.ok_or_else(missing)?;
        let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| missing())?;
        bearer.insert(header::AUTHORIZATION, value);
    }
    let bearer = auth::bearer(gateway, &bearer)?.ok_or_else(missing)?;
    let grants = &bearer.claims.video;
    if !grants.room_join || grants.room.is_empty() {
        let text = "the access token does not grant roomJoin for a room";
        return Err(ApiError::Forbidden(text.to_owned()));
    }
    Ok(bearer)
}

/// The edge that serves the participant already, so that a resume finds its session; else the one it is placed at.
async fn edge_of(
    gateway: &Gateway,
    bearer: &Bearer,
    address: Option<IpAddr>,
) -> Result<Edge, ApiError> {
    let room = bearer.room(&bearer.claims.video.room)?;
    let explainer = &gateway.explainer;
    if let Some(edge) = explainer.serving(&room, &bearer.claims.sub).await? {
        return Ok(edge);
    }
    let asked = Asked {
        room: Some(&room),
        address,
        ..Asked::default()
    };
    let edge = explainer.edge_for(&asked).await?;
    edge.ok_or_else(|| unavailable("the edge has gone; try again"))
}

fn unavailable(text: &str) -> ApiError {
    ApiError::Unavailable(text.to_owned())
}
