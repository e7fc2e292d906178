//! The token endpoint, in the shape of LiveKit's TokenSource: who one is and where to join goes in, the chosen edge's URL
//! and a token for it come out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use geo::lookup::Attribution;
use proto::{DEFAULT_PROJECT, RoomId, check_name};
use rand::Rng;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};

use super::Gateway;
use super::auth::{self, Bearer};
use super::client_address::client_address;
use super::error::ApiError;
use crate::placement::{Asked, Placed};
use crate::token::{self, Grants, SigningKey, Subject};

/// Length of names and identities in bytes.
const NAME_LENGTH_MAX: usize = 512;

/// What a client says of itself. Everything may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenRequest {
    #[serde(alias = "roomName")]
    room_name: Option<String>,
    #[serde(alias = "participantName")]
    participant_name: Option<String>,
    #[serde(alias = "participantIdentity")]
    participant_identity: Option<String>,
    #[serde(alias = "participantMetadata")]
    participant_metadata: Option<String>,
    #[serde(alias = "participantAttributes")]
    participant_attributes: Option<BTreeMap<String, String>>,
    #[serde(alias = "roomConfig")]
    room_config: Option<serde_json::Value>,
    region: Option<String>,
}

/// Where to connect and with what.
#[derive(Debug, Serialize)]
pub(super) struct TokenResponse {
    server_url: String,
    participant_token: String,
    room_name: String,
    participant_name: String,
    participant_identity: String,
    /// Region of the chosen edge.
    region: String,
    /// The chosen edge.
    node_id: String,
    /// Why it was chosen.
    reason: String,
    /// To be shown by pages that show this answer, when the client's place is from data whose licence wants that.
    #[serde(skip_serializing_if = "Option::is_none")]
    attribution: Option<Attribution>,
}

/// Who asks: what its request carries beside the wish.
struct Caller<'a> {
    headers: &'a HeaderMap,
    address: Option<IpAddr>,
}

impl<'a> Caller<'a> {
    fn new(
        gateway: &Gateway,
        headers: &'a HeaderMap,
        peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    ) -> Self {
        let address =
            |peer: SocketAddr| client_address(peer.ip(), headers, &gateway.trusted_proxies);
        Self {
            address: peer.map(|Extension(ConnectInfo(peer))| address(peer)),
            headers,
        }
    }
}

/// What the token will say.
struct Issue {
    subject: Subject,
    grants: Grants,
    valid_for: Duration,
    key: String,
    room: RoomId,
}

pub(super) async fn by_query(
    State(gateway): State<Gateway>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    query: Result<Query<TokenRequest>, QueryRejection>,
) -> Result<Json<TokenResponse>, ApiError> {
    let Query(request) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let caller = Caller::new(&gateway, &headers, peer);
    issue(&gateway, caller, request).await.map(Json)
}

pub(super) async fn by_body(
    State(gateway): State<Gateway>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<TokenResponse>, ApiError> {
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge,
        _ => ApiError::bad_request(error.body_text()),
    })?;
    let request = parsed(&body).map_err(|error| {
        ApiError::bad_request(format!("the body is not a token request: {error}"))
    })?;
    let caller = Caller::new(&gateway, &headers, peer);
    issue(&gateway, caller, request).await.map(Json)
}

/// A token request from a JSON object, or from nothing.
fn parsed(body: &[u8]) -> serde_json::Result<TokenRequest> {
    if body.is_empty() {
        return Ok(TokenRequest::default());
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)?;
    serde_json::from_value(object.into())
}

