//! Credentials that are valid for a time: the user name says until when and for whom, the password follows from it and the edge's
//! secret. Nothing has to be stored, and no other edge takes them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proto::{Identity, ParticipantSid, RoomId};

use super::NONCE_VALIDITY;

/// Credentials are valid for no longer than this, and never longer than the token they were given for. A client asks for an
/// allocation when it connects or its network changes, and gets new credentials whenever it comes back.
pub const VALIDITY_MAX: Duration = Duration::from_secs(3600);
/// Bytes of a code in a name or nonce: 96 bits.
const CODE: usize = 12;

/// What user names, passwords and nonces are derived from.
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Whom credentials are for.
#[derive(Clone, Copy, Debug)]
pub struct Participant<'a> {
    /// Session id.
    pub sid: &'a ParticipantSid,
    /// Identity.
    pub identity: &'a Identity,
    /// The room.
    pub room: &'a RoomId,
}

/// A user name and password for TURN.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `<expiry, Unix seconds>:<session id>:<code of room and identity>`.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What a user name says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Username<'a> {
    /// Until when it starts allocations, Unix seconds.
    pub(super) expires_s: u64,
    /// Session id of the participant.
    pub(super) sid: &'a str,
}

impl Secret {
    /// From 32 random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &random))
    }

    /// Credentials for a participant whose token is valid until `token_expires_s`; both times are Unix seconds.
    pub fn issue(
        &self,
        now_s: u64,
        token_expires_s: u64,
        participant: Participant<'_>,
    ) -> Credentials {
        let Participant {
            sid,
            identity,
            room,
        } = participant;
        let expires_s = token_expires_s.min(now_s.saturating_add(VALIDITY_MAX.as_secs()));
        // User datagrams show the name to everybody on the way: no names of people or rooms.
        let code = self.code(&["participant", room.as_str(), identity.as_str()]);
        let username = format!("{expires_s}:{sid}:{code}");
        let password = self.password(&username);
        Credentials { username, password }
    }

    /// The password that belongs to a user name.
    pub(super) fn password(&self, username: &str) -> String {
        STANDARD.encode(self.sign(&["password", username]))
    }

    /// A nonce for a client at this address.
    pub(super) fn nonce(&self, now_s: u64, remote: SocketAddr) -> String {
        let issued = format!("{now_s:x}");
        let code = self.code(&["nonce", &issued, &remote.to_string()]);
        format!("{issued}-{code}")
    }

    /// Whether a nonce is one of ours for that address and not too old.
    pub(super) fn takes_nonce(&self, now_s: u64, remote: SocketAddr, nonce: &str) -> bool {
        let Some((issued, _)) = nonce.split_once('-') else {
            return false;
        };
        let Ok(issued_s) = u64::from_str_radix(issued, 16) else {
            return false;
        };
        let fresh = issued_s <= now_s && now_s - issued_s < NONCE_VALIDITY.as_secs();
        // Nonces are no secret: whoever sends one has seen it. How long the comparison takes tells nothing.
        fresh && self.nonce(issued_s, remote) == nonce
    }

    fn code(&self, parts: &[&str]) -> String {
        let tag = self.sign(parts);
        URL_SAFE_NO_PAD.encode(tag.as_ref().get(..CODE).unwrap_or_default())
    }

    /// Parts are set apart by a byte that none of them holds in its place: names are UTF-8, which has no 0xFF.
    fn sign(&self, parts: &[&str]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part.as_bytes());
            context.update(&[0xFF]);
        }
        context.sign()
    }
}

impl<'a> Username<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let expires_s = parts.next()?.parse().ok()?;
        let sid = parts.next().filter(|sid| !sid.is_empty())?;
        parts.next()?;
        Some(Self { expires_s, sid })
    }
}
