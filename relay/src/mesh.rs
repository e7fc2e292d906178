//! The mesh as one node sees it, without sockets or clock: its neighbours, the rooms that cross it, and every track's way
//! from the publisher's edge to the subscribers'. Relays and edges run the same core.
//!
//! Give it what happens with [`Mesh::handle_input`]; then take [`Mesh::poll_output`] until it is empty, [`Mesh::poll_transmit`]
//! for every neighbour whose connection has room, and [`Mesh::poll_timeout`].

mod audio;
pub mod command;
mod flow;
mod forward;
mod left_out;
mod peer;
mod room;
pub mod stats;
mod subscription;
mod track;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::router::{StreamIndex, TrackKey};
use proto::link::LinkHello;
use proto::link::link_message::Message;
use proto::{NodeId, RoomId, TrackSid};
use slab::Slab;

use crate::link::Link;
use crate::link::header::PacketMeta;
use audio::Voices;
use command::{MeshCommand, MeshEvent};
use peer::Peer;
pub use peer::PeerKey;
use room::Room;
use stats::{FlowStats, LinkStats};
use track::{Places, Track};

/// Versions of the link that this code speaks. With 2 a hop header tells what was left out, and how loud audio is.
const VERSIONS: (u32, u32) = (1, 2);

/// Who the core is.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Tells one run of the node from the next; grows.
    pub incarnation: u64,
    /// Audio tracks of a room that a link carries at a time, in each direction; 0 = all.
    pub audio_streams: u16,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// Time passed.
    Timeout,
    /// An authenticated connection with a neighbour was made.
    Connected {
        /// The neighbour.
        peer: PeerKey,
        /// The transport's round-trip time.
        rtt: Option<Duration>,
    },
    /// It is gone.
    Disconnected {
        /// The neighbour.
        peer: PeerKey,
    },
    /// A datagram arrived.
    Datagram {
        /// From this neighbour.
        peer: PeerKey,
        /// As sent.
        datagram: Bytes,
    },
    /// A message arrived on a stream.
    Message {
        /// From this neighbour.
        peer: PeerKey,
        /// The message.
        message: Message,
    },
    /// This node wants something.
    Command(MeshCommand),
    /// A packet of a track published here.
    Media {
        /// The track.
        track: TrackKey,
        /// Its simulcast stream.
        stream: StreamIndex,
        /// What every hop may know of it.
        meta: PacketMeta,
        /// RTP with canonical payload type and extension ids.
        rtp: Bytes,
    },
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Send a message on the control stream of a neighbour.
    Message {
        /// The neighbour.
        peer: PeerKey,
        /// The message.
        message: Message,
    },
    /// Send a data message on the sending participant's own stream to a neighbour.
    Data {
        /// The neighbour.
        peer: PeerKey,
        /// The message.
        data: proto::link::Data,
    },
    /// Deliver a packet of a remote track to this node.
    Media {
        /// This node's key of the track.
        track: TrackKey,
        /// Its simulcast stream.
        stream: StreamIndex,
        /// What every hop may know of it.
        meta: PacketMeta,
        /// RTP with canonical payload type and extension ids.
        rtp: Bytes,
    },
    /// Deliver news to this node.
    Event(MeshEvent),
    /// Close the connection with a neighbour; the core has forgotten it already.
    Disconnect {
        /// The neighbour.
        peer: PeerKey,
        /// Why.
        reason: &'static str,
    },
}

/// The core.
#[derive(Debug)]
pub struct Mesh {
    config: Config,
    peers: Vec<Peer>,
    by_node: BTreeMap<NodeId, PeerKey>,
    rooms: BTreeMap<RoomId, Room>,
    tracks: Slab<Track>,
    by_sid: HashMap<(RoomId, TrackSid), usize>,
    by_key: HashMap<TrackKey, usize>,
    /// What is published here, by key.
    published: HashMap<TrackKey, Places>,
    voices: Voices,
    /// Tracks with a former upstream.
    leaving: Vec<usize>,
    /// Tracks whose upstream has bound nothing yet.
    unanswered: Vec<usize>,
    keyframes_wanted: Vec<(usize, StreamIndex)>,
    outputs: VecDeque<Output>,
    stale_plans: u64,
    subscriptions_refused: u64,
    unbound_dropped: u64,
    malformed: u64,
}

/// What the core refused or dropped since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Plans whose epoch was not above the one known.
    pub stale_plans: u64,
    /// Subscriptions that would have made a circle or too long a path.
    pub subscriptions: u64,
    /// Packets of flows or tracks that nobody knows.
    pub unbound_packets: u64,
    /// Datagrams and messages that could not be read.
    pub malformed: u64,
}

