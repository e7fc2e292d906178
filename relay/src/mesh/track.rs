//! A track that is published here, wanted here, or passes through.

use std::time::{Duration, Instant};

use media::packet::LayerMeta;
use media::router::{SenderClock, StreamIndex, TrackKey};
use proto::{NodeId, RoomId, TrackSid};

use super::audio::Talker;
use super::left_out::LeftOut;
use super::peer::PeerKey;
use crate::link::header::Class;

/// Simulcast streams a track may have.
pub(super) const STREAMS_MAX: usize = 3;
/// Index of the highest layer.
const LAYER_MAX: u8 = 2;
/// All of them, as a mask.
pub(super) const STREAMS_ALL: u8 = (1 << STREAMS_MAX) - 1;
/// Shortest time between two requests for a keyframe of the same stream.
const KEYFRAME_INTERVAL: Duration = Duration::from_millis(300);
/// Requests for a keyframe that does not come; then a subscriber has to ask again.
const KEYFRAME_TRIES_MAX: u8 = 5;

/// How the media of one stream is to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) class: Class,
    /// RTP clock rate in Hz.
    pub(super) clock_rate: u32,
    /// Spatial layers inside the stream (SVC); 1 = none.
    pub(super) spatial: u8,
}

impl Format {
    /// The layer that a packet belongs to, as demand counts them.
    pub(super) fn layer_index(&self, stream: StreamIndex, layer: LayerMeta) -> u8 {
        if self.spatial > 1 {
            stream.saturating_add(layer.spatial).min(LAYER_MAX)
        } else {
            stream
        }
    }
}

/// A publication on this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Publication {
    pub(super) key: TrackKey,
}

/// Where something that is published on this node is published: mostly in one room.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Indexes of tracks.
    pub(super) tracks: Vec<usize>,
    /// Streams that the mesh was last said to want.
    pub(super) reported: u8,
}

/// A neighbour that wants the track from us.
#[derive(Debug)]
pub(super) struct Downstream {
    pub(super) peer: PeerKey,
    /// Bit n: layer n is wanted.
    pub(super) streams: u8,
    /// Nodes that its request came through.
    pub(super) path: Vec<String>,
    /// Flow ids bound towards it.
    pub(super) flows: [Option<u32>; STREAMS_MAX],
    /// What it was not sent, by stream.
    pub(super) left_out: [LeftOut; STREAMS_MAX],
    /// Its place among those who talk to that neighbour, of audio.
    pub(super) talker: Option<Talker>,
}

/// The neighbour we want the track from.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) peer: PeerKey,
    /// Bit n: layer n was asked for.
    pub(super) streams: u8,
    /// Flow ids that it bound.
    pub(super) flows: [Option<u32>; STREAMS_MAX],
    /// When it is asked again, should it have bound nothing by then, and how often it was.
    pub(super) asked_again: (Instant, u8),
}

impl Upstream {
    /// Whether nothing that it was asked for is bound.
    pub(super) fn is_silent(&self) -> bool {
        self.streams != 0 && self.flows.iter().all(Option::is_none)
    }
}

/// The upstream before, listened to until the new one delivers.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) upstream: Upstream,
    pub(super) until: Instant,
    /// Whether it was told to stop.
    pub(super) told: bool,
}

/// Whether a keyframe is being waited for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyframeWant {
    pub(super) wanted: bool,
    asked_at: Option<Instant>,
    tries: u8,
}

impl KeyframeWant {
    /// Somebody wants a keyframe. Returns whether it was not wanted before.
    pub(super) fn want(&mut self) -> bool {
        self.tries = 0;
        !std::mem::replace(&mut self.wanted, true)
    }

    /// A keyframe came by.
    pub(super) fn satisfied(&mut self) {
        self.wanted = false;
    }

    /// When to ask (again); `None` when there is nothing to ask for.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let waiting = self.wanted && self.tries < KEYFRAME_TRIES_MAX;
        waiting.then(|| self.asked_at.map_or(now, |at| at + KEYFRAME_INTERVAL))
    }

    pub(super) fn asked(&mut self, now: Instant) {
        self.asked_at = Some(now);
        self.tries = self.tries.saturating_add(1);
        if self.tries >= KEYFRAME_TRIES_MAX {
            self.wanted = false;
        }
    }
}

