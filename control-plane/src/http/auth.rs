//! Who may do what at the gateway.

use axum::http::{HeaderMap, header};

use super::Gateway;
use super::error::ApiError;
use crate::token::{self, Claims, Grants};

/// The request's verified token; `None` in development without one.
pub(super) fn bearer(gateway: &Gateway, headers: &HeaderMap) -> Result<Option<Claims>, ApiError> {
    let value = headers.get(header::AUTHORIZATION);
    let token = value
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
    let unauthenticated = |message: &str| Err(ApiError::Unauthenticated(message.to_owned()));
    match token {
        None if gateway.development => Ok(None),
        None => unauthenticated("a bearer token signed by an API key is needed"),
        Some(token) => {
            let claims = token::verify(token, |key| gateway.keys.get(key));
            match claims {
                Ok(claims) => {
                    gateway.rates.check_key(&claims.iss)?;
                    Ok(Some(claims))
                }
                Err(error) => unauthenticated(&error.to_string()),
            }
        }
    }
}

/// Refuses unless in development or allowed by the token's grants.
pub(super) fn require(
    gateway: &Gateway,
    headers: &HeaderMap,
    allowed: impl FnOnce(&Grants) -> bool,
) -> Result<(), ApiError> {
    match bearer(gateway, headers)? {
        _ if gateway.development => Ok(()),
        Some(claims) if allowed(&claims.video) => Ok(()),
        _ => Err(ApiError::Forbidden(
            "the token's grants do not allow this".to_owned(),
        )),
    }
}
