//! ICE, DTLS and SRTP of one connection, sans-IO.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::BytesMut;
use rtc::crypto::{HashAlgorithm, RTCCryptoProvider};
use rtc::dtls::config::{ConfigBuilder, HandshakeConfig};
use rtc::dtls::crypto::Certificate;
use rtc::dtls::endpoint::{Endpoint, EndpointEvent};
use rtc::dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc::shared::TransportProtocol;
use rtc::shared::error::{Error, Result};
use rtc::srtp::config::LABEL_EXTRACTOR_DTLS_SRTP;
use rtc::srtp::context::Context;
use rtc::srtp::protection_profile::ProtectionProfile;

use super::ice::{Credentials, Ice, Remote};
use super::sdp::{Answer, Format};
use crate::client::Arrival;

/// Datagrams that wait for the socket; more are dropped (the newest), as a full NIC queue would.
const TRANSMITS_MAX: usize = 1024;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Nothing for the caller.
    Nothing,
    /// A decrypted RTP packet.
    Rtp(BytesMut),
    /// A decrypted RTCP compound.
    Rtcp(BytesMut),
    /// The server closed DTLS.
    Closed,
}

/// Certificate of this process and what is needed to use it; making one per client would only
/// measure key generation.
pub(super) struct Identity {
    crypto: Arc<dyn RTCCryptoProvider>,
    certificate: Certificate,
    /// SHA-256, `AB:CD:…`.
    pub(super) fingerprint: String,
}

impl Identity {
    /// The identity of this process.
    pub(super) fn of_process() -> Result<Arc<Self>> {
        static IDENTITY: OnceLock<Arc<Identity>> = OnceLock::new();
        if let Some(identity) = IDENTITY.get() {
            return Ok(Arc::clone(identity));
        }
        let identity = Arc::new(Self::new()?);
        Ok(Arc::clone(IDENTITY.get_or_init(|| identity)))
    }

    fn new() -> Result<Self> {
        let crypto = rtc::crypto::default_provider()
            .map_err(|error| Error::Other(format!("no crypto provider: {error}")))?;
        let names = vec!["lab".to_owned()];
        let certificate = Certificate::generate_self_signed(names, crypto.crypto())?;
        let der = certificate
            .certificate
            .first()
            .map(AsRef::as_ref)
            .unwrap_or_default();
        let fingerprint = fingerprint(crypto.as_ref(), der)?;
        Ok(Self {
            crypto,
            certificate,
            fingerprint,
        })
    }

    fn handshake_config(&self, remote: SocketAddr, expected: String) -> Result<HandshakeConfig> {
        let crypto = Arc::clone(&self.crypto);
        ConfigBuilder::default()
            .with_crypto_provider(Arc::clone(&self.crypto))
            .with_certificates(vec![self.certificate.clone()])
            .with_srtp_protection_profiles(vec![
                SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
                SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
            ])
            // The chain means nothing in WebRTC; the fingerprint from the answer does.
            .with_insecure_skip_verify(true)
            .with_verify_peer_certificate(Some(Arc::new(move |chain, _| {
                let der = chain.first().map(Vec::as_slice).unwrap_or_default();
                if fingerprint(crypto.as_ref(), der)? == expected {
                    Ok(())
                } else {
                    Err(Error::Other("the server's certificate is not the one it announced".into()))
                }
            })))
            .build(true, Some(remote))
    }
}

fn fingerprint(crypto: &dyn RTCCryptoProvider, der: &[u8]) -> Result<String> {
    let digest = crypto
        .crypto()
        .hash(HashAlgorithm::Sha256, der)
        .map_err(|error| Error::Other(format!("SHA-256: {error}")))?;
    let mut text = String::with_capacity(digest.len() * 3);
    for (index, byte) in digest.iter().enumerate() {
        let colon = if index == 0 { "" } else { ":" };
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{colon}{byte:02X}").is_ok();
    }
    Ok(text)
}

struct Srtp {
    inbound: Context,
    outbound: Context,
}

pub(super) struct Transport {
    identity: Arc<Identity>,
    ice: Ice,
    dtls: Endpoint,
    handshake: Arc<HandshakeConfig>,
    remote: SocketAddr,
    srtp: Option<Srtp>,
    transmits: VecDeque<BytesMut>,
    /// Datagrams dropped because the socket did not keep up.
    pub(super) dropped: u64,
}

