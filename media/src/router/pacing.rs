//! Congestion control and pacing at work: what waits goes out when it may, probes are filled up, and the rates follow the
//! estimate.

use std::time::{Duration, Instant};

use super::downtrack::Downtrack;
use super::egress::{Egress, Held, Moment};
use super::forward::emit_held;
use super::repair::{PADDING_MAX, pad, resend};
use super::timers::Timer;
use super::{Output, Router};
use crate::congestion::Probe;

/// Packets of a probe at least (libwebrtc's `min_probe_packets_sent`).
const PROBE_PACKETS: usize = 5;

/// Least time between two looks at a probe: what a millisecond timer can serve, and half of libwebrtc's `min_probe_delta`.
const PROBE_TICK: Duration = Duration::from_millis(1);

/// A probe that takes this many times as long as it should is given up: there was nothing to fill it with.
const PROBE_STRETCH: u32 = 4;

/// Header, extensions and tag of a packet in bytes, about.
pub(super) const OVERHEAD: usize = 50;

/// A probe on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probing {
    probe: Probe,
    since: Instant,
    sent_bytes: usize,
    sent_packets: usize,
}

impl Probing {
    pub(super) fn new(probe: Probe, now: Instant) -> Self {
        Self {
            probe,
            since: now,
            sent_bytes: 0,
            sent_packets: 0,
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.probe.id
    }

    pub(super) fn bps(&self) -> u64 {
        self.probe.bps
    }

    #[inline]
    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes;
        self.sent_packets += 1;
    }

    fn is_complete(&self) -> bool {
        self.sent_bytes >= self.probe.bytes && self.sent_packets >= PROBE_PACKETS
    }

    fn is_over(&self, now: Instant) -> bool {
        self.is_complete() || now >= self.since + self.probe.duration * PROBE_STRETCH
    }

    /// When the next packet is due at the probe's rate.
    fn due(&self) -> Instant {
        let us = (self.sent_bytes as u64).saturating_mul(8_000_000) / self.probe.bps.max(1);
        self.since + Duration::from_micros(us)
    }

    /// The size of the next packet in bytes on the wire, so that at least five make the probe.
    fn room(&self) -> usize {
        let left = self.probe.bytes.saturating_sub(self.sent_bytes);
        let packets = PROBE_PACKETS.saturating_sub(self.sent_packets).max(1);
        left.div_ceil(packets)
    }
}

impl Router {
    /// Sends what may go now, fills up a probe, and arms the next look.
    pub(super) fn serve_pacer(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let moment = self.moment(now);
        let Some(transport) = self.transports.get_mut(slot) else {
            return;
        };
        let egress = &mut transport.egress;
        if egress.controller.poll_timeout().is_some_and(|at| at <= now) {
            egress.controller.handle_timeout(now);
            self.follow_estimate(now, slot, out);
        }
        self.begin_probe(now, slot);
        self.send_held(&moment, slot, out);
        self.fill_probe(&moment, slot, out);
        let Some(transport) = self.transports.get_mut(slot) else {
            return;
        };
        if let Some(at) = transport.egress.next_look(now) {
            let armed = &mut transport.armed_pacer;
            self.timers.arm(armed, Timer::Pacer(slot), at);
        }
    }

    /// The estimate may have moved: the pacer follows, and the next look at the transport comes at once.
    pub(super) fn follow_estimate(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let Some(transport) = self.transports.get_mut(slot) else {
            return;
        };
        transport.egress.follow_estimate(now);
        let armed = &mut transport.armed_pacer;
        self.timers.arm(armed, Timer::Pacer(slot), now);
        self.follow_budget(now, slot, out);
    }

    fn begin_probe(&mut self, now: Instant, slot: usize) {
        if let Some(transport) = self.transports.get_mut(slot)
            && transport.egress.begin_probe(now)
        {
            self.stats.probes += 1;
        }
    }

