//! The LiveKit server API that applications' servers speak: Twirp (version 7 of its wire protocol) for `livekit.RoomService`, in
//! JSON and protobuf. Every request needs a token, in development too.

mod access;
mod error;
mod participants;
mod rooms;

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http_body_util::LengthLimitError;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::auth::Bearer;
use super::error::ApiError;
use super::{Gateway, rate};
pub(super) use error::{Code, Error};

/// Size of a request's body in bytes: the largest data message, in base64, and room for the rest.
const BODY_MAX: usize = 256 * 1_024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an edge may take for what does not wait for its client.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// The routes; everything below `/twirp/` that is none of them is answered in the protocol's shape too.
pub(super) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/twirp/livekit.RoomService/{method}", any(room_service))
        .route("/twirp/{*rest}", any(no_service))
}

/// How a request is encoded, and its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/protobuf",
        }
    }

    fn of(headers: &HeaderMap) -> Result<Self, Error> {
        let value = headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok());
        let media_type = value.and_then(|value| value.split(';').next());
        match media_type.map(str::trim) {
            Some(json) if json.eq_ignore_ascii_case("application/json") => Ok(Self::Json),
            Some(proto) if proto.eq_ignore_ascii_case("application/protobuf") => Ok(Self::Protobuf),
            _ => {
                let text = "Content-Type must be application/json or application/protobuf";
                Err(Error::new(Code::BadRoute, text))
            }
        }
    }

    fn decode<T: Message + Default + DeserializeOwned>(self, body: &Bytes) -> Result<T, Error> {
        let decoded = match self {
            Self::Protobuf => T::decode(body.clone()).map_err(|error| error.to_string()),
            // An empty body is a message without fields, as in protobuf.
            Self::Json if body.is_empty() => Ok(T::default()),
            Self::Json => serde_json::from_slice(body).map_err(|error| error.to_string()),
        };
        decoded.map_err(|error| {
            let text = format!("the body is not the method's request message: {error}");
            Error::new(Code::Malformed, text)
        })
    }

    fn encode(self, message: &(impl Message + Serialize)) -> Result<Vec<u8>, Error> {
        match self {
            Self::Protobuf => Ok(message.encode_to_vec()),
            Self::Json => serde_json::to_vec(message)
                .map_err(|error| Error::new(Code::Internal, error.to_string())),
        }
    }
}

/// A request whose token is good.
struct Caller<'a> {
    gateway: &'a Gateway,
    bearer: Bearer,
}

/// A request with its body.
struct Call {
    encoding: Encoding,
    body: Bytes,
}

impl Call {
    /// Decodes the request, does what it asks for, and encodes the answer.
    async fn answer<Q, A>(
        self,
        act: impl AsyncFnOnce(Q) -> Result<A, Error>,
    ) -> Result<Vec<u8>, Error>
    where
        Q: Message + Default + DeserializeOwned,
        A: Message + Serialize,
    {
        let request = self.encoding.decode(&self.body)?;
        self.encoding.encode(&act(request).await?)
    }
}

async fn no_service() -> Error {
    Error::new(Code::BadRoute, "no such service")
}