impl Transport {
    pub(super) fn new(
        now: Instant,
        identity: Arc<Identity>,
        local: (SocketAddr, Credentials),
        (remote, answer): (SocketAddr, Answer),
    ) -> Result<Self> {
        let (local, credentials) = local;
        let crypto = Arc::clone(&identity.crypto);
        let server = Remote {
            credentials: answer.credentials,
            address: remote,
        };
        let handshake = Arc::new(identity.handshake_config(remote, answer.fingerprint)?);
        Ok(Self {
            identity,
            ice: Ice::new(now, credentials, server, crypto),
            dtls: Endpoint::new(local, TransportProtocol::UDP, None),
            handshake,
            remote,
            srtp: None,
            transmits: VecDeque::new(),
            dropped: 0,
        })
    }

    /// Whether media can flow.
    pub(super) fn is_connected(&self) -> bool {
        self.srtp.is_some()
    }

    /// Whether the server has stopped answering.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.ice.is_expired(now)
    }

    pub(super) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let check = self.ice.poll_timeout();
        self.dtls
            .poll_timeout(&self.remote)
            .map_or(check, |dtls| dtls.min(check))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<()> {
        if let Some(check) = self.ice.handle_timeout(now)? {
            self.transmit(BytesMut::from(check.as_slice()));
        }
        if self
            .dtls
            .poll_timeout(&self.remote)
            .is_some_and(|due| due <= now)
        {
            self.dtls.handle_timeout(self.remote, now)?;
            self.flush_dtls();
        }
        Ok(())
    }

    /// Takes a datagram from the server, told apart by its first byte (RFC 7983).
    pub(super) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<Received> {
        match datagram.first() {
            Some(0..=3) => self.handle_stun(now, datagram),
            Some(20..=63) => self.handle_dtls(now, datagram),
            Some(128..=191) => Ok(self.handle_srtp(datagram)),
            _ => Ok(Received::Nothing),
        }
    }

    /// Encrypts an RTP packet and queues it.
    pub(super) fn send_rtp(&mut self, packet: &[u8]) -> Result<()> {
        let Some(srtp) = &mut self.srtp else {
            return Ok(());
        };
        let sealed = srtp.outbound.encrypt_rtp(packet)?;
        self.transmit(sealed);
        Ok(())
    }

    /// Encrypts an RTCP compound and queues it.
    pub(super) fn send_rtcp(&mut self, compound: &[u8]) -> Result<()> {
        let Some(srtp) = &mut self.srtp else {
            return Ok(());
        };
        let sealed = srtp.outbound.encrypt_rtcp(compound)?;
        self.transmit(sealed);
        Ok(())
    }

    fn transmit(&mut self, datagram: BytesMut) {
        if self.transmits.len() < TRANSMITS_MAX {
            self.transmits.push_back(datagram);
        } else {
            self.dropped += 1;
        }
    }

    /// Says goodbye to the server's DTLS.
    pub(super) fn close(&mut self, now: Instant) -> Result<()> {
        self.dtls.close(now)?;
        self.flush_dtls();
        Ok(())
    }

    fn handle_stun(&mut self, now: Instant, datagram: &[u8]) -> Result<Received> {
        let first = !self.ice.is_connected();
        if let Some(reply) = self.ice.handle_datagram(now, datagram) {
            self.transmit(BytesMut::from(reply.as_slice()));
        }
        if first && self.ice.is_connected() {
            self.dtls
                .connect(now, self.remote, Arc::clone(&self.handshake), None)?;
            self.flush_dtls();
        }
        Ok(Received::Nothing)
    }

    fn handle_dtls(&mut self, now: Instant, datagram: &[u8]) -> Result<Received> {
        if !self.ice.is_connected() {
            return Ok(Received::Nothing);
        }
        let events = self
            .dtls
            .read(now, self.remote, None, BytesMut::from(datagram));
        self.flush_dtls();
        let events = match events {
            Ok(events) => events,
            // Whoever can reach the port can send a bad record; it must not end a call.
            Err(_) if self.is_connected() => return Ok(Received::Nothing),
            Err(error) => return Err(error),
        };
        let mut received = Received::Nothing;
        for event in events {
            // Application data is SCTP: we open no data channels.
            if matches!(event, EndpointEvent::HandshakeComplete) {
                self.srtp = Some(self.derive()?);
            } else if matches!(event, EndpointEvent::PeerClosed) {
                received = Received::Closed;
            }
        }
        Ok(received)
    }

    /// Undecryptable packets are nothing: they may be somebody else's, or early.
    fn handle_srtp(&mut self, datagram: &[u8]) -> Received {
        let Some(srtp) = &mut self.srtp else {
            return Received::Nothing;
        };
        // RTCP packet types 192..=223 in the second byte (RFC 5761, section 4).
        let opened = if datagram
            .get(1)
            .is_some_and(|byte| (192..=223).contains(byte))
        {
            srtp.inbound.decrypt_rtcp(datagram).map(Received::Rtcp)
        } else {
            srtp.inbound.decrypt_rtp(datagram).map(Received::Rtp)
        };
        opened.unwrap_or(Received::Nothing)
    }

    fn flush_dtls(&mut self) {
        while let Some(transmit) = self.dtls.poll_transmit() {
            self.transmit(transmit.message);
        }
    }

    /// Keys from the handshake (RFC 5764, section 4.2).
    fn derive(&self) -> Result<Srtp> {
        let state = self
            .dtls
            .get_connection_state(self.remote)
            .ok_or(Error::InvalidRemoteAddress(self.remote))?;
        // The handshake accepts only what we offered.
        let gcm = SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm;
        let profile = if state.srtp_protection_profile() == gcm {
            ProtectionProfile::AeadAes128Gcm
        } else {
            ProtectionProfile::Aes128CmHmacSha1_80
        };
        let mut config = rtc::srtp::config::Config {
            profile,
            ..Default::default()
        };
        let len = config.keying_material_len();
        let material = state.export_keying_material(LABEL_EXTRACTOR_DTLS_SRTP, &[], len)?;
        config.set_session_keys_from_keying_material(material.as_ref(), true)?;
        let crypto = self.identity.crypto.crypto();
        let context =
            |key: &[u8], salt: &[u8]| Context::new(key, salt, profile, None, None, crypto);
        Ok(Srtp {
            inbound: context(
                &config.keys.remote_master_key,
                &config.keys.remote_master_salt,
            )?,
            outbound: context(
                &config.keys.local_master_key,
                &config.keys.local_master_salt,
            )?,
        })
    }
}

