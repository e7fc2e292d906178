//! The whole plane over real sockets on loopback, with clients that are put together from the same libraries but speak the
//! client's side.

mod client;
mod turn;

use super::*;
use bytes::Bytes;
use client::{Client, Via};
use media::packet::Codec;
use media::router::{ExtensionIds, ReceiveMedia, ReceivePayload, ReceiveSsrc, SendPayload, Source};
use media::srtp::Profile;
use proto::RegionId;
use relay::{MeshCommand, NextHop, PeerInfo, Role, RoomPlan};
use runtime::tls::{Authority, NodeName};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

const WAIT: Duration = Duration::from_secs(10);
const VALIDITY: Duration = Duration::from_secs(3600);

/// A plane with two shards and its ends.
struct Scene {
    plane: MediaPlane,
    events: mpsc::Receiver<PlaneEvent>,
    registry: prometheus::Registry,
    shutdown: Shutdown,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl Scene {
    fn new(shards: usize) -> Self {
        let authority = Authority::generate("test", VALIDITY).unwrap();
        Self::with_link(shards, link(&authority, "fra"))
    }

    fn with_link(shards: usize, link: relay::worker::Config) -> Self {
        runtime::tls::install_provider();
        let registry = prometheus::Registry::new();
        let shutdown = Shutdown::new();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = PlaneConfig {
            udp: any,
            tcp: any,
            shards,
            external: Vec::new(),
            audio_streams: relay::worker::DEFAULT_AUDIO_STREAMS,
            link,
        };
        let (plane, events) = MediaPlane::start(config, &registry, &shutdown).unwrap();
        Self {
            plane,
            events,
            registry,
            shutdown,
        }
    }

    /// A transport and a client connected to it.
    async fn connect(&self, via: Via, profiles: &[Profile]) -> Peer {
        let (sender, mut events) = mpsc::channel(256);
        let transport = self.plane.open_transport(sender);
        let mut client = Client::new(profiles);
        transport.set_remote(client.parameters());
        client.connect(&transport.local(), via).await;
        expect(&mut events, |event| *event == TransportEvent::IceConnected).await;
        expect(&mut events, |event| *event == TransportEvent::DtlsConnected).await;
        Peer {
            transport,
            events,
            client,
        }
    }

    fn publish(&self, from: &Peer) -> TrackKey {
        let track = self.plane.next_track_key();
        let config = TrackConfig::new(Codec::Opus, Source::Remote, 1);
        let name = (RoomId::from("room"), TrackSid::from("TR_a"));
        self.plane.publish(track, from.transport.key, name, config);
        self.plane.set_receive(from.transport.key, receive(track));
        track
    }

    async fn demanded(&mut self, track: TrackKey, streams: u8) {
        let wanted = |event: &PlaneEvent| matches!(event, PlaneEvent::Demand { track: t, streams: s } if (*t, *s) == (track, streams));
        expect(&mut self.events, wanted).await;
    }

    fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().filter(|family| family.name() == name);
        let metrics = family.flat_map(|family| family.get_metric());
        let matching = metrics.filter(|metric| {
            label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
        });
        matching
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}

struct Peer {
    transport: Transport,
    events: mpsc::Receiver<TransportEvent>,
    client: Client,
}

/// A mesh worker of an edge in this region.
fn link(authority: &Authority, region: &str) -> relay::worker::Config {
    let node = format!("edge-{region}-0");
    let name = NodeName {
        mesh: "test".to_owned(),
        region: region.to_owned(),
        role: "edge".to_owned(),
        node: node.clone(),
    };
    let directory =
        std::env::temp_dir().join(format!("antipode-plane-{:016x}", rand::random::<u64>()));
    std::fs::create_dir_all(&directory).unwrap();
    let credentials = authority
        .issue_into(&directory, &name, VALIDITY)
        .unwrap()
        .load()
        .unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    relay::worker::Config {
        node: NodeId::from(node),
        role: Role::Edge,
        region: RegionId::from(region),
        mesh: "test".to_owned(),
        incarnation: 1,
        listen: "127.0.0.1:0".parse().unwrap(),
        via: BTreeMap::new(),
        rate_bps_max: relay::worker::DEFAULT_RATE_BPS,
        audio_streams: relay::worker::DEFAULT_AUDIO_STREAMS,
        credentials,
    }
}

async fn expect<T: std::fmt::Debug>(
    events: &mut mpsc::Receiver<T>,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let mut seen = Vec::new();
    loop {
        match timeout(WAIT, events.recv()).await {
            Ok(Some(event)) if wanted(&event) => return event,
            Ok(Some(event)) => seen.push(event),
            Ok(None) | Err(_) => panic!("not among {seen:?}"),
        }
    }
}

fn receive(track: TrackKey) -> ReceiveConfig {
    let payload = ReceivePayload {
        pt: 111,
        codec: Codec::Opus,
        rtx: None,
        nack: true,
        pli: false,
        clock_rate: 48_000,
    };
    ReceiveConfig {
        extensions: ExtensionIds::default(),
        media: vec![ReceiveMedia {
            mid: "0".to_owned(),
            track,
            payloads: vec![payload],
            rids: Vec::new(),
            ssrcs: vec![ReceiveSsrc {
                ssrc: 0xA0A0,
                rtx: None,
            }],
        }],
    }
}

fn subscription() -> SubscriptionConfig {
    SubscriptionConfig {
        mid: "0".to_owned(),
        ssrc: 0xB0B0,
        rtx_ssrc: None,
        payloads: vec![SendPayload {
            codec: Codec::Opus,
            pt: 109,
            rtx_pt: None,
        }],
        extensions: ExtensionIds::default(),
        target: Some(Target {
            layer: 0,
            temporal: 7,
        }),
        red: false,
    }
}

const GCM: [Profile; 2] = [Profile::Aes128CmHmacSha1_80, Profile::AeadAes128Gcm];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_crosses_shards() {
    let mut scene = Scene::new(2);
    let mut alice = scene.connect(Via::Udp, &GCM).await;
    let mut bob = scene.connect(Via::Udp, &GCM).await;
    assert_eq!(alice.client.profile(), Some(Profile::AeadAes128Gcm));
    let ports = |peer: &Peer| peer.transport.local().candidates[0].clone();
    let port = |peer: &Peer| ports(peer).split(' ').nth(5).map(str::to_owned);
    assert_ne!(
        port(&alice),
        port(&bob),
        "transports are spread over shards"
    );

    let track = scene.publish(&alice);
    scene
        .plane
        .subscribe(bob.transport.key, track, subscription());
    scene.demanded(track, 1).await;
    let mut received = Vec::new();
    for seq in 0..200_u16 {
        let payload = seq.to_be_bytes().repeat(20);
        alice.client.send_rtp(0xA0A0, 111, seq, &payload).await;
        if seq >= 20 {
            let packet = timeout(WAIT, bob.client.receive_rtp()).await.unwrap();
            received.push(packet);
        }
    }
    assert!(
        received
            .iter()
            .all(|packet| packet.ssrc == 0xB0B0 && packet.pt == 109)
    );
    let steps = received
        .windows(2)
        .map(|pair| pair[1].seq.wrapping_sub(pair[0].seq));
    assert!(
        steps.into_iter().all(|step| step == 1),
        "continuous for the receiver"
    );
    let first = u16::from_be_bytes([received[0].payload[0], received[0].payload[1]]);
    assert_eq!(received[50].payload[..2], (first + 50).to_be_bytes());

    scene.plane.unsubscribe(bob.transport.key, track);
    scene.demanded(track, 0).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(scene.metric("antipode_edge_rtp_received_packets_total", "") >= 200.0);
    assert!(scene.metric("antipode_edge_rtp_forwarded_packets_total", "") >= 180.0);
    assert!(scene.metric("antipode_edge_transports", "") > 1.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_crosses_the_mesh_to_several_shards() {
    let authority = Authority::generate("test", VALIDITY).unwrap();
    let mut fra = Scene::with_link(1, link(&authority, "fra"));
    let mut syd = Scene::with_link(2, link(&authority, "syd"));
    introduce(&fra, ("fra", "syd"), &syd);
    introduce(&syd, ("syd", "fra"), &fra);
    for scene in [&mut fra, &mut syd] {
        let up = |event: &PlaneEvent| matches!(event, PlaneEvent::Mesh(event) if matches!(**event, MeshEvent::LinkUp { .. }));
        expect(&mut scene.events, up).await;
    }

    let mut alice = fra.connect(Via::Udp, &GCM).await;
    let track = fra.publish(&alice);
    let replica = syd.plane.next_track_key();
    let name = (
        RoomId::from("room"),
        TrackSid::from("TR_a"),
        NodeId::from("edge-fra-0"),
    );
    let config = TrackConfig::new(Codec::Opus, Source::Remote, 1);
    syd.plane.add_remote_track(replica, name, config);
    let mut viewers = Vec::new();
    for _ in 0..2 {
        let viewer = syd.connect(Via::Udp, &GCM).await;
        syd.plane
            .subscribe(viewer.transport.key, replica, subscription());
        viewers.push(viewer);
    }
    fra.demanded(track, 1).await;
    for seq in 0..100_u16 {
        alice
            .client
            .send_rtp(0xA0A0, 111, seq, &seq.to_be_bytes())
            .await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for viewer in &mut viewers {
        for _ in 0..20 {
            let packet = timeout(WAIT, viewer.client.receive_rtp()).await.unwrap();
            assert_eq!((packet.ssrc, packet.payload.len()), (0xB0B0, 2));
        }
    }
    syd.plane.remove_track(replica);
    fra.demanded(track, 0).await;
}

/// Tells one edge of the other and of a room that both serve.
fn introduce(scene: &Scene, (here, there): (&str, &str), other: &Scene) {
    let [near, far] = [here, there].map(|region| NodeId::from(format!("edge-{region}-0")));
    let peer = PeerInfo {
        node: far.clone(),
        role: Role::Edge,
        region: RegionId::from(there),
        addresses: vec![other.plane.mesh().local_addr()],
    };
    let plan = RoomPlan {
        room: RoomId::from("room"),
        epoch: 1,
        members: vec![near, far.clone()],
        next_hops: vec![NextHop {
            edge: far.clone(),
            via: far,
            backup: None,
        }],
    };
    scene
        .plane
        .mesh()
        .command(MeshCommand::SetPeers(vec![peer]));
    scene.plane.mesh().command(MeshCommand::SetPlan(plan));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_on_one_shard_with_the_old_profile() {
    let mut scene = Scene::new(1);
    let mut alice = scene
        .connect(Via::Udp, &[Profile::Aes128CmHmacSha1_80])
        .await;
    let mut bob = scene.connect(Via::Udp, &[Profile::AeadAes256Gcm]).await;
    let track = scene.publish(&alice);
    scene
        .plane
        .subscribe(bob.transport.key, track, subscription());
    scene.demanded(track, 1).await;
    for seq in 0..50 {
        alice.client.send_rtp(0xA0A0, 111, seq, b"payload").await;
    }
    let packet = timeout(WAIT, bob.client.receive_rtp()).await.unwrap();
    assert_eq!(packet.payload, b"payload");
    let started = |event: &PlaneEvent| matches!(event, PlaneEvent::SubscriptionStarted { .. });
    expect(&mut scene.events, started).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn media_and_data_over_tcp() {
    let mut scene = Scene::new(2);
    let mut alice = scene.connect(Via::Tcp, &GCM).await;
    let mut bob = scene.connect(Via::Tcp, &GCM).await;
    let track = scene.publish(&alice);
    scene
        .plane
        .subscribe(bob.transport.key, track, subscription());
    scene.demanded(track, 1).await;
    for seq in 0..50 {
        alice
            .client
            .send_rtp(0xA0A0, 111, seq, &seq.to_be_bytes())
            .await;
    }
    let packet = timeout(WAIT, bob.client.receive_rtp()).await.unwrap();
    assert_eq!(packet.pt, 109);
    echo(&mut alice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_channels_both_ways() {
    let scene = Scene::new(2);
    let mut alice = scene.connect(Via::Udp, &GCM).await;
    echo(&mut alice).await;

    alice.transport.open_data_channel("_lossy", false);
    alice
        .transport
        .send_data("_lossy", Bytes::from_static(b"early"));
    let (label, stream) = timeout(WAIT, alice.client.accept_channel()).await.unwrap();
    assert_eq!((label.as_str(), stream), ("_lossy", 1));
    let opened = |event: &TransportEvent| matches!(event, TransportEvent::DataChannelOpen { label } if &**label == "_lossy");
    expect(&mut alice.events, opened).await;
    assert_eq!(
        timeout(WAIT, alice.client.receive_data(stream))
            .await
            .unwrap(),
        b"early"
    );
}

/// The client opens a channel, and a large message goes there and back.
async fn echo(peer: &mut Peer) {
    peer.client.open_channel(0, "_reliable").await;
    let message = vec![42; 60_000];
    peer.client.send_data(0, &message).await;
    let arrived = {
        let events = &mut peer.events;
        let data = expect(events, |event| matches!(event, TransportEvent::Data { .. }));
        tokio::select! {
            event = data => event,
            () = peer.client.pump() => unreachable!("pumps for ever"),
        }
    };
    let TransportEvent::Data { label, payload } = arrived else {
        unreachable!("was asked for")
    };
    assert_eq!((&*label, payload.len()), ("_reliable", message.len()));
    peer.transport.send_data(&label, payload);
    assert_eq!(
        timeout(WAIT, peer.client.receive_data(0)).await.unwrap(),
        message
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_fingerprint_fails_the_transport() {
    let scene = Scene::new(1);
    let (sender, mut events) = mpsc::channel(256);
    let transport = scene.plane.open_transport(sender);
    let mut client = Client::new(&GCM);
    let fingerprints = vec![format!("sha-256 {}", ["00"; 32].join(":"))];
    transport.set_remote(RemoteParameters {
        fingerprints,
        ..RemoteParameters::default()
    });
    client.connect(&transport.local(), Via::Udp).await;
    expect(&mut events, |event| {
        matches!(event, TransportEvent::Failed { .. })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fingerprint_may_come_after_the_handshake() {
    let scene = Scene::new(1);
    let (sender, mut events) = mpsc::channel(256);
    let transport = scene.plane.open_transport(sender);
    let mut client = Client::new(&GCM);
    client.connect(&transport.local(), Via::Udp).await;
    expect(&mut events, |event| *event == TransportEvent::IceConnected).await;
    assert!(
        timeout(Duration::from_millis(100), events.recv())
            .await
            .is_err()
    );
    transport.set_remote(client.parameters());
    expect(&mut events, |event| *event == TransportEvent::DtlsConnected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ice_restart_moves_to_a_new_socket_without_a_new_handshake() {
    let mut scene = Scene::new(1);
    let mut alice = scene.connect(Via::Udp, &GCM).await;
    let mut bob = scene.connect(Via::Udp, &GCM).await;
    let track = scene.publish(&alice);
    scene
        .plane
        .subscribe(bob.transport.key, track, subscription());
    scene.demanded(track, 1).await;
    let (ufrag, _) = bob.transport.restart_ice();
    assert_eq!(bob.transport.local().ufrag, ufrag);
    bob.client
        .move_to_new_path(&bob.transport.local(), Via::Tcp)
        .await;
    for seq in 0..50 {
        alice.client.send_rtp(0xA0A0, 111, seq, b"moved").await;
    }
    assert_eq!(
        timeout(WAIT, bob.client.receive_rtp())
            .await
            .unwrap()
            .payload,
        b"moved"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_either_side_is_seen_by_the_other() {
    let scene = Scene::new(1);
    let mut alice = scene.connect(Via::Udp, &GCM).await;
    let mut bob = scene.connect(Via::Udp, &GCM).await;
    alice.client.close().await;
    expect(&mut alice.events, |event| {
        *event == TransportEvent::Disconnected
    })
    .await;
    drop(bob.transport);
    timeout(WAIT, bob.client.closed()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!((scene.metric("antipode_edge_transports", "") - 1.0).abs() < 0.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_hurts_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let scene = Scene::new(1);
    let mut alice = scene.connect(Via::Udp, &GCM).await;
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let shard = scene.plane.udp_addresses()[0];
    for first in 0..=255_u8 {
        for length in [1, 12, 20, 200, 1400] {
            let mut junk = vec![first; length];
            junk.extend([0x21, 0x12, 0xA4, 0x42]);
            stranger.send_to(&junk, shard).await.unwrap();
            alice.client.send_raw(&junk).await;
        }
    }
    for junk in [
        &[0_u8, 0][..],
        &[0, 1, 7],
        &[0xFF; 100],
        &[0, 20, 0, 1, 0, 0],
    ] {
        let mut stream = tokio::net::TcpStream::connect(scene.plane.tcp_address())
            .await
            .unwrap();
        stream.write_all(junk).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(WAIT, stream.read_to_end(&mut rest))
            .await
            .unwrap()
            .ok();
        assert!(rest.is_empty());
    }
    echo(&mut alice).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(scene.metric("antipode_edge_rtp_dropped_packets_total", "unknown_path") > 100.0);
    assert!(scene.metric("antipode_edge_ice_checks_total", "malformed") > 1.0);
}
