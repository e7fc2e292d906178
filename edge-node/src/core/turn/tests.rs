//! Dialogues between a client and the server's side of it.

use std::time::Instant;

use proptest::prelude::*;
use proto::{Identity, ParticipantSid, RoomId};
use rtc_dtls::crypto_provider::default_provider;
use rtc_stun::attributes::{
    ATTR_ERROR_CODE, ATTR_EVEN_PORT, ATTR_NONCE, ATTR_REALM, ATTR_USERNAME, AttrType,
};
use rtc_stun::error_code::ErrorCodeAttribute;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{
    CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter, METHOD_ALLOCATE, METHOD_BINDING,
    METHOD_CHANNEL_BIND, METHOD_CREATE_PERMISSION, METHOD_DATA, METHOD_REFRESH, Message,
    MessageType, Method, Setter, TransactionId,
};
use rtc_stun::textattrs::TextAttribute;
use rtc_stun::xoraddr::XorMappedAddress;
use rtc_turn::proto::channum::ChannelNumber;
use rtc_turn::proto::data::Data;
use rtc_turn::proto::lifetime::Lifetime;
use rtc_turn::proto::peeraddr::PeerAddress;
use rtc_turn::proto::relayaddr::RelayedAddress;
use rtc_turn::proto::reqtrans::RequestedTransport;
use rtc_turn::proto::{PROTO_TCP, PROTO_UDP, Protocol, send_indication};

use super::*;
use crate::core::session::Now;

const REALM: &str = "test.mesh";
const PEER: &str = "192.0.2.10:7882";
const HOUR_S: u64 = 3600;
/// Some time in 2026, Unix seconds.
const START_S: u64 = 1_790_000_000;
const CHANNEL: u16 = 0x4001;

/// A client and its server; the clock is theirs.
struct Scene {
    server: Arc<Server>,
    client: Client<u32>,
    origin: Instant,
    now_s: u64,
    credentials: Credentials,
    nonce: String,
    refusals: Vec<Refusal>,
    admitted: u32,
    quota: Option<Refusal>,
}

fn server() -> Arc<Server> {
    Arc::new(Server {
        realm: REALM.to_owned(),
        secret: Secret::new([7; 32]),
        crypto: default_provider().unwrap(),
        peers: [PEER.parse().unwrap()].into(),
        addresses: vec!["192.0.2.10".parse().unwrap()],
    })
}

fn issued(server: &Server, now_s: u64, token_expires_s: u64) -> Credentials {
    let participant = Participant {
        sid: &ParticipantSid::from("PA_1"),
        identity: &Identity::from("ann"),
        room: &RoomId::from("lounge"),
    };
    server.secret.issue(now_s, token_expires_s, participant)
}

/// An answer, taken apart.
struct Answer(Message);

impl Answer {
    fn is_success(&self) -> bool {
        self.0.typ.class == CLASS_SUCCESS_RESPONSE
    }

    fn code(&self) -> u16 {
        assert!(self.0.contains(ATTR_ERROR_CODE), "{}", self.0);
        let mut code = ErrorCodeAttribute::default();
        code.get_from(&self.0).unwrap();
        code.code.0
    }

    fn get<T: Getter + Default>(&self) -> T {
        let mut value = T::default();
        value.get_from(&self.0).unwrap();
        value
    }
}

impl Scene {
    fn new() -> Self {
        let server = server();
        let remote = "198.51.100.7:50000".parse().unwrap();
        Self {
            client: Client::new(Arc::clone(&server), remote),
            credentials: issued(&server, START_S, START_S + HOUR_S),
            server,
            origin: Instant::now(),
            now_s: START_S,
            nonce: String::new(),
            refusals: Vec::new(),
            admitted: 0,
            quota: None,
        }
    }

    /// A scene whose client has an allocation.
    fn allocated() -> Self {
        let mut scene = Self::new();
        assert_eq!(scene.ask(METHOD_ALLOCATE, &[&udp()]).code(), 401);
        assert!(scene.ask(METHOD_ALLOCATE, &[&udp()]).is_success());
        scene
    }

