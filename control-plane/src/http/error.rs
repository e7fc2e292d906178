//! Errors as the gateway's clients see them: a status and `{"error":{"code","message"}}`.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::{explain, placement, store};

/// Why a request failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The request itself is wrong.
    #[error("{0}")]
    BadRequest(String),
    /// The body is too large.
    #[error("the body is larger than {} bytes", super::BODY_MAX)]
    TooLarge,
    /// There is no token, or it is not valid.
    #[error("{0}")]
    Unauthenticated(String),
    /// The token does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// What was asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// The path is right, the method is not.
    #[error("method not allowed here")]
    WrongMethod,
    /// It took too long.
    #[error("the request took longer than {} s", super::REQUEST_TIMEOUT.as_secs())]
    TimedOut,
    /// Too many requests of one address or key.
    #[error("too many requests; try again in {retry_s} s")]
    TooMany {
        /// When, in seconds.
        retry_s: u64,
    },
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
    /// The region is unknown.
    #[error("{message}")]
    UnknownRegion {
        /// For people.
        message: String,
        /// Regions to ask for instead.
        regions: Vec<String>,
    },
}

impl ApiError {
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::BadRequest(message.into())
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::NotFound(message.into())
    }

    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::TimedOut => (StatusCode::REQUEST_TIMEOUT, "timed_out"),
            Self::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::UnknownRegion { .. } => (StatusCode::NOT_FOUND, "unknown_region"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.kind();
        let mut error = json!({ "code": code, "message": self.to_string() });
        if let (Self::UnknownRegion { regions, .. }, Some(fields)) = (&self, error.as_object_mut())
        {
            fields.insert("regions".to_owned(), json!(regions));
        }
        let body = Json(json!({ "error": error }));
        if let Self::TooMany { retry_s } = self {
            let retry = [(header::RETRY_AFTER, retry_s.to_string())];
            return (status, retry, body).into_response();
        }
        match status {
            StatusCode::UNAUTHORIZED => {
                (status, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response()
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                (status, [(header::RETRY_AFTER, "1")], body).into_response()
            }
            _ => (status, body).into_response(),
        }
    }
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        tracing::warn!(%error, "store failed");
        Self::Unavailable("the store does not answer".to_owned())
    }
}

impl From<explain::Error> for ApiError {
    fn from(error: explain::Error) -> Self {
        match error {
            explain::Error::NoRoom(_) => Self::NotFound(error.to_string()),
            explain::Error::Placement(error) => error.into(),
            explain::Error::Store(error) => error.into(),
            explain::Error::Stopped(_) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<placement::Error> for ApiError {
    fn from(error: placement::Error) -> Self {
        let message = error.to_string();
        match error {
            placement::Error::NoEdge | placement::Error::Confined { .. } => {
                Self::Unavailable(message)
            }
            placement::Error::UnknownRegion { served, .. } => Self::UnknownRegion {
                message,
                regions: served,
            },
        }
    }
}
