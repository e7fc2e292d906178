//! Which streams are wanted, and keyframes to switch on.

use std::time::{Duration, Instant};

use super::track::STALL;
use super::{Event, Output, Router, StreamIndex, Timer};

/// Between two looks at a track whose subscriptions wait for something.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

impl Router {
    /// After any change: announces demand, asks for missing keyframes, arms the track's timer.
    pub(super) fn refresh_track(&mut self, now: Instant, slot: usize, out: &mut Output) {
        self.refresh_demand(now, slot, out);
        let (waiting, deferred) = self.waiting(slot);
        for stream in (0..8).filter(|stream| waiting & (1 << stream) != 0) {
            self.request_keyframe(now, slot, stream, out);
        }
        self.arm_track(now, slot, waiting != 0 || deferred);
    }

    /// Announces a changed demand.
    pub(super) fn refresh_demand(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let streams = track
            .downtracks
            .iter()
            .filter_map(|&position| self.downtracks.get(position))
            .fold(0, |streams, downtrack| streams | downtrack.demand(track));
        if streams != track.demand {
            track.set_demand(now, streams);
            out.event(Event::Demand {
                track: track.key,
                streams,
            });
        }
    }

    /// Bitmask of streams whose keyframe some subscription waits for and could take, and whether there are some that could not:
    /// a keyframe into a full queue is refused or makes it longer.
    fn waiting(&self, slot: usize) -> (u8, bool) {
        let Some(track) = self.tracks.get(slot) else {
            return (0, false);
        };
        if track.muted || track.is_audio() {
            return (0, false);
        }
        let (mut waiting, mut deferred) = (0, false);
        for downtrack in track
            .downtracks
            .iter()
            .filter_map(|&at| self.downtracks.get(at))
        {
            let Some(stream) = downtrack.waits_for(track) else {
                continue;
            };
            let transport = self.transports.get(downtrack.transport);
            if transport.is_some_and(|transport| transport.egress.controller.has_backlog()) {
                deferred = true;
            } else {
                waiting |= 1 << stream;
            }
        }
        (waiting, deferred)
    }

    fn arm_track(&mut self, now: Instant, slot: usize, waiting: bool) {
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let layered = track.config.layers() > 1 && track.live != 0;
        let pending = track
            .next_request_at(now, self.config.keyframe_interval_min)
            .filter(|_| !track.muted);
        let look = if waiting {
            Some(now + LOOK_INTERVAL)
        } else {
            (layered && !track.downtracks.is_empty()).then(|| now + STALL / 2)
        };
        if let Some(at) = pending.into_iter().chain(look).min() {
            self.timers.arm(&mut track.armed, Timer::Track(slot), at);
        }
    }

    /// Repeats requests and notices streams that stopped.
    pub(super) fn serve_track(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        track.refresh_live(now);
        if !track.muted {
            self.send_keyframe_requests(now, slot, out);
        }
        self.refresh_track(now, slot, out);
    }

    /// Somebody needs a keyframe: the publisher is asked as soon as its track's limits allow.
    pub(super) fn request_keyframe(
        &mut self,
        now: Instant,
        slot: usize,
        stream: StreamIndex,
        out: &mut Output,
    ) {
        let Some(track) = self.tracks.get_mut(slot).filter(|t| !t.is_audio()) else {
            return;
        };
        let remote = track.is_remote();
        let Some(entry) = track.stream_mut(stream) else {
            return;
        };
        // Without a publisher there is nobody to ask: a request that waited would be overdue for ever.
        if remote || entry.uplink.is_some() {
            entry.keyframes.want(now);
            self.send_keyframe_requests(now, slot, out);
        } else {
            entry.keyframes.answered();
        }
    }

    /// Sends the requests that may go out, and arms the timer for the rest.
    fn send_keyframe_requests(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let interval = self.config.keyframe_interval_min;
        let (waiting, _) = self.waiting(slot);
        while let Some(track) = self.tracks.get_mut(slot) {
            let Some(stream) = track.next_request(now, waiting, interval) else {
                if let Some(at) = track.next_request_at(now, interval) {
                    self.timers.arm(&mut track.armed, Timer::Track(slot), at);
                }
                return;
            };
            if track.is_remote() {
                let track = track.key;
                out.event(Event::KeyframeNeeded { track, stream });
            } else {
                self.send_keyframe_request(slot, stream, out);
            }
        }
    }

    fn send_keyframe_request(&mut self, slot: usize, stream: StreamIndex, out: &mut Output) {
        let sender = self.config.feedback_ssrc;
        let entry = self.tracks.get_mut(slot).and_then(|t| t.stream_mut(stream));
        let Some(uplink) = entry.and_then(|entry| entry.uplink.as_mut()) else {
            return;
        };
        let Some(publisher) = self.transports.get_mut(uplink.transport) else {
            return;
        };
        self.stats.plis_sent += 1;
        uplink.meter.plis += 1;
        publisher.egress.send_rtcp(&mut out.arena, |writer| {
            // A single packet fits.
            let _written = if uplink.pli {
                writer.pli(sender, uplink.ssrc)
            } else {
                uplink.fir_seq = uplink.fir_seq.wrapping_add(1);
                writer.fir(sender, uplink.ssrc, uplink.fir_seq)
            };
        });
    }
}