    fn now(&self) -> Now {
        Now {
            instant: self.origin + Duration::from_secs(self.now_s - START_S),
            unix_ms: i64::try_from(self.now_s * 1000).unwrap(),
        }
    }

    /// Hands a message over; what is relayed, and the answers.
    fn say(&mut self, bytes: &[u8]) -> (Option<Relayed>, Vec<Answer>) {
        let now = self.now();
        let (quota, admitted) = (self.quota, &mut self.admitted);
        let relayed = self.client.handle_message(now, bytes, |sid| {
            assert_eq!(sid, "PA_1");
            *admitted += 1;
            let place = *admitted;
            quota.map_or(
                Ok(Admitted {
                    port: 50_000,
                    place,
                }),
                Err,
            )
        });
        let mut answers = Vec::new();
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Send(bytes) => {
                    let mut message = Message::new();
                    message.unmarshal_binary(&bytes).unwrap();
                    answers.push(Answer(message));
                }
                Output::Refused(refusal) => self.refusals.push(refusal),
                Output::Allocated | Output::Released => {}
            }
        }
        (relayed, answers)
    }

    /// A request, signed once a nonce is known; takes the nonce of the answer.
    fn ask(&mut self, method: Method, attributes: &[&dyn Setter]) -> Answer {
        let message = self.signed(method, attributes, TransactionId::new());
        self.answer_to(&message)
    }

    fn answer_to(&mut self, message: &[u8]) -> Answer {
        let (relayed, answers) = self.say(message);
        assert_eq!(relayed, None);
        let answer = answers.into_iter().next().expect("an answer");
        if answer.0.contains(ATTR_NONCE) {
            self.nonce = String::from_utf8(answer.0.get(ATTR_NONCE).unwrap()).unwrap();
        }
        answer
    }

    fn signed(&self, method: Method, attributes: &[&dyn Setter], id: TransactionId) -> Vec<u8> {
        let mut message = Message::new();
        message.write_header();
        message.set_type(MessageType::new(method, CLASS_REQUEST));
        id.add_to(&mut message).unwrap();
        for attribute in attributes {
            attribute.add_to(&mut message).unwrap();
        }
        if !self.nonce.is_empty() {
            let Credentials { username, password } = self.credentials.clone();
            let crypto = self.server.crypto.crypto();
            for (kind, text) in [
                (ATTR_USERNAME, username.as_str()),
                (ATTR_REALM, REALM),
                (ATTR_NONCE, &self.nonce),
            ] {
                let text = TextAttribute::new(kind, text.to_owned());
                text.add_to(&mut message).unwrap();
            }
            MessageIntegrity::new_long_term_integrity_with_provider(
                username,
                REALM.to_owned(),
                password,
                crypto,
            )
            .unwrap()
            .add_to(&mut message)
            .unwrap();
        }
        message.raw
    }

    fn permit(&mut self, peer: &str) -> Answer {
        self.ask(METHOD_CREATE_PERMISSION, &[&peer_address(peer)])
    }

    fn bind(&mut self, number: u16, peer: &str) -> Answer {
        let parts: [&dyn Setter; 2] = [&ChannelNumber(number), &peer_address(peer)];
        self.ask(METHOD_CHANNEL_BIND, &parts)
    }

    fn send(&mut self, peer: &str, payload: &[u8]) -> Option<Relayed> {
        let mut message = Message::new();
        message.write_header();
        message.set_type(send_indication());
        peer_address(peer).add_to(&mut message).unwrap();
        Data(payload.to_vec()).add_to(&mut message).unwrap();
        self.say(&message.raw).0
    }

    /// How the client takes a datagram of a peer.
    fn datagram(&mut self, peer: &str, payload: &[u8]) -> Option<Vec<u8>> {
        let (now, peer) = (self.now().instant, peer.parse().unwrap());
        let mut out = Vec::new();
        let permitted = self
            .client
            .write_datagram(now, peer, payload, (true, &mut out));
        permitted.then_some(out)
    }
}

