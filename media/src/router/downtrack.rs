//! One subscription: which stream it gets and how that is rewritten.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::allocate::DENIED_HOLD;
use super::egress::{Line, Retired};
use super::lateness::Lateness;
use super::report::DowntrackMeter;
use super::track::Track;
use super::{SendPayload, SenderClock, StreamIndex, SubscriptionConfig, Target};
use crate::layer::{Limits, Selection, Vp8};
use crate::packet::Packet;
use crate::retransmit::SendHistory;
use crate::rewrite::Rewriter;

/// Round trip assumed before the receiver's reports tell it.
const RTT_INITIAL: Duration = Duration::from_millis(50);

/// How long a keyframe counts as just sent: what it takes to make up for it at a third more than the rate of the stream.
const AFTER_KEYFRAME: Duration = Duration::from_millis(1500);

/// A timestamp that a layer switch may be off from the time that passed; more means that the
/// publisher's clocks do not agree.
const SWITCH_SKEW_MAX: Duration = Duration::from_secs(2);

/// One transport receives one track.
#[derive(Debug)]
pub(super) struct Downtrack {
    /// Position of the transport.
    pub(super) transport: usize,
    /// Position of the track.
    pub(super) track: usize,
    /// What the client wants.
    pub(super) target: Option<Target>,
    /// What it gets of that.
    pub(super) granted: Option<Target>,
    /// The client changed what it wants since the last grant.
    pub(super) fresh: bool,
    /// A layer that did not fit any more, and until when it stays in demand.
    denied: Option<(u8, Instant)>,
    /// The receiver's own order: 1 first, 0 = not said.
    pub(super) priority: u8,
    /// The stream that is forwarded.
    pub(super) current: Option<StreamIndex>,
    /// The stream that was forwarded last, whose timestamps go on.
    previous: Option<StreamIndex>,
    /// What is forwarded of that stream.
    pub(super) selection: Selection,
    pub(super) rewriter: Rewriter,
    pub(super) history: Option<SendHistory>,
    pub(super) line: Line,
    pub(super) payloads: SmallVec<[SendPayload; 4]>,
    pub(super) red: bool,
    pub(super) rtx_ssrc: Option<u32>,
    /// Extended sequence number of the next retransmission.
    pub(super) next_rtx: u64,
    /// Number that the newest keyframe began with: what was before it can be done without.
    pub(super) keyframe_at: u64,
    /// When that was.
    pub(super) keyframe_sent: Option<Instant>,
    pub(super) started: bool,
    pub(super) packets: u32,
    pub(super) octets: u32,
    pub(super) last_sent: Option<Instant>,
    pub(super) reports: Reports,
    /// How late what the receiver lost comes again.
    pub(super) lateness: Lateness,
    pub(super) rtt: Duration,
    /// The receiver's reports told the round trip.
    pub(super) rtt_measured: bool,
    /// Since when nothing is sent because it does not fit the receiver's path.
    pub(super) paused_since: Option<Instant>,
    pub(super) meter: DowntrackMeter,
}

/// Sender reports of one subscription.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reports {
    pub(super) due: Instant,
    /// Middle of the NTP time of the last one, and when it went out.
    pub(super) last: Option<(u32, Instant)>,
}

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not for this subscription.
    Ignore,
    /// Left out on purpose.
    Skip,
    /// Goes out.
    Forward,
    /// Goes out as the first of another stream.
    Switch,
}

impl Downtrack {
    pub(super) fn new(
        at: (usize, usize),
        config: &SubscriptionConfig,
        first: (u64, u64),
        now: Instant,
    ) -> Self {
        Self {
            transport: at.0,
            track: at.1,
            target: config.target,
            granted: None,
            fresh: true,
            denied: None,
            priority: 0,
            current: None,
            previous: None,
            selection: Selection::new(
                Limits {
                    spatial: 0,
                    temporal: 0,
                },
                0,
            ),
            rewriter: Rewriter::new(first.0),
            history: None,
            line: Line::new(config),
            payloads: config.payloads.iter().copied().collect(),
            red: config.red,
            rtx_ssrc: config.rtx_ssrc,
            next_rtx: first.1,
            keyframe_at: first.0,
            keyframe_sent: None,
            started: false,
            packets: 0,
            octets: 0,
            last_sent: None,
            reports: Reports {
                due: now,
                last: None,
            },
            lateness: Lateness::default(),
            rtt: RTT_INITIAL,
            rtt_measured: false,
            paused_since: None,
            meter: DowntrackMeter::default(),
        }
    }

