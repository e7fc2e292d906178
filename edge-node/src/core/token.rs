//! LiveKit access tokens: JSON Web Tokens (RFC 7519) signed with HS256 by an API key's secret.
//!
//! A token's text never appears in an error or in a `Debug`.

mod claims;
mod grants;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use proto::BadName;

pub use claims::{Claims, VideoGrant};
pub use grants::{Grants, Permissions};

/// How far clocks may be apart when `exp` and `nbf` are checked.
pub const LEEWAY: Duration = Duration::from_secs(10);
/// Longest token that is looked at, in bytes. HTTP servers in front rarely pass more than 16 kB in a line.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;

/// Why a token does not let its bearer in. Each text says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a JSON Web Token, or claims of the wrong type.
    #[error(
        "access token is malformed ({reason}); create it with a LiveKit server SDK or `antipode token`"
    )]
    Malformed {
        /// What is wrong, without any of the token's text.
        reason: &'static str,
    },
    /// `iss` names a key that is not configured here.
    #[error(
        "access token is signed for an API key that this server does not know; add the key to the server's keys or use one of them"
    )]
    UnknownKey,
    /// The signature is not that of the key's secret.
    #[error(
        "access token has a bad signature; sign it with the secret that belongs to its API key"
    )]
    BadSignature,
    /// `exp` has passed.
    #[error("access token expired {seconds} s ago; have the application issue a new one")]
    Expired {
        /// Time since then, in seconds.
        seconds: u64,
    },
    /// `nbf` lies ahead.
    #[error(
        "access token becomes valid in {seconds} s; check the clock of the machine that issued it"
    )]
    NotYetValid {
        /// Time until then, in seconds.
        seconds: u64,
    },
    /// The `video.roomJoin` grant is missing.
    #[error("access token does not grant roomJoin; set video.roomJoin to true")]
    NoRoomJoin,
    /// The `video.room` grant is missing.
    #[error("access token names no room; set video.room to the room's name")]
    NoRoom,
    /// `sub` is missing.
    #[error("access token names no identity; set sub to the participant's identity")]
    NoIdentity,
    /// A name that nobody may have.
    #[error("access token's {name} {reason}; choose another one")]
    BadName {
        /// Which name.
        name: &'static str,
        /// What is wrong with it.
        reason: BadName,
    },
    /// A name is over its limit.
    #[error("access token's {name} is longer than {limit} bytes; choose a shorter one")]
    TooLong {
        /// Which name.
        name: &'static str,
        /// Its limit.
        limit: usize,
    },
    /// The token could not be signed.
    #[error("access token cannot be signed; check that the API key's secret is not empty")]
    Signing,
}

/// What is known of an API key. Its `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// Signs tokens.
    pub secret: String,
    /// The project whose rooms its tokens are for.
    pub project: String,
}

/// SHA-256 of an API key's secret: says whether it is still the same.
pub type SecretDigest = [u8; SHA256_OUTPUT_LEN];

impl Key {
    /// Which secret it is.
    pub fn digest(&self) -> SecretDigest {
        let mut bytes = SecretDigest::default();
        bytes.copy_from_slice(digest(&SHA256, self.secret.as_bytes()).as_ref());
        bytes
    }

    /// Whether it is the very secret that signed this token: one of a key that was rotated since is worth nothing.
    pub fn signed(&self, claims: &Claims) -> bool {
        claims.signed_with == Some(self.digest())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}

/// Where API keys are looked up.
pub trait KeyStore {
    /// What is known of an API key, `None` if there is no such key.
    fn key(&self, key: &str) -> Option<Key>;
}

impl<F: Fn(&str) -> Option<Key>> KeyStore for F {
    fn key(&self, key: &str) -> Option<Key> {
        self(key)
    }
}

/// Checks signature and times and returns what the token claims, whatever it grants.
///
/// # Errors
/// All but those of [`Claims::join_grants`].
pub fn verify(token: &str, keys: &impl KeyStore, now: SystemTime) -> Result<Claims, Error> {
    let claims = verify_signature(token, keys)?;
    check_times(&claims, now)?;
    Ok(claims)
}

/// Checks the signature only: who bears the token, but not whether it is valid still.
///
/// # Errors
/// All but those of times and of [`Claims::join_grants`].
pub fn verify_signature(token: &str, keys: &impl KeyStore) -> Result<Claims, Error> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Error::Malformed { reason: "too long" });
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| Error::Malformed {
        reason: "not a JSON Web Token",
    })?;
    if header.alg != Algorithm::HS256 {
        return Err(Error::Malformed {
            reason: "algorithm is not HS256",
        });
    }
    let unverified: Issuer =
        jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| Error::Malformed {
            reason: "no issuer",
        })?;
    let known = keys.key(&unverified.iss).ok_or(Error::UnknownKey)?;
    // Times are checked below, by the caller's clock.
    let mut validation = Validation::new(Algorithm::HS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let key = DecodingKey::from_secret(known.secret.as_bytes());
    let decoded = jsonwebtoken::decode::<Claims>(token, &key, &validation)
        .map_err(|error| decode_error(error.kind()))?;
    Ok(Claims {
        signed_with: Some(known.digest()),
        project: known.project,
        ..decoded.claims
    })
}

/// Checks a token that is meant for joining a room: [`verify`], then [`Claims::join_grants`].
///
/// # Errors
/// See there.
pub fn authorize_join(token: &str, keys: &impl KeyStore, now: SystemTime) -> Result<Grants, Error> {
    verify(token, keys, now)?.join_grants()
}

/// Signs a token with the same claims that is valid from `now` for `valid_for`. Clients get one from time to time
/// (`refresh_token`) so that a reconnect works after the first token's end.
///
/// # Errors
/// [`Error::Signing`]
pub fn mint(
    claims: &Claims,
    key: &str,
    secret: &str,
    valid_for: Duration,
    now: SystemTime,
) -> Result<String, Error> {
    if secret.is_empty() {
        return Err(Error::Signing);
    }
    let now = unix_seconds(now);
    let claims = Claims {
        iss: key.to_owned(),
        nbf: Some(now),
        exp: Some(now.saturating_add(valid_for.as_secs())),
        ..claims.clone()
    };
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|_| Error::Signing)
}

/// The one claim that is read before the signature is checked.
#[derive(serde::Deserialize)]
struct Issuer {
    iss: String,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive")]
fn decode_error(kind: &ErrorKind) -> Error {
    match kind {
        ErrorKind::InvalidSignature => Error::BadSignature,
        ErrorKind::Json(_) => Error::Malformed {
            reason: "a claim has the wrong type",
        },
        _ => Error::Malformed {
            reason: "not a JSON Web Token",
        },
    }
}

fn check_times(claims: &Claims, now: SystemTime) -> Result<(), Error> {
    let now = unix_seconds(now);
    let leeway = LEEWAY.as_secs();
    let exp = claims.exp.ok_or(Error::Malformed {
        reason: "exp is missing",
    })?;
    if now > exp.saturating_add(leeway) {
        return Err(Error::Expired { seconds: now - exp });
    }
    match claims.nbf {
        Some(nbf) if nbf > now.saturating_add(leeway) => {
            Err(Error::NotYetValid { seconds: nbf - now })
        }
        _ => Ok(()),
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
