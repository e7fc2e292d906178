use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rtc_dtls::crypto_provider::{RTCCryptoProvider, default_provider};
use rtc_stun::attributes::{
    ATTR_ERROR_CODE, ATTR_ICE_CONTROLLED, ATTR_ICE_CONTROLLING, ATTR_PRIORITY, ATTR_USE_CANDIDATE,
    ATTR_USERNAME, AttrType,
};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{
    BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, Getter, Message, Setter, TransactionId,
};
use rtc_stun::xoraddr::XorMappedAddress;
use std::sync::Arc;

const ALICE: SessionId = SessionId(7);

/// A server, its clock, and what clients send to it.
struct Scene {
    server: Server,
    now: Instant,
    crypto: Arc<dyn RTCCryptoProvider>,
    rng: StdRng,
}

impl Scene {
    fn new() -> Self {
        let crypto = default_provider().unwrap();
        Self {
            server: Server::new(crypto.clone()),
            now: Instant::now(),
            crypto,
            rng: StdRng::seed_from_u64(1),
        }
    }

    fn open(&mut self, session: SessionId) -> Credentials {
        let credentials = Credentials::generate(3, &mut self.rng);
        let input = Input::Open {
            session,
            credentials: credentials.clone(),
        };
        self.server.handle_input(self.now, input);
        credentials
    }

    fn check(&self, credentials: &Credentials, extra: &[(AttrType, &[u8])]) -> Vec<u8> {
        let mut message = Message::new();
        message.set_type(BINDING_REQUEST);
        message.write_header();
        TransactionId::new().add_to(&mut message).unwrap();
        message.add(
            ATTR_USERNAME,
            format!("{}:remote", credentials.ufrag).as_bytes(),
        );
        message.add(ATTR_PRIORITY, &[0x6E, 0, 0, 1]);
        for (kind, value) in extra {
            message.add(*kind, value);
        }
        let key = credentials.pwd.clone();
        MessageIntegrity::new_short_term_integrity_with_provider(key, self.crypto.crypto())
            .add_to(&mut message)
            .unwrap();
        FINGERPRINT.add_to(&mut message).unwrap();
        message.raw
    }

    fn send(&mut self, path: Path, message: &[u8]) -> Vec<Output> {
        self.server
            .handle_input(self.now, Input::Stun { path, message });
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        loop {
            match self.server.poll_output() {
                Output::Timeout(_) => return outputs,
                output @ (Output::Transmit { .. } | Output::Event(_)) => outputs.push(output),
            }
        }
    }

    fn after(&mut self, seconds: u64) -> Vec<Output> {
        self.now += Duration::from_secs(seconds);
        self.server.handle_input(self.now, Input::Timeout);
        self.drain()
    }

    fn nominate(&mut self, credentials: &Credentials, path: Path) -> Vec<Output> {
        let message = self.check(
            credentials,
            &[(ATTR_ICE_CONTROLLING, &[1; 8]), (ATTR_USE_CANDIDATE, &[])],
        );
        self.send(path, &message)
    }

    fn plain(&mut self, credentials: &Credentials, path: Path) -> Vec<Output> {
        let message = self.check(credentials, &[(ATTR_ICE_CONTROLLING, &[1; 8])]);
        self.send(path, &message)
    }
}

fn path(port: u16) -> Path {
    Path::udp(SocketAddr::from(([192, 0, 2, 1], port)))
}

fn response(outputs: &[Output]) -> Message {
    let message = outputs.iter().find_map(|output| match output {
        Output::Transmit { message, .. } => Some(message),
        Output::Event(_) | Output::Timeout(_) => None,
    });
    let mut parsed = Message::new();
    parsed
        .unmarshal_binary(message.expect("a response"))
        .unwrap();
    parsed
}

fn events(outputs: &[Output]) -> Vec<Event> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Event(event) => Some(*event),
            Output::Transmit { .. } | Output::Timeout(_) => None,
        })
        .collect()
}

#[test]
fn a_check_is_answered_with_the_clients_address() {
    let mut scene = Scene::new();
    let credentials = scene.open(ALICE);
    let outputs = scene.plain(&credentials, path(5000));
    let mut answer = response(&outputs);
    assert_eq!(answer.typ, BINDING_SUCCESS);
    let mut mapped = XorMappedAddress::default();
    mapped.get_from(&answer).unwrap();
    assert_eq!((mapped.ip, mapped.port), (path(5000).remote.ip(), 5000));
    FINGERPRINT.check(&answer).unwrap();
    MessageIntegrity::check(
        &mut answer,
        credentials.pwd.as_bytes(),
        scene.crypto.crypto(),
    )
    .unwrap();
    assert_eq!(
        events(&outputs),
        [Event::Authenticated {
            session: ALICE,
            path: path(5000)
        }]
    );
    assert_eq!(scene.server.heard(scene.now, path(5000)), Some(ALICE));
    assert_eq!(scene.server.heard(scene.now, path(5001)), None);
}

