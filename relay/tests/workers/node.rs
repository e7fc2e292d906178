//! A worker of a node, with its certificate and what it heard.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use media::packet::{Codec, Extensions, Head, LayerMeta, PacketRef, Pool};
use media::router::{StreamIndex, TrackKey};
use prometheus::Registry;
use proto::link::RoomState;
use proto::{NodeId, RegionId, RoomId, TrackSid};
use relay::worker::{self, spawn};
use relay::{MeshCommand, MeshEvent, MeshHandle, MeshSink, NextHop, PeerInfo, Role, RoomPlan};
use runtime::tls::{Authority, Credentials, NodeName};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

pub(crate) const MESH: &str = "test";
pub(crate) const HOUR: Duration = Duration::from_hours(1);
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

#[expect(clippy::large_enum_variant, reason = "a handful in a test")]
pub(crate) enum News {
    Event(MeshEvent, Instant),
    Media(TrackKey, StreamIndex, PacketRef, Instant),
}

pub(crate) struct Sink(pub(crate) mpsc::Sender<News>);

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

pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) handle: MeshHandle,
    pub(crate) news: Receiver<News>,
    pub(crate) registry: Registry,
    pub(crate) shutdown: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub(crate) fn role(name: &str) -> Role {
    if name.starts_with("edge") {
        Role::Edge
    } else {
        Role::Relay
    }
}

pub(crate) fn credentials(authority: &Authority, name: &str, region: &str) -> Credentials {
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
    pub(crate) fn start(
        authority: &Authority,
        name: &'static str,
        via: &[(&str, SocketAddr)],
    ) -> Self {
        Self::start_in(authority, name, via, "fra")
    }

    pub(crate) fn start_in(
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
            audio_streams: worker::DEFAULT_AUDIO_STREAMS,
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

    pub(crate) fn info(&self) -> PeerInfo {
        PeerInfo {
            node: NodeId::from(self.name),
            role: role(self.name),
            region: RegionId::from("fra"),
            addresses: vec![self.handle.local_addr()],
        }
    }

    /// Waits for an event; media meanwhile is dropped.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        mut wanted: impl FnMut(&MeshEvent) -> Option<T>,
    ) -> (T, Instant) {
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

    pub(crate) fn wait_up(&self, peer: &str) {
        self.wait("link up", |event| {
            matches!(event, MeshEvent::LinkUp { peer: up } if up.as_str() == peer).then_some(())
        });
    }

    pub(crate) fn wait_demand(&self, wanted: u8) {
        self.wait("demand", |event| {
            matches!(event, MeshEvent::Demand { streams, .. } if *streams == wanted).then_some(())
        });
    }

    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
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
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        })
    }
}

pub(crate) fn introduce(nodes: &[&Node]) {
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
pub(crate) fn plan(nodes: &[&Node], edges: &[&str], via: &str) {
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
            room: RoomId::from("room"),
            epoch: 1,
            members: edges.iter().map(|edge| NodeId::from(*edge)).collect(),
            next_hops: next_hops.collect(),
        }));
    }
}

pub(crate) fn publish(node: &Node, sid: &str, key: u32, audio: bool) {
    node.handle.command(MeshCommand::Publish {
        room: RoomId::from("room"),
        track_sid: TrackSid::from(sid),
        track: TrackKey(key),
        audio,
        clock_rate: if audio { 48_000 } else { 90_000 },
        streams: if audio { 1 } else { 3 },
        spatial: 1,
    });
}

pub(crate) fn demand(node: &Node, sid: &str, origin: &str, key: u32, streams: u8) {
    node.handle.command(MeshCommand::Demand {
        room: RoomId::from("room"),
        track_sid: TrackSid::from(sid),
        origin: NodeId::from(origin),
        track: TrackKey(key),
        streams,
    });
}

pub(crate) fn packet(pool: &mut Pool, codec: Codec, seq: u16, len: usize) -> PacketRef {
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
        left_out: 0,
        timestamp: u32::from(seq) * 960,
        layer,
        ext: Extensions::default(),
    };
    let payload: Vec<u8> = (0..len)
        .map(|index| index.to_le_bytes()[0] ^ seq.to_le_bytes()[0])
        .collect();
    pool.build(head, &payload, &[]).unwrap()
}

pub(crate) fn state(version: u64, len: usize) -> MeshCommand {
    MeshCommand::RoomState(RoomState {
        room: "room".to_owned(),
        incarnation: 1,
        version,
        participants: vec![vec![7; len]],
        ..RoomState::default()
    })
}
