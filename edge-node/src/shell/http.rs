//! The listener that clients open their signalling on.

mod problem;
mod whip;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, FromRequest as _, State};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use livekit_protocol as lk;
use lk::leave_request::Action;
use lk::signal_request::Message as SignalRequest;
use proto::control::PlaceResponse;
use tokio::sync::{mpsc, oneshot};

use super::edge::{self, SharedEdge};
use super::elsewhere::{self, Caller};
use super::ice_servers;
use super::room::Mail as RoomMail;
use super::rooms;
use super::session::{self, MAILBOX, Start};
use super::socket::Socket;
use crate::core::join::{self, JoinParameters, Reconnect, SignalPath};
use crate::core::room::Join;
use crate::core::session::Config;
use crate::core::signal::{self, FRAME_MAX};
use crate::core::token::{self, Grants};

/// Methods that pages of any origin may use.
const ALLOWED_METHODS: &str = "GET, HEAD, POST, PATCH, DELETE, OPTIONS";
/// What pages may read of responses (RFC 9725 sections 4.2 and 4.3).
const EXPOSED_HEADERS: &str =
    "location, etag, link, accept-post, accept-patch, retry-after, www-authenticate";

/// All routes.
pub fn router(edge: SharedEdge) -> Router {
    Router::new()
        .route("/", get(|| std::future::ready("OK")))
        .route("/rtc", get(connect_v0))
        .route("/rtc/v1", get(connect_v1))
        .route("/rtc/validate", get(validate_v0))
        .route("/rtc/v1/validate", get(validate_v1))
        .merge(whip::routes())
        .fallback(not_found)
        .layer(middleware::from_fn(any_origin))
        .with_state(edge)
}

/// Clients that build URLs carelessly ask for `//rtc`: the same as `/rtc`. To be put around the router, before routing.
pub fn normalize(mut request: Request<Body>) -> Request<Body> {
    let path = request.uri().path();
    if !path.starts_with("//") {
        return request;
    }
    let path = format!("/{}", path.trim_start_matches('/'));
    let query = request
        .uri()
        .query()
        .map(|q| format!("?{q}"))
        .unwrap_or_default();
    if let Ok(uri) = format!("{path}{query}").parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    request
}

async fn not_found(uri: Uri) -> Refusal {
    Refusal {
        status: StatusCode::NOT_FOUND,
        reason: "not_found",
        text: format!(
            "nothing at {}; signalling is at /rtc and /rtc/v1",
            uri.path()
        ),
    }
}

/// Pages of any origin may use an edge: what counts is the token.
async fn any_origin(request: axum::extract::Request, next: Next) -> Response {
    let preflight = request.method() == axum::http::Method::OPTIONS;
    let mut response = if preflight {
        whip::preflight(request.uri().path())
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    let fields = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        // The wildcard does not cover Authorization (Fetch standard, section 4.9).
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*, authorization"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS),
    ];
    for (name, value) in fields {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Why a request was turned away.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// Label of the counter of refusals.
    pub(super) reason: &'static str,
    pub(super) text: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, self.text).into_response()
    }
}

impl Refusal {
    fn token(error: &token::Error) -> Self {
        let missing_grant = matches!(
            error,
            token::Error::NoRoomJoin | token::Error::NoRoom | token::Error::NoIdentity
        );
        let status = if missing_grant {
            StatusCode::FORBIDDEN
        } else {
            StatusCode::UNAUTHORIZED
        };
        Self {
            status,
            reason: "token",
            text: error.to_string(),
        }
    }

    /// A process that has just started: clients that come back to it must not take it for a refusal of their token.
    fn no_keys() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: "starting",
            text: "this edge has no API keys from the control plane yet; try again shortly"
                .to_owned(),
        }
    }

    fn parameters(error: &join::Error) -> Self {
        let status = if matches!(error, join::Error::MetadataNotAllowed) {
            StatusCode::FORBIDDEN
        } else {
            StatusCode::BAD_REQUEST
        };
        Self {
            status,
            reason: "parameters",
            text: error.to_string(),
        }
    }

    fn counted(self, edge: &SharedEdge) -> Self {
        edge.metrics.refused.with_label_values(&[self.reason]).inc();
        tracing::debug!(reason = self.reason, text = %self.text, "signalling refused");
        self
    }
}