    /// Goes on where an earlier subscription under the same SSRC ended.
    pub(super) fn go_on(&mut self, retired: Retired) {
        match retired {
            Retired::Media(suspended, last_sent) => {
                self.rewriter = Rewriter::resume(suspended);
                self.last_sent = last_sent;
            }
            Retired::Repair(next) => self.next_rtx = next,
        }
    }

    /// What is forwarded at the moment.
    pub(super) fn sent(&self, track: &Track) -> Option<Target> {
        let now = self.selection.now();
        self.current.map(|stream| Target {
            layer: if track.is_svc() {
                track.highest_live(now.spatial).unwrap_or_default()
            } else {
                stream
            },
            temporal: now.temporal,
        })
    }

    /// The client wants something else; it takes effect with the next grant.
    pub(super) fn want(&mut self, target: Option<Target>) {
        self.target = target;
        self.fresh = true;
    }

    /// Sets what the subscription gets; returns whether its track has to look at it.
    pub(super) fn grant(&mut self, now: Instant, granted: Option<Target>, track: &Track) -> bool {
        let before = self.granted.map(|before| track.top(before.layer));
        let wanted = self.target.map(|wanted| track.top(wanted.layer));
        let after = granted.map(|after| track.top(after.layer));
        let expired = self.denied.take_if(|(layer, until)| {
            now >= *until || after >= Some(*layer) || wanted < Some(*layer)
        });
        if let Some(layer) = before.filter(|_| after < before && wanted >= before) {
            let (top, until) = (layer, now + DENIED_HOLD);
            self.denied.get_or_insert((top, until));
        }
        let changed = self.granted != granted;
        self.granted = granted;
        if granted.is_none() {
            self.pause();
        }
        changed || expired.is_some()
    }

    /// Whether a layer is in demand only for having been there until now.
    pub(super) fn is_held(&self) -> bool {
        self.denied.is_some()
    }

    /// Stops forwarding; a later resume needs a keyframe.
    pub(super) fn pause(&mut self) {
        self.current = None;
    }

    /// The stream's numbering began anew: its timestamps too.
    pub(super) fn restart(&mut self, stream: StreamIndex) {
        if self.current == Some(stream) {
            self.current = None;
        }
        if self.previous == Some(stream) {
            self.previous = None;
        }
    }

    /// The stream that this subscription should get: the highest live one up to the target.
    pub(super) fn desired(&self, track: &Track) -> Option<StreamIndex> {
        let target = self.granted?;
        if track.is_svc() {
            return Some(0);
        }
        Some(
            track
                .highest_live(target.layer)
                .unwrap_or_else(|| track.top(target.layer)),
        )
    }

    /// Bitmask of layers that this subscription needs to have delivered.
    pub(super) fn demand(&self, track: &Track) -> u8 {
        let denied = self.denied.map_or(0, |(layer, _)| 1 << layer);
        let Some(target) = self.granted else {
            return denied;
        };
        let highest = track.top(target.layer);
        let settled = self.current == Some(highest) && track.live & (1 << highest) != 0;
        if settled && !track.is_svc() {
            denied | 1 << highest
        } else {
            // With SVC a layer needs those below. Without, whatever comes first is shown until the wanted one is there.
            let current = self.current.map_or(0, |current| 1 << current);
            ((2u8 << highest) - 1) | current | denied
        }
    }

    /// The stream of whose keyframe this subscription is in need: to begin, or to get a higher layer.
    pub(super) fn waits_for(&self, track: &Track) -> Option<StreamIndex> {
        let desired = self.desired(track)?;
        if self.current != Some(desired) {
            return Some(desired);
        }
        let highest = track.highest_live(self.granted?.layer)?;
        (track.is_svc() && self.selection.now().spatial < highest).then_some(desired)
    }

    /// Whether a keyframe went out a moment ago.
    pub(super) fn is_after_keyframe(&self, now: Instant) -> bool {
        self.keyframe_sent
            .is_some_and(|at| now < at + AFTER_KEYFRAME)
    }

    /// Decides about a packet of `stream`; `tight` when a frame begins for which there is little room.
    #[inline]
    pub(super) fn admit(
        &mut self,
        track: &Track,
        stream: StreamIndex,
        packet: &Packet,
        tight: bool,
    ) -> Verdict {
        let Some(target) = self.granted else {
            return Verdict::Ignore;
        };
        let layer = packet.layer;
        let mut limits = track.limits(target);
        if tight {
            limits.temporal = 0;
        }
        let padding = packet.payload().is_empty();
        if self.current == Some(stream) {
            let forward = !padding && self.selection.admit(limits, packet.timestamp, layer);
            return if forward {
                Verdict::Forward
            } else {
                Verdict::Skip
            };
        }
        let begins = layer.key && layer.frame_start && layer.spatial == 0 && !padding;
        if begins && self.may_switch(track, stream, target) {
            self.selection = Selection::new(limits, packet.timestamp);
            return Verdict::Switch;
        }
        Verdict::Ignore
    }

