//! Several meshes and the links between them, in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use super::super::command::{NextHop, RoomPlan};
use media::packet::LayerMeta;

use super::super::*;

pub(super) const MS: Duration = Duration::from_millis(1);
/// One way, every link.
pub(super) const DELAY: Duration = Duration::from_millis(20);
pub(super) const ROOM: &str = "standup";

#[expect(clippy::large_enum_variant, reason = "a handful in a test")]
pub(super) enum Cargo {
    Datagram(Bytes),
    Message(Message),
}

pub(super) struct Node {
    pub(super) mesh: Mesh,
    pub(super) events: Vec<MeshEvent>,
    /// (track, stream, first byte of the packet)
    pub(super) media: Vec<(TrackKey, StreamIndex, u8)>,
    /// The same with what the hop header says and the sequence number.
    pub(super) packets: Vec<(TrackKey, PacketMeta, u16)>,
}

pub(super) struct Net {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) nodes: BTreeMap<&'static str, Node>,
    /// Connected pairs, both ways.
    pub(super) links: BTreeSet<(&'static str, &'static str)>,
    /// Pairs whose packets vanish, both ways.
    pub(super) cut: BTreeSet<(&'static str, &'static str)>,
    pub(super) moving: BTreeMap<(Instant, u64), (&'static str, &'static str, Cargo)>,
    pub(super) sent: u64,
}

impl Net {
    /// Nodes that are all linked with each other.
    pub(super) fn new(names: &[&'static str]) -> Self {
        let start = Instant::now();
        let mut net = Self {
            start,
            now: start,
            nodes: BTreeMap::new(),
            links: BTreeSet::new(),
            cut: BTreeSet::new(),
            moving: BTreeMap::new(),
            sent: 0,
        };
        for name in names {
            let mesh = Mesh::new(Config {
                node: NodeId::from(*name),
                incarnation: 1,
                audio_streams: 2,
            });
            net.nodes.insert(
                name,
                Node {
                    mesh,
                    events: Vec::new(),
                    media: Vec::new(),
                    packets: Vec::new(),
                },
            );
        }
        for a in names {
            for b in names.iter().filter(|b| a < *b) {
                net.connect(a, b);
            }
        }
        net.run(200);
        net
    }

    pub(super) fn connect(&mut self, a: &'static str, b: &'static str) {
        for (from, to) in [(a, b), (b, a)] {
            self.links.insert((from, to));
            self.cut.remove(&(from, to));
            let now = self.now;
            let mesh = self.mesh(from);
            let peer = mesh.peer(&NodeId::from(to));
            mesh.handle_input(now, Input::Connected { peer, rtt: None });
        }
    }

    pub(super) fn cut(&mut self, a: &'static str, b: &'static str) {
        self.cut.extend([(a, b), (b, a)]);
    }

    /// A process is killed: all its packets vanish.
    pub(super) fn kill(&mut self, name: &'static str) {
        let others: Vec<&'static str> = self.nodes.keys().copied().collect();
        for other in others {
            self.cut(name, other);
        }
    }

    pub(super) fn mesh(&mut self, name: &str) -> &mut Mesh {
        &mut self.nodes.get_mut(name).unwrap().mesh
    }

    pub(super) fn command(&mut self, name: &str, command: MeshCommand) {
        let now = self.now;
        self.mesh(name).handle_input(now, Input::Command(command));
    }

    pub(super) fn flush(&mut self) {
        let names: Vec<&'static str> = self.nodes.keys().copied().collect();
        for name in names {
            let now = self.now;
            let mut cargo = Vec::new();
            let node = self.nodes.get_mut(name).unwrap();
            while let Some(output) = node.mesh.poll_output() {
                match output {
                    Output::Message { peer, message } => {
                        cargo.push((peer, Cargo::Message(message)))
                    }
                    Output::Data { peer, data } => {
                        cargo.push((peer, Cargo::Message(Message::Data(data))));
                    }
                    Output::Media {
                        track,
                        stream,
                        meta,
                        rtp,
                    } => {
                        node.media.push((track, stream, rtp[0]));
                        let seq = left_out::sequence_number(&rtp).unwrap_or(0);
                        node.packets.push((track, meta, seq));
                    }
                    Output::Event(event) => node.events.push(event),
                    Output::Disconnect { peer, .. } => {
                        let other = node.mesh.peers[peer.0].node.clone();
                        self.links
                            .retain(|(a, b)| !(*a == name && *b == other.as_str()));
                    }
                }
            }
            for index in 0..node.mesh.peers.len() {
                while let Some(datagram) = node.mesh.poll_transmit(now, PeerKey(index)) {
                    cargo.push((PeerKey(index), Cargo::Datagram(datagram)));
                }
            }
            for (peer, cargo) in cargo {
                let to = self.nodes[name].mesh.peers[peer.0].node.clone();
                let to = *self
                    .nodes
                    .keys()
                    .find(|other| **other == to.as_str())
                    .unwrap();
                if self.links.contains(&(name, to)) && !self.cut.contains(&(name, to)) {
                    self.sent += 1;
                    self.moving
                        .insert((now + DELAY, self.sent), (name, to, cargo));
                }
            }
        }
    }

    /// Lets this many milliseconds pass.
    pub(super) fn run(&mut self, ms: u32) {
        let end = self.now + MS * ms;
        loop {
            self.flush();
            let now = self.now;
            let timers = self
                .nodes
                .values_mut()
                .filter_map(|node| node.mesh.poll_timeout(now));
            let arrival = self.moving.first_key_value().map(|((at, _), _)| *at);
            let next = timers.chain(arrival).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return;
            }
            self.now = now.max(next);
            while let Some(entry) = self
                .moving
                .first_entry()
                .filter(|entry| entry.key().0 <= self.now)
            {
                let (from, to, cargo) = entry.remove();
                if !self.links.contains(&(to, from)) || self.cut.contains(&(from, to)) {
                    continue;
                }
                let now = self.now;
                let mesh = self.mesh(to);
                let peer = mesh.peer(&NodeId::from(from));
                let input = match cargo {
                    Cargo::Datagram(datagram) => Input::Datagram { peer, datagram },
                    Cargo::Message(message) => Input::Message { peer, message },
                };
                mesh.handle_input(now, input);
            }
            let now = self.now;
            for node in self.nodes.values_mut() {
                node.mesh.handle_input(now, Input::Timeout);
            }
        }
    }

