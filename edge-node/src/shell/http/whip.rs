//! The routes of WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep).
//!
//! `POST /whip` and `POST /whep` make a session of one offer; its URL takes `PATCH` for trickle ICE and ICE restarts, and `DELETE`.
//! The token names room and participant, as for signalling.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, post};
use livekit_protocol as lk;
use proto::ParticipantSid;
use runtime::tunnel;
use tokio::sync::oneshot;

use super::problem::Problem;
use crate::core::join;
use crate::core::session;
use crate::core::token::{self, Grants};
use crate::core::whip::fragment::{self, MAX_FRAGMENT_BYTES};
use crate::core::whip::headers::{self, FRAGMENT, IfMatch, SDP};
use crate::core::whip::player::{self, Selection};
use crate::core::whip::{self as protocol, MAX_BODY_BYTES};
use crate::shell::edge::{self, SharedEdge};
use crate::shell::elsewhere;
use crate::shell::ice_servers;
use crate::shell::whip::{Answered, Entry, Failed, Order, Patched, Protocol, Start, Work, run};

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// When a client that was turned away for lack of room may try again, seconds.
const RETRY_AFTER_S: u32 = 10;

const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

pub(super) fn routes() -> Router<SharedEdge> {
    Router::new()
        .route("/whip", post(publish))
        .route("/whip/{room}", post(publish_in))
        .route("/whip/session/{id}", delete(end_whip).patch(patch_whip))
        .route("/whep", post(play))
        .route("/whep/{room}", post(play_in))
        .route("/whep/session/{id}", delete(end_whep).patch(patch_whep))
}

/// The answer to `OPTIONS`, whoever asks.
pub(super) fn preflight(path: &str) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let fields = response.headers_mut();
    fields.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("600"),
    );
    let mut segments = path.split('/').skip(1);
    if matches!(segments.next(), Some("whip" | "whep")) {
        let (name, value) = if segments.next() == Some("session") && segments.next().is_some() {
            (ACCEPT_PATCH, FRAGMENT)
        } else {
            (ACCEPT_POST, SDP)
        };
        fields.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn publish(state: State<SharedEdge>, query: RawQuery, request: Request<Body>) -> Response {
    answer(Protocol::Whip, &state, None, query, request).await
}

async fn publish_in(
    state: State<SharedEdge>,
    room: Path<String>,
    query: RawQuery,
    request: Request<Body>,
) -> Response {
    answer(Protocol::Whip, &state, Some(room.0), query, request).await
}

async fn play(state: State<SharedEdge>, query: RawQuery, request: Request<Body>) -> Response {
    answer(Protocol::Whep, &state, None, query, request).await
}

async fn play_in(
    state: State<SharedEdge>,
    room: Path<String>,
    query: RawQuery,
    request: Request<Body>,
) -> Response {
    answer(Protocol::Whep, &state, Some(room.0), query, request).await
}

async fn answer(
    which: Protocol,
    edge: &SharedEdge,
    room: Option<String>,
    RawQuery(query): RawQuery,
    request: Request<Body>,
) -> Response {
    let query = query.unwrap_or_default();
    match create(which, edge, (room, &query), request).await {
        Ok(response) => response,
        Err(problem) => problem.counted(edge).into_response(),
    }
}

/// Makes a session of an offer.
async fn create(
    which: Protocol,
    edge: &SharedEdge,
    (room, query): (Option<String>, &str),
    request: Request<Body>,
) -> Result<Response, Problem> {
    let grants = authorize(edge, request.headers(), query)?;
    if room.is_some_and(|room| room != grants.room.name()) {
        let text = "the access token is for another room than the URL names";
        return Err(Problem::new(StatusCode::FORBIDDEN, "token", text));
    }
    if let Some(response) = redirected(edge, &grants, request.uri()).await? {
        return Ok(response);
    }
    check_media_type(request.headers(), SDP, ACCEPT_POST)?;
    check_accept(request.headers())?;
    let headers = request.headers().clone();
    let text = body(request, MAX_BODY_BYTES).await?;
    let offer = protocol::read_offer(&text).map_err(|error| refused_offer(&error))?;
    let participants = u32::try_from(edge.metrics.participants.get()).unwrap_or(0);
    if participants >= edge.capacity {
        let text = format!("this edge is full: {participants} participants; try another region");
        return Err(
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "full", text).retry(RETRY_AFTER_S)
        );
    }
    let config = grants.room_configuration();
    let entered = edge.rooms.enter(edge, &grants.room, &config).await;
    entered.map_err(|error| unavailable(&error.to_string()))?;

    let sid = edge::participant_sid();
    let reached = ice_servers::host(&headers);
    let servers = ice_servers::of(edge, reached.as_deref(), &sid, &grants);
    let (grants, work) = work(which, edge, (sid, grants), query)?;
    let orders = edge
        .http_sessions
        .open(which, grants.room.clone(), grants.identity.clone());
    let location = format!("/{}/session/{}", which.as_str(), orders.0);
    let (answer, answered) = oneshot::channel();
    let start = Start {
        edge: edge.clone(),
        grants,
        orders,
        offer: Box::new(offer),
        work,
        answer,
    };
    tokio::spawn(run(start));
    match answered.await {
        Ok(Ok(answered)) => Ok(created(&location, answered, &servers)),
        Ok(Err(Failed::Offer(error))) => Err(refused_offer(&error)),
        Ok(Err(Failed::Room)) | Err(_) => Err(unavailable("the room could not be entered")),
    }
}