    fn may_switch(&self, track: &Track, stream: StreamIndex, target: Target) -> bool {
        if stream > track.top(target.layer) {
            return false;
        }
        match self.current {
            None => true,
            Some(current) => {
                let stalled = track.live & (1 << current) == 0;
                let better = stream > current;
                better || stalled || self.desired(track) == Some(stream)
            }
        }
    }

    /// The marker bit that the receiver gets: where spatial layers are left out, a picture ends earlier.
    #[inline]
    pub(super) fn marker(&self, packet: &Packet) -> bool {
        packet.marker || (!packet.codec.is_audio() && self.selection.ends_picture(packet.layer))
    }

    /// A hop before left out so many numbers right before `number`.
    #[inline]
    pub(super) fn skip_left_out(&mut self, number: u64, left_out: u16) {
        if left_out > 0 {
            let first = number.saturating_sub(u64::from(left_out));
            self.rewriter.skip_run(first, number);
        }
    }

    /// Makes `stream` the current one, from `packet` on.
    pub(super) fn switch(
        &mut self,
        track: &Track,
        stream: StreamIndex,
        at: (u64, &Packet),
        vp8: Option<&Vp8>,
    ) {
        let (number, packet) = at;
        let offset = self.timestamp_offset(track, stream, packet);
        self.rewriter.switch(number, packet.timestamp, offset, vp8);
        self.current = Some(stream);
        self.previous = Some(stream);
    }

    /// What the timestamps of `stream` need to go on from what was sent before: by the
    /// publisher's clocks where both streams have one, by arrival otherwise.
    fn timestamp_offset(&self, track: &Track, stream: StreamIndex, packet: &Packet) -> u32 {
        let (Some(last), Some(sent)) = (self.rewriter.last_timestamp(), self.last_sent) else {
            return 0;
        };
        let before = self.rewriter.timestamp_offset();
        if self.previous == Some(stream) {
            return before;
        }
        let rate = track.config.codec.clock_rate();
        let elapsed = packet.arrival.saturating_duration_since(sent);
        let by_arrival = last.wrapping_add(ticks(elapsed, rate));
        let clock = |index: StreamIndex| track.stream(index).and_then(|stream| stream.clock);
        if let (Some(old), Some(new)) = (self.previous.and_then(clock), clock(stream)) {
            let offset = clock_offset(&old, &new, rate).wrapping_add(before);
            let skew = packet
                .timestamp
                .wrapping_add(offset)
                .wrapping_sub(by_arrival);
            if skew.cast_signed().unsigned_abs() < ticks(SWITCH_SKEW_MAX, rate) {
                return offset;
            }
        }
        by_arrival.wrapping_sub(packet.timestamp)
    }
}

/// Timestamp ticks in `time`, modulo 2^32.
pub(super) fn ticks(time: Duration, clock_rate: u32) -> u32 {
    let ticks = time.as_micros() * u128::from(clock_rate) / 1_000_000;
    (ticks & 0xffff_ffff) as u32
}

/// What to add to a timestamp of `new` to get the one of `old` for the same instant.
fn clock_offset(old: &SenderClock, new: &SenderClock, clock_rate: u32) -> u32 {
    let apart = i128::from(new.ntp.wrapping_sub(old.ntp).cast_signed());
    let apart_ticks = (apart * i128::from(clock_rate)) >> 32;
    let apart_ticks = (apart_ticks & 0xffff_ffff) as u32;
    old.rtp_timestamp
        .wrapping_add(apart_ticks)
        .wrapping_sub(new.rtp_timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    fn clocks_of_two_streams_are_related_by_wall_time() {
        let received = Instant::now();
        let old = SenderClock {
            ntp: 100 << 32,
            rtp_timestamp: 1000,
            received,
        };
        // Half a second later in the publisher's clock.
        let new = SenderClock {
            ntp: (100 << 32) + (1 << 31),
            rtp_timestamp: 7_000_000,
            received,
        };
        let offset = clock_offset(&old, &new, 90_000);
        assert_eq!(7_000_000u32.wrapping_add(offset), 1000 + 45_000);
        let back = clock_offset(&new, &old, 90_000);
        assert_eq!(offset.wrapping_add(back), 0);
    }
}