async fn issue(
    gateway: &Gateway,
    caller: Caller<'_>,
    request: TokenRequest,
) -> Result<TokenResponse, ApiError> {
    let bearer = auth::bearer(gateway, caller.headers)?;
    let wish = filled(request.region.clone()).filter(|region| region != "auto");
    let Issue {
        subject,
        grants,
        valid_for,
        key,
        room,
    } = authorise(gateway, bearer, request)?;
    let asked = Asked {
        room: Some(&room),
        address: caller.address,
        wish: wish.as_deref(),
        ..Asked::default()
    };
    let placed = gateway.explainer.place(&asked).await?;
    let secret = gateway.keys.get(&key).ok_or_else(no_key)?;
    let key = SigningKey {
        key: &key,
        secret: secret.expose(),
    };
    let now = SystemTime::now();
    let participant_token = token::mint(key, &subject, &grants, now, valid_for)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let response = TokenResponse {
        server_url: placed.url.clone(),
        participant_token,
        room_name: grants.room,
        participant_name: subject.name,
        participant_identity: subject.identity,
        region: placed.region.clone(),
        node_id: placed.node_id.clone(),
        reason: placed.reason.clone(),
        attribution: placed.attribution.clone(),
    };
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    gateway.explainer.placer().remember(Placed {
        room,
        identity: response.participant_identity.clone(),
        at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        explanation: placed,
    });
    Ok(response)
}

fn no_key() -> ApiError {
    ApiError::Unavailable("no API key is configured".to_owned())
}

/// What the caller gets. With `roomCreate` (a server of the application), or in development, what it asks for. With
/// `roomJoin` alone (a participant that wants an edge) never more than the token it has: the same room, identity and
/// grants, until the same time.
fn authorise(
    gateway: &Gateway,
    bearer: Option<Bearer>,
    request: TokenRequest,
) -> Result<Issue, ApiError> {
    let valid_for = gateway.token_valid;
    let (name, subject) = wanted(request)?;
    let (project, key, claims) = match bearer {
        None => {
            let key = gateway.keys.first().ok_or_else(no_key)?;
            (DEFAULT_PROJECT.to_owned(), key, None)
        }
        Some(Bearer { claims, project }) => (project, claims.iss.clone(), Some(claims)),
    };
    let Some(claims) = claims.filter(|claims| !claims.video.room_create) else {
        return Ok(Issue {
            subject,
            room: auth::room(&project, &name)?,
            grants: Grants::join(name),
            valid_for,
            key,
        });
    };
    let forbidden = |message: &str| Err(ApiError::Forbidden(message.to_owned()));
    if !claims.video.room_join || claims.video.room.is_empty() || claims.sub.is_empty() {
        return forbidden("the token grants neither roomCreate nor roomJoin for a room");
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let left = Duration::from_secs(claims.exp).saturating_sub(now);
    let subject = Subject {
        identity: claims.sub,
        name: claims.name,
        metadata: claims.metadata,
        attributes: claims.attributes,
        room_config: claims.room_config,
    };
    let room = auth::room(&project, &claims.video.room)?;
    let grants = Grants {
        room_create: false,
        room_list: false,
        room_admin: false,
        ..claims.video
    };
    Ok(Issue {
        subject,
        grants,
        valid_for: valid_for.min(left),
        key,
        room,
    })
}

/// The room and participant asked for; made up where nothing is said.
fn wanted(request: TokenRequest) -> Result<(String, Subject), ApiError> {
    let room = filled(request.room_name).unwrap_or_else(|| made_up("room-"));
    let identity = filled(request.participant_identity).unwrap_or_else(|| made_up("guest-"));
    let name = filled(request.participant_name).unwrap_or_else(|| identity.clone());
    for (field, text) in [
        ("room_name", &room),
        ("participant_identity", &identity),
        ("participant_name", &name),
    ] {
        if text.len() > NAME_LENGTH_MAX {
            let message = format!("{field} is longer than {NAME_LENGTH_MAX} bytes");
            return Err(ApiError::BadRequest(message));
        }
    }
    check_name(&identity)
        .map_err(|reason| ApiError::bad_request(format!("participant_identity {reason}")))?;
    let subject = Subject {
        identity,
        name,
        metadata: request.participant_metadata.unwrap_or_default(),
        attributes: request.participant_attributes.unwrap_or_default(),
        room_config: request.room_config.filter(|config| !config.is_null()),
    };
    Ok((room, subject))
}

fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn made_up(prefix: &str) -> String {
    let random = rand::rng()
        .sample_iter(Alphanumeric)
        .take(8)
        .map(char::from);
    prefix.chars().chain(random).collect()
}