    /// A plan in which edges reach each other through `via`, or directly when that is empty.
    pub(super) fn plan(
        &mut self,
        epoch: u64,
        edges: &[&'static str],
        via: &'static str,
        backup: bool,
    ) {
        let names: Vec<&'static str> = self.nodes.keys().copied().collect();
        for name in names {
            let hops = edges.iter().filter(|edge| **edge != name).map(|edge| {
                let through = if via.is_empty() || via == name {
                    edge
                } else {
                    &via
                };
                NextHop {
                    edge: NodeId::from(*edge),
                    via: NodeId::from(*through),
                    backup: (backup && through != edge).then(|| NodeId::from(*edge)),
                }
            });
            let plan = RoomPlan {
                room: RoomId::from(ROOM),
                epoch,
                members: edges.iter().map(|edge| NodeId::from(*edge)).collect(),
                next_hops: hops.collect(),
            };
            if edges.contains(&name) || via == name {
                self.command(name, MeshCommand::SetPlan(plan));
            }
        }
    }

    pub(super) fn publish(&mut self, edge: &str, key: u32) {
        self.publish_track(edge, key, "TR_v", (false, 3, 1));
    }

    /// Publishes a track: whether it is audio, its streams, its spatial layers.
    pub(super) fn publish_track(
        &mut self,
        edge: &str,
        key: u32,
        sid: &str,
        (audio, streams, spatial): (bool, u8, u8),
    ) {
        self.command(
            edge,
            MeshCommand::Publish {
                room: RoomId::from(ROOM),
                track_sid: TrackSid::from(sid),
                track: TrackKey(key),
                audio,
                clock_rate: if audio { 48_000 } else { 90_000 },
                streams,
                spatial,
            },
        );
    }

    pub(super) fn demand(&mut self, edge: &str, origin: &str, streams: u8) {
        self.demand_track(edge, origin, ("TR_v", 100), streams);
    }

    pub(super) fn demand_track(
        &mut self,
        edge: &str,
        origin: &str,
        (sid, key): (&str, u32),
        streams: u8,
    ) {
        self.command(
            edge,
            MeshCommand::Demand {
                room: RoomId::from(ROOM),
                track_sid: TrackSid::from(sid),
                origin: NodeId::from(origin),
                track: TrackKey(key),
                streams,
            },
        );
    }

    /// One packet of a track with one stream.
    pub(super) fn packet(&mut self, edge: &str, key: u32, meta: PacketMeta, seq: u16) {
        let mut rtp = vec![0; 100];
        rtp[2..4].copy_from_slice(&seq.to_be_bytes());
        let input = Input::Media {
            track: TrackKey(key),
            stream: 0,
            meta,
            rtp: Bytes::from(rtp),
        };
        let now = self.now;
        self.mesh(edge).handle_input(now, input);
    }

    /// What an edge was given since the last call.
    pub(super) fn packets(&mut self, edge: &str) -> Vec<(TrackKey, PacketMeta, u16)> {
        std::mem::take(&mut self.nodes.get_mut(edge).unwrap().packets)
    }

    /// One packet of each of three streams, every 10 ms, for this long.
    pub(super) fn media(&mut self, edge: &str, key: u32, ms: u32) {
        for tick in 0..ms / 10 {
            for stream in 0..3 {
                let rtp = Bytes::from(vec![(tick & 0xff) as u8; 100]);
                let meta = PacketMeta {
                    layer: LayerMeta {
                        frame_start: true,
                        frame_end: true,
                        ..LayerMeta::default()
                    },
                    ..PacketMeta::default()
                };
                let now = self.now;
                let track = TrackKey(key);
                self.mesh(edge).handle_input(
                    now,
                    Input::Media {
                        track,
                        stream,
                        meta,
                        rtp,
                    },
                );
            }
            self.run(10);
        }
    }

    pub(super) fn received(&mut self, edge: &str) -> usize {
        std::mem::take(&mut self.nodes.get_mut(edge).unwrap().media).len()
    }

    pub(super) fn sent(&mut self, from: &str, to: &str) -> u64 {
        let now = self.now;
        let stats = self.mesh(from).stats(now);
        stats
            .iter()
            .find(|link| link.peer.as_str() == to)
            .unwrap()
            .packets_sent
    }

    /// Packets that `at` found missing on the link from `from`.
    pub(super) fn lost(&mut self, at: &str, from: &str) -> u64 {
        let now = self.now;
        let stats = self.mesh(at).stats(now);
        let link = stats.iter().find(|link| link.peer.as_str() == from);
        link.unwrap().packets_lost
    }

    pub(super) fn flows(&mut self, from: &str, to: &str) -> u32 {
        let now = self.now;
        let stats = self.mesh(from).stats(now);
        stats
            .iter()
            .find(|link| link.peer.as_str() == to)
            .unwrap()
            .flows_out
    }

    pub(super) fn events(&mut self, edge: &str) -> Vec<MeshEvent> {
        std::mem::take(&mut self.nodes.get_mut(edge).unwrap().events)
    }

    pub(super) fn states(&mut self, edge: &str) -> Vec<(String, u64)> {
        let states = self
            .events(edge)
            .into_iter()
            .filter_map(|event| match event {
                MeshEvent::RoomState(state) => Some((state.origin, state.version)),
                _ => None,
            });
        states.collect()
    }
}
