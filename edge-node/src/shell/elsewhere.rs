//! Clients that belong at another edge: those of an edge that drains, and those whose session is there. Their signalling is handed
//! on: a client that knows only this edge's URL comes back here, whatever becomes of its session.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use livekit_protocol as lk;
use proto::control::{PlaceRequest, PlaceResponse};
use proto::{Identity, RoomId};

use super::edge::SharedEdge;
use super::http::Refusal;
use crate::core::join::Reconnect;

/// Set on requests that an edge hands on: they are not handed on again.
const HANDED_ON: HeaderName = HeaderName::from_static("antipode-handed-on");
/// How long the control plane may take to say where somebody belongs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Who asks to come in, or back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) room: &'a RoomId,
    pub(super) identity: &'a Identity,
    /// The session that is to go on, for one who comes back.
    pub(super) reconnect: Option<&'a Reconnect>,
    pub(super) address: IpAddr,
}

/// Where somebody belongs who does not belong here; `None` for one that is to be served here.
///
/// # Errors
/// When this edge drains and there is nowhere else.
pub(super) async fn of(
    edge: &SharedEdge,
    caller: Caller<'_>,
    headers: &HeaderMap,
) -> Result<Option<PlaceResponse>, Refusal> {
    let draining = edge.drain.is_on();
    let handed_on = headers.contains_key(HANDED_ON);
    let comes_back = caller.reconnect.is_some();
    let sid = caller
        .reconnect
        .and_then(|reconnect| reconnect.sid.as_ref());
    let known = sid.is_some_and(|sid| edge.reports.knows(sid));
    if known || (comes_back && handed_on) || (!comes_back && !draining) {
        return Ok(None);
    }
    if handed_on {
        return Err(refused("this edge is draining, too"));
    }
    let address = Some(caller.address);
    // A session that nobody has begins anew where the client is, unless this edge is about to end.
    let placed = ask(edge, (caller.room, caller.identity), address, !draining).await;
    match placed {
        Ok(Some(seat)) if seat.node_id != edge.node.as_str() => Ok(Some(seat)),
        Ok(_) => Ok(None),
        Err(error) if !draining || matches!(error, relay::control::Error::Disconnected) => {
            tracing::debug!(%error, "not known where a client belongs: it is served here");
            Ok(None)
        }
        Err(error) => Err(refused(&format!(
            "this edge is draining and there is no other one ({error})"
        ))),
    }
}

/// Asks the control plane where a participant belongs; `serving`: only where it is already.
///
/// # Errors
/// When it cannot be asked, or knows no place.
pub(super) async fn ask(
    edge: &SharedEdge,
    (room, identity): (&RoomId, &Identity),
    address: Option<IpAddr>,
    serving: bool,
) -> Result<Option<PlaceResponse>, relay::control::Error> {
    let request = PlaceRequest {
        room: room.to_string(),
        identity: identity.as_str().to_owned(),
        node_id: edge.node.to_string(),
        address: address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        serving,
    };
    edge.control.place(request, ANSWER_TIMEOUT).await
}

/// Hands a request on and its answer back.
///
/// # Errors
/// When the other edge does not answer.
pub(super) async fn forward(
    edge: &SharedEdge,
    seat: &PlaceResponse,
    request: Request,
) -> Result<Response, Refusal> {
    let by = HeaderValue::from_str(edge.node.as_str());
    let mut further = HeaderMap::new();
    further.insert(HANDED_ON, by.unwrap_or(HeaderValue::from_static("edge")));
    let answer = edge.tunnels.forward(&seat.client_url, request, &further);
    answer.await.map_err(|error| {
        tracing::warn!(to = seat.node_id, %error, "signalling not handed on");
        refused(&format!("edge {} cannot be reached", seat.node_id))
    })
}

/// What a client is told that is to go to `seat`. Some clients take the URL from it; others come back to the one they know.
pub(super) fn directions(seat: PlaceResponse) -> lk::RegionSettings {
    lk::RegionSettings {
        regions: vec![lk::RegionInfo {
            region: seat.region,
            url: seat.client_url,
            distance: 0,
        }],
    }
}

fn refused(text: &str) -> Refusal {
    Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        reason: "draining",
        text: text.to_owned(),
    }
}