/// Sends a client to another edge while this one drains (RFC 9725 section 4.5).
async fn redirected(
    edge: &SharedEdge,
    grants: &Grants,
    uri: &Uri,
) -> Result<Option<Response>, Problem> {
    if !edge.drain.is_on() {
        return Ok(None);
    }
    let who = (&grants.room, &grants.identity);
    let seat = elsewhere::ask(edge, who, None, false).await;
    let seat = seat.map_err(|error| unavailable(&format!("this edge is draining ({error})")))?;
    let location = seat.and_then(|seat| tunnel::location(&seat.client_url, uri));
    let location = location.ok_or_else(|| unavailable("this edge is draining"))?;
    let fields = [(header::LOCATION, location)];
    Ok(Some(
        (StatusCode::TEMPORARY_REDIRECT, fields).into_response(),
    ))
}

/// What the session is to do, and the grants it has there.
fn work(
    which: Protocol,
    edge: &SharedEdge,
    (sid, mut grants): (ParticipantSid, Grants),
    query: &str,
) -> Result<(Grants, Work), Problem> {
    let seed = edge::random();
    let work = match which {
        Protocol::Whip => Work::Publish(Box::new(session::Config {
            sid,
            identity: grants.identity.clone(),
            permissions: grants.permissions.clone(),
            dual: false,
            seed,
            server_info: edge.server_info(),
        })),
        Protocol::Whep => {
            if !grants.permissions.can_subscribe {
                let text = "the access token does not grant canSubscribe";
                return Err(Problem::new(StatusCode::FORBIDDEN, "token", text));
            }
            // A player is an audience, not a participant that others should see, unless the token says so.
            let said = grants.claims.video.as_ref().and_then(|video| video.hidden);
            grants.permissions.hidden = said.unwrap_or(true);
            Work::Play(player::Config {
                sid,
                seed,
                selection: Selection::parse(query),
            })
        }
    };
    Ok((grants, work))
}

