//! Changes of the router's tables.

use std::time::Instant;

use super::downtrack::Downtrack;
use super::egress::{Egress, Retired};
use super::track::Track;
use super::transport::Transport;
use super::{
    Output, ReceiveConfig, Router, Source, SubscriptionConfig, Target, TrackConfig, TrackKey,
    TransportKey,
};
use crate::retransmit::SendHistory;
use crate::srtp::{Inbound, Outbound, SessionKeys};

/// Initial sequence numbers stay below this, so that no receiver mistakes the rollover counter
/// (RFC 3711 section 3.3.1).
const FIRST_SEQ_MAX: u64 = 1 << 14;

impl Router {
    pub(super) fn add_transport(&mut self, now: Instant, key: TransportKey, keys: &SessionKeys) {
        if self.transport_slots.contains_key(&key) {
            return;
        }
        // The key lengths were checked when the keys were made.
        let (Ok(inbound), Ok(outbound)) = (Inbound::new(keys), Outbound::new(keys)) else {
            return;
        };
        let entry = self.transports.vacant_entry();
        let slot = entry.key();
        let egress = Egress::new(key, slot, outbound, now);
        entry.insert(Transport::new(inbound, egress, now));
        self.transport_slots.insert(key, slot);
    }

    pub(super) fn remove_transport(&mut self, now: Instant, key: TransportKey, out: &mut Output) {
        let Some(slot) = self.transport_slots.remove(&key) else {
            return;
        };
        let Some(transport) = self.transports.try_remove(slot) else {
            return;
        };
        for position in transport.downtracks {
            let Some(downtrack) = self.downtracks.try_remove(position) else {
                continue;
            };
            if let Some(track) = self.tracks.get_mut(downtrack.track) {
                track.downtracks.retain(|&other| other != position);
                self.refresh_demand(now, downtrack.track, out);
            }
        }
        for (track, stream) in transport.uplinks {
            if let Some(stream) = self
                .tracks
                .get_mut(track)
                .and_then(|t| t.stream_mut(stream))
            {
                stream.uplink.take_if(|uplink| uplink.transport == slot);
            }
        }
    }

    pub(super) fn set_receive(&mut self, key: TransportKey, receive: ReceiveConfig) {
        let slot = self.transport_slots.get(&key).copied();
        if let Some(transport) = slot.and_then(|slot| self.transports.get_mut(slot)) {
            transport.demux.configure(receive);
        }
    }

    pub(super) fn add_track(
        &mut self,
        now: Instant,
        key: TrackKey,
        config: TrackConfig,
        out: &mut Output,
    ) {
        if self.track_slots.contains_key(&key) {
            return;
        }
        let slot = self.tracks.insert(Track::new(key, config, &self.config));
        self.track_slots.insert(key, slot);
        self.join_group(slot);
        self.refresh_track(now, slot, out);
    }

    pub(super) fn remove_track(&mut self, key: TrackKey) {
        let Some(slot) = self.track_slots.remove(&key) else {
            return;
        };
        let Some(track) = self.tracks.try_remove(slot) else {
            return;
        };
        self.leave_group(&track);
        for position in track.downtracks {
            self.detach(position);
        }
        if let Source::Local(publisher) = track.config.source {
            let publisher = self.transport_slots.get(&publisher).copied();
            if let Some(transport) = publisher.and_then(|slot| self.transports.get_mut(slot)) {
                transport.uplinks.retain(|&(track, _)| track != slot);
            }
        }
    }

