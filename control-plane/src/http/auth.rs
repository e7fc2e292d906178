//! Who may do what at the gateway.

use axum::http::{HeaderMap, header};

use proto::{DEFAULT_PROJECT, RoomId};

use super::Gateway;
use super::error::ApiError;
use crate::config::Secret;
use crate::keyring::Keyring;
use crate::token::{self, Claims, Grants};

/// A token that is good.
#[derive(Debug)]
pub(super) struct Bearer {
    /// What it says.
    pub(super) claims: Claims,
    /// The project of the key that signed it: the bearer is in that one, and in no other.
    pub(super) project: String,
}

impl Bearer {
    /// Checks a token against the keys that are valid now.
    pub(super) fn verify(keys: &Keyring, token: &str) -> Result<Self, token::Error> {
        let mut project = String::new();
        let secret = |key: &str| -> Option<Secret> {
            let (secret, of) = keys.find(key)?;
            project = of;
            Some(secret)
        };
        let claims = token::verify(token, secret)?;
        Ok(Self { claims, project })
    }

    /// The room of this name in the bearer's project.
    pub(super) fn room(&self, name: &str) -> Result<RoomId, ApiError> {
        room(&self.project, name)
    }
}

/// A room by what a request calls it.
pub(super) fn room(project: &str, name: &str) -> Result<RoomId, ApiError> {
    RoomId::new(project, name)
        .map_err(|reason| ApiError::bad_request(format!("the room's name {reason}")))
}

/// The request's verified token; `None` in development without one.
pub(super) fn bearer(gateway: &Gateway, headers: &HeaderMap) -> Result<Option<Bearer>, ApiError> {
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
        Some(token) => match Bearer::verify(&gateway.keys, token) {
            Ok(bearer) => {
                gateway.rates.check_key(&bearer.claims.iss)?;
                Ok(Some(bearer))
            }
            Err(error) => unauthenticated(&error.to_string()),
        },
    }
}

/// Whose rooms a request may be about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// Those of the project of the key that signed its token.
    Project(String),
    /// In development without a token: everybody's.
    All,
}

impl Scope {
    /// Whether it shows this room.
    pub(super) fn shows(&self, room: &RoomId) -> bool {
        match self {
            Self::Project(project) => room.project() == project,
            Self::All => true,
        }
    }

    /// The room that a request names. Which project it means it may say only where it could mean any.
    pub(super) fn room(&self, name: &str, project: Option<&str>) -> Result<RoomId, ApiError> {
        match self {
            Self::Project(own) => room(own, name),
            Self::All => room(project.unwrap_or(DEFAULT_PROJECT), name),
        }
    }

    /// Refuses what tells of all projects together, such as the load of nodes: that is for keys of the operator's project.
    pub(super) fn of_operator(&self) -> Result<(), ApiError> {
        match self {
            Self::Project(project) if project != DEFAULT_PROJECT => {
                let text = "only keys of the project `default` may look at the mesh as a whole";
                Err(ApiError::Forbidden(text.to_owned()))
            }
            Self::Project(_) | Self::All => Ok(()),
        }
    }
}

/// Refuses unless in development or allowed by the token's grants; says what the request may be about.
pub(super) fn require(
    gateway: &Gateway,
    headers: &HeaderMap,
    allowed: impl FnOnce(&Grants) -> bool,
) -> Result<Scope, ApiError> {
    match bearer(gateway, headers)? {
        None => Ok(Scope::All),
        Some(bearer) if gateway.development || allowed(&bearer.claims.video) => {
            Ok(Scope::Project(bearer.project))
        }
        Some(_) => Err(ApiError::Forbidden(
            "the token's grants do not allow this".to_owned(),
        )),
    }
}
