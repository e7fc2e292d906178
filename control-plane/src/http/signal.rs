//! For clients that know only this one URL: signalling goes on to an edge through here, WHIP and WHEP are sent there.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::{self, Bearer};
use super::error::ApiError;
use super::{Gateway, client_address};
use crate::placement::{self, Asked, Edge};

/// Signalling connections that go through one gateway at a time.
const TUNNELS_MAX: usize = 10_000;
/// How long an edge may take to be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take to answer: it may have to ask us for the room first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// What the edge's refusal may say, bytes.
const REFUSAL_MAX: usize = 16 << 10;
/// Fields of a request that the edge has to see.
const REQUEST_FIELDS: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::UPGRADE,
    header::ORIGIN,
    header::USER_AGENT,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];
/// Fields of its answer that the client has to see.
const RESPONSE_FIELDS: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    header::CONTENT_TYPE,
    header::RETRY_AFTER,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// Reaches edges as their clients do.
#[derive(Clone)]
pub struct EdgeClient {
    http: reqwest::Client,
    slots: Arc<Semaphore>,
}

impl fmt::Debug for EdgeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeClient")
            .field("free", &self.slots.available_permits())
            .finish_non_exhaustive()
    }
}

impl EdgeClient {
    /// A client that trusts the system's certificate authorities, or, where a PEM file is given, those in it and no others.
    ///
    /// # Errors
    /// When the file is no good.
    pub fn new(ca: Option<&Path>) -> anyhow::Result<Self> {
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT);
        if let Some(path) = ca {
            let pem = std::fs::read(path).with_context(|| path.display().to_string())?;
            let ca = reqwest::Certificate::from_pem_bundle(&pem)
                .with_context(|| path.display().to_string())?;
            anyhow::ensure!(!ca.is_empty(), "{}: no certificate in it", path.display());
            builder = builder.tls_certs_only(ca);
        }
        Ok(Self {
            http: builder.build().context("HTTP client")?,
            slots: Arc::new(Semaphore::new(TUNNELS_MAX)),
        })
    }
}

/// Hands a signalling request to the chosen edge and its answer back. What comes after an upgrade is copied as it is.
pub(super) async fn proxy(
    State(gateway): State<Gateway>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let bearer = caller(&gateway, request.headers(), request.uri())?;
    let address = client_address::of_request(&gateway, &request);
    let edge = edge_of(&gateway, &bearer, address).await?;
    let slots = Arc::clone(&gateway.edges.slots);
    let slot = slots.try_acquire_owned();
    let slot = slot.map_err(|_| unavailable("too many signalling connections go through here"))?;
    let mut asked = gateway.edges.http.get(target(&edge, request.uri()));
    for name in REQUEST_FIELDS {
        for value in request.headers().get_all(&name) {
            asked = asked.header(&name, value);
        }
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked.send()).await;
    let answer = answer
        .map_err(|_| unreachable_edge(&edge, "it does not answer"))?
        .map_err(|error| unreachable_edge(&edge, &error))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    for name in RESPONSE_FIELDS {
        for value in answer.headers().get_all(&name) {
            response.headers_mut().append(&name, value.clone());
        }
    }
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        tokio::spawn(tunnel(upgrade, answer, (gateway, slot)));
    } else {
        *response.body_mut() = Body::from(short_text(answer).await);
    }
    Ok(response)
}

