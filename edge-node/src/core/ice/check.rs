//! One connectivity check: parse it, authenticate it, answer it (RFC 8489, RFC 8445 section 7.3).

use rtc_dtls::crypto_provider::RTCCrypto;
use rtc_stun::attributes::{
    ATTR_FINGERPRINT, ATTR_ICE_CONTROLLED, ATTR_ICE_CONTROLLING, ATTR_MESSAGE_INTEGRITY,
    ATTR_PRIORITY, ATTR_UNKNOWN_ATTRIBUTES, ATTR_USE_CANDIDATE, ATTR_USERNAME, AttrType,
};
use rtc_stun::error_code::{
    CODE_ROLE_CONFLICT, CODE_UNKNOWN_ATTRIBUTE, ErrorCode, ErrorCodeAttribute,
};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{
    BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, CLASS_INDICATION, MESSAGE_HEADER_SIZE,
    METHOD_BINDING, Message, Setter,
};
use rtc_stun::xoraddr::XorMappedAddress;
use std::net::SocketAddr;

/// What a STUN message is to a lite agent.
pub(super) enum Parsed {
    /// A binding request that still has to be authenticated.
    Request(Request),
    /// A binding indication: a keepalive (RFC 8445 section 11), no answer.
    Indication,
}

/// Why a message is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// Not a check.
    Malformed,
    /// Its FINGERPRINT or MESSAGE-INTEGRITY is wrong.
    Unauthenticated,
}

/// A binding request.
pub(super) struct Request {
    message: Message,
    /// Local part of USERNAME: our user fragment.
    pub(super) ufrag: String,
}

/// What an authenticated request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// A valid check.
    Check {
        /// USE-CANDIDATE was there.
        nominate: bool,
    },
    /// The client believes that we control (RFC 8445 section 7.3.1.1): a lite agent never does.
    RoleConflict,
    /// It holds attributes that must be understood and are not (RFC 8489 section 6.3.1).
    UnknownAttributes,
}

/// The local user fragment that a STUN message is for, not authenticated; `None` when it is no binding request.
pub fn local_ufrag(message: &[u8]) -> Option<String> {
    match parse(message) {
        Ok(Parsed::Request(request)) => Some(request.ufrag),
        Ok(Parsed::Indication) | Err(_) => None,
    }
}

/// Reads one STUN message.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Refusal> {
    let mut message = Message::new();
    message
        .unmarshal_binary(bytes)
        .map_err(|_| Refusal::Malformed)?;
    let whole =
        usize::try_from(message.length).is_ok_and(|n| n + MESSAGE_HEADER_SIZE == bytes.len());
    if !whole || message.typ.method != METHOD_BINDING {
        return Err(Refusal::Malformed);
    }
    if message.typ.class == CLASS_INDICATION {
        return Ok(Parsed::Indication);
    }
    if message.typ != BINDING_REQUEST {
        return Err(Refusal::Malformed);
    }
    let last = message.attributes.0.last().map(|attribute| attribute.typ);
    if last != Some(ATTR_FINGERPRINT) || !message.contains(ATTR_MESSAGE_INTEGRITY) {
        return Err(Refusal::Malformed);
    }
    FINGERPRINT
        .check(&message)
        .map_err(|_| Refusal::Unauthenticated)?;
    let username = protected(&message)
        .find(|(kind, _)| *kind == ATTR_USERNAME)
        .and_then(|(_, value)| std::str::from_utf8(value).ok())
        .ok_or(Refusal::Malformed)?;
    let (ufrag, _) = username.split_once(':').ok_or(Refusal::Malformed)?;
    let ufrag = ufrag.to_owned();
    Ok(Parsed::Request(Request { message, ufrag }))
}