/// Any attribute.
struct Raw(AttrType, Vec<u8>);

impl Setter for Raw {
    fn add_to(&self, message: &mut Message) -> rtc_shared::error::Result<()> {
        message.add(self.0, &self.1);
        Ok(())
    }
}

fn udp() -> RequestedTransport {
    RequestedTransport {
        protocol: PROTO_UDP,
    }
}

fn peer_address(text: &str) -> PeerAddress {
    let address: SocketAddr = text.parse().unwrap();
    PeerAddress {
        ip: address.ip(),
        port: address.port(),
    }
}

#[test]
fn an_allocation_takes_a_nonce_and_says_the_addresses() {
    let mut scene = Scene::new();
    assert_eq!(scene.ask(METHOD_ALLOCATE, &[&udp()]).code(), 401);
    assert_eq!(scene.refusals, [], "the first request is never signed");
    let answer = scene.ask(METHOD_ALLOCATE, &[&udp()]);
    assert!(answer.is_success());
    let relayed: RelayedAddress = answer.get();
    assert_eq!(relayed.to_string(), "192.0.2.10:50000");
    let mapped: XorMappedAddress = answer.get();
    assert_eq!(mapped.to_string(), "198.51.100.7:50000");
    assert_eq!(answer.get::<Lifetime>(), Lifetime(LIFETIME));
    assert_eq!(
        scene.client.relayed(),
        Some("192.0.2.10:50000".parse().unwrap())
    );
}

#[test]
fn a_repeated_request_gets_its_answer_again_and_another_one_none() {
    let mut scene = Scene::new();
    scene.ask(METHOD_ALLOCATE, &[&udp()]);
    let request = scene.signed(METHOD_ALLOCATE, &[&udp()], TransactionId([1; 12]));
    assert!(scene.answer_to(&request).is_success());
    assert!(scene.answer_to(&request).is_success());
    assert_eq!(scene.admitted, 1);
    assert_eq!(scene.ask(METHOD_ALLOCATE, &[&udp()]).code(), 437);
    assert_eq!(scene.refusals, [Refusal::Mismatch]);
}

#[test]
fn wrong_passwords_and_invented_names_are_refused() {
    let mut scene = Scene::new();
    scene.ask(METHOD_ALLOCATE, &[&udp()]);
    let right = scene.credentials.clone();
    scene.credentials.password = "guessed".to_owned();
    assert_eq!(scene.ask(METHOD_ALLOCATE, &[&udp()]).code(), 401);
    // A later expiry, or another participant, needs another password.
    let later = right
        .username
        .replace(&(START_S + HOUR_S).to_string(), "9999999999");
    for username in [
        later,
        right.username.replace("PA_1", "PA_2"),
        "nobody".to_owned(),
    ] {
        scene.credentials = Credentials {
            username,
            ..right.clone()
        };
        assert_eq!(scene.ask(METHOD_ALLOCATE, &[&udp()]).code(), 401);
    }
    assert_eq!(scene.refusals, [Refusal::WrongCredentials; 4]);
    assert_eq!(scene.admitted, 0);
    // Another edge's secret makes another password of the same name.
    let other = Secret::new([8; 32]);
    assert_ne!(other.password(&right.username), right.password);
}

#[test]
fn expired_credentials_start_nothing_but_do_not_end_a_call() {
    let mut scene = Scene::allocated();
    let mut other = Scene::new();
    for _ in 0..30 {
        scene.now_s += 240;
        let answer = scene.ask(METHOD_REFRESH, &[]);
        if !answer.is_success() {
            assert_eq!(answer.code(), 438, "the nonce's hour is over");
            assert!(scene.ask(METHOD_REFRESH, &[]).is_success());
        }
    }
    assert!(scene.now_s > START_S + HOUR_S);
    assert!(scene.permit(PEER).is_success());
    other.now_s = START_S + HOUR_S;
    other.ask(METHOD_ALLOCATE, &[&udp()]);
    assert_eq!(other.ask(METHOD_ALLOCATE, &[&udp()]).code(), 401);
    assert_eq!(other.refusals, [Refusal::Expired]);
}

