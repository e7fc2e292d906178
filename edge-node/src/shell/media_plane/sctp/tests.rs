use super::*;
use rtc_sctp::{ClientConfig, ReliabilityType};
use std::time::Duration;

/// An independent SCTP client beside ours, in virtual time.
struct Pair {
    server: Sctp,
    endpoint: Endpoint,
    handle: AssociationHandle,
    client: Association,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let config = Arc::new(EndpointConfig::new());
        let mut endpoint = Endpoint::new(PEER, TransportProtocol::UDP, config, None);
        let (handle, client) = endpoint
            .connect(now, ClientConfig::default(), PEER)
            .unwrap();
        Self {
            server: Sctp::new(),
            endpoint,
            handle,
            client,
            now,
        }
    }

    fn client_sends(&mut self) -> Vec<Bytes> {
        let mut packets = Vec::new();
        while let Some(transmit) = self.client.poll_transmit(self.now) {
            if let Payload::RawEncode(raw) = transmit.message {
                packets.extend(raw);
            }
        }
        packets
    }

    fn client_receives(&mut self, packet: Bytes) {
        if let Some((handle, DatagramEvent::AssociationEvent(event))) =
            self.endpoint.handle(self.now, PEER, None, packet)
        {
            assert_eq!(handle, self.handle);
            self.client.handle_event(event);
        }
    }

    /// Exchanges packets until both sides are quiet for 300 ms, which is longer than a delayed acknowledgement.
    fn settle(&mut self) {
        for _ in 0..60 {
            for packet in self.client_sends() {
                self.server.handle_packet(self.now, packet);
            }
            while let Some(packet) = self.server.poll_transmit() {
                self.client_receives(packet);
            }
            self.now += Duration::from_millis(10);
            self.client.handle_timeout(self.now);
            self.server.handle_timeout(self.now);
        }
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.server.poll_event()).collect()
    }

    fn client_opens(&mut self, id: u16, label: &str, reliable: bool) {
        let open = Open::new(label, reliable);
        let mut stream = self
            .client
            .open_stream(id, PayloadProtocolIdentifier::Binary)
            .unwrap();
        stream
            .set_reliability_params(open.unordered, open.reliability, open.parameter)
            .unwrap();
        let bytes = Bytes::from(open.to_bytes());
        stream
            .write_sctp(self.now, &bytes, PayloadProtocolIdentifier::Dcep)
            .unwrap();
    }

    fn client_reads(&mut self, id: u16) -> Option<Vec<u8>> {
        let chunks = self.client.stream(id).ok()?.read_sctp().ok()??;
        chunks
            .to_payload(MESSAGE_MAX)
            .ok()
            .map(|bytes| bytes.to_vec())
    }
}

#[test]
fn a_client_opens_a_channel_and_both_send() {
    let mut pair = Pair::new();
    pair.settle();
    pair.client_opens(0, "_reliable", true);
    pair.settle();
    let label: Arc<str> = Arc::from("_reliable");
    assert_eq!(
        pair.events(),
        [Event::Open {
            label: Arc::clone(&label)
        }]
    );
    assert_eq!(pair.client_reads(0).unwrap(), dcep::ACK);

    let large = vec![7; 60_000];
    let mut stream = pair.client.stream(0).unwrap();
    stream
        .write_with_ppi(pair.now, &large, PayloadProtocolIdentifier::Binary)
        .unwrap();
    pair.settle();
    assert_eq!(
        pair.events(),
        [Event::Data {
            label,
            payload: Bytes::from(large.clone())
        }]
    );

    pair.server
        .send(pair.now, "_reliable", Bytes::from(large.clone()));
    pair.settle();
    assert_eq!(pair.client_reads(0).unwrap(), large);
    pair.server.send(pair.now, "_reliable", Bytes::new());
    pair.settle();
    assert_eq!(pair.client_reads(0).unwrap(), [0], "an empty message");
}

