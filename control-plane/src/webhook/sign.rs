//! How a receiver knows who sent a webhook: a token in `Authorization` that an API key signed, with the body's digest.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use livekit_protocol as lk;
use serde::Serialize;

use crate::token::SigningKey;

/// How long a webhook's token is valid: the LiveKit server's time.
const VALID: Duration = Duration::from_secs(5 * 60);

/// Why an event was not signed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no JSON form.
    #[error("event has no JSON form: {0}")]
    Json(#[from] serde_json::Error),
    /// The token could not be made.
    #[error("token: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
}

/// A webhook's request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    /// `livekit.WebhookEvent` as JSON.
    pub body: String,
    /// The `Authorization` header.
    pub authorization: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    nbf: u64,
    exp: u64,
    sha256: String,
}

/// Makes the request for an event.
///
/// # Errors
/// When the event or the token's claims do not serialise.
pub fn sign(
    event: &lk::WebhookEvent,
    key: SigningKey<'_>,
    now: SystemTime,
) -> Result<Signed, Error> {
    let body = serde_json::to_string(event)?;
    let nbf = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = Claims {
        iss: key.key,
        nbf,
        exp: nbf.saturating_add(VALID.as_secs()),
        sha256: STANDARD.encode(digest(&SHA256, body.as_bytes())),
    };
    let secret = EncodingKey::from_secret(key.secret.as_bytes());
    let authorization = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret)?;
    Ok(Signed {
        body,
        authorization,
    })
}