#[test]
fn nomination_selects_the_path_and_a_later_one_takes_over() {
    let mut scene = Scene::new();
    let credentials = scene.open(ALICE);
    scene.plain(&credentials, path(1));
    scene.plain(&credentials, path(2));
    assert_eq!(scene.server.path_of(ALICE), Some(path(1)));
    scene.server.prefer(path(2));
    assert_eq!(
        scene.server.path_of(ALICE),
        Some(path(2)),
        "DTLS shows the better guess"
    );

    let outputs = scene.nominate(&credentials, path(1));
    assert_eq!(
        events(&outputs),
        [Event::Nominated {
            session: ALICE,
            path: path(1)
        }]
    );
    scene.server.prefer(path(2));
    assert_eq!(
        scene.server.path_of(ALICE),
        Some(path(1)),
        "a nominated path stands"
    );

    let outputs = scene.nominate(&credentials, path(2));
    assert_eq!(
        events(&outputs),
        [Event::Nominated {
            session: ALICE,
            path: path(2)
        }]
    );
    // Aggressive nomination goes on over both: no flapping.
    assert!(events(&scene.nominate(&credentials, path(1))).is_empty());
    assert!(events(&scene.nominate(&credentials, path(2))).is_empty());
    assert_eq!(scene.server.path_of(ALICE), Some(path(2)));
}

#[test]
fn a_silent_nominated_path_gives_way_to_another_nominated_one() {
    let mut scene = Scene::new();
    let credentials = scene.open(ALICE);
    scene.nominate(&credentials, path(1));
    scene.nominate(&credentials, path(2));
    scene.after(8);
    let outputs = scene.nominate(&credentials, path(1));
    assert_eq!(
        events(&outputs),
        [Event::Nominated {
            session: ALICE,
            path: path(1)
        }]
    );
}

#[test]
fn wrong_password_user_or_fingerprint_is_dropped_and_counted() {
    let mut scene = Scene::new();
    let credentials = scene.open(ALICE);
    let forged = Credentials {
        pwd: "wrong".to_owned(),
        ..credentials.clone()
    };
    assert!(scene.plain(&forged, path(1)).is_empty());
    let stranger = Credentials {
        ufrag: "nobody".to_owned(),
        ..credentials.clone()
    };
    assert!(scene.plain(&stranger, path(1)).is_empty());
    let mut damaged = scene.check(&credentials, &[]);
    if let Some(last) = damaged.last_mut() {
        *last ^= 1;
    }
    assert!(scene.send(path(1), &damaged).is_empty());
    assert_eq!(scene.server.stats().unauthenticated, 2);
    assert_eq!(scene.server.stats().unknown_user, 1);
    assert_eq!(scene.server.heard(scene.now, path(1)), None);
}

#[test]
fn attributes_behind_the_integrity_are_ignored() {
    let mut scene = Scene::new();
    let credentials = scene.open(ALICE);
    let checked = scene.check(&credentials, &[]);
    let mut message = Message::new();
    message.unmarshal_binary(&checked).unwrap();
    // Re-append USE-CANDIDATE after MESSAGE-INTEGRITY as somebody on the path could.
    let mut tampered = Message::new();
    tampered.typ = message.typ;
    tampered.transaction_id = message.transaction_id;
    tampered.write_header();
    for attribute in message.attributes.0.iter().rev().skip(1).rev() {
        tampered.add(attribute.typ, &attribute.value);
    }
    tampered.add(ATTR_USE_CANDIDATE, &[]);
    FINGERPRINT.add_to(&mut tampered).unwrap();
    let outputs = scene.send(path(1), &tampered.raw);
    assert_eq!(
        events(&outputs),
        [Event::Authenticated {
            session: ALICE,
            path: path(1)
        }]
    );
}

#[test]
fn a_client_that_takes_the_controlled_role_is_told_so() {
    let mut scene = Scene::new();
    let credentials = scene.open(ALICE);
    let message = scene.check(&credentials, &[(ATTR_ICE_CONTROLLED, &[9; 8])]);
    let answer = response(&scene.send(path(1), &message));
    assert_eq!(answer.typ, BINDING_ERROR);
    assert_eq!(answer.get(ATTR_ERROR_CODE).unwrap()[2..4], [4, 87]);
}

