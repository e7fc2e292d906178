//! A client: controlling ICE agent, DTLS client, SRTP and SCTP, over UDP or TCP.

use super::super::{LocalParameters, RemoteParameters};
use super::turn::Turned;
use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use media::srtp::{Inbound, Outbound, Profile, SessionKeys};
use rtc_dtls::config::{ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::crypto_provider::{RTCCryptoProvider, default_provider};
use rtc_dtls::endpoint::{Endpoint as DtlsEndpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_sctp::{
    Association, AssociationHandle, ClientConfig, DatagramEvent, Endpoint, EndpointConfig, Payload,
    PayloadProtocolIdentifier, ReliabilityType,
};
use rtc_shared::TransportProtocol;
use rtc_stun::attributes::{
    ATTR_ICE_CONTROLLING, ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME,
};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{BINDING_REQUEST, Message, Setter, TransactionId};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How a client reaches the edge.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    Udp,
    Tcp,
}

enum Carrier {
    None,
    Udp(UdpSocket),
    /// With what was read of the next frames.
    Tcp(TcpStream, Vec<u8>),
    Turn(Turned),
}

/// A packet as a receiver sees it.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) ssrc: u32,
    pub(super) pt: u8,
    pub(super) seq: u16,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Client {
    provider: Arc<dyn RTCCryptoProvider>,
    fingerprint: String,
    config: Arc<HandshakeConfig>,
    carrier: Carrier,
    peer: SocketAddr,
    dtls: DtlsEndpoint,
    closed: bool,
    answered: u32,
    profile: Option<Profile>,
    srtp: Option<(Inbound, Outbound)>,
    endpoint: Endpoint,
    sctp: Option<(AssociationHandle, Association)>,
    packets: VecDeque<Received>,
}

impl Client {
    pub(super) fn new(profiles: &[Profile]) -> Self {
        let provider = default_provider().unwrap();
        let names = vec!["client".to_owned()];
        let certificate = Certificate::generate_self_signed(names, provider.crypto()).unwrap();
        let digest = digest::digest(&digest::SHA256, &certificate.certificate[0]);
        let pairs: Vec<String> = digest.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        let config = ConfigBuilder::default()
            .with_crypto_provider(provider.clone())
            .with_certificates(vec![certificate])
            .with_srtp_protection_profiles(
                profiles
                    .iter()
                    .map(|p| SrtpProtectionProfile::from(p.id()))
                    .collect(),
            )
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .with_insecure_skip_verify(true)
            .build(true, None)
            .unwrap();
        let peer = "127.0.0.1:1".parse().unwrap();
        Self {
            provider,
            fingerprint: format!("sha-256 {}", pairs.join(":")),
            config: Arc::new(config),
            carrier: Carrier::None,
            peer,
            dtls: DtlsEndpoint::new(peer, TransportProtocol::UDP, None),
            closed: false,
            answered: 0,
            profile: None,
            srtp: None,
            endpoint: Endpoint::new(
                peer,
                TransportProtocol::UDP,
                Arc::new(EndpointConfig::new()),
                None,
            ),
            sctp: None,
            packets: VecDeque::new(),
        }
    }

    pub(super) fn parameters(&self) -> RemoteParameters {
        RemoteParameters {
            ufrag: "abcd".to_owned(),
            pwd: "not needed by a lite agent".to_owned(),
            fingerprints: vec![self.fingerprint.clone()],
            dtls_server: false,
        }
    }

    pub(super) fn profile(&self) -> Option<Profile> {
        self.profile
    }

    /// ICE, then DTLS, then SCTP is started.
    pub(super) async fn connect(&mut self, remote: &LocalParameters, via: Via) {
        self.move_to_new_path(remote, via).await;
        self.shake_hands().await;
    }

    /// The same through a TURN server.
    pub(super) async fn connect_through(&mut self, remote: &LocalParameters, turned: Turned) {
        self.carrier = Carrier::Turn(turned);
        self.nominate(remote).await;
        self.shake_hands().await;
    }

    async fn shake_hands(&mut self) {
        self.dtls
            .connect(Instant::now(), self.peer, Arc::clone(&self.config), None)
            .unwrap();
        while self.srtp.is_none() {
            self.step().await;
        }
        self.sctp = Some(
            self.endpoint
                .connect(Instant::now(), ClientConfig::default(), self.peer)
                .unwrap(),
        );
        self.flush().await;
    }

    /// Opens a socket and nominates the pair.
    pub(super) async fn move_to_new_path(&mut self, remote: &LocalParameters, via: Via) {
        let wanted = if via == Via::Udp { "udp" } else { "tcp" };
        let candidate: Vec<&str> = remote
            .candidates
            .iter()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields[2] == wanted)
            .unwrap();
        let address: SocketAddr = format!("{}:{}", candidate[4], candidate[5])
            .parse()
            .unwrap();
        self.carrier = match via {
            Via::Udp => {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                socket.connect(address).await.unwrap();
                Carrier::Udp(socket)
            }
            Via::Tcp => Carrier::Tcp(TcpStream::connect(address).await.unwrap(), Vec::new()),
        };
        self.nominate(remote).await;
    }

    async fn nominate(&mut self, remote: &LocalParameters) {
        let check = self.check(remote);
        self.answered = 0;
        while self.answered == 0 {
            self.send_raw(&check).await;
            self.step().await;
        }
    }

    fn check(&self, remote: &LocalParameters) -> Vec<u8> {
        let mut message = Message::new();
        message.set_type(BINDING_REQUEST);
        message.write_header();
        TransactionId::new().add_to(&mut message).unwrap();
        message.add(ATTR_USERNAME, format!("{}:abcd", remote.ufrag).as_bytes());
        message.add(ATTR_PRIORITY, &[0x6E, 0, 0, 1]);
        message.add(ATTR_ICE_CONTROLLING, &[1; 8]);
        message.add(ATTR_USE_CANDIDATE, &[]);
        let key = remote.pwd.clone();
        MessageIntegrity::new_short_term_integrity_with_provider(key, self.provider.crypto())
            .add_to(&mut message)
            .unwrap();
        FINGERPRINT.add_to(&mut message).unwrap();
        message.raw
    }

    pub(super) async fn send_raw(&mut self, datagram: &[u8]) {
        match &mut self.carrier {
            Carrier::None => panic!("not connected"),
            Carrier::Udp(socket) => {
                socket.send(datagram).await.unwrap();
            }
            Carrier::Tcp(stream, _) => {
                stream
                    .write_u16(u16::try_from(datagram.len()).unwrap())
                    .await
                    .unwrap();
                stream.write_all(datagram).await.unwrap();
            }
            Carrier::Turn(turned) => turned.send(datagram).await,
        }
    }

    pub(super) async fn send_rtp(&mut self, ssrc: u32, pt: u8, seq: u16, payload: &[u8]) {
        let mut packet = vec![0x80, pt];
        packet.extend(seq.to_be_bytes());
        packet.extend((u32::from(seq) * 960).to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend(payload);
        let length = packet.len();
        packet.resize(length + 32, 0);
        let (_, outbound) = self.srtp.as_ref().unwrap();
        let sealed = outbound
            .seal_rtp(&mut packet, 12, length, u64::from(seq))
            .unwrap();
        self.send_raw(&packet[..sealed]).await;
    }

    pub(super) async fn receive_rtp(&mut self) -> Received {
        loop {
            if let Some(packet) = self.packets.pop_front() {
                return packet;
            }
            self.step().await;
        }
    }

    /// Keeps the client going.
    pub(super) async fn pump(&mut self) {
        loop {
            self.step().await;
        }
    }

    pub(super) async fn open_channel(&mut self, id: u16, label: &str) {
        while self.sctp.as_ref().unwrap().1.is_handshaking() {
            self.step().await;
        }
        let length = u8::try_from(label.len()).unwrap();
        let mut open = vec![3, 0, 0, 0, 0, 0, 0, 0, 0, length, 0, 0];
        open.extend(label.as_bytes());
        let (_, association) = self.sctp.as_mut().unwrap();
        let mut stream = association
            .open_stream(id, PayloadProtocolIdentifier::Binary)
            .unwrap();
        stream
            .set_reliability_params(false, ReliabilityType::Reliable, 0)
            .unwrap();
        let open = Bytes::from(open);
        stream
            .write_sctp(Instant::now(), &open, PayloadProtocolIdentifier::Dcep)
            .unwrap();
        self.flush().await;
        assert_eq!(self.receive_data(id).await, [2], "acknowledged");
    }

    /// Waits for the edge to open a channel and acknowledges it.
    pub(super) async fn accept_channel(&mut self) -> (String, u16) {
        let id = 1;
        let open = self.receive_data(id).await;
        assert_eq!(open[0], 3);
        let (_, association) = self.sctp.as_mut().unwrap();
        let ack = Bytes::from_static(&[2]);
        let mut stream = association.stream(id).unwrap();
        stream
            .write_sctp(Instant::now(), &ack, PayloadProtocolIdentifier::Dcep)
            .unwrap();
        self.flush().await;
        (String::from_utf8(open[12..].to_vec()).unwrap(), id)
    }

    pub(super) async fn send_data(&mut self, id: u16, message: &[u8]) {
        let (_, association) = self.sctp.as_mut().unwrap();
        let mut stream = association.stream(id).unwrap();
        stream
            .write_with_ppi(Instant::now(), message, PayloadProtocolIdentifier::Binary)
            .unwrap();
        self.flush().await;
    }

    pub(super) async fn receive_data(&mut self, id: u16) -> Vec<u8> {
        loop {
            let (_, association) = self.sctp.as_mut().unwrap();
            if let Ok(mut stream) = association.stream(id)
                && let Ok(Some(chunks)) = stream.read_sctp()
            {
                return chunks.to_payload(100_000).unwrap().to_vec();
            }
            self.step().await;
        }
    }

    pub(super) async fn close(&mut self) {
        self.dtls.close(Instant::now()).unwrap();
        self.flush().await;
    }

    /// Waits for the edge's close_notify.
    pub(super) async fn closed(&mut self) {
        while !self.closed {
            self.step().await;
        }
    }

    /// Takes one datagram or lets 20 ms go by.
    async fn step(&mut self) {
        self.flush().await;
        let received =
            tokio::time::timeout(Duration::from_millis(20), read(&mut self.carrier)).await;
        let now = Instant::now();
        if let Ok(datagram) = received {
            self.handle(now, datagram);
        }
        self.dtls.handle_timeout(self.peer, now).ok();
        if let Some((_, association)) = &mut self.sctp {
            association.handle_timeout(now);
        }
        self.flush().await;
    }

    fn handle(&mut self, now: Instant, mut datagram: Vec<u8>) {
        match datagram[0] {
            0..=3 => self.answered += 1,
            20..=63 => {
                let bytes = BytesMut::from(&datagram[..]);
                for event in self
                    .dtls
                    .read(now, self.peer, None, bytes)
                    .unwrap_or_default()
                {
                    self.handle_dtls(now, event);
                }
            }
            _ => {
                let Some((inbound, _)) = &mut self.srtp else {
                    return;
                };
                // RTCP among it (RFC 5761) is of no interest here.
                if (192..=223).contains(&datagram[1]) {
                    return;
                }
                let packet = inbound.open_rtp(&mut datagram).unwrap();
                self.packets.push_back(Received {
                    ssrc: u32::from_be_bytes(packet[8..12].try_into().unwrap()),
                    pt: packet[1] & 0x7F,
                    seq: u16::from_be_bytes(packet[2..4].try_into().unwrap()),
                    payload: packet[payload_offset(packet)..].to_vec(),
                });
            }
        }
    }

    fn handle_dtls(&mut self, now: Instant, event: EndpointEvent) {
        match event {
            EndpointEvent::HandshakeComplete => {
                let state = self.dtls.get_connection_state(self.peer).unwrap();
                let profile = Profile::from_id(state.srtp_protection_profile() as u16).unwrap();
                let length = profile.keying_material_len();
                let material = state
                    .export_keying_material("EXTRACTOR-dtls_srtp", &[], length)
                    .unwrap();
                let keys =
                    SessionKeys::from_keying_material(profile, material.as_ref(), false).unwrap();
                self.profile = Some(profile);
                self.srtp = Some((Inbound::new(&keys).unwrap(), Outbound::new(&keys).unwrap()));
            }
            EndpointEvent::ApplicationData(data) => {
                if let Some((_, DatagramEvent::AssociationEvent(event))) =
                    self.endpoint.handle(now, self.peer, None, data.freeze())
                    && let Some((_, association)) = &mut self.sctp
                {
                    association.handle_event(event);
                }
            }
            EndpointEvent::PeerClosed => self.closed = true,
            _ => {}
        }
    }

    async fn flush(&mut self) {
        let now = Instant::now();
        if let Some((_, association)) = &mut self.sctp {
            while association.poll().is_some() {}
            while let Some(transmit) = association.poll_transmit(now) {
                if let Payload::RawEncode(packets) = transmit.message {
                    for packet in packets {
                        self.dtls.write(now, self.peer, &packet).ok();
                    }
                }
            }
        }
        while let Some(transmit) = self.dtls.poll_transmit() {
            self.send_raw(&transmit.message).await;
        }
    }
}

/// The next datagram; nothing is lost when this is cancelled.
async fn read(carrier: &mut Carrier) -> Vec<u8> {
    match carrier {
        Carrier::None => std::future::pending().await,
        Carrier::Udp(socket) => {
            let mut buffer = vec![0; 2048];
            let length = socket.recv(&mut buffer).await.unwrap();
            buffer.truncate(length);
            buffer
        }
        Carrier::Tcp(stream, buffer) => loop {
            if let Some((length, rest)) = buffer.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if rest.len() >= length {
                    let frame = rest[..length].to_vec();
                    buffer.drain(..2 + length);
                    return frame;
                }
            }
            assert!(
                stream.read_buf(buffer).await.unwrap() > 0,
                "closed by the edge"
            );
        },
        Carrier::Turn(turned) => turned.receive().await,
    }
}

fn payload_offset(packet: &[u8]) -> usize {
    let fixed = 12 + 4 * usize::from(packet[0] & 0x0F);
    if packet[0] & 0x10 == 0 {
        return fixed;
    }
    let words = u16::from_be_bytes(packet[fixed + 2..fixed + 4].try_into().unwrap());
    fixed + 4 + 4 * usize::from(words)
}