    fn send_held(&mut self, moment: &Moment, slot: usize, out: &mut Output) {
        let Self {
            tracks,
            transports,
            downtracks,
            stats,
            scratch,
            ..
        } = self;
        let Some(transport) = transports.get_mut(slot) else {
            return;
        };
        while let Some(held) = transport.egress.pacer.pop(moment.now) {
            let position = held.position();
            let Some(downtrack) = downtracks.get_mut(position) else {
                continue;
            };
            let Some(track) = tracks.get(downtrack.track) else {
                continue;
            };
            let ends = (&mut *downtrack, &mut *transport);
            match held {
                Held::Media {
                    stamped, packet, ..
                } => {
                    let held = (&stamped, &*packet);
                    match emit_held(moment, held, track.key, ends, (scratch, out)) {
                        Ok(bytes) => stats.note_forwarded(bytes),
                        Err(reason) => stats.drop_packet(reason),
                    }
                }
                Held::Repair { record, .. } => {
                    match resend(moment, &record, track, ends, (scratch, out)) {
                        Some(_) => stats.rtx_sent += 1,
                        None => stats.rtx_refused += 1,
                    }
                }
            }
        }
    }

    /// Pads a probe to its rate.
    fn fill_probe(&mut self, moment: &Moment, slot: usize, out: &mut Output) {
        let Self {
            tracks,
            transports,
            downtracks,
            stats,
            scratch,
            ..
        } = self;
        let Some(transport) = transports.get_mut(slot) else {
            return;
        };
        let Some(position) = padding_source(&transport.downtracks, downtracks) else {
            return;
        };
        let Some(downtrack) = downtracks.get_mut(position) else {
            return;
        };
        let Some(track) = tracks.get(downtrack.track) else {
            return;
        };
        while let Some(room) = transport.egress.padding_due(moment.now) {
            let ends = (&mut *downtrack, &mut *transport);
            let room = room.max(PADDING_MAX);
            let Some(bytes) = pad(moment, room, track, ends, (scratch, out)) else {
                return;
            };
            stats.padding_packets += 1;
            stats.padding_bytes += bytes as u64;
            transport.egress.traffic.padding_bytes += bytes as u64;
        }
    }
}

/// The subscription whose packets make padding: the one with RTX that was sent to last.
fn padding_source(positions: &[usize], downtracks: &slab::Slab<Downtrack>) -> Option<usize> {
    let with_rtx = positions.iter().copied().filter(|&position| {
        downtracks
            .get(position)
            .is_some_and(|d| d.rtx_ssrc.is_some() && d.payloads.iter().any(|p| p.rtx_pt.is_some()))
    });
    with_rtx.max_by_key(|&position| downtracks.get(position).and_then(|d| d.last_sent))
}

impl Egress {
    /// The pacer's rate as the estimate has it.
    fn follow_estimate(&mut self, now: Instant) {
        let target = self.controller.target_bps();
        let paced = target.map(|_| {
            let probe = self.probing.map_or(0, |probing| probing.bps());
            self.controller.pacing_bps().max(probe)
        });
        self.pacer.set_rate(now, paced, target.unwrap_or(0));
    }

    /// Ends a probe that is over and begins the next; returns whether one began.
    fn begin_probe(&mut self, now: Instant) -> bool {
        let over = self.probing.take_if(|probing| probing.is_over(now));
        let next = if self.probing.is_none() && self.is_measured() {
            self.controller.poll_probe()
        } else {
            None
        };
        if let Some(probe) = next {
            self.probing = Some(Probing::new(probe, now));
        }
        if over.is_some() || next.is_some() {
            self.follow_estimate(now);
        }
        next.is_some()
    }

    /// The size of the padding packet that is due, if one is.
    fn padding_due(&self, now: Instant) -> Option<usize> {
        self.probing
            .filter(|probing| !probing.is_complete() && probing.due() <= now)
            .map(|probing| probing.room())
    }

    /// When to look again.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        let probe = self.probing.map(|probing| {
            if probing.is_complete() {
                now
            } else {
                probing.due().max(now + PROBE_TICK)
            }
        });
        [
            self.pacer.poll_timeout(),
            self.controller.poll_timeout(),
            probe,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