#[test]
fn credentials_end_with_the_token_or_sooner() {
    let server = server();
    let ends = |token_expires_s| {
        let credentials = issued(&server, START_S, token_expires_s);
        let (expires, _) = credentials.username.split_once(':').unwrap();
        expires.parse::<u64>().unwrap()
    };
    assert_eq!(ends(START_S + 60), START_S + 60);
    assert_eq!(ends(START_S + 100 * HOUR_S), START_S + HOUR_S);
    let name = issued(&server, START_S, START_S + 60).username;
    assert!(name.contains(":PA_1:") && !name.contains("ann") && !name.contains("lounge"));
}

#[test]
fn nonces_are_of_one_client_and_an_hour() {
    let secret = Secret::new([7; 32]);
    let [a, b]: [SocketAddr; 2] = ["192.0.2.1:1", "192.0.2.1:2"].map(|a| a.parse().unwrap());
    let nonce = secret.nonce(START_S, a);
    assert!(secret.takes_nonce(START_S + HOUR_S - 1, a, &nonce));
    assert!(!secret.takes_nonce(START_S + HOUR_S, a, &nonce));
    assert!(!secret.takes_nonce(START_S - 1, a, &nonce));
    assert!(!secret.takes_nonce(START_S, b, &nonce));
    for bad in ["", "-", "zz-zz", "ffffffffffffffffff-x"] {
        assert!(!secret.takes_nonce(START_S, a, bad), "{bad}");
    }
}

#[test]
fn only_the_edges_own_media_sockets_are_peers() {
    let mut scene = Scene::allocated();
    for foreign in [
        "10.0.0.1:7882",
        "127.0.0.1:7882",
        "192.0.2.11:7882",
        "169.254.169.254:80",
    ] {
        assert_eq!(scene.permit(foreign).code(), 403, "{foreign}");
        assert_eq!(scene.bind(CHANNEL, foreign).code(), 403, "{foreign}");
    }
    // One foreign address among several spoils the request.
    let both: [&dyn Setter; 2] = [&peer_address(PEER), &peer_address("10.0.0.1:7882")];
    assert_eq!(scene.ask(METHOD_CREATE_PERMISSION, &both).code(), 403);
    assert_eq!(scene.send(PEER, b"x"), None, "nothing was permitted");
    assert!(scene.permit(PEER).is_success());
    assert!(scene.send(PEER, b"x").is_some());
    // A permission is for an address; the port must be one of ours all the same.
    assert_eq!(scene.send("192.0.2.10:22", b"x"), None);
    assert_eq!(scene.bind(CHANNEL, "192.0.2.10:22").code(), 403);
    assert_eq!(scene.bind(CHANNEL, "[2001:db8::1]:7882").code(), 443);
    let forbidden = scene
        .refusals
        .iter()
        .filter(|one| **one == Refusal::ForbiddenPeer);
    assert_eq!(forbidden.count(), 12);
}

