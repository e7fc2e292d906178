//! Real workers over loopback: real QUIC, real certificates, several threads.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use media::packet::{Codec, Extensions, Head, LayerMeta, PacketRef, Pool};
use media::router::{StreamIndex, TrackKey};
use prometheus::Registry;
use proto::link::{Data, RoomState};
use proto::{NodeId, RegionId, RoomName, TrackSid};
use relay::worker::{self, spawn};
use relay::{MeshCommand, MeshEvent, MeshHandle, MeshSink, NextHop, PeerInfo, Role, RoomPlan};
use runtime::tls::{Authority, Credentials, NodeName};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

const MESH: &str = "test";
const HOUR: Duration = Duration::from_hours(1);
const PATIENCE: Duration = Duration::from_secs(10);

enum News {
    Event(MeshEvent, Instant),
    Media(TrackKey, StreamIndex, PacketRef, Instant),
}

struct Sink(mpsc::Sender<News>);

impl MeshSink for Sink {
    fn media(&mut self, track: TrackKey, stream: StreamIndex, packet: PacketRef) {
        drop(
            self.0
                .send(News::Media(track, stream, packet, Instant::now())),
        );
    }
    fn event(&mut self, event: MeshEvent) {
        drop(self.0.send(News::Event(event, Instant::now())));
    }
    fn flush(&mut self) {}
}

struct Node {
    name: &'static str,
    handle: MeshHandle,
    news: Receiver<News>,
    registry: Registry,
    shutdown: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn role(name: &str) -> Role {
    if name.starts_with("edge") {
        Role::Edge
    } else {
        Role::Relay
    }
}

fn credentials(authority: &Authority, name: &str, region: &str) -> Credentials {
    let name = NodeName {
        mesh: MESH.to_owned(),
        region: region.to_owned(),
        role: role(name).as_str().to_owned(),
        node: name.to_owned(),
    };
    let issued = authority.issue(&name, HOUR).unwrap();
    Credentials {
        ca: CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap(),
        chain: vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()],
        key: PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
    }
}

impl Node {
    fn start(authority: &Authority, name: &'static str, via: &[(&str, SocketAddr)]) -> Self {
        Self::start_in(authority, name, via, "fra")
    }

    fn start_in(
        authority: &Authority,
        name: &'static str,
        via: &[(&str, SocketAddr)],
        region: &str,
    ) -> Self {
        runtime::tls::install_provider();
        let (sink, news) = mpsc::channel();
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let config = worker::Config {
            node: NodeId::from(name),
            role: role(name),
            region: RegionId::from(region),
            mesh: MESH.to_owned(),
            incarnation: 1,
            listen: "127.0.0.1:0".parse().unwrap(),
            via: via
                .iter()
                .map(|(node, at)| (NodeId::from(*node), *at))
                .collect::<BTreeMap<_, _>>(),
            rate_bps_max: worker::DEFAULT_RATE_BPS,
            credentials: credentials(authority, name, region),
        };
        let handle = spawn(config, Box::new(Sink(sink)), &registry, shutdown.clone()).unwrap();
        Self {
            name,
            handle,
            news,
            registry,
            shutdown,
        }
    }

    fn info(&self) -> PeerInfo {
        PeerInfo {
            node: NodeId::from(self.name),
            role: role(self.name),
            region: RegionId::from("fra"),
            addresses: vec![self.handle.local_addr()],
        }
    }

    /// Waits for an event; media meanwhile is dropped.
    fn wait<T>(&self, what: &str, mut wanted: impl FnMut(&MeshEvent) -> Option<T>) -> (T, Instant) {
        let end = Instant::now() + PATIENCE;
        while let Ok(news) = self
            .news
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            if let News::Event(event, at) = news
                && let Some(found) = wanted(&event)
            {
                return (found, at);
            }
        }
        panic!("{} waited in vain for {what}", self.name);
    }

    fn wait_up(&self, peer: &str) {
        self.wait("link up", |event| {
            matches!(event, MeshEvent::LinkUp { peer: up } if up.as_str() == peer).then_some(())
        });
    }

    fn wait_demand(&self, wanted: u8) {
        self.wait("demand", |event| {
            matches!(event, MeshEvent::Demand { streams, .. } if *streams == wanted).then_some(())
        });
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == name)
            .unwrap();
        let metric = family.get_metric().iter().find(|metric| {
            labels.iter().all(|(label, value)| {
                metric
                    .get_label()
                    .iter()
                    .any(|pair| pair.name() == *label && pair.value() == *value)
            })
        });
        metric.map_or(0.0, |metric| {
            metric.get_gauge().value() + metric.get_counter().value()
        })
    }
}

