//! The HTTP gateway: the web application, tokens, regions, and our own JSON.

mod assets;
mod auth;
mod client_address;
mod error;
mod explain;
mod inventory;
mod rate;
mod regions;
mod signal;
mod token;
mod twirp;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use ipnet::IpNet;
use runtime::tunnel::Tunnels;
use tower_http::cors::{Any, CorsLayer};

use crate::authority::Authority;
use crate::explain::Explainer;
use crate::keyring::Keyring;
use crate::metrics::Metrics;
use crate::store::Ephemeral;
use error::ApiError;
pub use rate::RateLimits;

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

/// Browsers that have been here by HTTPS stay with it for half a year (RFC 6797).
const TRANSPORT_SECURITY: &str = "max-age=15552000";
/// What pages may ask the browser for.
const PERMISSIONS: &str =
    "camera=(self), microphone=(self), display-capture=(self), geolocation=()";

/// What the gateway needs.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// What is known of the moment.
    pub ephemeral: Arc<dyn Ephemeral>,
    /// Does what the server API asks for.
    pub authority: Arc<dyn Authority>,
    /// API keys with their secrets.
    pub keys: Keyring,
    /// Whether everybody may have tokens and look.
    pub development: bool,
    /// The region that distances are measured from.
    pub region: String,
    /// How long tokens are valid.
    pub token_valid: Duration,
    /// Counters.
    pub metrics: Metrics,
    /// Reaches edges for clients that only reach us.
    pub edges: Tunnels,
    /// How much one client may ask.
    pub rates: RateLimits,
    /// Served by HTTPS.
    pub secure: bool,
    /// Places clients and explains rooms.
    pub explainer: Explainer,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Arc<[IpNet]>,
}

/// All routes with their limits and headers.
pub fn router(gateway: Gateway) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::HEAD,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
        ])
        .expose_headers([header::LOCATION, header::RETRY_AFTER])
        .max_age(PREFLIGHT_AGE);
    Router::new()
        .route("/api/token", get(token::by_query).post(token::by_body))
        .route("/settings/regions", get(regions::list))
        .route("/api/v1/nodes", get(inventory::nodes))
        .route("/api/v1/links", get(inventory::links))
        .route("/api/v1/rooms", get(inventory::rooms))
        .route("/api/v1/rooms/{room}", get(inventory::room))
        .route("/api/v1/rooms/{room}/explain", get(explain::room))
        .route("/api/v1/explain", get(explain::client))
        .route("/api/{*rest}", any(no_route))
        .route("/rtc", get(signal::proxy))
        .route("/rtc/v1", get(signal::proxy))
        .route("/rtc/validate", get(signal::proxy))
        .route("/rtc/v1/validate", get(signal::proxy))
        .route("/whip", any(signal::redirect))
        .route("/whip/{*rest}", any(signal::redirect))
        .route("/whep", any(signal::redirect))
        .route("/whep/{*rest}", any(signal::redirect))
        .fallback(get(assets::serve))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(gateway.clone(), rate::limit))
        .layer(middleware::from_fn_with_state(gateway.clone(), guard))
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
async fn guard(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    let mut response = answer.unwrap_or_else(|_| ApiError::TimedOut.into_response());
    let class = match response.status().as_u16() {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    let counter = &gateway.metrics.gateway.requests;
    counter.with_label_values(&[class]).inc();
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 6] = [
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (HeaderName::from_static("permissions-policy"), PERMISSIONS),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if gateway.secure {
        headers.insert(
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static(TRANSPORT_SECURITY),
        );
    }
    // Answers tell of the moment; the application's files say themselves how long they keep.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}
