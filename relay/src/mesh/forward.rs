//! The packet path: from a link or from here, to links and to here. And what belongs to packets: clocks and keyframes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use media::router::{SenderClock, StreamIndex, TrackKey};
use proto::link::SenderReport;
use proto::link::link_message::Message;

use super::command::MeshEvent;
use super::left_out::sequence_number;
use super::peer::PeerKey;
use super::{Mesh, Output};
use crate::link::Event;
use crate::link::header::{Class, PacketMeta};

impl Mesh {
    /// Handles everything that a link has taken in.
    pub(super) fn drain_link(&mut self, now: Instant, from: PeerKey) {
        while let Some(event) = self
            .peers
            .get_mut(from.0)
            .and_then(|peer| peer.link.as_mut()?.poll_event())
        {
            match event {
                Event::Media { flow, meta, rtp } => self.handle_media(now, (from, flow), meta, rtp),
                Event::Keyframe { flow } => {
                    let carries = self.peers.get(from.0).and_then(|peer| peer.flow_out(flow));
                    if let Some(carries) = carries {
                        self.want_keyframe(now, carries.track, carries.stream);
                    }
                }
                Event::Data(body) => match prost::Message::decode(body) {
                    Ok(data) => self.handle_data(now, from, data),
                    Err(_) => self.malformed += 1,
                },
            }
        }
    }

    fn handle_media(
        &mut self,
        now: Instant,
        (from, flow): (PeerKey, u32),
        meta: PacketMeta,
        rtp: Bytes,
    ) {
        let Some(peer) = self.peers.get_mut(from.0) else {
            return;
        };
        let Some(carries) = peer.flow_in(flow) else {
            self.unbound_dropped += peer.park(now, flow, meta, rtp);
            return;
        };
        let leaving = self
            .tracks
            .get(carries.track)
            .and_then(|track| track.leaving.as_ref());
        if leaving.is_some_and(|leaving| !leaving.told && leaving.upstream.peer != from) {
            self.tell_leaving(carries.track);
        }
        self.forward(now, (carries.track, carries.stream), meta, rtp);
    }

    /// A packet of a track published here.
    pub(super) fn local_media(
        &mut self,
        now: Instant,
        track: (TrackKey, StreamIndex),
        meta: PacketMeta,
        rtp: &Bytes,
    ) {
        let places = self.published.get(&track.0).map(|p| p.tracks.len());
        let Some(places) = places else {
            self.unbound_dropped += 1;
            return;
        };
        for place in 0..places {
            let index = self
                .published
                .get(&track.0)
                .and_then(|p| p.tracks.get(place));
            if let Some(&index) = index {
                self.forward(now, (index, track.1), meta, rtp.clone());
            }
        }
    }

    /// Hands a packet to everybody who wants it. Of SVC a receiver gets the layers it wants, and hears how many packets were
    /// left out before each.
    pub(super) fn forward(
        &mut self,
        now: Instant,
        (index, stream): (usize, StreamIndex),
        meta: PacketMeta,
        rtp: Bytes,
    ) {
        let slot = usize::from(stream);
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        if meta.layer.key
            && meta.layer.frame_start
            && let Some(keyframe) = track.keyframes.get_mut(slot)
        {
            keyframe.satisfied();
        }
        let Some(format) = track.formats.get(slot).copied().flatten() else {
            return;
        };
        let seq = sequence_number(&rtp);
        let dense = format.class == Class::Audio;
        let layer = format.layer_index(stream, meta.layer);
        for downstream in &mut track.downstreams {
            let Some(flow) = downstream.flows.get(slot).copied().flatten() else {
                continue;
            };
            let link = self
                .peers
                .get_mut(downstream.peer.0)
                .and_then(|peer| peer.link.as_mut());
            let (Some(link), Some(left_out)) = (link, downstream.left_out.get_mut(slot)) else {
                continue;
            };
            let mut meta = meta;
            if let Some(seq) = seq {
                let chosen = |talker| self.voices.packet(now, talker, &meta);
                let wanted =
                    downstream.streams >> layer & 1 == 1 && downstream.talker.is_none_or(chosen);
                if !wanted && link.may_leave_out() {
                    left_out.skip(seq, meta.left_out, dense);
                    continue;
                }
                meta.left_out = left_out.send(seq, meta.left_out, dense);
            }
            link.send_media(now, (flow, format.class), meta, rtp.clone());
        }
        let (Some(key), Some(left_out)) = (track.subscriber, track.left_out.get_mut(slot)) else {
            return;
        };
        let wanted = track.demand >> layer & 1 == 1;
        let meta = match seq {
            Some(seq) if wanted => PacketMeta {
                left_out: left_out.send(seq, meta.left_out, dense),
                ..meta
            },
            Some(seq) => return left_out.skip(seq, meta.left_out, dense),
            None => meta,
        };
        if wanted {
            self.outputs.push_back(Output::Media {
                track: key,
                stream,
                meta,
                rtp,
            });
        }
    }

