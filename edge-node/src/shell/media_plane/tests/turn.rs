//! The TURN server over real sockets: a client whose only way to the edge it is.

use super::client::Client;
use super::*;
use crate::core::turn::{Credentials, Participant, Unframed, split, write_channel_data};
use crate::shell::edge;
use proto::{Identity, ParticipantSid};
use rtc_dtls::crypto_provider::default_provider;
use rtc_stun::attributes::{ATTR_ERROR_CODE, ATTR_NONCE, ATTR_REALM, ATTR_USERNAME};
use rtc_stun::error_code::ErrorCodeAttribute;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{
    CLASS_REQUEST, Getter, METHOD_ALLOCATE, METHOD_CHANNEL_BIND, METHOD_CREATE_PERMISSION,
    METHOD_REFRESH, Message, MessageType, Method, Setter, TransactionId,
};
use rtc_stun::textattrs::TextAttribute;
use rtc_turn::proto::PROTO_UDP;
use rtc_turn::proto::channum::ChannelNumber;
use rtc_turn::proto::lifetime::Lifetime;
use rtc_turn::proto::peeraddr::PeerAddress;
use rtc_turn::proto::reqtrans::RequestedTransport;
use runtime::tls::listener::{Certificate, Files};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

const REALM: &str = "test";
const CHANNEL: u16 = 0x4000;
const PER_PARTICIPANT: usize = 2;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

enum Link {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>, Vec<u8>),
}

/// A client of the TURN server.
pub(super) struct Turned {
    link: Link,
    credentials: Credentials,
    nonce: String,
}

impl Turned {
    fn new(link: Link, credentials: Credentials) -> Self {
        Self {
            link,
            credentials,
            nonce: String::new(),
        }
    }

    /// Sends a datagram on the channel.
    pub(super) async fn send(&mut self, datagram: &[u8]) {
        let mut framed = Vec::new();
        write_channel_data(CHANNEL, datagram, true, &mut framed);
        self.write(&framed).await;
    }

