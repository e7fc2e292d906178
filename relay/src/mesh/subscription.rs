//! Who wants which streams of a track, and from whom: demand goes up towards the publisher, merged at every node; flows are
//! bound on the way down.

use std::time::{Duration, Instant};

use media::router::TrackKey;
use proto::link::Subscribe;
use proto::link::link_message::Message;
use proto::{NodeId, RoomId, TrackSid};

use super::Mesh;
use super::command::{MeshCommand, MeshEvent};
use super::left_out::LeftOut;
use super::peer::PeerKey;
use super::track::{
    Downstream, Format, Leaving, Publication, STREAMS_ALL, STREAMS_MAX, Track, Upstream, streams_of,
};
use crate::link::header::Class;

/// Most links between a publisher's edge and a subscriber's.
const HOPS_MAX: usize = 3;
/// Longest time that a former upstream is kept besides the new one.
const LEAVING_MAX: Duration = Duration::from_secs(2);
/// When an upstream that bound nothing is asked again, at first; twice as long later each time.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often that time is doubled: up to 4 s.
const ASK_AGAIN_DOUBLED_MAX: u8 = 3;

impl Mesh {
    fn track_or_new(&mut self, room: RoomId, sid: TrackSid, origin: NodeId) -> usize {
        let name = (room.clone(), sid.clone());
        if let Some(&index) = self.by_sid.get(&name) {
            return index;
        }
        let index = self.tracks.insert(Track::new(room.clone(), sid, origin));
        self.by_sid.insert(name, index);
        self.rooms.entry(room).or_default().tracks.insert(index);
        index
    }

    /// [`MeshCommand::Publish`].
    pub(super) fn publish(&mut self, now: Instant, command: MeshCommand) {
        let MeshCommand::Publish {
            room,
            track_sid,
            track: key,
            audio,
            clock_rate,
            streams,
            spatial,
        } = command
        else {
            return;
        };
        let index = self.track_or_new(room, track_sid, self.config.node.clone());
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        track.origin = self.config.node.clone();
        let before = track.publication.replace(Publication { key });
        for (stream, format) in track.formats.iter_mut().enumerate() {
            let class = match (audio, stream) {
                (true, _) => Class::Audio,
                (false, 0) => Class::Base,
                (false, _) => Class::Upper,
            };
            *format = (stream < usize::from(streams)).then_some(Format {
                class,
                clock_rate,
                spatial,
            });
        }
        if let Some(other) = before.map(|p| p.key).filter(|&other| other != key) {
            self.leave_place(other, index);
        }
        let places = self.published.entry(key).or_default();
        if !places.tracks.contains(&index) {
            places.tracks.push(index);
        }
        self.refresh_track(now, index);
    }

    pub(super) fn unpublish(&mut self, now: Instant, key: TrackKey, room: Option<&RoomId>) {
        let Some(places) = self.published.get(&key) else {
            return;
        };
        let concerned = |index: &&usize| {
            let track = self.tracks.get(**index);
            room.is_none() || track.map(|track| &track.room) == room
        };
        let concerned: Vec<usize> = places.tracks.iter().filter(concerned).copied().collect();
        for index in concerned {
            self.leave_place(key, index);
            self.end_publication(now, index);
        }
        // What only that room wanted nobody wants any more.
        self.report_demand(key);
    }

    /// Something is published in one place less.
    fn leave_place(&mut self, key: TrackKey, index: usize) {
        if let Some(places) = self.published.get_mut(&key) {
            places.tracks.retain(|&other| other != index);
            if places.tracks.is_empty() {
                self.published.remove(&key);
            }
        }
    }

    /// Says what the mesh wants of something published here, in all places together, if that changed.
    fn report_demand(&mut self, key: TrackKey) {
        let Some(places) = self.published.get_mut(&key) else {
            return;
        };
        let tracks = places.tracks.iter().filter_map(|&t| self.tracks.get(t));
        let streams = tracks.fold(0, |all, track| all | track.wanted_downstream());
        if places.reported != streams {
            places.reported = streams;
            self.emit(MeshEvent::Demand {
                track: key,
                streams,
            });
        }
    }

    fn end_publication(&mut self, now: Instant, index: usize) {
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        track.publication = None;
        track.formats = [None; STREAMS_MAX];
        track.clocks = [None; STREAMS_MAX];
        let count = track.downstreams.len();
        for position in 0..count {
            self.unbind_downstream(now, (index, position), STREAMS_ALL);
        }
        self.refresh_track(now, index);
    }