fn created(location: &str, answered: Answered, servers: &[lk::IceServer]) -> Response {
    let fields = [
        (header::CONTENT_TYPE, SDP.to_owned()),
        (header::LOCATION, location.to_owned()),
        (header::ETAG, answered.tag),
        (ACCEPT_PATCH, FRAGMENT.to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    let mut response = (StatusCode::CREATED, fields, answered.sdp).into_response();
    for link in ice_servers::links(servers) {
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().append(header::LINK, link);
        }
    }
    response
}

async fn end_whip(
    state: State<SharedEdge>,
    id: Path<String>,
    headers: HeaderMap,
    query: RawQuery,
) -> Response {
    end(Protocol::Whip, &state, &id, (&headers, query)).await
}

async fn end_whep(
    state: State<SharedEdge>,
    id: Path<String>,
    headers: HeaderMap,
    query: RawQuery,
) -> Response {
    end(Protocol::Whep, &state, &id, (&headers, query)).await
}

/// Ends a session; the answer says that the participant has left.
async fn end(
    which: Protocol,
    edge: &SharedEdge,
    id: &str,
    (headers, RawQuery(query)): (&HeaderMap, RawQuery),
) -> Response {
    let query = query.unwrap_or_default();
    let entry = match session_of(which, edge, id, (headers, &query)) {
        Ok(entry) => entry,
        Err(problem) => return problem.counted(edge).into_response(),
    };
    let (done, ended) = oneshot::channel();
    if entry.orders.send(Order::Delete(done)).await.is_ok() {
        // Nothing is ever sent: the session drops its end when it is over.
        drop(ended.await);
    }
    StatusCode::OK.into_response()
}

async fn patch_whip(
    state: State<SharedEdge>,
    id: Path<String>,
    request: Request<Body>,
) -> Response {
    patch(Protocol::Whip, &state, &id, request).await
}

async fn patch_whep(
    state: State<SharedEdge>,
    id: Path<String>,
    request: Request<Body>,
) -> Response {
    patch(Protocol::Whep, &state, &id, request).await
}

async fn patch(which: Protocol, edge: &SharedEdge, id: &str, request: Request<Body>) -> Response {
    match change(which, edge, id, request).await {
        Ok(response) => response,
        Err(problem) => problem.counted(edge).into_response(),
    }
}

/// Trickles candidates or restarts ICE.
async fn change(
    which: Protocol,
    edge: &SharedEdge,
    id: &str,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let query = request.uri().query().unwrap_or_default();
    let entry = session_of(which, edge, id, (request.headers(), query))?;
    check_media_type(request.headers(), FRAGMENT, ACCEPT_PATCH)?;
    let if_match = text_field(request.headers(), &header::IF_MATCH).map(str::to_owned);
    let text = body(request, MAX_FRAGMENT_BYTES).await?;
    let fragment = fragment::parse(&text)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "fragment", error.to_string()))?;
    let (outcome, patched) = oneshot::channel();
    let order = Order::Patch {
        fragment,
        if_match,
        outcome,
    };
    if entry.orders.send(order).await.is_err() {
        return Err(no_session());
    }
    match patched.await {
        Ok(Patched::Trickled) => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(Patched::Restarted { fragment, tag }) => {
            let fields = [
                (header::CONTENT_TYPE, FRAGMENT.to_owned()),
                (header::ETAG, tag),
            ];
            Ok((StatusCode::OK, fields, fragment).into_response())
        }
        Ok(Patched::Refused(IfMatch::Missing)) => Err(Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "fragment",
            "send If-Match: the ETag of the ICE session for candidates, * for an ICE restart",
        )),
        Ok(Patched::Refused(_)) => Err(Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "fragment",
            "If-Match does not name the current ICE session",
        )),
        Ok(Patched::OtherSession) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "fragment",
            "the fragment has other ICE credentials than the offer; an ICE restart takes If-Match: *",
        )),
        Err(_) => Err(no_session()),
    }
}

