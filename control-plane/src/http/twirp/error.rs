//! Errors in Twirp's shape: `{"code","msg","meta"}` with the status that belongs to the code.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use proto::control::CommandError;
use proto::control::command_error::Code as EdgeCode;
use serde_json::json;

use crate::core::CallError;
use crate::store;

/// Twirp's codes, as far as they are used here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::http) enum Code {
    Aborted,
    BadRoute,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    Malformed,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
}

impl Code {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::BadRoute => "bad_route",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::FailedPrecondition => "failed_precondition",
            Self::Internal => "internal",
            Self::InvalidArgument => "invalid_argument",
            Self::Malformed => "malformed",
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
            Self::Unimplemented => "unimplemented",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Aborted => StatusCode::CONFLICT,
            Self::BadRoute | Self::NotFound => StatusCode::NOT_FOUND,
            Self::DeadlineExceeded => StatusCode::REQUEST_TIMEOUT,
            Self::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::InvalidArgument | Self::Malformed => StatusCode::BAD_REQUEST,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        }
    }
}

/// Why a request failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::http) struct Error {
    code: Code,
    message: String,
    meta: BTreeMap<&'static str, String>,
    status: StatusCode,
}

impl Error {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            meta: BTreeMap::new(),
            status: code.status(),
        }
    }

    /// An argument that cannot be.
    pub(super) fn argument(name: &'static str, message: &str) -> Self {
        let mut error = Self::new(Code::InvalidArgument, format!("{name} {message}"));
        error.meta.insert("argument", name.to_owned());
        error
    }

    /// Too many requests is not what this is: HTTP has a status of its own for it.
    pub(super) fn too_large(limit: usize) -> Self {
        let text = format!("the body is larger than {limit} bytes");
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            ..Self::new(Code::ResourceExhausted, text)
        }
    }

    pub(super) fn code(&self) -> Code {
        self.code
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut body = json!({ "code": self.code.name(), "msg": self.message });
        if let (false, Some(fields)) = (self.meta.is_empty(), body.as_object_mut()) {
            fields.insert("meta".to_owned(), json!(self.meta));
        }
        let mut response = (self.status, Json(body)).into_response();
        if self.code == Code::Unauthenticated {
            let scheme = header::HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        tracing::warn!(%error, "store failed");
        Self::new(Code::Unavailable, "the store does not answer")
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::NoRoom => Code::NotFound,
            CallError::RoomName(_) | CallError::Metadata(_) => Code::InvalidArgument,
            CallError::Full => Code::ResourceExhausted,
            CallError::NotConnected
            | CallError::NotSaved
            | CallError::NotOwner
            | CallError::Stopped => Code::Unavailable,
            CallError::TimedOut => Code::DeadlineExceeded,
            CallError::Edge(error) => return Self::from(error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<&CommandError> for Error {
    fn from(error: &CommandError) -> Self {
        let code = match error.code() {
            EdgeCode::Internal => Code::Internal,
            EdgeCode::NotFound => Code::NotFound,
            EdgeCode::InvalidArgument => Code::InvalidArgument,
            EdgeCode::FailedPrecondition => Code::FailedPrecondition,
            EdgeCode::Unavailable => Code::Unavailable,
            EdgeCode::DeadlineExceeded => Code::DeadlineExceeded,
            EdgeCode::ResourceExhausted => Code::ResourceExhausted,
            EdgeCode::Rpc => rpc_code(error.rpc_code),
        };
        let mut answer = Self::new(code, error.message.clone());
        if error.code() == EdgeCode::Rpc {
            answer.meta.insert("rpc_code", error.rpc_code.to_string());
            if !error.rpc_data.is_empty() {
                answer.meta.insert("rpc_data", error.rpc_data.clone());
            }
        }
        answer
    }
}

/// The numbers that the protocol's SDKs use; those of applications are below 1400.
fn rpc_code(code: u32) -> Code {
    match code {
        1400 | 1403 | 1404 => Code::Unimplemented,
        1401 => Code::NotFound,
        1402 => Code::InvalidArgument,
        1501 | 1502 => Code::DeadlineExceeded,
        1503 | 1505 => Code::Unavailable,
        1504 => Code::ResourceExhausted,
        _ => Code::Aborted,
    }
}
