//! Error responses of HTTP interfaces (RFC 9457).

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::shell::edge::SharedEdge;

/// Why a request was turned away.
pub(super) struct Problem {
    status: StatusCode,
    /// Label of the counter of refusals.
    reason: &'static str,
    detail: String,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// `detail` says what to do about it.
    pub(super) fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        let mut fields = Vec::new();
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 section 11.6.1.
            fields.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        Self {
            status,
            reason,
            detail: detail.into(),
            fields,
        }
    }

    /// With a header field.
    pub(super) fn field(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.push((name, value));
        self
    }

    /// The client may try again after so many seconds.
    pub(super) fn retry(self, seconds: u32) -> Self {
        self.field(header::RETRY_AFTER, seconds.into())
    }

    pub(super) fn counted(self, edge: &SharedEdge) -> Self {
        edge.metrics.refused.with_label_values(&[self.reason]).inc();
        tracing::debug!(status = self.status.as_u16(), reason = self.reason, detail = %self.detail, "request refused");
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, content_type, body.to_string()).into_response();
        response.headers_mut().extend(self.fields);
        response
    }
}