    /// The next datagram of the channel; nothing is lost when this is cancelled.
    pub(super) async fn receive(&mut self) -> Vec<u8> {
        loop {
            let message = self.message().await;
            if message[..2] == CHANNEL.to_be_bytes() {
                let length = usize::from(u16::from_be_bytes([message[2], message[3]]));
                return message[4..4 + length].to_vec();
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        match &mut self.link {
            Link::Udp(socket) => {
                socket.send(bytes).await.unwrap();
            }
            Link::Stream(stream, _) => {
                stream.write_all(bytes).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }

    async fn message(&mut self) -> Vec<u8> {
        match &mut self.link {
            Link::Udp(socket) => {
                let mut buffer = vec![0; 4096];
                let length = socket.recv(&mut buffer).await.unwrap();
                buffer.truncate(length);
                buffer
            }
            Link::Stream(stream, buffer) => loop {
                match split(buffer) {
                    Unframed::Message { length, consumed } => {
                        let message = buffer[..length].to_vec();
                        buffer.drain(..consumed);
                        return message;
                    }
                    Unframed::Incomplete => {
                        let read = stream.read_buf(buffer).await.unwrap();
                        assert!(read > 0, "closed by the edge");
                    }
                    Unframed::Broken => panic!("no TURN: {buffer:?}"),
                }
            },
        }
    }

    /// One request; `Err` with the error code when it is refused.
    async fn ask(&mut self, method: Method, attributes: &[&dyn Setter]) -> Result<Message, u16> {
        let provider = default_provider().unwrap();
        let mut request = Message::new();
        request.write_header();
        request.set_type(MessageType::new(method, CLASS_REQUEST));
        TransactionId::new().add_to(&mut request).unwrap();
        for attribute in attributes {
            attribute.add_to(&mut request).unwrap();
        }
        if !self.nonce.is_empty() {
            let Credentials { username, password } = self.credentials.clone();
            for (kind, text) in [
                (ATTR_USERNAME, username.clone()),
                (ATTR_REALM, REALM.to_owned()),
                (ATTR_NONCE, self.nonce.clone()),
            ] {
                TextAttribute::new(kind, text).add_to(&mut request).unwrap();
            }
            MessageIntegrity::new_long_term_integrity_with_provider(
                username,
                REALM.to_owned(),
                password,
                provider.crypto(),
            )
            .unwrap()
            .add_to(&mut request)
            .unwrap();
        }
        self.write(&request.raw).await;
        loop {
            let mut answer = Message::new();
            let bytes = timeout(WAIT, self.message()).await.expect("an answer");
            if answer.unmarshal_binary(&bytes).is_err()
                || answer.transaction_id != request.transaction_id
            {
                continue;
            }
            if answer.contains(ATTR_NONCE) {
                self.nonce = String::from_utf8(answer.get(ATTR_NONCE).unwrap()).unwrap();
            }
            if !answer.contains(ATTR_ERROR_CODE) {
                return Ok(answer);
            }
            let mut code = ErrorCodeAttribute::default();
            code.get_from(&answer).unwrap();
            return Err(code.code.0);
        }
    }

    async fn allocate(&mut self) -> Result<Message, u16> {
        let udp = RequestedTransport {
            protocol: PROTO_UDP,
        };
        if self.nonce.is_empty() {
            assert_eq!(self.ask(METHOD_ALLOCATE, &[&udp]).await.unwrap_err(), 401);
        }
        self.ask(METHOD_ALLOCATE, &[&udp]).await
    }

    async fn bind(&mut self, peer: SocketAddr) -> Result<Message, u16> {
        let parts: [&dyn Setter; 2] = [&ChannelNumber(CHANNEL), &named(peer)];
        self.ask(METHOD_CHANNEL_BIND, &parts).await
    }
}

fn named(peer: SocketAddr) -> PeerAddress {
    PeerAddress {
        ip: peer.ip(),
        port: peer.port(),
    }
}

/// A plane with a TURN server on everything.
struct TurnScene {
    scene: Scene,
    turn: Turn,
    ca: CertificateDer<'static>,
}

impl TurnScene {
    fn new() -> Self {
        let scene = Scene::new(2);
        let authority = Authority::generate("clients", VALIDITY).unwrap();
        let directory =
            std::env::temp_dir().join(format!("antipode-turn-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(&directory).unwrap();
        let names = ["127.0.0.1".to_owned()];
        let files: Files = authority
            .issue_server_into(&directory, "server", (&names, VALIDITY))
            .unwrap();
        let certificate =
            Certificate::open(&files, &scene.registry, scene.shutdown.clone()).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = TurnConfig {
            realm: REALM.to_owned(),
            udp: Some(any),
            tcp: Some(any),
            tls: Some((any, certificate.acceptor(&[]).unwrap())),
            allocations: 64,
            allocations_per_participant: PER_PARTICIPANT,
        };
        let turn = scene
            .plane
            .serve_turn(config, &scene.registry, &scene.shutdown)
            .unwrap();
        let ca = CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap();
        Self { scene, turn, ca }
    }

    fn credentials(&self, sid: &str) -> Credentials {
        let now_s = edge::unix_s();
        let participant = Participant {
            sid: &ParticipantSid::from(sid),
            identity: &Identity::from("ann"),
            room: &RoomId::from("room"),
        };
        self.turn.credentials(now_s, now_s + 60, participant)
    }

    async fn link(&self, transport: &str) -> Link {
        match transport {
            "udp" => {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                socket.connect(self.turn.udp.unwrap()).await.unwrap();
                Link::Udp(socket)
            }
            "tcp" => {
                let stream = TcpStream::connect(self.turn.tcp.unwrap()).await.unwrap();
                Link::Stream(Box::new(stream), Vec::new())
            }
            _ => {
                let mut roots = RootCertStore::empty();
                roots.add(self.ca.clone()).unwrap();
                let config = rustls::ClientConfig::builder()
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                let stream = TcpStream::connect(self.turn.tls.unwrap()).await.unwrap();
                let connector = TlsConnector::from(Arc::new(config));
                let name = "127.0.0.1".try_into().unwrap();
                let stream = connector.connect(name, stream).await.unwrap();
                Link::Stream(Box::new(stream), Vec::new())
            }
        }
    }

    async fn turned(&self, transport: &str, sid: &str) -> Turned {
        Turned::new(self.link(transport).await, self.credentials(sid))
    }

    /// A peer whose client reaches the plane through the server only.
    async fn connect(&self, transport: &str, sid: &str) -> Peer {
        let (sender, mut events) = mpsc::channel(256);
        let peer = self.scene.plane.open_transport(sender);
        let mut client = Client::new(&[Profile::AeadAes128Gcm]);
        peer.set_remote(client.parameters());
        let local = peer.local();
        let fields: Vec<&str> = local.candidates[0].split(' ').collect();
        let address = format!("{}:{}", fields[4], fields[5]).parse().unwrap();
        let mut turned = self.turned(transport, sid).await;
        turned.allocate().await.unwrap();
        turned.bind(address).await.unwrap();
        client.connect_through(&local, turned).await;
        expect(&mut events, |event| *event == TransportEvent::DtlsConnected).await;
        Peer {
            transport: peer,
            events,
            client,
        }
    }

    fn refused(&self, reason: &str) -> f64 {
        self.scene
            .metric("antipode_edge_turn_refused_total", reason)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn media_flows_between_clients_that_only_reach_the_turn_server() {
    let mut turn = TurnScene::new();
    let mut publisher = turn.connect("udp", "PA_1").await;
    let track = turn.scene.publish(&publisher);
    for (transport, sid) in [("tls", "PA_2"), ("tcp", "PA_3"), ("udp", "PA_4")] {
        let mut subscriber = turn.connect(transport, sid).await;
        turn.scene
            .plane
            .subscribe(subscriber.transport.key, track, subscription());
        let all = async {
            let mut seq = 0;
            let mut got = 0;
            while got < 20 {
                seq += 1;
                publisher
                    .client
                    .send_rtp(0xA0A0, 111, seq, b"a voice")
                    .await;
                if let Ok(packet) =
                    timeout(Duration::from_millis(20), subscriber.client.receive_rtp()).await
                {
                    assert_eq!((packet.ssrc, packet.pt), (0xB0B0, 109));
                    assert_eq!(packet.payload, b"a voice");
                    got += 1;
                }
            }
        };
        timeout(WAIT, all).await.expect(transport);
        let counted = turn
            .scene
            .metric("antipode_edge_turn_allocations", transport);
        assert!(counted >= 1.0, "{transport}: {counted}");
    }
    turn.scene.demanded(track, 1).await;
    assert!(
        turn.scene
            .metric("antipode_edge_turn_relayed_packets_total", "in")
            > 40.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_edges_media_is_reached() {
    let turn = TurnScene::new();
    let victim = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for transport in ["udp", "tcp"] {
        let mut turned = turn.turned(transport, "PA_1").await;
        turned.allocate().await.unwrap();
        let address = victim.local_addr().unwrap();
        assert_eq!(turned.bind(address).await.unwrap_err(), 403);
        let foreign = named("10.1.2.3:80".parse().unwrap());
        let asked = turned.ask(METHOD_CREATE_PERMISSION, &[&foreign]).await;
        assert_eq!(asked.unwrap_err(), 403);
        // The address of the edge may be permitted, its other ports not be sent to.
        let own = named(address);
        turned.ask(METHOD_CREATE_PERMISSION, &[&own]).await.unwrap();
        let mut message = Message::new();
        message.write_header();
        message.set_type(rtc_turn::proto::send_indication());
        own.add_to(&mut message).unwrap();
        rtc_turn::proto::data::Data(b"hello".to_vec())
            .add_to(&mut message)
            .unwrap();
        turned.write(&message.raw).await;
        // An answer says that the indication before it has been dealt with.
        turned.ask(METHOD_REFRESH, &[]).await.unwrap();
    }
    let mut buffer = [0; 16];
    assert!(victim.try_recv(&mut buffer).is_err());
    assert_eq!(turn.refused("forbidden_peer"), 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_quotas_are_checked() {
    let turn = TurnScene::new();
    let mut guessing = turn.turned("udp", "PA_1").await;
    guessing.credentials.password = "guessed".to_owned();
    assert_eq!(guessing.allocate().await.unwrap_err(), 401);
    assert_eq!(turn.refused("wrong_credentials"), 1.0);

    let mut held = Vec::new();
    for transport in ["udp", "tcp"] {
        let mut turned = turn.turned(transport, "PA_1").await;
        turned.allocate().await.unwrap();
        held.push(turned);
    }
    let mut third = turn.turned("tls", "PA_1").await;
    assert_eq!(third.allocate().await.unwrap_err(), 486);
    // A place is free again when it is given up, or when its connection ends.
    let gone = held[0]
        .ask(METHOD_REFRESH, &[&Lifetime(Duration::ZERO)])
        .await;
    gone.unwrap();
    third.allocate().await.unwrap();
    drop(held);
    let mut fourth = turn.turned("tcp", "PA_1").await;
    let again = async {
        while fourth.allocate().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT, again)
        .await
        .expect("the TCP connection's place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_loses_the_oldest_and_keeps_its_connection() {
    let turn = TurnScene::new();
    let mut publisher = turn.connect("udp", "PA_1").await;
    let track = turn.scene.publish(&publisher);
    let subscriber = turn.connect("tcp", "PA_2").await;
    let key = subscriber.transport.key;
    turn.scene.plane.subscribe(key, track, subscription());
    let dropped = || {
        turn.scene
            .metric("antipode_edge_turn_dropped_packets_total", "slow_client")
    };
    let flood = async {
        let mut seq = 0_u16;
        while dropped() < 100.0 {
            seq = seq.wrapping_add(1);
            publisher
                .client
                .send_rtp(0xA0A0, 111, seq, &[7; 1100])
                .await;
            if seq.is_multiple_of(64) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    timeout(WAIT, flood).await.expect("drops");
    // What the client then reads is recent and whole: it decrypts, in order, up to the last.
    let mut client = subscriber.client;
    let read = async {
        let mut last = 0;
        for _ in 0..100 {
            last = client.receive_rtp().await.seq;
        }
        last
    };
    timeout(WAIT, read).await.expect("packets");
    assert_eq!(turn.refused("malformed"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_connections_end_and_hurt_nobody() {
    let turn = TurnScene::new();
    let address = turn.turn.tcp.unwrap();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xFF; 100],
        &[0x40, 0, 0xFF, 0xFF],
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        let ended = timeout(WAIT, stream.read_to_end(&mut rest)).await;
        ended.expect("hangs up").ok();
        assert!(rest.is_empty());
    }
    assert_eq!(turn.refused("malformed"), 3.0);
    // Plain text to the TLS port.
    let mut stream = TcpStream::connect(turn.turn.tls.unwrap()).await.unwrap();
    stream.write_all(&[0; 64]).await.unwrap();
    let mut rest = Vec::new();
    timeout(WAIT, stream.read_to_end(&mut rest))
        .await
        .expect("hangs up")
        .ok();
    let mut turned = turn.turned("tcp", "PA_1").await;
    turned.allocate().await.unwrap();
}