impl Request {
    /// Checks MESSAGE-INTEGRITY with our password and says what is asked for.
    pub(super) fn authenticate(
        &mut self,
        pwd: &str,
        crypto: &dyn RTCCrypto,
    ) -> Result<Verdict, Refusal> {
        MessageIntegrity::check(&mut self.message, pwd.as_bytes(), crypto)
            .map_err(|_| Refusal::Unauthenticated)?;
        if self.unknown_attributes().next().is_some() {
            return Ok(Verdict::UnknownAttributes);
        }
        let has = |wanted| protected(&self.message).any(|(kind, _)| kind == wanted);
        if has(ATTR_ICE_CONTROLLED) && !has(ATTR_ICE_CONTROLLING) {
            return Ok(Verdict::RoleConflict);
        }
        Ok(Verdict::Check {
            nominate: has(ATTR_USE_CANDIDATE),
        })
    }

    /// The success response (RFC 8445 section 7.3.1.2).
    pub(super) fn success(
        &self,
        remote: SocketAddr,
        pwd: &str,
        crypto: &dyn RTCCrypto,
    ) -> Option<Vec<u8>> {
        let mapped = XorMappedAddress {
            ip: remote.ip(),
            port: remote.port(),
        };
        self.respond(&[&BINDING_SUCCESS, &self.message, &mapped], pwd, crypto)
    }

    /// The error response to a verdict other than [`Verdict::Check`].
    pub(super) fn error(
        &self,
        verdict: Verdict,
        pwd: &str,
        crypto: &dyn RTCCrypto,
    ) -> Option<Vec<u8>> {
        match verdict {
            Verdict::Check { .. } => None,
            Verdict::RoleConflict => {
                let code = error_code(CODE_ROLE_CONFLICT, "Role Conflict");
                self.respond(&[&BINDING_ERROR, &self.message, &code], pwd, crypto)
            }
            Verdict::UnknownAttributes => {
                let code = error_code(CODE_UNKNOWN_ATTRIBUTE, "Unknown Attribute");
                let unknown = UnknownAttributes(self.unknown_attributes().collect());
                self.respond(
                    &[&BINDING_ERROR, &self.message, &code, &unknown],
                    pwd,
                    crypto,
                )
            }
        }
    }

    fn unknown_attributes(&self) -> impl Iterator<Item = AttrType> + '_ {
        const KNOWN: [AttrType; 4] = [
            ATTR_USERNAME,
            ATTR_MESSAGE_INTEGRITY,
            ATTR_PRIORITY,
            ATTR_USE_CANDIDATE,
        ];
        protected(&self.message)
            .map(|(kind, _)| kind)
            .filter(|kind| kind.required() && !KNOWN.contains(kind))
    }

    fn respond(&self, parts: &[&dyn Setter], pwd: &str, crypto: &dyn RTCCrypto) -> Option<Vec<u8>> {
        let mut response = Message::new();
        response.write_header();
        for part in parts {
            part.add_to(&mut response).ok()?;
        }
        MessageIntegrity::new_short_term_integrity_with_provider(pwd.to_owned(), crypto)
            .add_to(&mut response)
            .ok()?;
        FINGERPRINT.add_to(&mut response).ok()?;
        Some(response.raw)
    }
}

/// The attributes that MESSAGE-INTEGRITY covers: what follows it is ignored (RFC 8489 section 14.5).
fn protected(message: &Message) -> impl Iterator<Item = (AttrType, &[u8])> {
    message
        .attributes
        .0
        .iter()
        .take_while(|attribute| attribute.typ != ATTR_MESSAGE_INTEGRITY)
        .map(|attribute| (attribute.typ, attribute.value.as_slice()))
}

fn error_code(code: ErrorCode, reason: &str) -> ErrorCodeAttribute {
    ErrorCodeAttribute {
        code,
        reason: reason.as_bytes().to_vec(),
    }
}

/// UNKNOWN-ATTRIBUTES (RFC 8489 section 14.13).
struct UnknownAttributes(Vec<AttrType>);

impl Setter for UnknownAttributes {
    fn add_to(&self, message: &mut Message) -> rtc_shared::error::Result<()> {
        let value: Vec<u8> = self
            .0
            .iter()
            .flat_map(|kind| kind.value().to_be_bytes())
            .collect();
        message.add(ATTR_UNKNOWN_ATTRIBUTES, &value);
        Ok(())
    }
}