/// The fixed header of an RTP packet (RFC 3550, section 5.1), and its payload.
pub(super) fn arrival(packet: &[u8]) -> Option<Arrival<'_>> {
    let (header, _) = packet.split_first_chunk::<12>()?;
    let [_, second, s1, s0, t3, t2, t1, t0, c3, c2, c1, c0] = *header;
    Some(Arrival {
        marker: second & 0x80 != 0,
        sequence_number: u16::from_be_bytes([s1, s0]),
        timestamp: u32::from_be_bytes([t3, t2, t1, t0]),
        ssrc: u32::from_be_bytes([c3, c2, c1, c0]),
        payload: rtp_payload(packet)?,
    })
}

/// Whether a packet is a retransmission of what we receive (RFC 4588).
pub(super) fn is_repair(packet: &[u8]) -> bool {
    let repair = Format::Vp8.payload_type() + 1;
    packet.get(1).is_some_and(|second| second & 0x7f == repair)
}

/// Payload of an RTP packet: after CSRCs and extensions, before padding (RFC 3550, section 5.1).
fn rtp_payload(packet: &[u8]) -> Option<&[u8]> {
    let (header, mut rest) = packet.split_first_chunk::<12>()?;
    let first = *header.first()?;
    rest = rest.get(usize::from(first & 0x0f) * 4..)?;
    if first & 0x10 != 0 {
        let (extension, after) = rest.split_first_chunk::<4>()?;
        let [_, _, high, low] = *extension;
        rest = after.get(usize::from(u16::from_be_bytes([high, low])) * 4..)?;
    }
    if first & 0x20 != 0 {
        let padding = usize::from(*rest.last()?);
        rest = rest.get(..rest.len().checked_sub(padding)?)?;
    }
    Some(rest)
}

#[cfg(test)]
mod tests;