    pub(super) fn subscribe(
        &mut self,
        now: Instant,
        keys: (TransportKey, TrackKey),
        config: &SubscriptionConfig,
        out: &mut Output,
    ) {
        self.unsubscribe(now, keys.0, keys.1, out);
        let first = 1 + self.random() % FIRST_SEQ_MAX;
        let first_rtx = 1 + self.random() % FIRST_SEQ_MAX;
        let (Some(&transport_slot), Some(&track_slot)) = (
            self.transport_slots.get(&keys.0),
            self.track_slots.get(&keys.1),
        ) else {
            return;
        };
        let (Some(transport), Some(track)) = (
            self.transports.get_mut(transport_slot),
            self.tracks.get_mut(track_slot),
        ) else {
            return;
        };
        let at = (transport_slot, track_slot);
        let mut downtrack = Downtrack::new(at, config, (first, first_rtx), now);
        if track.config.streams > 1 {
            downtrack.line.leave_out_dependency_descriptor();
        }
        for ssrc in std::iter::once(config.ssrc).chain(config.rtx_ssrc) {
            if let Some(retired) = transport.egress.revive(ssrc) {
                downtrack.go_on(retired);
            }
        }
        let packets = if track.is_audio() {
            self.config.audio_cache_packets
        } else {
            self.config.video_cache_packets
        };
        downtrack.history = Some(SendHistory::new(packets));
        let position = self.downtracks.insert(downtrack);
        track.downtracks.push(position);
        transport.downtracks.push(position);
        transport.by_ssrc.insert(config.ssrc, position);
        if let Some(ssrc) = config.rtx_ssrc {
            transport.by_ssrc.insert(ssrc, position);
        }
        self.reallocate(now, transport_slot, out);
        self.refresh_track(now, track_slot, out);
    }

    pub(super) fn unsubscribe(
        &mut self,
        now: Instant,
        transport: TransportKey,
        track: TrackKey,
        out: &mut Output,
    ) {
        let Some((position, track_slot)) = self.find(transport, track) else {
            return;
        };
        self.detach(position);
        if let Some(track) = self.tracks.get_mut(track_slot) {
            track.downtracks.retain(|&other| other != position);
        }
        self.refresh_track(now, track_slot, out);
    }

    /// Takes a subscription out of its transport; its track is the caller's business.
    fn detach(&mut self, position: usize) {
        let Some(downtrack) = self.downtracks.try_remove(position) else {
            return;
        };
        let Some(transport) = self.transports.get_mut(downtrack.transport) else {
            return;
        };
        transport.downtracks.retain(|&other| other != position);
        transport.by_ssrc.retain(|_, other| *other != position);
        transport
            .egress
            .pacer
            .retain(|held| held.position() != position);
        let media = Retired::Media(downtrack.rewriter.suspend(), downtrack.last_sent);
        transport.egress.retire(downtrack.line.ssrc, media);
        if let Some(ssrc) = downtrack.rtx_ssrc {
            let repair = Retired::Repair(downtrack.next_rtx);
            transport.egress.retire(ssrc, repair);
        }
    }

    /// Positions of a subscription and of its track.
    pub(super) fn find(&self, transport: TransportKey, track: TrackKey) -> Option<(usize, usize)> {
        let transport = *self.transport_slots.get(&transport)?;
        let track_slot = *self.track_slots.get(&track)?;
        let positions = &self.transports.get(transport)?.downtracks;
        let of_track = |position: usize| {
            self.downtracks
                .get(position)
                .is_some_and(|d| d.track == track_slot)
        };
        let position = positions
            .iter()
            .copied()
            .find(|&position| of_track(position))?;
        Some((position, track_slot))
    }

    pub(super) fn set_target(
        &mut self,
        now: Instant,
        keys: (TransportKey, TrackKey),
        target: Option<Target>,
        out: &mut Output,
    ) {
        let Some((position, track_slot)) = self.find(keys.0, keys.1) else {
            return;
        };
        let Some(downtrack) = self.downtracks.get_mut(position) else {
            return;
        };
        if downtrack.target == target {
            return;
        }
        downtrack.want(target);
        let transport = downtrack.transport;
        if target.is_none() {
            self.grant(now, position, None, out);
        }
        self.reallocate(now, transport, out);
        self.refresh_track(now, track_slot, out);
    }

    pub(super) fn export(&mut self, now: Instant, key: TrackKey, streams: u8, out: &mut Output) {
        let Some(&slot) = self.track_slots.get(&key) else {
            return;
        };
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let mut added = streams & !track.exported;
        track.exported = streams;
        if track.is_svc() {
            // All layers are in the one stream.
            added = u8::from(added != 0);
        }
        if !track.is_audio() && !track.muted {
            for stream in (0..track.config.streams).filter(|stream| added & (1 << stream) != 0) {
                self.request_keyframe(now, slot, stream, out);
            }
        }
    }

    pub(super) fn set_muted(&mut self, now: Instant, key: TrackKey, muted: bool, out: &mut Output) {
        let Some(&slot) = self.track_slots.get(&key) else {
            return;
        };
        if let Some(track) = self.tracks.get_mut(slot) {
            track.muted = muted;
            self.refresh_track(now, slot, out);
        }
    }
}