fn introduce(nodes: &[&Node]) {
    for node in nodes {
        let peers = nodes.iter().filter(|other| other.name != node.name);
        node.handle.command(MeshCommand::SetPeers(
            peers.map(|other| other.info()).collect(),
        ));
    }
    for node in nodes {
        let mut missing: Vec<&str> = nodes
            .iter()
            .map(|other| other.name)
            .filter(|name| *name != node.name)
            .collect();
        while !missing.is_empty() {
            let (peer, _) = node.wait("link up", |event| match event {
                MeshEvent::LinkUp { peer } => Some(peer.clone()),
                _ => None,
            });
            missing.retain(|name| *name != peer.as_str());
        }
    }
}

/// Everybody reaches the edges through `via`, with the edge itself as backup; directly when `via` is empty.
fn plan(nodes: &[&Node], edges: &[&str], via: &str) {
    for node in nodes {
        let others = edges.iter().filter(|edge| **edge != node.name);
        let next_hops = others.map(|edge| {
            let direct = via.is_empty() || via == node.name;
            NextHop {
                edge: NodeId::from(*edge),
                via: NodeId::from(if direct { edge } else { via }),
                backup: (!direct).then(|| NodeId::from(*edge)),
            }
        });
        node.handle.command(MeshCommand::SetPlan(RoomPlan {
            room: RoomName::from("room"),
            epoch: 1,
            members: edges.iter().map(|edge| NodeId::from(*edge)).collect(),
            next_hops: next_hops.collect(),
        }));
    }
}

fn publish(node: &Node, sid: &str, key: u32, audio: bool) {
    node.handle.command(MeshCommand::Publish {
        room: RoomName::from("room"),
        track_sid: TrackSid::from(sid),
        track: TrackKey(key),
        audio,
        clock_rate: if audio { 48_000 } else { 90_000 },
        streams: if audio { 1 } else { 3 },
    });
}

fn demand(node: &Node, sid: &str, origin: &str, key: u32, streams: u8) {
    node.handle.command(MeshCommand::Demand {
        room: RoomName::from("room"),
        track_sid: TrackSid::from(sid),
        origin: NodeId::from(origin),
        track: TrackKey(key),
        streams,
    });
}

fn packet(pool: &mut Pool, codec: Codec, seq: u16, len: usize) -> PacketRef {
    let layer = LayerMeta {
        frame_start: true,
        frame_end: true,
        ..LayerMeta::default()
    };
    let head = Head {
        arrival: Instant::now(),
        codec,
        marker: true,
        seq,
        timestamp: u32::from(seq) * 960,
        layer,
        ext: Extensions::default(),
    };
    let payload: Vec<u8> = (0..len).map(|index| (index as u16 ^ seq) as u8).collect();
    pool.build(head, &payload, &[]).unwrap()
}

fn state(version: u64, len: usize) -> MeshCommand {
    MeshCommand::RoomState(RoomState {
        room: "room".to_owned(),
        incarnation: 1,
        version,
        participants: vec![vec![7; len]],
        ..RoomState::default()
    })
}