/// Sends publishers and players to an edge (RFC 9725 section 4.5): their media goes there anyway.
pub(super) async fn redirect(
    State(gateway): State<Gateway>,
    request: Request,
) -> Result<Response, ApiError> {
    let bearer = caller(&gateway, request.headers(), request.uri())?;
    let address = client_address::of_request(&gateway, &request);
    let edge = edge_of(&gateway, &bearer, address).await?;
    let location = HeaderValue::from_str(&target(&edge, request.uri()));
    let location = location.map_err(|_| unavailable("the edge has no usable URL"))?;
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
    let edges = placement::ready_edges(&gateway.ephemeral.nodes().await?);
    let name = bearer.room(&bearer.claims.video.room)?;
    let room = gateway.ephemeral.room(name.as_str()).await?;
    let nodes = room.as_ref().map_or(&[][..], |room| &room.nodes);
    let serves = |report: &proto::control::RoomReport| {
        report
            .participants
            .iter()
            .any(|participant| participant.identity == bearer.claims.sub)
    };
    let serving = nodes
        .iter()
        .filter(|node| node.report.as_ref().is_some_and(serves));
    let mut known =
        serving.filter_map(|node| edges.iter().find(|edge| edge.node_id == node.node_id));
    if let Some(edge) = known.next() {
        return Ok(edge.clone());
    }
    let asked = Asked {
        room: Some(&name),
        address,
        ..Asked::default()
    };
    let placed = gateway.explainer.place(&asked).await?;
    let mut edges = edges.into_iter();
    let edge = edges.find(|edge| edge.node_id == placed.node_id);
    edge.ok_or_else(|| unavailable("the edge has gone; try again"))
}

/// Where the edge takes the same request.
fn target(edge: &Edge, uri: &Uri) -> String {
    let base = edge.url.trim_end_matches('/');
    // WebSocket URLs begin with an HTTP request (RFC 6455 section 4.1).
    let base = match base.strip_prefix("ws") {
        Some(rest) => format!("http{rest}"),
        None => base.to_owned(),
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{base}{path}")
}

async fn short_text(mut answer: reqwest::Response) -> Vec<u8> {
    let mut text = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(ANSWER_TIMEOUT, answer.chunk()).await {
        let room = REFUSAL_MAX - text.len();
        text.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if text.len() >= REFUSAL_MAX {
            break;
        }
    }
    text
}

/// Copies both ways until either side closes. Nothing is understood, and nothing waits but what fits two buffers.
async fn tunnel(
    upgrade: hyper::upgrade::OnUpgrade,
    answer: reqwest::Response,
    (gateway, slot): (Gateway, OwnedSemaphorePermit),
) {
    let ends = async {
        let edge = answer.upgrade().await.map_err(std::io::Error::other)?;
        let client = upgrade.await.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>((TokioIo::new(client), edge))
    };
    match ends.await {
        Ok((client, edge)) => {
            gateway.metrics.gateway.tunnels.inc();
            copy(client, edge).await;
            gateway.metrics.gateway.tunnels.dec();
        }
        Err(error) => tracing::debug!(%error, "signalling was not upgraded"),
    }
    drop(slot);
}

async fn copy(
    client: impl AsyncRead + AsyncWrite + Unpin,
    edge: impl AsyncRead + AsyncWrite + Unpin,
) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_edge, mut to_edge) = tokio::io::split(edge);
    let ended = tokio::select! {
        up = tokio::io::copy(&mut from_client, &mut to_edge) => up,
        down = tokio::io::copy(&mut from_edge, &mut to_client) => down,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "signalling connection broke");
    }
    // The other side learns of it; whether it still listens does not matter.
    drop(tokio::join!(to_client.shutdown(), to_edge.shutdown()));
}

fn unavailable(text: &str) -> ApiError {
    ApiError::Unavailable(text.to_owned())
}

fn unreachable_edge(edge: &Edge, error: impl fmt::Display) -> ApiError {
    tracing::warn!(node = edge.node_id, %error, "edge not reached");
    ApiError::Unavailable(format!("edge {} cannot be reached", edge.node_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_edges_http_urls() {
        let told = |url: &str, uri: &'static str| {
            let edge = Edge {
                node_id: "edge-fra-0".to_owned(),
                region: "fra".to_owned(),
                url: url.to_owned(),
                load: 0.0,
            };
            target(&edge, &Uri::from_static(uri))
        };
        let path = "/rtc/v1?join_request=x&access_token=y";
        assert_eq!(
            told("ws://127.0.0.1:7880", path),
            format!("http://127.0.0.1:7880{path}")
        );
        assert_eq!(
            told("wss://fra.example.org/", "/rtc"),
            "https://fra.example.org/rtc"
        );
        assert_eq!(
            told("https://fra.example.org", "/whip/a"),
            "https://fra.example.org/whip/a"
        );
    }
}
