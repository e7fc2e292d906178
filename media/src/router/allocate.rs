//! What each subscriber gets of what it wants: the split of its budget.
//!
//! A layer that only bandwidth denies stays in demand for [`DENIED_HOLD`], so that a short drop makes neither the mesh nor the
//! publisher stop and start it; after that nobody gets it and it is not carried. When there is room again, the grant brings it back.

use std::time::{Duration, Instant};

use super::downtrack::Downtrack;
use super::track::Track;
use super::{Event, Output, Router, Target, Timer, TrackKey};
use crate::allocation::{Kind, Share, Video};

/// Between two looks at what a subscriber with a known path gets: rates change without anybody saying so.
const INTERVAL: Duration = Duration::from_millis(500);

/// An estimate that moved by less than one in this many is the same.
const MOVED: u64 = 33;

/// Least time between two splits while the estimate rises.
const RISE_INTERVAL: Duration = Duration::from_millis(100);

/// How long a layer that does not fit any more stays in demand.
pub(super) const DENIED_HOLD: Duration = Duration::from_secs(2);

/// A layer that is asked for and does not come within this time is taken for not sent.
const ARRIVAL_MAX: Duration = Duration::from_secs(3);

/// Taken for the lowest layer's bit/s while nothing is known: libwebrtc's 320x180 at 15 frames per second; four times as much
/// per layer.
const UNKNOWN_BPS: u64 = 150_000;

/// What one audio track is taken for while nothing is known, in bit/s: Opus at 32 kbit/s in 20 ms packets.
const AUDIO_BPS: u64 = 60_000;

impl Router {
    /// Splits a transport's budget anew and puts the result into force.
    pub(super) fn reallocate(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let mut table = std::mem::take(&mut self.table);
        let mut positions = std::mem::take(&mut self.positions);
        self.split(now, slot, (&mut table, &mut positions));
        for (&position, &given) in positions.iter().zip(&table.given) {
            self.grant(now, position, given, out);
        }
        self.table = table;
        self.positions = positions;
        self.arm_allocation(now, slot);
    }

    /// The estimate may have moved: splits anew at once when it fell, and at most every [`RISE_INTERVAL`] when it rose.
    pub(super) fn follow_budget(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let Some(transport) = self.transports.get(slot) else {
            return;
        };
        let (before, at) = transport.split;
        let moved = match (before, transport.egress.budget_bps()) {
            (Some(before), Some(budget)) => {
                let enough = before.abs_diff(budget) > before / MOVED;
                enough && (budget < before || now >= at + RISE_INTERVAL)
            }
            (before, budget) => before != budget,
        };
        if moved {
            self.reallocate(now, slot, out);
        }
    }

    fn split(
        &mut self,
        now: Instant,
        slot: usize,
        (table, positions): (&mut crate::allocation::Table, &mut Vec<usize>),
    ) {
        table.shares.clear();
        table.given.clear();
        positions.clear();
        let Some(transport) = self.transports.get_mut(slot) else {
            return;
        };
        for &position in &transport.downtracks {
            let Some(downtrack) = self.downtracks.get_mut(position) else {
                continue;
            };
            let Some(track) = self.tracks.get(downtrack.track) else {
                continue;
            };
            if let Some(share) = share(now, downtrack, track) {
                table.shares.push(share);
                positions.push(position);
            }
        }
        let budget = transport.egress.budget_bps();
        transport.split = (budget, now);
        let summary = transport.allocator.allocate(now, budget, table);
        transport.egress.set_wanted(now, summary.wanted_bps);
        if transport.egress.controller.has_probe() {
            let armed = &mut transport.armed_pacer;
            self.timers.arm(armed, Timer::Pacer(slot), now);
        }
    }

    /// Lets a subscription have what it was given.
    pub(super) fn grant(
        &mut self,
        now: Instant,
        position: usize,
        given: Option<Target>,
        out: &mut Output,
    ) {
        let Some(downtrack) = self.downtracks.get_mut(position) else {
            return;
        };
        let Some(track) = self.tracks.get(downtrack.track) else {
            return;
        };
        let slot = downtrack.track;
        let changed = downtrack.grant(now, given, track);
        let paused = given.is_none() && downtrack.target.is_some();
        if paused != downtrack.paused_since.is_some() {
            downtrack.paused_since = paused.then_some(now);
            let track = track.key;
            let transport = self.transports.get(downtrack.transport);
            if let Some(transport) = transport.map(|transport| transport.egress.key) {
                out.event(Event::StreamState {
                    transport,
                    track,
                    paused,
                });
            }
        }
        if changed {
            self.refresh_track(now, slot, out);
        }
    }

