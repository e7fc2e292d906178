//! The HTTP gateway: the web application, tokens, regions, and our own JSON.

mod assets;
mod auth;
mod error;
mod inventory;
mod listen;
mod regions;
mod token;
mod twirp;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tower_http::cors::{Any, CorsLayer};

use crate::authority::Authority;
use crate::config::Secret;
use crate::metrics::Metrics;
use crate::store::Ephemeral;
use error::ApiError;
pub use listen::{Limits, serve};

/// How long one request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of a request's body in bytes.
const BODY_MAX: usize = 64 * 1_024;
/// How long a browser may remember the answer to a preflight request.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3_600);
/// What pages may load: the application itself, and connections to edges, whose names are not known here.
const CONTENT_SECURITY: &str = "default-src 'self'; connect-src *; img-src 'self' data: blob:; \
    media-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; \
    script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; object-src 'none'; \
    base-uri 'self'; form-action 'self'; frame-ancestors 'none'";

/// What the gateway needs.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// What is known of the moment.
    pub ephemeral: Arc<dyn Ephemeral>,
    /// Does what the server API asks for.
    pub authority: Arc<dyn Authority>,
    /// API keys with their secrets.
    pub keys: Arc<BTreeMap<String, Secret>>,
    /// Whether everybody may have tokens and look.
    pub development: bool,
    /// The region that distances are measured from.
    pub region: String,
    /// How long tokens are valid.
    pub token_valid: Duration,
    /// Counters.
    pub metrics: Metrics,
}

/// All routes with their limits and headers.
pub fn router(gateway: Gateway) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST, Method::HEAD])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE])
        .max_age(PREFLIGHT_AGE);
    Router::new()
        .route("/api/token", get(token::by_query).post(token::by_body))
        .route("/settings/regions", get(regions::list))
        .route("/api/v1/nodes", get(inventory::nodes))
        .route("/api/v1/links", get(inventory::links))
        .route("/api/v1/rooms", get(inventory::rooms))
        .route("/api/v1/rooms/{room}", get(inventory::room))
        .route("/api/{*rest}", any(no_route))
        .fallback(get(assets::serve))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(
            gateway.metrics.clone(),
            guard,
        ))
        // Calls of participants take longer than other requests; it has limits and a shape of errors of its own.
        .merge(twirp::routes())
        .layer(cors)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
        .with_state(gateway)
}

async fn no_route() -> ApiError {
    ApiError::not_found("no such endpoint")
}

async fn wrong_method() -> ApiError {
    ApiError::WrongMethod
}

/// Bounds a request's time, counts it, and puts the security headers on.
async fn guard(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    let mut response = answer.unwrap_or_else(|_| ApiError::TimedOut.into_response());
    let class = match response.status().as_u16() {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    metrics.http_requests.with_label_values(&[class]).inc();
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 4] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Answers tell of the moment; the application's files say themselves how long they keep.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}