    /// The clock of a track published here.
    pub(super) fn local_clock(
        &mut self,
        now: Instant,
        (key, stream): (TrackKey, StreamIndex),
        clock: SenderClock,
    ) {
        let places = self.published.get(&key).map(|places| places.tracks.clone());
        for index in places.unwrap_or_default() {
            self.forward_clock(now, (index, stream), clock);
        }
    }

    pub(super) fn handle_sender_report(
        &mut self,
        now: Instant,
        from: PeerKey,
        report: &SenderReport,
    ) {
        let Some(peer) = self.peers.get(from.0) else {
            return;
        };
        let Some(carries) = peer.flow_in(report.flow_id) else {
            return;
        };
        // The report left the hop before half a round trip ago.
        let travelled = peer
            .link
            .as_ref()
            .map(|link| link.rtt() / 2)
            .unwrap_or_default();
        let age = Duration::from_micros(u64::from(report.age_us)) + travelled;
        let clock = SenderClock {
            ntp: report.ntp,
            rtp_timestamp: report.rtp_timestamp,
            received: now.checked_sub(age).unwrap_or(now),
        };
        self.forward_clock(now, (carries.track, carries.stream), clock);
    }

    fn forward_clock(
        &mut self,
        now: Instant,
        (index, stream): (usize, StreamIndex),
        clock: SenderClock,
    ) {
        let slot = usize::from(stream);
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        let Some(known) = track.clocks.get_mut(slot) else {
            return;
        };
        *known = Some(clock);
        let age = now.saturating_duration_since(clock.received).as_micros();
        let age_us = u32::try_from(age).unwrap_or(u32::MAX);
        for downstream in &track.downstreams {
            let Some(flow_id) = downstream.flows.get(slot).copied().flatten() else {
                continue;
            };
            let (ntp, rtp_timestamp) = (clock.ntp, clock.rtp_timestamp);
            let report = SenderReport {
                flow_id,
                ntp,
                rtp_timestamp,
                age_us,
            };
            let message = Message::SenderReport(report);
            self.outputs.push_back(Output::Message {
                peer: downstream.peer,
                message,
            });
        }
        if let Some(track) = track.subscriber.filter(|_| track.demand >> stream & 1 == 1) {
            self.emit(MeshEvent::SenderReport {
                track,
                stream,
                clock,
            });
        }
    }

    /// A subscriber here needs a keyframe.
    pub(super) fn local_keyframe(&mut self, now: Instant, key: TrackKey, stream: StreamIndex) {
        if let Some(&index) = self.by_key.get(&key) {
            self.want_keyframe(now, index, stream);
        }
    }

    /// Somebody needs a keyframe: asks at most every 300 ms, until one comes by.
    pub(super) fn want_keyframe(&mut self, now: Instant, index: usize, stream: StreamIndex) {
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        let stream = track.stream_of(stream);
        if let Some(publication) = &track.publication {
            let track = publication.key;
            self.emit(MeshEvent::KeyframeNeeded { track, stream });
            return;
        }
        let Some(keyframe) = track.keyframes.get_mut(usize::from(stream)) else {
            return;
        };
        if keyframe.want() {
            self.keyframes_wanted.push((index, stream));
        }
        self.ask_for_keyframe(now, index, stream);
    }

    /// Asks the upstream for a keyframe if one is wanted and it is time.
    pub(super) fn ask_for_keyframe(&mut self, now: Instant, index: usize, stream: StreamIndex) {
        let slot = usize::from(stream);
        let Some(track) = self.tracks.get_mut(index) else {
            return;
        };
        let Some(upstream) = &track.upstream else {
            return;
        };
        let Some(flow) = upstream.flows.get(slot).copied().flatten() else {
            return;
        };
        let Some(keyframe) = track.keyframes.get_mut(slot) else {
            return;
        };
        let link = self
            .peers
            .get_mut(upstream.peer.0)
            .and_then(|peer| peer.link.as_mut());
        if let Some(link) = link
            && keyframe.due(now).is_some_and(|due| due <= now)
        {
            keyframe.asked(now);
            link.send_keyframe_request(flow);
        }
    }

    /// Repeats requests for keyframes that did not come.
    pub(super) fn retry_keyframes(&mut self, now: Instant) {
        let waiting = std::mem::take(&mut self.keyframes_wanted);
        for (index, stream) in waiting {
            self.ask_for_keyframe(now, index, stream);
            let track = self.tracks.get(index);
            let keyframe = track.and_then(|track| track.keyframes.get(usize::from(stream)));
            if keyframe.is_some_and(|keyframe| keyframe.wanted) {
                self.keyframes_wanted.push((index, stream));
            }
        }
    }

    /// When a request for a keyframe is to be repeated. Those without a bound flow wait for that instead.
    pub(super) fn keyframe_due(&self, now: Instant) -> Option<Instant> {
        let due = |&(index, stream): &(usize, StreamIndex)| {
            let slot = usize::from(stream);
            let track = self.tracks.get(index)?;
            track
                .upstream
                .as_ref()?
                .flows
                .get(slot)
                .copied()
                .flatten()?;
            track.keyframes.get(slot)?.due(now)
        };
        self.keyframes_wanted.iter().filter_map(due).min()
    }
}