impl Mesh {
    /// A core without neighbours or rooms.
    pub fn new(config: Config) -> Self {
        Self {
            voices: Voices::new(config.audio_streams),
            config,
            peers: Vec::new(),
            by_node: BTreeMap::new(),
            rooms: BTreeMap::new(),
            tracks: Slab::new(),
            by_sid: HashMap::new(),
            by_key: HashMap::new(),
            published: HashMap::new(),
            leaving: Vec::new(),
            unanswered: Vec::new(),
            keyframes_wanted: Vec::new(),
            outputs: VecDeque::new(),
            stale_plans: 0,
            subscriptions_refused: 0,
            unbound_dropped: 0,
            malformed: 0,
        }
    }

    /// The key of a neighbour, for inputs. Nodes are few, so keys are never given back.
    pub fn peer(&mut self, node: &NodeId) -> PeerKey {
        if let Some(&key) = self.by_node.get(node) {
            return key;
        }
        let key = PeerKey(self.peers.len());
        self.peers.push(Peer::new(node.clone()));
        self.by_node.insert(node.clone(), key);
        key
    }

    /// Takes in what happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Timeout => self.handle_timeout(now),
            Input::Connected { peer, rtt } => self.connected(now, peer, rtt),
            Input::Disconnected { peer } => self.lost(now, peer),
            Input::Datagram { peer, datagram } => {
                if let Some(link) = self
                    .peers
                    .get_mut(peer.0)
                    .and_then(|peer| peer.link.as_mut())
                {
                    link.handle_datagram(now, datagram);
                    self.drain_link(now, peer);
                }
            }
            Input::Message { peer, message } => self.handle_message(now, peer, message),
            Input::Command(command) => self.handle_command(now, command),
            Input::Media {
                track,
                stream,
                meta,
                rtp,
            } => {
                self.local_media(now, (track, stream), meta, &rtp);
            }
        }
    }

    fn handle_command(&mut self, now: Instant, command: MeshCommand) {
        match command {
            // Who may connect is the shell's business.
            MeshCommand::SetPeers(_) => {}
            MeshCommand::SetPlan(plan) => self.set_plan(now, plan),
            MeshCommand::ForgetRoom(room) => self.forget_room(now, &room),
            MeshCommand::RoomState(state) => self.publish_state(state),
            MeshCommand::Speakers(speakers) => self.publish_speakers(speakers),
            MeshCommand::RoomGone(room) => self.publish_gone(&room),
            MeshCommand::Data(data) => self.publish_data(now, data),
            command @ MeshCommand::Publish { .. } => self.publish(now, command),
            MeshCommand::Unpublish { track, room } => self.unpublish(now, track, room.as_ref()),
            MeshCommand::SenderReport {
                track,
                stream,
                clock,
            } => {
                self.local_clock(now, (track, stream), clock);
            }
            command @ MeshCommand::Demand { .. } => self.demand(now, command),
            MeshCommand::KeyframeNeeded { track, stream } => {
                self.local_keyframe(now, track, stream)
            }
        }
    }

    fn connected(&mut self, now: Instant, key: PeerKey, rtt: Option<Duration>) {
        self.lost(now, key);
        let Some(peer) = self.peers.get_mut(key.0) else {
            return;
        };
        peer.link = Some(Link::new(now, rtt));
        let hello = LinkHello {
            version_min: VERSIONS.0,
            version_max: VERSIONS.1,
            node_id: self.config.node.as_str().to_owned(),
            incarnation: self.config.incarnation,
            capabilities: Vec::new(),
        };
        self.send(key, Message::Hello(hello));
    }

    /// Forgets a connection. What went over it moves to backups at once.
    fn lost(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(key.0).filter(|peer| peer.link.is_some()) else {
            return;
        };
        let was_up = peer.disconnect();
        let node = peer.node.clone();
        self.forget_peer(key);
        if was_up {
            self.emit(MeshEvent::LinkDown { peer: node });
        }
        self.refresh_rooms(now);
    }

    fn disconnect(&mut self, now: Instant, peer: PeerKey, reason: &'static str) {
        self.lost(now, peer);
        self.outputs.push_back(Output::Disconnect { peer, reason });
    }

    fn handle_message(&mut self, now: Instant, from: PeerKey, message: Message) {
        let Some(peer) = self.peers.get_mut(from.0) else {
            return;
        };
        let Some(link) = &mut peer.link else { return };
        link.handle_stream_activity(now);
        if let Message::Hello(hello) = &message {
            return self.handle_hello(now, from, hello);
        }
        // Data has streams of its own, which may overtake the hello.
        if !peer.up && !matches!(message, Message::Data(_)) {
            return self.disconnect(now, from, "no hello");
        }
        match message {
            Message::Hello(_) => {}
            Message::Subscribe(subscribe) => self.handle_subscribe(now, from, subscribe),
            Message::BindFlow(bind) => self.handle_bind(now, from, bind),
            Message::UnbindFlow(unbind) => self.handle_unbind(now, from, unbind.flow_id),
            Message::SenderReport(report) => self.handle_sender_report(now, from, &report),
            Message::RoomState(state) => self.handle_state(from, state),
            Message::Speakers(speakers) => self.handle_speakers(from, &speakers),
            Message::RoomGone(gone) => self.handle_gone(from, &gone),
            Message::Data(data) => self.handle_data(now, from, data),
            Message::Draining(_) => {
                peer.draining = true;
                self.refresh_rooms(now);
            }
        }
    }

    fn handle_hello(&mut self, now: Instant, from: PeerKey, hello: &LinkHello) {
        let Some(peer) = self.peers.get_mut(from.0) else {
            return;
        };
        let version = hello.version_max.min(VERSIONS.1);
        if version < VERSIONS.0.max(hello.version_min) {
            return self.disconnect(now, from, "no common version");
        }
        if hello.node_id != peer.node.as_str() {
            return self.disconnect(now, from, "hello of another node");
        }
        if let Some(link) = &mut peer.link {
            link.set_version(version);
        }
        if !std::mem::replace(&mut peer.up, true) {
            let peer = peer.node.clone();
            self.emit(MeshEvent::LinkUp { peer });
            self.refresh_rooms(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        for index in 0..self.peers.len() {
            let key = PeerKey(index);
            let Some(link) = self
                .peers
                .get_mut(index)
                .and_then(|peer| peer.link.as_mut())
            else {
                continue;
            };
            link.handle_timeout(now);
            if link.is_dead(now) {
                self.disconnect(now, key, "silent");
            }
        }
        self.retry_keyframes(now);
        self.ask_silent(now);
        let leaving = std::mem::take(&mut self.leaving);
        for index in leaving {
            let until = self
                .tracks
                .get(index)
                .and_then(|track| track.leaving.as_ref());
            match until.map(|leaving| leaving.until) {
                Some(until) if until > now => self.leaving.push(index),
                Some(_) => {
                    self.finish_leaving(index);
                    self.refresh_track(now, index);
                }
                None => {}
            }
        }
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next datagram for a neighbour; call it only when it will be sent at once.
    pub fn poll_transmit(&mut self, now: Instant, peer: PeerKey) -> Option<Bytes> {
        self.peers
            .get_mut(peer.0)?
            .link
            .as_mut()?
            .poll_transmit(now)
    }

    /// When [`Input::Timeout`] is due; `None` while there is nothing to wait for.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let links = self.peers.iter_mut().filter_map(|peer| peer.link.as_mut());
        let links = links.map(Link::poll_timeout).min();
        let leaving = self
            .leaving
            .iter()
            .filter_map(|index| self.tracks.get(*index)?.leaving.as_ref());
        let leaving = leaving.map(|leaving| leaving.until).min();
        [links, leaving, self.keyframe_due(now), self.ask_silent_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The state of every link that there is or was.
    pub fn stats(&self, now: Instant) -> Vec<LinkStats> {
        let mut stats: Vec<LinkStats> = self.peers.iter().map(|peer| peer.stats(now)).collect();
        for (index, link) in stats.iter_mut().enumerate() {
            let (selected, counters) = self.voices.stats(PeerKey(index));
            link.audio_selected = u32::try_from(selected).unwrap_or(u32::MAX);
            link.audio_suppressed = counters.suppressed;
            link.audio_changes = counters.changes;
        }
        for (_, track) in &self.tracks {
            for downstream in &track.downstreams {
                let bound = downstream
                    .flows
                    .iter()
                    .enumerate()
                    .filter(|(_, flow)| flow.is_some());
                let streams = bound.fold(0, |streams, (stream, _)| streams | 1 << stream);
                let Some(link) = stats.get_mut(downstream.peer.0).filter(|_| streams != 0) else {
                    continue;
                };
                link.flows.push(FlowStats {
                    room: track.room.clone(),
                    track: track.sid.clone(),
                    streams,
                });
            }
        }
        stats
    }

    /// What was refused or dropped.
    pub fn refusals(&self) -> Refusals {
        Refusals {
            stale_plans: self.stale_plans,
            subscriptions: self.subscriptions_refused,
            unbound_packets: self.unbound_dropped,
            malformed: self.malformed,
        }
    }

    fn send(&mut self, peer: PeerKey, message: Message) {
        if self
            .peers
            .get(peer.0)
            .is_some_and(|peer| peer.link.is_some())
        {
            self.outputs.push_back(Output::Message { peer, message });
        }
    }

    fn emit(&mut self, event: MeshEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}

#[cfg(test)]
mod tests;