#[test]
fn we_open_channels_before_there_is_an_association() {
    let mut pair = Pair::new();
    pair.server.open(pair.now, "_reliable", true);
    pair.server.open(pair.now, "_lossy", false);
    pair.server.open(pair.now, "_lossy", false);
    pair.server
        .send(pair.now, "_lossy", Bytes::from_static(b"early"));
    pair.settle();
    let open = pair.client_reads(1).unwrap();
    assert_eq!(
        dcep::parse(&open),
        Some(Message::Open(Open::new("_reliable", true)))
    );
    let open = pair.client_reads(3).unwrap();
    assert_eq!(
        dcep::parse(&open),
        Some(Message::Open(Open::new("_lossy", false)))
    );
    assert!(pair.client.stream(5).is_err(), "a label is opened once");
    assert!(
        pair.events().is_empty(),
        "not open before the acknowledgement"
    );

    let mut stream = pair.client.stream(3).unwrap();
    stream
        .set_reliability_params(true, ReliabilityType::Rexmit, 0)
        .unwrap();
    let ack = Bytes::from_static(&dcep::ACK);
    stream
        .write_sctp(pair.now, &ack, PayloadProtocolIdentifier::Dcep)
        .unwrap();
    pair.settle();
    assert_eq!(
        pair.events(),
        [Event::Open {
            label: Arc::from("_lossy")
        }]
    );
    assert_eq!(pair.client_reads(3).unwrap(), b"early");
}

#[test]
fn a_repeated_init_is_answered_and_makes_no_second_association() {
    let mut pair = Pair::new();
    let init = pair.client_sends().remove(0);
    for _ in 0..3 {
        pair.server.handle_packet(pair.now, init.clone());
    }
    let answers: Vec<Bytes> = std::iter::from_fn(|| pair.server.poll_transmit()).collect();
    assert!(answers.len() >= 3);
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    for answer in answers {
        pair.client_receives(answer);
    }
    pair.settle();
    pair.client_opens(0, "x", true);
    pair.settle();
    assert_eq!(pair.events().len(), 1);
    pair.server.handle_packet(pair.now, init);
    assert!(
        pair.server.poll_transmit().is_none(),
        "an old INIT says nothing to a live association"
    );
    pair.server
        .send(pair.now, "x", Bytes::from_static(b"still here"));
    pair.settle();
    pair.client_reads(0);
    assert_eq!(pair.client_reads(0).unwrap(), b"still here");
}

#[test]
fn queues_are_bounded() {
    let mut pair = Pair::new();
    for _ in 0..UNSENT_MAX + 5 {
        pair.server
            .send(pair.now, "nowhere", Bytes::from_static(b"x"));
    }
    pair.server
        .send(pair.now, "nowhere", Bytes::from(vec![0; MESSAGE_MAX + 1]));
    assert_eq!(pair.server.take_dropped(), 6);
    pair.settle();
    pair.client_opens(0, "_lossy", false);
    pair.settle();
    // The client falls silent: what it never takes is dropped beyond the bound.
    for _ in 0..40 {
        pair.server
            .send(pair.now, "_lossy", Bytes::from(vec![0; 16_000]));
    }
    assert!(pair.server.take_dropped() > 10);
}

#[test]
fn a_closed_channel_is_forgotten() {
    let mut pair = Pair::new();
    pair.settle();
    pair.client_opens(0, "x", true);
    pair.settle();
    let now = pair.now;
    pair.client_reads(0);
    pair.client.stream(0).unwrap().close(now).unwrap();
    pair.settle();
    assert!(pair.server.channels.is_empty());
}

#[test]
fn garbage_is_dropped() {
    let mut pair = Pair::new();
    let init = pair.client_sends().remove(0);
    for cut in 0..init.len() {
        pair.server.handle_packet(pair.now, init.slice(..cut));
    }
    for position in 0..init.len() {
        let mut bad = init.to_vec();
        bad[position] ^= 0xA5;
        pair.server.handle_packet(pair.now, Bytes::from(bad));
    }
    while pair.server.poll_transmit().is_some() {}
    assert!(pair.server.association.is_none(), "the checksum tells");
    pair.server.handle_packet(pair.now, init);
    assert!(pair.server.poll_transmit().is_some());
}