#[test]
fn media_state_and_data_cross_a_link_both_ways() {
    let authority = Authority::generate(MESH, HOUR).unwrap();
    let a = Node::start(&authority, "edge-a", &[]);
    let b = Node::start(&authority, "edge-b", &[]);
    introduce(&[&a, &b]);
    plan(&[&a, &b], &["edge-a", "edge-b"], "");
    for (node, other, key) in [(&a, &b, 1), (&b, &a, 2)] {
        let sid = format!("TR_{key}");
        publish(node, &sid, key, false);
        demand(other, &sid, node.name, 100 + key, 0b100);
        node.wait_demand(0b100);
    }
    let mut pool = Pool::new(64);
    let mut senders = [
        (a.handle.media(), TrackKey(1)),
        (b.handle.media(), TrackKey(2)),
    ];
    // 1,200-byte payloads, 2 × 10 Mbps, in bursts of ten.
    for burst in 0..100 {
        for (sender, track) in &mut senders {
            for index in 0..10 {
                sender.push(
                    *track,
                    2,
                    packet(&mut pool, Codec::Vp8, burst * 10 + index, 1200),
                );
                // Not wanted by anybody: must not cross.
                sender.push(
                    *track,
                    0,
                    packet(&mut pool, Codec::Vp8, burst * 10 + index, 300),
                );
            }
            sender.flush();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for (node, key) in [(&b, 101), (&a, 102)] {
        let mut seqs = Vec::new();
        while seqs.len() < 1000
            && let Ok(news) = node.news.recv_timeout(Duration::from_secs(2))
        {
            let News::Media(track, stream, received, _) = news else {
                continue;
            };
            assert_eq!(
                (track, stream, received.codec),
                (TrackKey(key), 2, Codec::Vp8)
            );
            let expected = packet(&mut pool, Codec::Vp8, received.seq, 1200);
            assert_eq!(received.payload(), expected.payload());
            seqs.push(received.seq);
        }
        seqs.sort_unstable();
        assert_eq!(seqs, (0..1000).collect::<Vec<u16>>(), "at {}", node.name);
    }

    for (node, other) in [(&a, &b), (&b, &a)] {
        // Larger than any packet.
        node.handle.command(state(1, 100_000));
        let (received, _) = other.wait("room state", |event| match event {
            MeshEvent::RoomState(state) => Some(state.clone()),
            _ => None,
        });
        assert_eq!(
            (received.origin.as_str(), received.participants[0].len()),
            (node.name, 100_000)
        );
        for index in 0..200_u32 {
            node.handle.command(MeshCommand::Data(Data {
                room: "room".to_owned(),
                reliable: true,
                payload: index.to_be_bytes().repeat(500),
                participant_sid: "PA_1".to_owned(),
                ..Data::default()
            }));
        }
        for index in 0..200_u32 {
            let (payload, _) = other.wait("data", |event| match event {
                MeshEvent::Data(data) => Some(data.payload.clone()),
                _ => None,
            });
            assert_eq!(payload, index.to_be_bytes().repeat(500), "order is kept");
        }
        let lossy = Data {
            room: "room".to_owned(),
            payload: vec![9; 800],
            ..Data::default()
        };
        node.handle.command(MeshCommand::Data(lossy));
        other.wait("lossy data", |event| match event {
            MeshEvent::Data(data) => (data.payload.len() == 800).then_some(()),
            _ => None,
        });
    }
    std::thread::sleep(Duration::from_millis(600));
    let stats = a.handle.stats();
    let link = stats.first().unwrap();
    assert!(
        link.up && link.rtt > Duration::ZERO && link.rtt < Duration::from_millis(20),
        "{link:?}"
    );
    assert_eq!(
        (link.packets_sent, link.packets_received, link.flows_out),
        (1000, 1000, 1)
    );
    assert!(
        (a.metric(
            "antipode_link_flows",
            &[("peer", "edge-b"), ("direction", "out")]
        ) - 1.0)
            .abs()
            < 0.1
    );
    assert!(
        (a.metric("antipode_link_packets_sent_total", &[("peer", "edge-b")]) - 1000.0).abs() < 0.1
    );
    assert!((a.metric("antipode_link_up", &[("peer", "edge-b")]) - 1.0).abs() < 0.1);

    // A process that ends says so; one that comes back is taken in again.
    drop(b);
    a.wait("link down", |event| {
        matches!(event, MeshEvent::LinkDown { .. }).then_some(())
    });
    let b = Node::start(&authority, "edge-b", &[]);
    a.handle.command(MeshCommand::SetPeers(vec![b.info()]));
    b.handle.command(MeshCommand::SetPeers(vec![a.info()]));
    b.wait_up("edge-a");
    a.wait_up("edge-b");
}

/// A path that can be cut.
struct Path {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Drop for Path {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Path {
    fn to(target: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        back.connect(target).unwrap();
        let address = front.local_addr().unwrap();
        let (cut, ended) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let client = Arc::new(std::sync::Mutex::new(None));
        for forward in [true, false] {
            let (front, back, client) =
                (Arc::clone(&front), Arc::clone(&back), Arc::clone(&client));
            let (cut, ended) = (Arc::clone(&cut), Arc::clone(&ended));
            let from = if forward { &front } else { &back };
            from.set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !ended.load(Ordering::Relaxed) {
                    let from = if forward { &front } else { &back };
                    let Ok((len, source)) = from.recv_from(&mut buffer) else {
                        continue;
                    };
                    if cut.load(Ordering::Relaxed) {
                        continue;
                    }
                    if forward {
                        *client.lock().unwrap() = Some(source);
                        drop(back.send(&buffer[..len]));
                    } else if let Some(client) = *client.lock().unwrap() {
                        drop(front.send_to(&buffer[..len], client));
                    }
                }
            });
        }
        Self {
            address,
            cut,
            ended,
        }
    }
}

#[test]
fn a_killed_relay_is_noticed_and_bypassed() {
    let authority = Authority::generate(MESH, HOUR).unwrap();
    let r = Node::start(&authority, "relay-r", &[]);
    let paths = [
        Path::to(r.handle.local_addr()),
        Path::to(r.handle.local_addr()),
    ];
    let a = Node::start(&authority, "edge-a", &[("relay-r", paths[0].address)]);
    let b = Node::start(&authority, "edge-b", &[("relay-r", paths[1].address)]);
    introduce(&[&a, &b, &r]);
    plan(&[&a, &b, &r], &["edge-a", "edge-b"], "relay-r");
    publish(&a, "TR_a", 1, true);
    demand(&b, "TR_a", "edge-a", 101, 1);
    a.wait_demand(1);

    let ended = Arc::new(AtomicBool::new(false));
    let mut sender = a.handle.media();
    let stop = Arc::clone(&ended);
    let publisher = std::thread::spawn(move || {
        let mut pool = Pool::new(64);
        let mut seq = 0;
        while !stop.load(Ordering::Relaxed) {
            sender.push(TrackKey(1), 0, packet(&mut pool, Codec::Opus, seq, 80));
            sender.flush();
            seq = seq.wrapping_add(1);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    std::thread::sleep(Duration::from_secs(1));
    assert!(r.metric("antipode_link_packets_sent_total", &[("peer", "edge-b")]) > 20.0);
    assert!(a.metric("antipode_link_packets_sent_total", &[("peer", "edge-b")]) < 0.5);

    let killed = Instant::now();
    for path in &paths {
        path.cut.store(true, Ordering::Relaxed);
    }
    let down = |event: &MeshEvent| {
        matches!(event, MeshEvent::LinkDown { peer } if peer.as_str() == "relay-r").then_some(())
    };
    let (mut noticed, mut last, mut resumed) = (None, killed, None);
    while resumed.is_none() && killed.elapsed() < PATIENCE {
        match b.news.recv_timeout(PATIENCE) {
            Ok(News::Event(event, at)) => noticed = noticed.or(down(&event).map(|()| at)),
            Ok(News::Media(.., at)) if noticed.is_none() => last = at,
            Ok(News::Media(.., at)) => resumed = Some(at),
            Err(_) => break,
        }
    }
    ended.store(true, Ordering::Relaxed);
    publisher.join().unwrap();
    let (_, noticed_a) = a.wait("link down", down);
    let (noticed, resumed) = (noticed.unwrap(), resumed.unwrap());
    let gap = resumed - last;
    println!(
        "noticed after {:?} and {:?}, media again after {:?}, gap {gap:?}",
        noticed_a - killed,
        noticed - killed,
        resumed - killed,
    );
    let limit = Duration::from_millis(360);
    assert!(noticed - killed <= limit && noticed_a - killed <= limit);
    assert!(resumed - killed <= Duration::from_millis(600));

    for path in &paths {
        path.cut.store(false, Ordering::Relaxed);
    }
    a.wait_up("relay-r");
    b.wait_up("relay-r");
}

#[test]
fn strangers_are_refused() {
    let authority = Authority::generate(MESH, HOUR).unwrap();
    let a = Node::start(&authority, "edge-a", &[]);
    // Another authority; a region other than the peer list says.
    let foreign = Node::start(&Authority::generate(MESH, HOUR).unwrap(), "edge-b", &[]);
    let moved = Node::start_in(&authority, "edge-c", &[], "syd");
    a.handle
        .command(MeshCommand::SetPeers(vec![foreign.info(), moved.info()]));
    foreign
        .handle
        .command(MeshCommand::SetPeers(vec![a.info()]));
    moved.handle.command(MeshCommand::SetPeers(vec![a.info()]));
    std::thread::sleep(Duration::from_secs(1));
    let up = |node: &Node| node.handle.stats().iter().any(|link| link.up);
    assert!(!up(&a) && !up(&foreign));

    // A certificate of another node is refused at the start.
    let config = worker::Config {
        node: NodeId::from("edge-x"),
        role: Role::Edge,
        region: RegionId::from("fra"),
        mesh: MESH.to_owned(),
        incarnation: 1,
        listen: "127.0.0.1:0".parse().unwrap(),
        via: BTreeMap::new(),
        rate_bps_max: worker::DEFAULT_RATE_BPS,
        credentials: credentials(&authority, "edge-y", "fra"),
    };
    let (sink, _news) = mpsc::channel();
    let refused = spawn(
        config,
        Box::new(Sink(sink)),
        &Registry::new(),
        CancellationToken::new(),
    );
    assert!(matches!(refused, Err(worker::Error::Identity { .. })));
}