#[test]
fn payload_goes_both_ways_by_indication_and_by_channel() {
    let mut scene = Scene::allocated();
    assert_eq!(scene.datagram(PEER, b"early"), None);
    assert!(scene.permit(PEER).is_success());
    let relayed = scene.send(PEER, b"hello").unwrap();
    assert_eq!(
        (
            relayed.peer.to_string().as_str(),
            relayed.payload.as_slice()
        ),
        (PEER, &b"hello"[..])
    );
    let mut indication = Message::new();
    let bytes = scene.datagram(PEER, b"back").unwrap();
    indication.unmarshal_binary(&bytes).unwrap();
    assert_eq!(indication.typ.method, METHOD_DATA);
    let indication = Answer(indication);
    assert_eq!(indication.get::<Data>().0, b"back");
    assert_eq!(indication.get::<PeerAddress>().to_string(), PEER);

    assert!(scene.bind(CHANNEL, PEER).is_success());
    let framed = scene.datagram(PEER, b"seven b").unwrap();
    assert_eq!(framed, [&[0x40, 1, 0, 7][..], b"seven b", &[0]].concat());
    let (relayed, _) = scene.say(&framed);
    assert_eq!(relayed.unwrap().payload, b"seven b");
    assert_eq!(scene.say(&[0x40, 2, 0, 1, 9]).0, None, "no such channel");
    assert_eq!(
        scene.say(&[0x40, 1, 0, 9, 9]).0,
        None,
        "shorter than it says"
    );
    assert_eq!(scene.refusals, [Refusal::NoPermission, Refusal::Malformed]);
}

#[test]
fn a_channel_has_one_peer_and_a_peer_one_channel() {
    let mut scene = Scene::allocated();
    assert!(scene.bind(CHANNEL, PEER).is_success());
    assert!(scene.bind(CHANNEL, PEER).is_success(), "a refresh");
    assert_eq!(scene.bind(CHANNEL + 1, PEER).code(), 400);
    assert_eq!(scene.bind(0x3FFF, PEER).code(), 400);
}

#[test]
fn permissions_channels_and_allocations_end() {
    let mut scene = Scene::allocated();
    scene.permit(PEER);
    scene.now_s += PERMISSION_LIFETIME.as_secs();
    assert_eq!(scene.datagram(PEER, b"x"), None);
    assert!(scene.bind(CHANNEL, PEER).is_success());
    scene.now_s = START_S + LIFETIME.as_secs();
    assert_eq!(scene.ask(METHOD_REFRESH, &[]).code(), 437);
    assert_eq!(scene.client.relayed(), None);
    assert!(scene.ask(METHOD_ALLOCATE, &[&udp()]).is_success());
    assert_eq!(
        scene.datagram(PEER, b"x"),
        None,
        "a new allocation begins without channels"
    );
    let gone = scene.ask(METHOD_REFRESH, &[&Lifetime(Duration::ZERO)]);
    assert_eq!(gone.get::<Lifetime>(), Lifetime(Duration::ZERO));
    assert_eq!(scene.client.relayed(), None);
}

#[test]
fn nobody_else_may_touch_an_allocation() {
    let mut scene = Scene::allocated();
    let other = issued(&scene.server, START_S + 1, START_S + 30);
    scene.credentials = other;
    assert_eq!(
        scene
            .ask(METHOD_REFRESH, &[&Lifetime(Duration::ZERO)])
            .code(),
        441
    );
    assert!(scene.client.relayed().is_some());
}

#[test]
fn quotas_and_options_that_are_not_served() {
    for (quota, code) in [(Refusal::ParticipantQuota, 486), (Refusal::EdgeQuota, 508)] {
        let mut scene = Scene::new();
        scene.quota = Some(quota);
        scene.ask(METHOD_ALLOCATE, &[&udp()]);
        assert_eq!(scene.ask(METHOD_ALLOCATE, &[&udp()]).code(), code);
        assert_eq!(scene.refusals, [quota]);
    }
    let mut scene = Scene::new();
    scene.ask(METHOD_ALLOCATE, &[&udp()]);
    let tcp = RequestedTransport {
        protocol: Protocol(PROTO_TCP.0),
    };
    assert_eq!(scene.ask(METHOD_ALLOCATE, &[&tcp]).code(), 442);
    assert_eq!(scene.ask(METHOD_ALLOCATE, &[]).code(), 400);
    let even: [&dyn Setter; 2] = [&udp(), &Raw(ATTR_EVEN_PORT, vec![0])];
    assert_eq!(scene.ask(METHOD_ALLOCATE, &even).code(), 420);
    let six: [&dyn Setter; 2] = [
        &udp(),
        &Raw(
            rtc_stun::attributes::ATTR_REQUESTED_ADDRESS_FAMILY,
            vec![2, 0, 0, 0],
        ),
    ];
    assert_eq!(scene.ask(METHOD_ALLOCATE, &six).code(), 440);
    assert_eq!(scene.client.relayed(), None);
}

