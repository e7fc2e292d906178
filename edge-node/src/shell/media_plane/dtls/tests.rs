use super::*;
use media::srtp::Profile;
use rtc_dtls::config::{ConfigBuilder, ExtendedMasterSecretType};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;

/// A client of `rtc-dtls` beside our server, in virtual time.
struct Pair {
    server: Dtls,
    client: Endpoint,
    client_done: bool,
    now: Instant,
    events: Vec<Event>,
}

impl Pair {
    fn new(profiles: &[Profile], mtu: usize) -> Self {
        let identity = Arc::new(Identity::generate().unwrap());
        let provider = identity.provider().clone();
        let names = vec!["client".to_owned()];
        let certificate = Certificate::generate_self_signed(names, provider.crypto()).unwrap();
        let profiles = profiles
            .iter()
            .map(|p| SrtpProtectionProfile::from(p.id()))
            .collect();
        let config = ConfigBuilder::default()
            .with_crypto_provider(provider)
            .with_certificates(vec![certificate])
            .with_srtp_protection_profiles(profiles)
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .with_insecure_skip_verify(true)
            .with_mtu(mtu)
            .build(true, None)
            .unwrap();
        let now = Instant::now();
        let mut client = Endpoint::new(PEER, TransportProtocol::UDP, None);
        client.connect(now, PEER, Arc::new(config), None).unwrap();
        let server = Dtls::new(identity);
        Self {
            server,
            client,
            client_done: false,
            now,
            events: Vec::new(),
        }
    }

