//! Our transport against the `webrtc` crate's connection as the server.

use std::net::Ipv4Addr;
use std::time::Duration;

use livekit_protocol as livekit;
use rtc::peer_connection::transport::RTCDtlsRole;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use webrtc::peer_connection::SettingEngineBuilder;

use super::super::rtcp::read_feedback;
use super::super::sdp::{Format, Offer, Section, Sending};
use super::super::send::SendTrack;
use super::super::source::Source;
use super::*;
use crate::client::Camera;
use crate::client::connection::{Connection, Event};
use crate::client::publish::Counting;
use crate::meter::{Meter, Sent, Window};
use crate::synthetic::VideoConfig;

struct Pair {
    server: Connection,
    /// Kept so that the server's events have somewhere to go.
    _events: mpsc::Receiver<Event>,
    socket: UdpSocket,
    transport: Transport,
}

/// Negotiates a light offer with a `webrtc` connection.
async fn pair(sections: Vec<Section>, meter: &Arc<Meter>) -> Pair {
    let (events_tx, mut events) = mpsc::channel(64);
    let target = livekit::SignalTarget::Subscriber;
    let local = Ipv4Addr::LOCALHOST.into();
    // As an SFU sets itself up: ICE-lite, DTLS server.
    let settings = SettingEngineBuilder::new()
        .with_include_loopback_candidate(true)
        .with_lite(true)
        .with_answering_dtls_role(RTCDtlsRole::Server);
    let server = Connection::with_settings(settings, target, local, Arc::clone(meter), events_tx);
    let mut server = server.await.unwrap();
    let identity = Identity::of_process().unwrap();
    let credentials = Credentials::random();
    let offer = Offer {
        credentials: credentials.clone(),
        fingerprint: identity.fingerprint.clone(),
        sections,
        version: 1,
    };
    let offer = livekit::SessionDescription {
        r#type: "offer".to_owned(),
        sdp: offer.to_sdp(),
        ..Default::default()
    };
    let sdp = server.answer(offer).await.unwrap().sdp;
    let candidate = loop {
        if let Event::Candidate(_, json) = events.recv().await.unwrap() {
            break json;
        }
    };
    let init: serde_json::Value = serde_json::from_str(&candidate).unwrap();
    let text = init["candidate"]
        .as_str()
        .unwrap()
        .trim_start_matches("candidate:")
        .to_owned();
    let (_, remote) = super::super::sdp::parse_candidate(&text).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(remote).await.unwrap();
    let local = socket.local_addr().unwrap();
    let answer = Answer::parse(&sdp).unwrap();
    let now = Instant::now();
    let transport = Transport::new(now, identity, (local, credentials), (remote, answer)).unwrap();
    Pair {
        server,
        _events: events,
        socket,
        transport,
    }
}

impl Pair {
    /// Runs the transport and `stream` for `time` or until `done`.
    async fn run(
        &mut self,
        time: Duration,
        mut stream: Option<&mut SendTrack>,
        done: impl Fn(&Transport) -> bool,
    ) {
        let end = Instant::now() + time;
        let mut buffer = [0_u8; 2048];
        while Instant::now() < end && !done(&self.transport) {
            self.transport.handle_timeout(Instant::now()).unwrap();
            if let Some(stream) = &mut stream
                && stream.poll_timeout() <= Instant::now()
            {
                stream
                    .handle_timeout(Instant::now(), &mut self.transport)
                    .unwrap();
            }
            while let Some(datagram) = self.transport.poll_transmit() {
                self.socket.send(&datagram).await.unwrap();
            }
            let wait = Duration::from_millis(2);
            let Ok(read) = tokio::time::timeout(wait, self.socket.recv(&mut buffer)).await else {
                continue;
            };
            let now = Instant::now();
            let received = self
                .transport
                .handle_datagram(now, &buffer[..read.unwrap()])
                .unwrap();
            if let (Received::Rtcp(compound), Some(stream)) = (&received, &mut stream) {
                let mut feedback = Vec::new();
                read_feedback(compound, &mut feedback);
                for feedback in &feedback {
                    stream
                        .handle_feedback(feedback, &mut self.transport)
                        .unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn media_reaches_an_independent_implementation() {
    let window = Arc::new(Window::default());
    let meter = Arc::new(Meter::new(Arc::clone(&window)));
    let sending = Sending {
        format: Format::Vp8,
        cid: "camera".to_owned(),
        ssrcs: vec![(0x1234_5678, 0x1234_5679)],
    };
    let mut pair = pair(vec![Section::Send(sending.clone())], &meter).await;
    pair.run(Duration::from_secs(10), None, Transport::is_connected)
        .await;
    assert!(pair.transport.is_connected());
    let sent = Arc::new(Sent::default());
    let counting = Counting {
        sent: Arc::clone(&sent),
        window,
    };
    let now = Instant::now();
    let source = Source::camera(&Camera::Synthetic(VideoConfig::default()), now);
    let mut stream = SendTrack::new(now, source, (9, "0"), &sending, counting);
    pair.run(Duration::from_millis(1200), Some(&mut stream), |_| false)
        .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let received = meter.received();
    let (packets, bytes) = sent.totals();
    assert!(packets > 150, "{packets} packets");
    assert_eq!(
        (received.packets, received.bytes, received.gaps),
        (packets, bytes, 0)
    );
    pair.server.pc.close().await.unwrap();
}

#[tokio::test]
async fn a_wrong_fingerprint_is_refused() {
    let meter = Arc::new(Meter::new(Arc::new(Window::default())));
    let pair = pair(vec![Section::Receive { video: false }], &meter).await;
    let config = pair
        .transport
        .identity
        .handshake_config(pair.transport.remote, "AA:BB".to_owned());
    let mut transport = Transport {
        handshake: Arc::new(config.unwrap()),
        ..pair.transport
    };
    let mut buffer = [0_u8; 2048];
    let end = Instant::now() + Duration::from_secs(5);
    let refused = loop {
        assert!(
            Instant::now() < end,
            "the handshake neither failed nor ended"
        );
        transport.handle_timeout(Instant::now()).unwrap();
        while let Some(datagram) = transport.poll_transmit() {
            pair.socket.send(&datagram).await.unwrap();
        }
        let wait = Duration::from_millis(20);
        let Ok(read) = tokio::time::timeout(wait, pair.socket.recv(&mut buffer)).await else {
            continue;
        };
        let received = transport.handle_datagram(Instant::now(), &buffer[..read.unwrap()]);
        assert!(!transport.is_connected());
        if received.is_err() {
            break received;
        }
    };
    assert!(refused.unwrap_err().to_string().contains("certificate"));
}

#[test]
fn payloads_are_found_behind_csrcs_extensions_and_padding() {
    let header = |first: u8| {
        let mut packet = vec![first, 96, 0, 1];
        packet.extend_from_slice(&[0; 8]);
        packet
    };
    let mut plain = header(0x80);
    plain.extend_from_slice(b"abc");
    assert_eq!(rtp_payload(&plain), Some(b"abc".as_slice()));
    let mut full = header(0x80 | 0x20 | 0x10 | 1);
    full.extend_from_slice(&[0, 0, 0, 1, 0xbe, 0xde, 0, 1, 0x10, 0x30, 0, 0]);
    full.extend_from_slice(b"abc\x00\x02");
    assert_eq!(rtp_payload(&full), Some(b"abc".as_slice()));
    assert_eq!(rtp_payload(&full[..14]), None);
    assert_eq!(rtp_payload(&[]), None);
    let mut padded = header(0x80 | 0x20);
    padded.push(9);
    assert_eq!(rtp_payload(&padded), None);
}
