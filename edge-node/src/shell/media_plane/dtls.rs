//! DTLS 1.2 (RFC 6347, RFC 5764) for one transport, sans-IO around `rtc-dtls`: the server, or the client of a peer that insists on
//! being the server ([`Dtls::connect`]).
//!
//! `rtc-dtls` takes the first SRTP profile that the client lists, and browsers list AES-CM with HMAC first, which costs five
//! times what GCM does. So the first ClientHello is read here before a handshake starts, and the handshake is configured with
//! the one profile that we like best among those the client has.

mod identity;
#[cfg(test)]
mod tests;

use crate::core::client_hello::ClientHello;
use bytes::BytesMut;
use media::srtp::{Profile, SessionKeys};
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error as RtcError;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use identity::{Identity, fingerprint_matches};

/// From the first ClientHello to the last message; beyond that the client has to start anew.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Faulty handshake datagrams tolerated: forged ones may come with good ones.
const HANDSHAKE_ERRORS_MAX: u32 = 16;
/// Datagrams kept until the ClientHello is whole.
const HELD_MAX: usize = 16;
/// Bytes of a record header (RFC 6347 section 4.1).
const RECORD_HEADER: usize = 13;

/// `rtc-dtls` tells associations apart by address; ours move between paths, so there is one for all.
const PEER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1));

/// What came of a datagram or a timer.
#[derive(Debug)]
pub(super) enum Event {
    /// The handshake is done. The certificate is the peer's, in DER, and is still to be compared with its fingerprint.
    Connected {
        /// Keys for SRTP.
        keys: SessionKeys,
        /// The peer's certificate.
        certificate: Vec<u8>,
    },
    /// Application data: an SCTP packet.
    Data(BytesMut),
    /// The peer closed the association.
    Closed,
    /// The handshake failed for good.
    Failed(String),
}

/// One DTLS association.
pub(super) struct Dtls {
    identity: Arc<Identity>,
    phase: Phase,
    errors: u32,
    deadline: Option<Instant>,
    events: VecDeque<Event>,
    transmits: VecDeque<BytesMut>,
}

enum Phase {
    /// Until the first ClientHello is whole.
    Hello {
        hello: ClientHello,
        held: Vec<BytesMut>,
    },
    /// `done` when the handshake is complete.
    Running {
        endpoint: Box<Endpoint>,
        server: bool,
        done: bool,
    },
    Ended,
}

impl Dtls {
    pub(super) fn new(identity: Arc<Identity>) -> Self {
        Self {
            identity,
            phase: Phase::Hello {
                hello: ClientHello::default(),
                held: Vec::new(),
            },
            errors: 0,
            deadline: None,
            events: VecDeque::new(),
            transmits: VecDeque::new(),
        }
    }