    /// Looks again while the path is limited and something comes.
    fn arm_allocation(&mut self, now: Instant, slot: usize) {
        let Self {
            transports,
            downtracks,
            tracks,
            timers,
            ..
        } = self;
        let Some(transport) = transports.get_mut(slot) else {
            return;
        };
        let live = |&position: &usize| {
            let downtrack = downtracks.get(position);
            downtrack.is_some_and(|downtrack| {
                let track = tracks.get(downtrack.track);
                downtrack.is_held() || track.is_some_and(|track| track.live != 0)
            })
        };
        transport.allocation_due = None;
        if transport.egress.budget_bps().is_some() && transport.downtracks.iter().any(live) {
            let at = now + INTERVAL;
            transport.allocation_due = Some(at);
            timers.arm(&mut transport.armed, Timer::Transport(slot), at);
        }
    }

    /// The look that is due.
    pub(super) fn serve_allocation(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let transport = self.transports.get(slot);
        if transport.is_some_and(|t| t.allocation_due.is_some_and(|due| due <= now)) {
            self.reallocate(now, slot, out);
        }
    }

    /// A track costs something again, or matters more or less: its subscribers' splits are looked at soon.
    pub(super) fn hasten_allocations(&mut self, now: Instant, track_slot: usize) {
        let Self {
            transports,
            downtracks,
            tracks,
            timers,
            ..
        } = self;
        let Some(track) = tracks.get(track_slot) else {
            return;
        };
        for downtrack in track.downtracks.iter().filter_map(|&at| downtracks.get(at)) {
            let slot = downtrack.transport;
            if let Some(transport) = transports.get_mut(slot)
                && transport.egress.budget_bps().is_some()
            {
                transport.allocation_due = Some(now);
                timers.arm(&mut transport.armed, Timer::Transport(slot), now);
            }
        }
    }

    /// [`super::Command::SetPriority`].
    pub(super) fn set_priority(
        &mut self,
        now: Instant,
        keys: (super::TransportKey, TrackKey),
        priority: u8,
        out: &mut Output,
    ) {
        let Some((position, _)) = self.find(keys.0, keys.1) else {
            return;
        };
        if let Some(downtrack) = self.downtracks.get_mut(position) {
            downtrack.priority = priority;
            let slot = downtrack.transport;
            self.reallocate(now, slot, out);
        }
    }

    /// [`super::Command::SetSpeaking`].
    pub(super) fn set_speaking(&mut self, now: Instant, key: TrackKey, speaking: bool) {
        let Some(&slot) = self.track_slots.get(&key) else {
            return;
        };
        if let Some(track) = self.tracks.get_mut(slot)
            && track.speaking != speaking
        {
            track.speaking = speaking;
            self.hasten_allocations(now, slot);
        }
    }
}

/// A subscription as the allocator sees it; `None` while nothing of it is wanted.
fn share(now: Instant, downtrack: &mut Downtrack, track: &Track) -> Option<Share> {
    let wanted = downtrack.target?;
    let kind = if track.is_audio() {
        let [[bps, ..], ..] = track.meter.rates();
        Kind::Audio {
            bps: if bps == 0 { AUDIO_BPS } else { bps },
        }
    } else {
        let layer = track.top(wanted.layer);
        Kind::Video(Video {
            wanted: Target { layer, ..wanted },
            rates: rates(now, track),
            announced_bps: announced(now, track, layer),
            svc: track.is_svc(),
            screen: track.config.screen,
        })
    };
    Some(Share {
        kind,
        priority: downtrack.priority,
        speaking: track.speaking,
        current: downtrack.granted,
        fresh: std::mem::take(&mut downtrack.fresh),
    })
}

/// What a layer may cost, as announced; what does not come although it was asked for costs nothing.
fn announced(now: Instant, track: &Track, top: u8) -> u64 {
    let sent = |layer: &u8| !track.muted && !is_missing(now, track, *layer);
    let sent = (0..=top).rev().find(sent);
    sent.and_then(|layer| track.announced_bps(layer))
        .unwrap_or(0)
}

/// Whether a layer does not come although it was asked for.
fn is_missing(now: Instant, track: &Track, layer: u8) -> bool {
    let asked = track.asked_since(layer);
    track.live & (1 << layer) == 0 && asked.is_some_and(|at| now >= at + ARRIVAL_MAX)
}

/// What the layers of a track cost: as measured, as announced while nothing was measured. What does not come although it was
/// asked for costs nothing more.
fn rates(now: Instant, track: &Track) -> crate::allocation::Rates {
    let mut rates = track.meter.rates();
    if track.muted {
        return crate::allocation::Rates::default();
    }
    let mut below = Default::default();
    let mut announced_below = 0;
    for (index, layer) in (0u8..).zip(rates.iter_mut()) {
        let announced = track.announced_bps(index);
        if is_missing(now, track, index) {
            *layer = if track.is_svc() {
                Default::default()
            } else {
                below
            };
        } else if layer.iter().all(|bps| *bps == 0) {
            let known = announced.unwrap_or(UNKNOWN_BPS << (2 * index));
            let [lowest, ..] = layer;
            *lowest = if track.is_svc() {
                known.saturating_sub(announced_below)
            } else {
                known
            };
        }
        announced_below = announced.unwrap_or(announced_below);
        below = *layer;
    }
    rates
}