/// What a request asks for, checked.
struct Checked {
    grants: Grants,
    parameters: JoinParameters,
    /// Name or address that the client reaches the edge at.
    host: Option<String>,
}

fn check(
    edge: &SharedEdge,
    path: SignalPath,
    headers: &HeaderMap,
    query: &str,
) -> Result<Checked, Refusal> {
    let authorization = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token: Cow<'_, str> = join::access_token(authorization, query).ok_or_else(|| Refusal {
        status: StatusCode::UNAUTHORIZED,
        reason: "no_token",
        text: "no access token; send it as `Authorization: Bearer …` or `access_token=…`"
            .to_owned(),
    })?;
    if !edge.keys_known.load(Ordering::Acquire) {
        return Err(Refusal::no_keys());
    }
    let grants = token::authorize_join(&token, edge.as_ref(), SystemTime::now());
    let mut grants = grants.map_err(|error| Refusal::token(&error))?;
    let parameters =
        JoinParameters::parse(path, query).map_err(|error| Refusal::parameters(&error))?;
    if parameters.reconnect.is_none() {
        parameters
            .apply_to(&mut grants)
            .map_err(|error| Refusal::parameters(&error))?;
    }
    Ok(Checked {
        grants,
        parameters,
        host: ice_servers::host(headers),
    })
}

