//! How a receiver knows who sent a webhook: a token in `Authorization` that an API key signed, with the body's digest.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::token::SigningKey;

/// How long a webhook's token is valid: the LiveKit server's time.
const VALID: Duration = Duration::from_secs(5 * 60);

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    nbf: u64,
    exp: u64,
    sha256: String,
}

/// The `Authorization` header of a webhook's request with this body.
///
/// # Errors
/// When the token cannot be made.
pub fn sign(
    body: &str,
    key: SigningKey<'_>,
    now: SystemTime,
) -> Result<String, jsonwebtoken::errors::Error> {
    let nbf = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = Claims {
        iss: key.key,
        nbf,
        exp: nbf.saturating_add(VALID.as_secs()),
        sha256: STANDARD.encode(digest(&SHA256, body.as_bytes())),
    };
    let secret = EncodingKey::from_secret(key.secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret)
}