#[test]
fn unknown_required_attributes_are_refused() {
    let mut scene = Scene::new();
    let credentials = scene.open(ALICE);
    let message = scene.check(&credentials, &[(AttrType(0x7F01), &[1, 2, 3, 4])]);
    let answer = response(&scene.send(path(1), &message));
    assert_eq!(answer.get(ATTR_ERROR_CODE).unwrap()[2..4], [4, 20]);
    assert_eq!(scene.server.stats().refused, 1);
}

#[test]
fn a_restart_keeps_the_old_credentials_until_the_new_pair_is_nominated() {
    let mut scene = Scene::new();
    let old = scene.open(ALICE);
    scene.nominate(&old, path(1));
    let new = Credentials::generate(3, &mut scene.rng);
    let input = Input::Restart {
        session: ALICE,
        credentials: new.clone(),
    };
    scene.server.handle_input(scene.now, input);

    assert_eq!(
        response(&scene.nominate(&old, path(1))).typ,
        BINDING_SUCCESS
    );
    assert_eq!(response(&scene.plain(&new, path(2))).typ, BINDING_SUCCESS);
    assert_eq!(
        response(&scene.nominate(&old, path(1))).typ,
        BINDING_SUCCESS
    );
    assert_eq!(scene.server.path_of(ALICE), Some(path(1)));

    let outputs = scene.nominate(&new, path(2));
    assert_eq!(
        events(&outputs),
        [Event::Nominated {
            session: ALICE,
            path: path(2)
        }]
    );
    assert!(
        scene.nominate(&old, path(1)).is_empty(),
        "the old user fragment is gone"
    );
    assert_eq!(
        scene.server.heard(scene.now, path(1)),
        Some(ALICE),
        "late media still counts"
    );
}

#[test]
fn silence_expires_the_transport_and_a_check_brings_it_back() {
    let mut scene = Scene::new();
    let credentials = scene.open(ALICE);
    scene.nominate(&credentials, path(1));
    assert!(scene.after(14).is_empty());
    scene.server.heard(scene.now, path(1));
    assert!(scene.after(14).is_empty(), "media counts as a sign of life");
    assert_eq!(events(&scene.after(2)), [Event::Expired { session: ALICE }]);
    assert_eq!(scene.server.path_of(ALICE), None);
    let outputs = scene.nominate(&credentials, path(1));
    assert_eq!(events(&outputs).len(), 2);
    assert_eq!(
        events(&scene.after(16)),
        [Event::Expired { session: ALICE }]
    );
}

#[test]
fn paths_are_bounded_and_end_with_their_connection() {
    let mut scene = Scene::new();
    let credentials = scene.open(ALICE);
    scene.nominate(&credentials, path(1));
    for port in 100..200 {
        scene.plain(&credentials, path(port));
    }
    let known = (1..200)
        .filter(|port| scene.server.knows(path(*port)))
        .count();
    assert_eq!(known, 8);
    assert!(scene.server.knows(path(1)), "the nominated path stays");
    scene
        .server
        .handle_input(scene.now, Input::PathClosed { path: path(1) });
    assert_eq!(scene.server.path_of(ALICE), Some(path(199)));
    scene
        .server
        .handle_input(scene.now, Input::Close { session: ALICE });
    assert!(!scene.server.knows(path(199)));
    assert!(scene.plain(&credentials, path(1)).is_empty());
}

#[test]
fn garbage_is_dropped() {
    let mut scene = Scene::new();
    let credentials = scene.open(ALICE);
    let good = scene.check(&credentials, &[]);
    for cut in 0..good.len() {
        assert!(scene.send(path(1), &good[..cut]).is_empty());
    }
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 0x55;
        assert!(scene.send(path(1), &bad).is_empty(), "byte {position}");
    }
}

#[test]
fn credentials_name_their_shard() {
    let mut rng = StdRng::seed_from_u64(2);
    for shard in 0..MAX_SHARDS {
        let credentials = Credentials::generate(shard, &mut rng);
        assert_eq!(shard_of_ufrag(&credentials.ufrag), Some(shard));
        assert!(credentials.ufrag.len() >= 4 && credentials.pwd.len() >= 22);
    }
    assert_eq!(shard_of_ufrag(""), None);
}

#[test]
fn candidates_prefer_udp() {
    let address = SocketAddr::from(([203, 0, 113, 9], 7882));
    let udp = Candidate {
        kind: CandidateKind::Udp,
        address,
        rank: 0,
    };
    let tcp = Candidate {
        kind: CandidateKind::TcpPassive,
        address,
        rank: 0,
    };
    assert_eq!(
        udp.to_string(),
        "1 1 udp 2130706431 203.0.113.9 7882 typ host"
    );
    assert!(
        tcp.to_string()
            .ends_with("203.0.113.9 7882 typ host tcptype passive")
    );
    assert!(udp.priority() > tcp.priority());
}