    /// Starts the handshake as the client; nothing happens if one was started already.
    pub(super) fn connect(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Hello { .. }) {
            return;
        }
        let mut endpoint = Box::new(Endpoint::new(PEER, TransportProtocol::UDP, None));
        let connected = endpoint.connect(now, PEER, self.identity.client_config(), None);
        drain(&mut endpoint, &mut self.transmits);
        self.run(now, endpoint, false);
        if let Err(error) = connected {
            self.fail(&error.to_string());
        }
    }

    /// Takes one datagram; then drain [`Dtls::poll_event`] and [`Dtls::poll_transmit`].
    pub(super) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        if !is_records(datagram) {
            return;
        }
        if let Phase::Hello { hello, held } = &mut self.phase {
            hello.push(datagram);
            if held.len() < HELD_MAX {
                held.push(BytesMut::from(datagram));
            }
            if !hello.is_complete() {
                return;
            }
            let profile = hello.best_profile();
            let held = std::mem::take(held);
            self.start(now, profile);
            for datagram in held {
                self.read(now, datagram);
            }
        } else {
            self.read(now, BytesMut::from(datagram));
        }
    }

    /// Encrypts application data. Dropped unless connected.
    pub(super) fn write(&mut self, now: Instant, data: &[u8]) {
        if let Phase::Running {
            endpoint,
            done: true,
            ..
        } = &mut self.phase
        {
            if let Err(error) = endpoint.write(now, PEER, data) {
                tracing::debug!(%error, "DTLS write");
            }
            drain(endpoint, &mut self.transmits);
        }
    }

    /// Sends close_notify if there is somebody to hear it.
    pub(super) fn close(&mut self, now: Instant) {
        if let Phase::Running { endpoint, .. } = &mut self.phase {
            if let Err(error) = endpoint.close(now) {
                tracing::debug!(%error, "DTLS close");
            }
            drain(endpoint, &mut self.transmits);
        }
        self.phase = Phase::Ended;
        self.deadline = None;
    }

    /// When [`Dtls::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let retransmit = match &self.phase {
            Phase::Running { endpoint, .. } => endpoint.poll_timeout(&PEER),
            Phase::Hello { .. } | Phase::Ended => None,
        };
        [retransmit, self.deadline].into_iter().flatten().min()
    }

    /// Retransmits, or gives up.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.fail("handshake timed out");
            return;
        }
        if let Phase::Running { endpoint, .. } = &mut self.phase {
            let result = endpoint.handle_timeout(PEER, now);
            drain(endpoint, &mut self.transmits);
            if let Err(error) = result {
                self.fail(&format!("no answer in the handshake: {error}"));
            }
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.transmits.pop_front()
    }

    fn start(&mut self, now: Instant, profile: Option<Profile>) {
        let config = self.identity.config(profile);
        let endpoint = Endpoint::new(PEER, TransportProtocol::UDP, Some(config));
        self.run(now, Box::new(endpoint), true);
    }

    fn run(&mut self, now: Instant, endpoint: Box<Endpoint>, server: bool) {
        self.phase = Phase::Running {
            endpoint,
            server,
            done: false,
        };
        self.deadline = Some(now + HANDSHAKE_TIMEOUT);
    }

    fn read(&mut self, now: Instant, datagram: BytesMut) {
        let Phase::Running { endpoint, done, .. } = &mut self.phase else {
            return;
        };
        let was_done = *done;
        let result = endpoint.read(now, PEER, None, datagram);
        drain(endpoint, &mut self.transmits);
        match result {
            Ok(events) => {
                for event in events {
                    self.handle_event(event);
                }
            }
            Err(RtcError::ErrAlertFatalOrClose) if was_done => self.end(Event::Closed),
            Err(error) if was_done => tracing::debug!(%error, "DTLS record dropped"),
            Err(error) => {
                self.errors += 1;
                tracing::debug!(%error, errors = self.errors, "DTLS handshake datagram dropped");
                if self.errors >= HANDSHAKE_ERRORS_MAX {
                    self.fail(&error.to_string());
                }
            }
        }
    }

    fn handle_event(&mut self, event: EndpointEvent) {
        match event {
            EndpointEvent::HandshakeComplete => match self.connected() {
                Ok(event) => {
                    self.deadline = None;
                    self.events.push_back(event);
                }
                Err(reason) => self.fail(&reason),
            },
            EndpointEvent::ApplicationData(data) => self.events.push_back(Event::Data(data)),
            EndpointEvent::PeerClosed => self.end(Event::Closed),
            // The enum is open; nothing else is known to matter.
            _ => {}
        }
    }

    fn connected(&mut self) -> Result<Event, String> {
        let Phase::Running {
            endpoint,
            server,
            done,
        } = &mut self.phase
        else {
            return Err("closed".to_owned());
        };
        let state = endpoint
            .get_connection_state(PEER)
            .ok_or("no association")?;
        let profile = Profile::from_id(state.srtp_protection_profile() as u16)
            .ok_or("no common SRTP profile")?;
        let material = state
            .export_keying_material("EXTRACTOR-dtls_srtp", &[], profile.keying_material_len())
            .map_err(|error| error.to_string())?;
        let keys = SessionKeys::from_keying_material(profile, material.as_ref(), *server)
            .map_err(|error| error.to_string())?;
        let certificate = state
            .peer_certificates
            .first()
            .cloned()
            .ok_or("the peer showed no certificate")?;
        *done = true;
        Ok(Event::Connected { keys, certificate })
    }

    fn fail(&mut self, reason: &str) {
        self.end(Event::Failed(reason.to_owned()));
    }

    fn end(&mut self, event: Event) {
        if !matches!(self.phase, Phase::Ended) {
            self.phase = Phase::Ended;
            self.deadline = None;
            self.events.push_back(event);
        }
    }
}

fn drain(endpoint: &mut Endpoint, transmits: &mut VecDeque<BytesMut>) {
    while let Some(transmit) = endpoint.poll_transmit() {
        transmits.push_back(transmit.message);
    }
}

/// Whether a datagram is a row of whole records of a known kind. One with an alert in plain text is not taken: anybody could
/// have sent it, and `rtc-dtls` would echo it.
fn is_records(mut datagram: &[u8]) -> bool {
    if datagram.is_empty() {
        return false;
    }
    while !datagram.is_empty() {
        let Some((header, rest)) = datagram.split_at_checked(RECORD_HEADER) else {
            return false;
        };
        let &[kind, 0xFE, _, epoch_high, epoch_low, .., high, low] = header else {
            return false;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // change_cipher_spec, alert, handshake, application_data (RFC 5246 section 6.2.1).
        let plain_alert = kind == 21 && epoch_high == 0 && epoch_low == 0;
        if !(20..=23).contains(&kind) || plain_alert {
            return false;
        }
        let Some((_, rest)) = rest.split_at_checked(length) else {
            return false;
        };
        datagram = rest;
    }
    true
}
