//! Access tokens: HS256 JWTs (RFC 7519, RFC 7515) with the claims that LiveKit SDKs and servers use.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// Clock difference between signer and us that is overlooked, in seconds.
const LEEWAY_S: u64 = 10;

/// Why a token was not made or not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Signature, expiry, not-before or shape is wrong.
    #[error("token refused: {0}")]
    Refused(#[from] jsonwebtoken::errors::Error),
    /// Signed by a key that is not known.
    #[error("token is signed by an unknown API key")]
    UnknownKey,
}

/// What the bearer may do: the `video` claim. `None` takes the protocol's default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Grants {
    /// May create rooms.
    #[serde(skip_serializing_if = "is_false")]
    pub room_create: bool,
    /// May list rooms.
    #[serde(skip_serializing_if = "is_false")]
    pub room_list: bool,
    /// May join `room`.
    #[serde(skip_serializing_if = "is_false")]
    pub room_join: bool,
    /// May manage `room`.
    #[serde(skip_serializing_if = "is_false")]
    pub room_admin: bool,
    /// The room that the other grants are for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub room: String,
    /// May publish tracks. Unset means yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish: Option<bool>,
    /// May subscribe to tracks. Unset means yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe: Option<bool>,
    /// May send data messages. Unset means yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish_data: Option<bool>,
    /// Sources that may be published (`camera`, `microphone`, `screen_share`, `screen_share_audio`); empty means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub can_publish_sources: Vec<String>,
    /// May change its own name, metadata and attributes. Unset means no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_update_own_metadata: Option<bool>,
    /// Is not shown to the others.
    #[serde(skip_serializing_if = "is_false")]
    pub hidden: bool,
    /// The room that participants of `room` may be forwarded or moved to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination_room: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Grants {
    /// To join one room and do there what is allowed by default.
    pub fn join(room: impl Into<String>) -> Self {
        Self {
            room_join: true,
            room: room.into(),
            ..Self::default()
        }
    }
}

/// Whom a token is for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subject {
    /// Unique within a room.
    pub identity: String,
    /// Shown to the others.
    pub name: String,
    /// Anything the application wants the others to know.
    pub metadata: String,
    /// Key-value pairs that the others see.
    pub attributes: BTreeMap<String, String>,
    /// Configuration the room gets when this participant is its first, in the protocol's JSON.
    pub room_config: Option<serde_json::Value>,
}

/// A token's payload.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Claims {
    /// API key whose secret signed it.
    pub iss: String,
    /// Participant identity.
    pub sub: String,
    /// Not before, seconds since the Unix epoch.
    pub nbf: u64,
    /// Expires, seconds since the Unix epoch.
    pub exp: u64,
    /// Participant name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Participant metadata.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    /// Participant attributes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// What the bearer may do.
    pub video: Grants,
    /// Configuration for a room that this participant opens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_config: Option<serde_json::Value>,
}

/// An API key with its secret, borrowed.
#[derive(Clone, Copy)]
pub struct SigningKey<'a> {
    /// The key, which tokens name as issuer.
    pub key: &'a str,
    /// The secret, which signs.
    pub secret: &'a str,
}

impl std::fmt::Debug for SigningKey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Signs a token that is valid from `now` for `valid_for`.
///
/// # Errors
/// When the claims do not serialise.
pub fn mint(
    key: SigningKey<'_>,
    subject: &Subject,
    grants: &Grants,
    now: SystemTime,
    valid_for: Duration,
) -> Result<String, Error> {
    let nbf = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = Claims {
        iss: key.key.to_owned(),
        sub: subject.identity.clone(),
        nbf,
        exp: nbf.saturating_add(valid_for.as_secs()),
        name: subject.name.clone(),
        metadata: subject.metadata.clone(),
        attributes: subject.attributes.clone(),
        video: grants.clone(),
        room_config: subject.room_config.clone(),
    };
    let secret = EncodingKey::from_secret(key.secret.as_bytes());
    Ok(jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &secret,
    )?)
}

/// Checks a token's signature and times against the secret that `secret_of` knows for its issuer.
///
/// # Errors
/// When the token is malformed, expired, not valid yet, or its key is not known.
pub fn verify<S: AsRef<str>>(
    token: &str,
    secret_of: impl FnOnce(&str) -> Option<S>,
) -> Result<Claims, Error> {
    // The issuer is needed to find the secret; nothing else of the unverified claims is used.
    let unverified = jsonwebtoken::dangerous::insecure_decode::<Claims>(token)?;
    let secret = secret_of(&unverified.claims.iss).ok_or(Error::UnknownKey)?;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    let key = DecodingKey::from_secret(secret.as_ref().as_bytes());
    Ok(jsonwebtoken::decode::<Claims>(token, &key, &validation)?.claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SigningKey<'_> = SigningKey {
        key: "devkey",
        secret: "secret",
    };

    fn secret_of(key: &str) -> Option<&'static str> {
        (key == "devkey").then_some("secret")
    }

    fn minted(now: SystemTime) -> String {
        let subject = Subject {
            identity: "ada".to_owned(),
            name: "Ada".to_owned(),
            attributes: [("team".to_owned(), "blue".to_owned())].into(),
            ..Subject::default()
        };
        mint(
            KEY,
            &subject,
            &Grants::join("R"),
            now,
            Duration::from_secs(60),
        )
        .expect("signs")
    }

    #[test]
    fn what_is_minted_verifies() {
        let claims = verify(&minted(SystemTime::now()), secret_of).expect("valid");
        assert_eq!(
            (claims.iss.as_str(), claims.sub.as_str()),
            ("devkey", "ada")
        );
        assert_eq!(claims.video, Grants::join("R"));
        assert_eq!(claims.exp - claims.nbf, 60);
    }

    #[test]
    fn claims_have_the_protocols_names() {
        let claims = verify(&minted(SystemTime::now()), secret_of).expect("valid");
        let json = serde_json::to_value(claims).expect("serialises");
        assert_eq!(
            json["video"],
            serde_json::json!({"roomJoin": true, "room": "R"})
        );
        assert_eq!(json["attributes"]["team"], "blue");
        assert!(json.get("metadata").is_none());
    }

    #[test]
    fn expired_early_foreign_and_forged_tokens_are_refused() {
        let hour = Duration::from_secs(3_600);
        let now = SystemTime::now();
        assert!(matches!(
            verify(&minted(now - hour), secret_of),
            Err(Error::Refused(_))
        ));
        assert!(matches!(
            verify(&minted(now + hour), secret_of),
            Err(Error::Refused(_))
        ));
        let unknown = verify(&minted(now), |_| None::<&str>);
        assert!(matches!(unknown, Err(Error::UnknownKey)));
        let forged = verify(&minted(now), |_| Some("other"));
        assert!(matches!(forged, Err(Error::Refused(_))));
        for garbage in ["", "a.b", "a.b.c", "e30.e30.e30"] {
            assert!(verify(garbage, secret_of).is_err(), "{garbage:?}");
        }
    }
}