    /// [`MeshCommand::Demand`].
    pub(super) fn demand(&mut self, now: Instant, command: MeshCommand) {
        let MeshCommand::Demand {
            room,
            track_sid,
            origin,
            track: key,
            streams,
        } = command
        else {
            return;
        };
        let known = self.by_sid.contains_key(&(room.clone(), track_sid.clone()));
        if origin == self.config.node || (streams == 0 && !known) {
            return;
        }
        let index = self.track_or_new(room, track_sid, origin.clone());
        let Some(track) = self
            .tracks
            .get_mut(index)
            .filter(|track| track.publication.is_none())
        else {
            return;
        };
        track.origin = origin;
        track.demand = streams & STREAMS_ALL;
        if let Some(before) = track
            .subscriber
            .replace(key)
            .filter(|before| *before != key)
        {
            self.by_key.remove(&before);
        }
        self.by_key.insert(key, index);
        let clocks: Vec<_> = streams_of(track.demand)
            .filter_map(|stream| Some((stream, (*track.clocks.get(usize::from(stream))?)?)))
            .collect();
        for (stream, clock) in clocks {
            self.emit(MeshEvent::SenderReport {
                track: key,
                stream,
                clock,
            });
        }
        self.refresh_track(now, index);
    }

    /// A neighbour asks for a track. Circles and paths that are too long are refused.
    pub(super) fn handle_subscribe(&mut self, now: Instant, from: PeerKey, message: Subscribe) {
        let room = RoomId::from(message.room.as_str());
        let sid = TrackSid::from(message.track_sid.as_str());
        let origin = NodeId::from(message.origin.as_str());
        let [low, ..] = message.layers.to_le_bytes();
        let mut streams = low & STREAMS_ALL;
        let known = self.by_sid.get(&(room.clone(), sid.clone())).copied();
        let ours = origin == self.config.node;
        let circle = message
            .path
            .iter()
            .any(|node| node == self.config.node.as_str())
            || (!ours && self.next_hop(self.rooms.get(&room), &origin) == Some(from));
        let hops = message.path.len() + usize::from(!ours);
        let mismatch = known
            .and_then(|index| self.tracks.get(index))
            .is_some_and(|track| track.origin != origin);
        if streams != 0 && (circle || hops > HOPS_MAX || message.path.is_empty() || mismatch) {
            self.subscriptions_refused += 1;
            tracing::debug!(circle, hops, mismatch, "subscription refused");
            streams = 0;
        }
        let index = match known {
            Some(index) => index,
            None if streams == 0 => return,
            None => self.track_or_new(room, sid, origin),
        };
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        let position = track
            .downstreams
            .iter()
            .position(|downstream| downstream.peer == from);
        match position.and_then(|position| Some((position, track.downstreams.get_mut(position)?))) {
            Some((position, _)) if streams == 0 => self.drop_downstream(now, index, position),
            Some((_, downstream)) => {
                downstream.streams = streams;
                downstream.path = message.path;
            }
            None if streams == 0 => {}
            None => track.downstreams.push(Downstream {
                peer: from,
                streams,
                path: message.path,
                flows: [None; STREAMS_MAX],
                left_out: [LeftOut::default(); STREAMS_MAX],
                talker: None,
            }),
        }
        self.refresh_track(now, index);
    }

    /// Brings flows, upstream and demand of a track in line with who wants it; drops the track when nobody does.
    pub(super) fn refresh_track(&mut self, now: Instant, index: usize) {
        self.bind_downstreams(now, index);
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        if track.origin == self.config.node {
            if let Some(Publication { key }) = track.publication {
                self.report_demand(key);
            }
        } else {
            self.refresh_upstream(now, index);
        }
        let Some(track) = self.tracks.get(index).filter(|track| track.is_unused()) else {
            return;
        };
        let (name, subscriber) = (track.room.clone(), track.subscriber);
        self.by_sid.remove(&(name.clone(), track.sid.clone()));
        self.tracks.remove(index);
        if let Some(key) = subscriber {
            self.by_key.remove(&key);
        }
        if let Some(room) = self.rooms.get_mut(&name) {
            room.tracks.remove(&index);
        }
        self.drop_empty_room(&name);
    }

    fn refresh_upstream(&mut self, now: Instant, index: usize) {
        let Some(track) = self.tracks.get(index) else {
            return;
        };
        let hop = self.next_hop(self.rooms.get(&track.room), &track.origin);
        // A plan may turn a subscriber into the way to the publisher: then it has no use for us.
        if let Some(position) = track
            .downstreams
            .iter()
            .position(|downstream| Some(downstream.peer) == hop)
        {
            self.drop_downstream(now, index, position);
        }
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        let wanted = track.wanted();
        let target = hop.filter(|_| wanted != 0);
        let current = track
            .upstream
            .as_ref()
            .map(|upstream| (upstream.peer, upstream.streams));
        if current == target.map(|peer| (peer, wanted)) {
            return;
        }
        match (current, target) {
            (Some((peer, _)), Some(target)) if peer == target => {
                if let Some(upstream) = &mut track.upstream {
                    upstream.streams = wanted;
                }
                self.ask(index, target, wanted);
                self.wait_for_flows(now, index);
            }
            (_, Some(target)) => {
                let flows = [None; STREAMS_MAX];
                let former = track.upstream.replace(Upstream {
                    peer: target,
                    streams: wanted,
                    flows,
                    asked_again: (now, 0),
                });
                self.finish_leaving(index);
                if let (Some(upstream), Some(track)) = (former, self.tracks.get_mut(index)) {
                    let until = now + LEAVING_MAX;
                    track.leaving = Some(Leaving {
                        upstream,
                        until,
                        told: false,
                    });
                    self.leaving.push(index);
                }
                self.ask(index, target, wanted);
                self.wait_for_flows(now, index);
            }
            (Some((peer, _)), None) => {
                let former = track.upstream.take();
                self.unbind_upstream(former.as_ref());
                self.finish_leaving(index);
                self.ask(index, peer, 0);
            }
            (None, None) => {}
        }
    }