async fn room_service(
    State(gateway): State<Gateway>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    let result = serve(&gateway, &method, request).await;
    let (label, mut response) = match result {
        Ok((encoding, body)) => {
            let content_type = [(header::CONTENT_TYPE, encoding.content_type())];
            ("ok", (content_type, body).into_response())
        }
        Err(error) => (error.code().name(), error.into_response()),
    };
    let method = if METHODS.contains(&method.as_str()) {
        &method
    } else {
        "unknown"
    };
    let counter = &gateway.metrics.gateway.api_requests;
    counter.with_label_values(&[method, label]).inc();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// The service's methods.
const METHODS: [&str; 14] = [
    "CreateRoom",
    "ListRooms",
    "DeleteRoom",
    "UpdateRoomMetadata",
    "ListParticipants",
    "GetParticipant",
    "RemoveParticipant",
    "UpdateParticipant",
    "MutePublishedTrack",
    "UpdateSubscriptions",
    "SendData",
    "PerformRpc",
    "ForwardParticipant",
    "MoveParticipant",
];

async fn serve(
    gateway: &Gateway,
    method: &str,
    request: Request,
) -> Result<(Encoding, Vec<u8>), Error> {
    if !METHODS.contains(&method) {
        return Err(Error::new(Code::BadRoute, "no such method"));
    }
    if request.method() != Method::POST {
        return Err(Error::new(Code::BadRoute, "methods are called by POST"));
    }
    rate::check(gateway, &request).map_err(too_many)?;
    let encoding = Encoding::of(request.headers())?;
    let caller = Caller {
        gateway,
        bearer: verified(gateway, request.headers())?,
    };
    let body = body(request).await?;
    let call = Call { encoding, body };
    let answer = dispatch(&caller, method, call).await?;
    Ok((encoding, answer))
}

/// The request's token.
fn verified(gateway: &Gateway, headers: &HeaderMap) -> Result<Bearer, Error> {
    let value = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok());
    let token = value.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let token = token.ok_or_else(|| {
        let text = "no access token; send it as `Authorization: Bearer …`";
        Error::new(Code::Unauthenticated, text)
    })?;
    let bearer = Bearer::verify(&gateway.keys, token)
        .map_err(|error| Error::new(Code::Unauthenticated, error.to_string()))?;
    let key = &bearer.claims.iss;
    gateway.rates.check_key(key).map_err(too_many)?;
    Ok(bearer)
}

fn too_many(error: ApiError) -> Error {
    Error::new(Code::ResourceExhausted, error.to_string())
}

async fn body(request: Request) -> Result<Bytes, Error> {
    let reading = axum::body::to_bytes(request.into_body(), BODY_MAX);
    let read = tokio::time::timeout(BODY_TIMEOUT, reading).await;
    let read = read.map_err(|_| Error::new(Code::DeadlineExceeded, "the body came too slowly"))?;
    read.map_err(|error| {
        let too_large =
            std::error::Error::source(&error).is_some_and(|s| s.is::<LengthLimitError>());
        if too_large {
            Error::too_large(BODY_MAX)
        } else {
            Error::new(Code::Malformed, "the body ended early")
        }
    })
}

async fn dispatch(caller: &Caller<'_>, method: &str, call: Call) -> Result<Vec<u8>, Error> {
    match method {
        "CreateRoom" => call.answer(async |q| rooms::create(caller, q).await).await,
        "ListRooms" => call.answer(async |q| rooms::list(caller, q).await).await,
        "DeleteRoom" => call.answer(async |q| rooms::delete(caller, q).await).await,
        "UpdateRoomMetadata" => {
            let act = async |q| rooms::update_metadata(caller, q).await;
            call.answer(act).await
        }
        "SendData" => {
            call.answer(async |q| rooms::send_data(caller, q).await)
                .await
        }
        "ListParticipants" => {
            let act = async |q| participants::list(caller, &q).await;
            call.answer(act).await
        }
        "GetParticipant" => {
            let act = async |q| participants::get(caller, &q).await;
            call.answer(act).await
        }
        "RemoveParticipant" => {
            let act = async |q| participants::remove(caller, q).await;
            call.answer(act).await
        }
        "UpdateParticipant" => {
            let act = async |q| participants::update(caller, q).await;
            call.answer(act).await
        }
        "MutePublishedTrack" => {
            let act = async |q| participants::mute_track(caller, q).await;
            call.answer(act).await
        }
        "UpdateSubscriptions" => {
            let act = async |q| participants::update_subscriptions(caller, q).await;
            call.answer(act).await
        }
        "PerformRpc" => {
            let act = async |q| participants::perform_rpc(caller, q).await;
            call.answer(act).await
        }
        "ForwardParticipant" => {
            let act = async |q| participants::forward(caller, q).await;
            call.answer(act).await
        }
        "MoveParticipant" => {
            let act = async |q| participants::relocate(caller, q).await;
            call.answer(act).await
        }
        _ => Err(Error::new(Code::BadRoute, "no such method")),
    }
}
