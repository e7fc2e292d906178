//! Flows: small numbers that name one stream of a track on one link, bound on the control stream before media uses them.

use std::time::Instant;

use proto::link::link_message::Message;
use proto::link::{BindFlow, SenderReport, UnbindFlow};
use proto::{RoomId, TrackSid};

use super::Mesh;
use super::left_out::LeftOut;
use super::peer::{FLOWS_IN_END, FlowIn, PeerKey};
use super::track::{Format, STREAMS_ALL, STREAMS_MAX, streams_of};
use crate::link::header::Class;

impl Mesh {
    /// Binds flows for streams that are wanted and known, and unbinds those no longer wanted.
    pub(super) fn bind_downstreams(&mut self, now: Instant, index: usize) {
        let count = self
            .tracks
            .get(index)
            .map_or(0, |track| track.downstreams.len());
        for position in 0..count {
            let Some(track) = self.tracks.get(index) else {
                return;
            };
            let Some(downstream) = track.downstreams.get(position) else {
                return;
            };
            let wanted = track.streams_bound(downstream.streams);
            self.unbind_downstream(now, (index, position), !wanted & STREAMS_ALL);
            for stream in streams_of(wanted) {
                self.bind_downstream(now, (index, position), stream);
            }
        }
    }

    fn bind_downstream(&mut self, now: Instant, (index, position): (usize, usize), stream: u8) {
        let slot = usize::from(stream);
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        let Some(format) = track.formats.get(slot).copied().flatten() else {
            return;
        };
        let clock = track.clocks.get(slot).copied().flatten();
        let Some(downstream) = track.downstreams.get_mut(position) else {
            return;
        };
        let (Some(flow), Some(peer)) = (
            downstream.flows.get_mut(slot),
            self.peers.get_mut(downstream.peer.0),
        ) else {
            return;
        };
        if flow.is_some() || !peer.up {
            return;
        }
        let flow_id = peer.bind_out(
            now,
            FlowIn {
                track: index,
                stream,
            },
        );
        *flow = Some(flow_id);
        if format.class == Class::Audio && downstream.talker.is_none() {
            downstream.talker = self.voices.add(&track.room, downstream.peer);
        }
        if let Some(left_out) = downstream.left_out.get_mut(slot) {
            *left_out = LeftOut::default();
        }
        let to = downstream.peer;
        let message = BindFlow {
            flow_id,
            room: track.room.as_str().to_owned(),
            track_sid: track.sid.as_str().to_owned(),
            layer: u32::from(stream),
            class: u32::from(format.class.to_bits()),
            clock_rate: format.clock_rate,
            spatial_layers: u32::from(format.spatial),
        };
        self.send(to, Message::BindFlow(message));
        if let Some(clock) = clock {
            let age = now.saturating_duration_since(clock.received).as_micros();
            let report = SenderReport {
                flow_id,
                ntp: clock.ntp,
                rtp_timestamp: clock.rtp_timestamp,
                age_us: u32::try_from(age).unwrap_or(u32::MAX),
            };
            self.send(to, Message::SenderReport(report));
        }
    }

    /// Unbinds the flows of these streams towards a downstream.
    pub(super) fn unbind_downstream(
        &mut self,
        now: Instant,
        (index, position): (usize, usize),
        streams: u8,
    ) {
        let track = self.tracks.get_mut(index);
        let Some(downstream) = track.and_then(|track| track.downstreams.get_mut(position)) else {
            return;
        };
        let to = downstream.peer;
        let mut unbound = [None; STREAMS_MAX];
        for stream in streams_of(streams) {
            let slot = usize::from(stream);
            if let (Some(flow), Some(out)) = (downstream.flows.get_mut(slot), unbound.get_mut(slot))
            {
                *out = flow.take();
            }
        }
        let silent = downstream.flows.iter().all(Option::is_none);
        if let Some(talker) = downstream.talker.take_if(|_| silent) {
            self.voices.remove(talker);
        }
        for flow_id in unbound.into_iter().flatten() {
            if let Some(peer) = self.peers.get_mut(to.0) {
                peer.unbind_out(now, flow_id);
            }
            self.send(to, Message::UnbindFlow(UnbindFlow { flow_id }));
        }
    }

    /// A neighbour names a flow that it will send.
    pub(super) fn handle_bind(&mut self, now: Instant, from: PeerKey, message: BindFlow) {
        let name = (
            RoomId::from(message.room),
            TrackSid::from(message.track_sid),
        );
        let Some(&index) = self.by_sid.get(&name) else {
            return;
        };
        let Some(track) = self
            .tracks
            .get_mut(index)
            .filter(|track| track.comes_from(from))
        else {
            return;
        };
        let Some(stream) = u8::try_from(message.layer)
            .ok()
            .filter(|s| usize::from(*s) < STREAMS_MAX)
        else {
            return;
        };
        let slot = usize::from(stream);
        let Some(bound) = track.flows_from(from).and_then(|flows| flows.get_mut(slot)) else {
            return;
        };
        if message.flow_id >= FLOWS_IN_END {
            return;
        }
        let before = bound
            .replace(message.flow_id)
            .filter(|before| *before != message.flow_id);
        let class = Class::from_bits(message.class).unwrap_or(Class::Upper);
        if let Some(format) = track.formats.get_mut(slot) {
            *format = Some(Format {
                class,
                clock_rate: message.clock_rate,
                spatial: u8::try_from(message.spatial_layers.max(1)).unwrap_or(u8::MAX),
            });
        }
        let broken = track.broken >> stream & 1 == 1 && class != Class::Audio;
        track.broken &= !(1 << stream);
        let Some(peer) = self.peers.get_mut(from.0) else {
            return;
        };
        if let Some(before) = before {
            peer.unbind_in(before);
        }
        peer.bind_in(
            message.flow_id,
            FlowIn {
                track: index,
                stream,
            },
        );
        let parked = peer.unpark(now, message.flow_id);
        self.bind_downstreams(now, index);
        if broken {
            self.want_keyframe(now, index, stream);
        }
        self.ask_for_keyframe(now, index, stream);
        for (meta, rtp) in parked {
            self.forward(now, (index, stream), meta, rtp);
        }
    }

    pub(super) fn handle_unbind(&mut self, now: Instant, from: PeerKey, flow: u32) {
        let carried = self
            .peers
            .get_mut(from.0)
            .and_then(|peer| peer.unbind_in(flow));
        let Some(index) = carried.map(|carried| carried.track) else {
            return;
        };
        let track = self.tracks.get_mut(index);
        if let Some(flows) = track.and_then(|track| track.flows_from(from)) {
            for bound in flows {
                *bound = bound.filter(|bound| *bound != flow);
            }
            self.wait_for_flows(now, index);
        }
    }
}