    /// Sends a request for a track.
    fn ask(&mut self, index: usize, peer: PeerKey, streams: u8) {
        let Some(track) = self.tracks.get(index) else {
            return;
        };
        let message = Subscribe {
            room: track.room.as_str().to_owned(),
            track_sid: track.sid.as_str().to_owned(),
            origin: track.origin.as_str().to_owned(),
            layers: u32::from(streams),
            path: track.path(&self.config.node),
        };
        self.send(peer, Message::Subscribe(message));
    }

    /// Sees to it that the upstream is asked again if it binds nothing: while plans change it may have another one, by which it is we
    /// who lie on its way to the publisher, and refuse.
    pub(super) fn wait_for_flows(&mut self, now: Instant, index: usize) {
        let track = self.tracks.get_mut(index);
        if let Some(upstream) = track.and_then(|track| track.upstream.as_mut()) {
            upstream.asked_again = (now + ASK_AGAIN, 0);
            if !self.unanswered.contains(&index) {
                self.unanswered.push(index);
            }
        }
    }

    /// Asks those again that have bound nothing.
    pub(super) fn ask_silent(&mut self, now: Instant) {
        for index in std::mem::take(&mut self.unanswered) {
            let track = self.tracks.get_mut(index);
            let upstream = track.and_then(|track| track.upstream.as_mut());
            let Some(upstream) = upstream.filter(|upstream| upstream.is_silent()) else {
                continue;
            };
            self.unanswered.push(index);
            let (due, times) = upstream.asked_again;
            if due > now {
                continue;
            }
            let times = (times + 1).min(ASK_AGAIN_DOUBLED_MAX);
            upstream.asked_again = (now + ASK_AGAIN * (1 << times), times);
            let (peer, streams) = (upstream.peer, upstream.streams);
            // To one that only has a long way this says nothing new.
            self.ask(index, peer, streams);
        }
    }

    /// When somebody is to be asked again.
    pub(super) fn ask_silent_at(&self) -> Option<Instant> {
        let due = |&index: &usize| {
            let upstream = self.tracks.get(index)?.upstream.as_ref()?;
            upstream.is_silent().then_some(upstream.asked_again.0)
        };
        self.unanswered.iter().filter_map(due).min()
    }

    /// The new upstream delivers: the former one may stop. What it has on its way is still taken.
    pub(super) fn tell_leaving(&mut self, index: usize) {
        let leaving = self
            .tracks
            .get_mut(index)
            .and_then(|track| track.leaving.as_mut());
        if let Some(leaving) = leaving.filter(|leaving| !leaving.told) {
            leaving.told = true;
            let peer = leaving.upstream.peer;
            self.ask(index, peer, 0);
        }
    }

    /// Lets go of a former upstream for good.
    pub(super) fn finish_leaving(&mut self, index: usize) {
        self.tell_leaving(index);
        let leaving = self
            .tracks
            .get_mut(index)
            .and_then(|track| track.leaving.take());
        self.unbind_upstream(leaving.as_ref().map(|leaving| &leaving.upstream));
    }

    fn unbind_upstream(&mut self, upstream: Option<&Upstream>) {
        let Some(upstream) = upstream else { return };
        if let Some(peer) = self.peers.get_mut(upstream.peer.0) {
            for flow in upstream.flows.into_iter().flatten() {
                peer.unbind_in(flow);
            }
        }
    }

    fn drop_downstream(&mut self, now: Instant, index: usize, position: usize) {
        self.unbind_downstream(now, (index, position), STREAMS_ALL);
        if let Some(track) = self.tracks.get_mut(index)
            && position < track.downstreams.len()
        {
            track.downstreams.swap_remove(position);
        }
    }

    /// A link is gone, and all subscriptions over it.
    pub(super) fn forget_peer(&mut self, gone: PeerKey) {
        for (_, track) in &mut self.tracks {
            let (lost, kept) = std::mem::take(&mut track.downstreams)
                .into_iter()
                .partition(|downstream| downstream.peer == gone);
            track.downstreams = kept;
            let lost: Vec<Downstream> = lost;
            for talker in lost.iter().filter_map(|downstream| downstream.talker) {
                self.voices.remove(talker);
            }
            if track
                .upstream
                .as_ref()
                .is_some_and(|upstream| upstream.peer == gone)
            {
                track.upstream = None;
                track.broken = STREAMS_ALL;
            }
            if track
                .leaving
                .as_ref()
                .is_some_and(|leaving| leaving.upstream.peer == gone)
            {
                track.leaving = None;
                track.broken = STREAMS_ALL;
            }
        }
    }
}