#[test]
fn everybody_may_ask_for_their_own_address() {
    let mut scene = Scene::new();
    let mapped: XorMappedAddress = scene.ask(METHOD_BINDING, &[]).get();
    assert_eq!(mapped.to_string(), "198.51.100.7:50000");
}

#[test]
fn streams_are_split_into_messages() {
    let scene = Scene::new();
    let request = scene.signed(METHOD_ALLOCATE, &[&udp()], TransactionId([1; 12]));
    let mut stream = request.clone();
    write_channel_data(CHANNEL, b"abcde", true, &mut stream);
    let length = request.len();
    let whole = Unframed::Message {
        length,
        consumed: length,
    };
    assert_eq!(split(&stream), whole);
    let rest = &stream[length..];
    assert_eq!(
        split(rest),
        Unframed::Message {
            length: 9,
            consumed: 12
        }
    );
    assert_eq!(split(&rest[..11]), Unframed::Incomplete);
    assert_eq!(split(&[]), Unframed::Incomplete);
    for broken in [
        &b"GET / HTTP/1.1"[..],
        &[0x80, 0, 0, 0],
        &[0x40, 1, 0xFF, 0xFF],
        &[0, 1, 0, 3],
    ] {
        assert_eq!(split(broken), Unframed::Broken, "{broken:?}");
    }
}

proptest! {
    /// Whatever arrives, before and after authentication, is counted or answered; nothing is relayed without permission.
    #[test]
    fn garbage_hurts_nothing(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..4) {
        if let Some(first) = bytes.first_mut() {
            *first = (*first & 0x3F) | (kind << 6);
        }
        let mut scene = Scene::allocated();
        let (relayed, _) = scene.say(&bytes);
        prop_assert_eq!(relayed, None);
        prop_assert!(scene.client.relayed().is_some());
        let _ = split(&bytes);
    }

    /// Genuine requests with any attributes are answered and nothing foreign is permitted.
    #[test]
    fn signed_garbage_is_answered(
        method in 0_usize..4,
        attributes in proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 0..24)), 0..6),
        known in any::<bool>(),
    ) {
        const KINDS: [u16; 7] = [0x000C, 0x000D, 0x0012, 0x0013, 0x0017, 0x0019, 0x001A];
        let methods = [METHOD_ALLOCATE, METHOD_REFRESH, METHOD_CREATE_PERMISSION, METHOD_CHANNEL_BIND];
        let mut scene = Scene::allocated();
        let raw: Vec<Raw> = attributes
            .into_iter()
            .map(|(kind, value)| Raw(AttrType(if known { KINDS[usize::from(kind) % KINDS.len()] } else { kind | 0x4000 }), value))
            .collect();
        let parts: Vec<&dyn Setter> = raw.iter().map(|one| one as &dyn Setter).collect();
        scene.ask(methods[method], &parts);
        prop_assert_eq!(scene.send("10.0.0.1:7882", b"x"), None);
    }

    /// A genuine request of which one byte is changed is never taken for genuine.
    #[test]
    fn a_changed_request_is_refused(at in 0_usize..200, bit in 0_u8..8) {
        let mut scene = Scene::new();
        scene.ask(METHOD_ALLOCATE, &[&udp()]);
        let mut request = scene.signed(METHOD_ALLOCATE, &[&udp()], TransactionId([1; 12]));
        let at = at % request.len();
        request[at] ^= 1 << bit;
        scene.say(&request);
        prop_assert_eq!(scene.client.relayed(), None);
    }
}