    fn exchange(&mut self) {
        for _ in 0..20 {
            while let Some(transmit) = self.client.poll_transmit() {
                self.server.handle_datagram(self.now, &transmit.message);
            }
            while let Some(datagram) = self.server.poll_transmit() {
                // After its close the client knows nobody.
                for event in self
                    .client
                    .read(self.now, PEER, None, datagram)
                    .unwrap_or_default()
                {
                    self.client_done |= matches!(event, EndpointEvent::HandshakeComplete);
                }
            }
            self.events
                .extend(std::iter::from_fn(|| self.server.poll_event()));
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(PEER, self.now).unwrap();
        self.server.handle_timeout(self.now);
    }

    fn profile(&self) -> Option<Profile> {
        self.events.iter().find_map(|event| match event {
            Event::Connected { keys, .. } => Some(keys.profile),
            Event::Data(_) | Event::Closed | Event::Failed(_) => None,
        })
    }
}

const BROWSER: [Profile; 3] = [
    Profile::Aes128CmHmacSha1_80,
    Profile::AeadAes256Gcm,
    Profile::AeadAes128Gcm,
];

#[test]
fn gcm_wins_though_the_client_lists_it_last() {
    let mut pair = Pair::new(&BROWSER, 1200);
    pair.exchange();
    assert!(pair.client_done);
    assert_eq!(pair.profile(), Some(Profile::AeadAes128Gcm));
}

#[test]
fn a_client_hello_in_several_datagrams_is_put_together() {
    let mut pair = Pair::new(&BROWSER, 60);
    pair.exchange();
    assert_eq!(pair.profile(), Some(Profile::AeadAes128Gcm));
}

#[test]
fn clients_with_other_profiles_are_served() {
    for profile in [Profile::Aes128CmHmacSha1_80, Profile::AeadAes256Gcm] {
        let mut pair = Pair::new(&[profile], 1200);
        pair.exchange();
        assert_eq!(pair.profile(), Some(profile));
    }
}

#[test]
fn keys_match_and_data_flows_until_the_client_closes() {
    let mut pair = Pair::new(&BROWSER, 1200);
    pair.exchange();
    let state = pair.client.get_connection_state(PEER).unwrap();
    let length = Profile::AeadAes128Gcm.keying_material_len();
    let material = state
        .export_keying_material("EXTRACTOR-dtls_srtp", &[], length)
        .unwrap();
    let theirs =
        SessionKeys::from_keying_material(Profile::AeadAes128Gcm, material.as_ref(), false)
            .unwrap();
    let server_certificate = state.peer_certificates[0].clone();
    let Some(Event::Connected { keys, certificate }) = pair.events.first() else {
        panic!("not connected: {:?}", pair.events)
    };
    assert_eq!((&keys.local, &keys.remote), (&theirs.remote, &theirs.local));
    assert!(!certificate.is_empty());
    let ours = pair.server.identity.fingerprint().to_owned();
    assert!(fingerprint_matches(
        &server_certificate,
        std::slice::from_ref(&ours)
    ));
    assert!(fingerprint_matches(
        &server_certificate,
        &[ours.to_lowercase()]
    ));
    assert!(!fingerprint_matches(certificate, &[ours]));

    pair.events.clear();
    pair.client.write(pair.now, PEER, b"sctp").unwrap();
    pair.exchange();
    assert!(matches!(&pair.events[..], [Event::Data(data)] if &data[..] == b"sctp"));
    pair.events.clear();
    pair.client.close(pair.now).unwrap();
    pair.exchange();
    assert!(
        matches!(&pair.events[..], [Event::Closed]),
        "{:?}",
        pair.events
    );
}

#[test]
fn a_lost_flight_is_sent_again() {
    let mut pair = Pair::new(&BROWSER, 1200);
    // ClientHello, then HelloVerifyRequest, then ClientHello with cookie.
    for _ in 0..2 {
        while let Some(transmit) = pair.client.poll_transmit() {
            pair.server.handle_datagram(pair.now, &transmit.message);
        }
        while let Some(datagram) = pair.server.poll_transmit() {
            // The second round is the server's certificate flight: lost.
            if !pair.client_done {
                pair.client.read(pair.now, PEER, None, datagram).ok();
            }
        }
        pair.client_done = true;
    }
    pair.client_done = false;
    pair.wait(Duration::from_secs(1));
    pair.exchange();
    assert_eq!(pair.profile(), Some(Profile::AeadAes128Gcm));
}

#[test]
fn garbage_does_not_stop_a_handshake() {
    let mut pair = Pair::new(&BROWSER, 1200);
    let mut junk = vec![22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4];
    for length in 0..junk.len() {
        let cut = junk[..length].to_vec();
        pair.server.handle_datagram(pair.now, &cut);
    }
    pair.server.handle_datagram(pair.now, &junk);
    junk[0] = 21;
    pair.server.handle_datagram(pair.now, &junk);
    pair.server.handle_datagram(pair.now, &[0x16; 500]);
    pair.exchange();
    assert_eq!(pair.profile(), Some(Profile::AeadAes128Gcm));
}

#[test]
fn a_handshake_that_stalls_fails() {
    let mut pair = Pair::new(&BROWSER, 1200);
    while let Some(transmit) = pair.client.poll_transmit() {
        pair.server.handle_datagram(pair.now, &transmit.message);
    }
    assert!(pair.server.poll_timeout().is_some());
    pair.now += HANDSHAKE_TIMEOUT;
    pair.server.handle_timeout(pair.now);
    assert!(matches!(pair.server.poll_event(), Some(Event::Failed(_))));
    assert_eq!(pair.server.poll_timeout(), None);
}

#[test]
fn two_of_ours_connect_when_one_starts() {
    let now = Instant::now();
    let mut server = Dtls::new(Arc::new(Identity::generate().unwrap()));
    let mut client = Dtls::new(Arc::new(Identity::generate().unwrap()));
    client.connect(now);
    client.connect(now);
    for _ in 0..10 {
        while let Some(datagram) = client.poll_transmit() {
            server.handle_datagram(now, &datagram);
        }
        while let Some(datagram) = server.poll_transmit() {
            client.handle_datagram(now, &datagram);
        }
    }
    let connected = |dtls: &mut Dtls| match dtls.poll_event() {
        Some(Event::Connected { keys, certificate }) => (keys, certificate),
        other => panic!("not connected: {other:?}"),
    };
    let ((ours, server_certificate), (theirs, _)) =
        (connected(&mut client), connected(&mut server));
    assert_eq!((&ours.local, &ours.remote), (&theirs.remote, &theirs.local));
    assert_eq!(ours.profile, Profile::AeadAes128Gcm);
    let fingerprint = server.identity.fingerprint().to_owned();
    assert!(fingerprint_matches(&server_certificate, &[fingerprint]));
}
