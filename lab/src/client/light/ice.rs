//! ICE towards a lite server (RFC 8445, section 2.5): we control, check its one address, nominate
//! at once, and keep consent fresh (RFC 7675).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::distr::Alphanumeric;
use rtc::crypto::RTCCryptoProvider;
use rtc::shared::error::Result;
use rtc::stun::attributes::{
    ATTR_ICE_CONTROLLING, ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME,
};
use rtc::stun::fingerprint::FingerprintAttr;
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{BINDING_REQUEST, BINDING_SUCCESS, Message, Setter, TransactionId};
use rtc::stun::xoraddr::XorMappedAddress;

/// Check interval until the first answer: Ta of RFC 8445, section 14.2.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Consent interval afterwards; RFC 7675 asks for 5 s with a spread, less is safer under loss.
const CONSENT_INTERVAL: Duration = Duration::from_millis(2500);
/// Consent ends without an answer for this long (RFC 7675, section 5.1).
const CONSENT_EXPIRY: Duration = Duration::from_secs(30);
/// Answers that may be outstanding; older ones are not recognised.
const PENDING_MAX: usize = 16;
/// Priority of a peer-reflexive candidate (RFC 8445, section 5.1.2.1): 110 << 24 | 65535 << 8 | 255.
const PRIORITY: u32 = 110 << 24 | 65_535 << 8 | 255;

/// Credentials of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) ufrag: String,
    pub(super) pwd: String,
}

impl Credentials {
    pub(super) fn random() -> Self {
        let text = |len| -> String {
            rand::rng()
                .sample_iter(Alphanumeric)
                .take(len)
                .map(char::from)
                .collect()
        };
        Self {
            ufrag: text(8),
            pwd: text(24),
        }
    }
}

/// The server's side.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub(super) credentials: Credentials,
    pub(super) address: SocketAddr,
}

pub(super) struct Ice {
    local: Credentials,
    remote: Remote,
    crypto: Arc<dyn RTCCryptoProvider>,
    tie_breaker: u64,
    pending: Vec<TransactionId>,
    next_check: Instant,
    answered: Option<Instant>,
}

impl Ice {
    pub(super) fn new(
        now: Instant,
        local: Credentials,
        remote: Remote,
        crypto: Arc<dyn RTCCryptoProvider>,
    ) -> Self {
        Self {
            local,
            remote,
            crypto,
            tie_breaker: rand::random(),
            pending: Vec::new(),
            next_check: now,
            answered: None,
        }
    }

    /// Whether the server has answered a check.
    pub(super) fn is_connected(&self) -> bool {
        self.answered.is_some()
    }

    /// Whether the server has stopped answering.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.answered
            .is_some_and(|answered| now.duration_since(answered) > CONSENT_EXPIRY)
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.next_check
    }

    /// The check that is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<Option<Vec<u8>>> {
        if now < self.next_check {
            return Ok(None);
        }
        let interval = if self.is_connected() {
            CONSENT_INTERVAL
        } else {
            CHECK_INTERVAL
        };
        // Spread, so that a thousand clients do not check at the same moment.
        self.next_check = now + interval.mul_f64(rand::rng().random_range(0.8..1.2));
        self.request().map(Some)
    }

    /// Takes a STUN datagram from the server; returns the reply when it is a check of its own,
    /// which a lite server never sends.
    pub(super) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut message = Message::new();
        message.unmarshal_binary(datagram).ok()?;
        if message.typ == BINDING_REQUEST {
            return self.reply(&mut message).ok();
        }
        if message.typ == BINDING_SUCCESS {
            self.handle_success(now, &mut message);
        }
        None
    }

    fn handle_success(&mut self, now: Instant, message: &mut Message) {
        let Some(at) = self
            .pending
            .iter()
            .position(|id| *id == message.transaction_id)
        else {
            return;
        };
        let key = self.remote.credentials.pwd.as_bytes();
        if MessageIntegrity::check(message, key, self.crypto.crypto()).is_err() {
            return;
        }
        self.pending.remove(at);
        if self.answered.is_none() {
            self.next_check = now + CONSENT_INTERVAL;
        }
        self.answered = Some(now);
    }

    fn reply(&self, request: &mut Message) -> Result<Vec<u8>> {
        let crypto = self.crypto.crypto();
        MessageIntegrity::check(request, self.local.pwd.as_bytes(), crypto)?;
        let mut message = Message::new();
        message.set_type(BINDING_SUCCESS);
        message.transaction_id = request.transaction_id;
        message.write_header();
        let (ip, port) = (self.remote.address.ip(), self.remote.address.port());
        XorMappedAddress { ip, port }.add_to(&mut message)?;
        let pwd = self.local.pwd.clone();
        MessageIntegrity::new_short_term_integrity_with_provider(pwd, crypto)
            .add_to(&mut message)?;
        FingerprintAttr.add_to(&mut message)?;
        Ok(message.raw)
    }

    fn request(&mut self) -> Result<Vec<u8>> {
        let mut message = Message::new();
        message.set_type(BINDING_REQUEST);
        message.transaction_id = TransactionId::new();
        message.write_header();
        let username = format!("{}:{}", self.remote.credentials.ufrag, self.local.ufrag);
        message.add(ATTR_USERNAME, username.as_bytes());
        message.add(ATTR_PRIORITY, &PRIORITY.to_be_bytes());
        message.add(ATTR_ICE_CONTROLLING, &self.tie_breaker.to_be_bytes());
        message.add(ATTR_USE_CANDIDATE, &[]);
        let crypto = self.crypto.crypto();
        MessageIntegrity::new_short_term_integrity_with_provider(
            self.remote.credentials.pwd.clone(),
            crypto,
        )
        .add_to(&mut message)?;
        FingerprintAttr.add_to(&mut message)?;
        if self.pending.len() >= PENDING_MAX {
            self.pending.remove(0);
        }
        self.pending.push(message.transaction_id);
        Ok(message.raw)
    }
}
