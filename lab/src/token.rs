//! Access tokens for test clients (HS256 JWT with the claims that LiveKit SDKs use).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;

/// How long a minted token is valid.
const VALIDITY: Duration = Duration::from_secs(6 * 3600);

/// An API key and its secret.
#[derive(Clone)]
pub struct ApiKey {
    /// Key, sent as `iss`.
    pub key: String,
    /// Secret that signs.
    pub secret: String,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// A token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign a token: {0}")]
pub struct Error(#[from] jsonwebtoken::errors::Error);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VideoGrant<'a> {
    room_join: bool,
    room: &'a str,
    can_publish: bool,
    can_subscribe: bool,
    can_publish_data: bool,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    name: &'a str,
    nbf: u64,
    exp: u64,
    video: VideoGrant<'a>,
}

impl ApiKey {
    /// A token with which `identity` may join `room`, publish, subscribe and send data.
    ///
    /// # Errors
    /// When the signature fails.
    pub fn mint(&self, room: &str, identity: &str) -> Result<String, Error> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let claims = Claims {
            iss: &self.key,
            sub: identity,
            name: identity,
            // A minute of tolerance for a server whose clock is behind.
            nbf: now.as_secs().saturating_sub(60),
            exp: (now + VALIDITY).as_secs(),
            video: VideoGrant {
                room_join: true,
                room,
                can_publish: true,
                can_subscribe: true,
                can_publish_data: true,
            },
        };
        let key = EncodingKey::from_secret(self.secret.as_bytes());
        Ok(encode(&Header::default(), &claims, &key)?)
    }
}