#[derive(Debug)]
pub(super) struct Track {
    pub(super) room: RoomId,
    pub(super) sid: TrackSid,
    pub(super) origin: NodeId,
    pub(super) publication: Option<Publication>,
    /// This node's key for it, when it is remote and was ever wanted here.
    pub(super) subscriber: Option<TrackKey>,
    /// Layers wanted here.
    pub(super) demand: u8,
    /// What this node was not given, by stream.
    pub(super) left_out: [LeftOut; STREAMS_MAX],
    pub(super) downstreams: Vec<Downstream>,
    pub(super) upstream: Option<Upstream>,
    pub(super) leaving: Option<Leaving>,
    /// Known streams.
    pub(super) formats: [Option<Format>; STREAMS_MAX],
    pub(super) clocks: [Option<SenderClock>; STREAMS_MAX],
    pub(super) keyframes: [KeyframeWant; STREAMS_MAX],
    /// Bit n: the path to the publisher broke, so frames of stream n are missing: ask for a keyframe on the new one.
    pub(super) broken: u8,
}

impl Track {
    pub(super) fn new(room: RoomId, sid: TrackSid, origin: NodeId) -> Self {
        Self {
            room,
            sid,
            origin,
            publication: None,
            subscriber: None,
            demand: 0,
            left_out: [LeftOut::default(); STREAMS_MAX],
            downstreams: Vec::new(),
            upstream: None,
            leaving: None,
            formats: [None; STREAMS_MAX],
            clocks: [None; STREAMS_MAX],
            keyframes: [KeyframeWant::default(); STREAMS_MAX],
            broken: 0,
        }
    }

    /// Whether its layers are inside one stream (SVC).
    fn is_layered(&self) -> bool {
        self.formats
            .first()
            .copied()
            .flatten()
            .is_some_and(|format| format.spatial > 1)
    }

    /// The streams that carry these layers.
    pub(super) fn streams_bound(&self, layers: u8) -> u8 {
        if self.is_layered() {
            u8::from(layers != 0)
        } else {
            layers
        }
    }

    /// The stream that carries a layer.
    pub(super) fn stream_of(&self, layer: u8) -> StreamIndex {
        if self.is_layered() { 0 } else { layer }
    }

    /// Layers that somebody downstream wants.
    pub(super) fn wanted_downstream(&self) -> u8 {
        self.downstreams
            .iter()
            .fold(0, |streams, downstream| streams | downstream.streams)
    }

    /// Layers that somebody wants, here or downstream.
    pub(super) fn wanted(&self) -> u8 {
        self.wanted_downstream() | self.demand
    }

    /// The longest path of those that want the track, up to this node.
    pub(super) fn path(&self, node: &NodeId) -> Vec<String> {
        let longest = self.downstreams.iter().map(|downstream| &downstream.path);
        let mut path = longest
            .max_by_key(|path| path.len())
            .cloned()
            .unwrap_or_default();
        path.push(node.as_str().to_owned());
        path
    }

    /// Whether nobody has to do with it.
    pub(super) fn is_unused(&self) -> bool {
        self.publication.is_none()
            && self.wanted() == 0
            && self.upstream.is_none()
            && self.leaving.is_none()
    }

    /// Whether this peer is (or was until now) asked for the track.
    pub(super) fn comes_from(&self, peer: PeerKey) -> bool {
        self.upstream
            .as_ref()
            .is_some_and(|upstream| upstream.peer == peer)
            || self
                .leaving
                .as_ref()
                .is_some_and(|leaving| leaving.upstream.peer == peer)
    }

    /// Flow ids bound by a peer, as the current or the former upstream.
    pub(super) fn flows_from(&mut self, peer: PeerKey) -> Option<&mut [Option<u32>; STREAMS_MAX]> {
        let current = self
            .upstream
            .as_mut()
            .filter(|upstream| upstream.peer == peer);
        let former = self.leaving.as_mut().map(|leaving| &mut leaving.upstream);
        let upstream = current.or_else(|| former.filter(|upstream| upstream.peer == peer));
        upstream.map(|upstream| &mut upstream.flows)
    }
}

/// The streams in a bitmask, lowest first.
pub(super) fn streams_of(mask: u8) -> impl Iterator<Item = StreamIndex> {
    (0..8)
        .take(STREAMS_MAX)
        .filter(move |stream| mask >> stream & 1 == 1)
}