async fn validate_v0(
    state: State<SharedEdge>,
    peer: ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Result<Response, Refusal> {
    validate(&state, SignalPath::V0, peer.0, request).await
}

async fn validate_v1(
    state: State<SharedEdge>,
    peer: ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Result<Response, Refusal> {
    validate(&state, SignalPath::V1, peer.0, request).await
}

/// Asked by clients whose WebSocket failed, to learn why.
async fn validate(
    edge: &SharedEdge,
    path: SignalPath,
    peer: SocketAddr,
    request: Request<Body>,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let checked = check(edge, path, request.headers(), query);
    let checked = checked.map_err(|refusal| refusal.counted(edge))?;
    if let Some(seat) = elsewhere(edge, &checked, (peer, request.headers())).await? {
        return elsewhere::forward(edge, &seat, request).await;
    }
    let config = checked.grants.room_configuration();
    match edge.rooms.enter(edge, &checked.grants.room, &config).await {
        Ok(_) => Ok("success".into_response()),
        Err(error) => Err(unavailable(&error).counted(edge)),
    }
}

/// Where a client belongs that is not to be served here.
async fn elsewhere(
    edge: &SharedEdge,
    checked: &Checked,
    (peer, headers): (SocketAddr, &HeaderMap),
) -> Result<Option<PlaceResponse>, Refusal> {
    let caller = Caller {
        room: &checked.grants.room,
        identity: &checked.grants.identity,
        reconnect: checked.parameters.reconnect.as_ref(),
        address: peer.ip(),
    };
    let seat = elsewhere::of(edge, caller, headers).await;
    seat.map_err(|refusal| refusal.counted(edge))
}

fn unavailable(error: &edge::OpenError) -> Refusal {
    Refusal {
        status: StatusCode::SERVICE_UNAVAILABLE,
        reason: "control_unreachable",
        text: error.to_string(),
    }
}

async fn connect_v0(
    state: State<SharedEdge>,
    peer: ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Result<Response, Refusal> {
    connect(state.0, SignalPath::V0, peer.0, request).await
}

async fn connect_v1(
    state: State<SharedEdge>,
    peer: ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Result<Response, Refusal> {
    connect(state.0, SignalPath::V1, peer.0, request).await
}

/// Checks everything that can be refused with a status, then upgrades; or hands the request on.
async fn connect(
    edge: SharedEdge,
    path: SignalPath,
    peer: SocketAddr,
    request: Request<Body>,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let checked = check(&edge, path, request.headers(), query);
    let checked = checked.map_err(|refusal| refusal.counted(&edge))?;
    if let Some(seat) = elsewhere(&edge, &checked, (peer, request.headers())).await? {
        return elsewhere::forward(&edge, &seat, request).await;
    }
    let upgrade = match WebSocketUpgrade::from_request(request, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return Ok(rejection.into_response()),
    };
    let upgrade = upgrade
        .max_message_size(FRAME_MAX)
        .max_frame_size(FRAME_MAX);
    if let Some(reconnect) = &checked.parameters.reconnect {
        let reconnect = reconnect.clone();
        return Ok(upgrade.on_upgrade(move |socket| {
            let socket = Socket::new(socket, checked.host);
            resume(edge, checked.grants, reconnect, socket)
        }));
    }
    admit(&edge, &checked).await?;
    tracing::debug!(%peer, "signalling connection");
    Ok(upgrade.on_upgrade(move |socket| join(edge, checked, socket)))
}

/// Whether there is a place, and the room can be entered.
async fn admit(edge: &SharedEdge, checked: &Checked) -> Result<(), Refusal> {
    let participants = u32::try_from(edge.metrics.participants.get()).unwrap_or(0);
    if participants >= edge.capacity {
        let text = format!("this edge is full: {participants} participants; try another region");
        let full = Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            reason: "full",
            text,
        };
        return Err(full.counted(edge));
    }
    let config = checked.grants.room_configuration();
    let room = &checked.grants.room;
    let entered = edge.rooms.enter(edge, room, &config).await;
    entered.map_err(|error| unavailable(&error).counted(edge))?;
    Ok(())
}

/// A new participant.
async fn join(edge: SharedEdge, checked: Checked, socket: WebSocket) {
    let Checked {
        grants,
        parameters,
        host,
    } = checked;
    let sid = edge::participant_sid();
    let ice_servers = ice_servers::of(&edge, host.as_deref(), &sid, &grants);
    let socket = Socket::new(socket, host);
    let dual = parameters.path == SignalPath::V0;
    let (mailbox, mail) = mpsc::channel(MAILBOX);
    let request = || Join {
        sid: sid.clone(),
        grants: grants.clone(),
        dual,
        auto_subscribe: parameters.auto_subscribe,
        client: parameters.client.clone(),
        ice_servers: ice_servers.clone(),
        signals: true,
        moved: None,
    };
    let room = rooms::join(&edge, &grants.room, request, mailbox).await;
    let Some(room) = room else {
        // The client tries again by itself.
        let sent = socket.send(signal::leave(
            Action::Reconnect,
            lk::DisconnectReason::JoinFailure,
        ));
        tracing::info!(sent, "room could not be entered");
        return;
    };
    tracing::info!(participant_id = %sid, identity = ?grants.identity, dual, "participant joins");
    let mut first: Vec<SignalRequest> = parameters
        .add_tracks
        .into_iter()
        .map(SignalRequest::AddTrack)
        .collect();
    first.extend(parameters.publisher_offer.map(SignalRequest::Offer));
    let config = Config {
        sid,
        identity: grants.identity.clone(),
        permissions: grants.permissions.clone(),
        dual,
        seed: edge::random(),
        server_info: edge.server_info(),
    };
    session::run(Start {
        edge,
        config,
        grants,
        room,
        mail,
        socket,
        first,
    })
    .await;
}

/// A participant that comes back: its session goes on, or it is told to join anew.
async fn resume(edge: SharedEdge, grants: Grants, reconnect: Reconnect, socket: Socket) {
    let mut socket = Box::new(socket);
    let room = edge.rooms.find(&grants.room);
    if let (Some(room), Some(sid)) = (room, reconnect.sid) {
        let (refused, refusal) = oneshot::channel();
        let identity = grants.identity.clone();
        let mail = RoomMail::Resume {
            sid,
            identity,
            socket,
            refused,
        };
        if room.send(mail).await.is_err() {
            return;
        }
        match refusal.await {
            Ok(back) => socket = back,
            Err(_) => return,
        }
    }
    let mismatch = lk::DisconnectReason::StateMismatch;
    let sent = socket.send(signal::leave(Action::Reconnect, mismatch));
    tracing::info!(sent, "unknown session was told to join anew");
}