/// The session that a request is about, if its bearer may touch it.
fn session_of(
    which: Protocol,
    edge: &SharedEdge,
    id: &str,
    (headers, query): (&HeaderMap, &str),
) -> Result<Entry, Problem> {
    let token = bearer(headers, query)?;
    // The token may have expired since: sessions outlive theirs, and it must still end them.
    let claims = token::verify_signature(&token, edge.as_ref()).map_err(|e| refused_token(&e))?;
    let grants = claims.join_grants().map_err(|e| refused_token(&e))?;
    // Nobody learns what sessions there are in other projects.
    let own =
        |entry: &Entry| entry.protocol == which && entry.room.project() == grants.room.project();
    let entry = edge.http_sessions.find(id).filter(own);
    let entry = entry.ok_or_else(no_session)?;
    if grants.room != entry.room || grants.identity != entry.identity {
        let text = "the access token is for another participant";
        return Err(Problem::new(StatusCode::FORBIDDEN, "token", text));
    }
    Ok(entry)
}

fn no_session() -> Problem {
    let text = "there is no such session; it has ended, or never was";
    Problem::new(StatusCode::NOT_FOUND, "no_session", text)
}

fn unavailable(text: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "control_unreachable", text).retry(RETRY_AFTER_S)
}

fn bearer(headers: &HeaderMap, query: &str) -> Result<String, Problem> {
    let authorization = text_field(headers, &header::AUTHORIZATION);
    let token = join::access_token(authorization, query);
    token.map(std::borrow::Cow::into_owned).ok_or_else(|| {
        let text = "no access token; send it as `Authorization: Bearer …`";
        Problem::new(StatusCode::UNAUTHORIZED, "no_token", text)
    })
}

fn authorize(edge: &SharedEdge, headers: &HeaderMap, query: &str) -> Result<Grants, Problem> {
    let token = bearer(headers, query)?;
    if !edge.keys_known.load(Ordering::Acquire) {
        return Err(unavailable(&super::Refusal::no_keys().text));
    }
    token::authorize_join(&token, edge.as_ref(), SystemTime::now())
        .map_err(|error| refused_token(&error))
}

fn refused_token(error: &token::Error) -> Problem {
    let refusal = super::Refusal::token(error);
    Problem::new(refusal.status, refusal.reason, refusal.text)
}

fn refused_offer(error: &protocol::Error) -> Problem {
    let status = match error {
        protocol::Error::Unreadable(_) => StatusCode::BAD_REQUEST,
        protocol::Error::Unusable(_) => StatusCode::UNPROCESSABLE_ENTITY,
        protocol::Error::NotGranted(_) => StatusCode::FORBIDDEN,
    };
    let reason = if status == StatusCode::FORBIDDEN {
        "token"
    } else {
        "offer"
    };
    Problem::new(status, reason, error.to_string())
}

fn check_media_type(
    headers: &HeaderMap,
    wanted: &'static str,
    field: HeaderName,
) -> Result<(), Problem> {
    let content_type = text_field(headers, &header::CONTENT_TYPE).unwrap_or_default();
    if headers::is_type(content_type, wanted) {
        return Ok(());
    }
    let text = format!("the body must be {wanted}");
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", text);
    Err(problem.field(field, HeaderValue::from_static(wanted)))
}

fn check_accept(headers: &HeaderMap) -> Result<(), Problem> {
    match text_field(headers, &header::ACCEPT) {
        Some(accept) if !headers::accepts(accept, SDP) => Err(Problem::new(
            StatusCode::NOT_ACCEPTABLE,
            "media_type",
            "the answer is application/sdp, which Accept does not list",
        )),
        _ => Ok(()),
    }
}

fn text_field<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The whole body as text.
async fn body(request: Request<Body>, limit: usize) -> Result<String, Problem> {
    let too_large = || {
        let text = format!("the body is larger than {limit} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text)
    };
    let announced = text_field(request.headers(), &header::CONTENT_LENGTH);
    if announced
        .and_then(|n| n.parse::<u64>().ok())
        .is_some_and(|n| n > limit as u64)
    {
        return Err(too_large());
    }
    let bytes = tokio::time::timeout(BODY_TIMEOUT, to_bytes(request.into_body(), limit)).await;
    let bytes = match bytes {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(too_large()),
        Err(_) => {
            let text = "the body took too long to arrive";
            return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", text));
        }
    };
    String::from_utf8(bytes.into())
        .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "offer", "the body is not UTF-8"))
}
