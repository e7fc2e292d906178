//! How the transports of a router are doing, for metrics and for what people are told about their connection.

use std::time::{Duration, Instant};

use super::downtrack::Downtrack;
use super::reception::Reception;
use super::track::Track;
use super::transport::Transport;
use super::{Router, StreamIndex, Target, TrackKey, TransportKey};

/// One transport since the report before.
#[derive(Debug, Clone)]
pub struct TransportReport {
    /// Which.
    pub transport: TransportKey,
    /// What its path carries from us to the peer in bit/s; `None` while nothing is known.
    pub estimate_bps: Option<u64>,
    /// Sent on the wire, everything included, in bit/s.
    pub sent_bps: u64,
    /// Of that padding, in bit/s.
    pub padding_bps: u64,
    /// How long the newest packet in the pacer will wait.
    pub queue: Duration,
    /// Round trip.
    pub rtt: Duration,
    /// Lost on the way to the peer before repair, 0 to 1.
    pub loss: f32,
    /// What it receives.
    pub subscriptions: Vec<SubscriptionReport>,
    /// What it publishes.
    pub uplinks: Vec<UplinkReport>,
}

/// One subscription since the report before.
#[derive(Debug, Clone)]
pub struct SubscriptionReport {
    /// Which track.
    pub track: TrackKey,
    /// What the client wants; `None` when it hides the track.
    pub wanted: Option<Target>,
    /// What it is sent; `None` when nothing.
    pub sent: Option<Target>,
    /// Nothing is sent because it does not fit.
    pub paused: bool,
    /// Sent in bit/s.
    pub bps: u64,
    /// Lost before repair, 0 to 1, as the receiver reports it.
    pub loss: f32,
    /// Packets sent again.
    pub rtx_packets: u64,
    /// Packets that the receiver asked for again.
    pub nacks: u64,
    /// Keyframes that the receiver asked for.
    pub plis: u64,
    /// How long it has been paused.
    pub paused_for: Duration,
}

/// One stream of a publisher since the report before.
#[derive(Debug, Clone)]
pub struct UplinkReport {
    /// Which track.
    pub track: TrackKey,
    /// Its simulcast stream.
    pub stream: StreamIndex,
    /// Received in bit/s.
    pub bps: u64,
    /// Lost before repair, 0 to 1.
    pub loss: f32,
    /// Packets that came after they were asked for again.
    pub repaired: u64,
    /// Packets that we asked for again.
    pub nacks: u64,
    /// Keyframes that we asked for.
    pub plis: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1).
    pub jitter: Duration,
    /// Frames per second.
    pub fps: f32,
}

/// What a transport sent since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traffic {
    /// Bytes on the wire, everything included.
    pub(super) sent_bytes: u64,
    /// Of those, padding.
    pub(super) padding_bytes: u64,
}

/// Where a transport stood at its last report.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported {
    at: Instant,
    traffic: Traffic,
}

impl Reported {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            at: now,
            traffic: Traffic::default(),
        }
    }
}

/// What happened to a subscription since its last report.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DowntrackMeter {
    /// Bytes on the wire.
    pub(super) bytes: u64,
    pub(super) rtx_packets: u64,
    pub(super) nacks: u64,
    pub(super) plis: u64,
    /// Fraction lost as the receiver last reported it, in 1/256.
    pub(super) fraction_lost: u8,
}

/// What happened to a publisher's stream since its last report.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UplinkMeter {
    bytes: u64,
    frames: u64,
    /// RTP timestamp of the newest frame.
    newest: Option<u32>,
    pub(super) repaired: u64,
    pub(super) nacks: u64,
    pub(super) plis: u64,
    /// Packets expected and received at the last report.
    totals: (u64, u64),
}

impl UplinkMeter {
    /// A packet of `bytes` on the wire that was not there before.
    #[inline]
    pub(super) fn receive(&mut self, bytes: usize, timestamp: u32) {
        self.bytes += bytes as u64;
        let newer = self
            .newest
            .is_none_or(|newest| timestamp.wrapping_sub(newest).cast_signed() > 0);
        if newer {
            self.newest = Some(timestamp);
            self.frames += 1;
        }
    }

    /// The fraction lost since the last report, before repair.
    fn loss(&mut self, reception: &Reception) -> f32 {
        let (expected, received) = reception.totals();
        let (expected_before, received_before) =
            std::mem::replace(&mut self.totals, (expected, received));
        let expected = expected.saturating_sub(expected_before);
        let received = received.saturating_sub(received_before);
        ratio(expected.saturating_sub(received), expected)
    }
}

impl Router {
    /// How a transport did since the report before; `None` when it is not known.
    pub fn report(&mut self, now: Instant, transport: TransportKey) -> Option<TransportReport> {
        let slot = *self.transport_slots.get(&transport)?;
        let Self {
            transports,
            downtracks,
            tracks,
            ..
        } = self;
        let transport = transports.get_mut(slot)?;
        let elapsed = now.saturating_duration_since(transport.reported.at);
        let traffic = transport.egress.traffic;
        let before =
            std::mem::replace(&mut transport.reported, Reported { at: now, traffic }).traffic;
        let subscriptions = transport
            .downtracks
            .iter()
            .filter_map(|&position| {
                let downtrack = downtracks.get_mut(position)?;
                let track = tracks.get(downtrack.track)?;
                Some(subscription(now, elapsed, track, downtrack))
            })
            .collect();
        let uplinks = transport
            .uplinks
            .iter()
            .filter_map(|&(track, stream)| uplink(elapsed, (slot, stream), tracks.get_mut(track)?))
            .collect();
        Some(TransportReport {
            transport: transport.egress.key,
            estimate_bps: transport.egress.budget_bps(),
            sent_bps: rate_bps(traffic.sent_bytes - before.sent_bytes, elapsed),
            padding_bps: rate_bps(traffic.padding_bytes - before.padding_bytes, elapsed),
            queue: transport.egress.pacer.queue(),
            rtt: round_trip(transport, downtracks),
            loss: lost(transport, downtracks),
            subscriptions,
            uplinks,
        })
    }

    /// [`Self::report`] of every transport.
    pub fn reports(&mut self, now: Instant) -> Vec<TransportReport> {
        let keys: Vec<TransportKey> = self
            .transports
            .iter()
            .map(|(_, transport)| transport.egress.key)
            .collect();
        keys.into_iter()
            .filter_map(|key| self.report(now, key))
            .collect()
    }
}

fn subscription(
    now: Instant,
    elapsed: Duration,
    track: &Track,
    downtrack: &mut Downtrack,
) -> SubscriptionReport {
    let fresh = DowntrackMeter {
        fraction_lost: downtrack.meter.fraction_lost,
        ..DowntrackMeter::default()
    };
    let meter = std::mem::replace(&mut downtrack.meter, fresh);
    SubscriptionReport {
        track: track.key,
        wanted: downtrack.target,
        sent: downtrack.sent(track),
        paused: downtrack.paused_since.is_some(),
        bps: rate_bps(meter.bytes, elapsed),
        loss: f32::from(meter.fraction_lost) / 256.0,
        rtx_packets: meter.rtx_packets,
        nacks: meter.nacks,
        plis: meter.plis,
        paused_for: downtrack
            .paused_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
    }
}

/// The report on one stream that the transport at position `at.0` publishes.
fn uplink(elapsed: Duration, at: (usize, StreamIndex), track: &mut Track) -> Option<UplinkReport> {
    let (transport, stream) = at;
    let key = track.key;
    let uplink = track.stream_mut(stream)?.uplink.as_mut()?;
    if uplink.transport != transport {
        return None;
    }
    let loss = uplink.meter.loss(&uplink.reception);
    let fresh = UplinkMeter {
        newest: uplink.meter.newest,
        totals: uplink.meter.totals,
        ..UplinkMeter::default()
    };
    let meter = std::mem::replace(&mut uplink.meter, fresh);
    Some(UplinkReport {
        track: key,
        stream,
        bps: rate_bps(meter.bytes, elapsed),
        loss,
        repaired: meter.repaired,
        nacks: meter.nacks,
        plis: meter.plis,
        jitter: uplink.reception.jitter(),
        fps: per_second(meter.frames, elapsed),
    })
}

/// The shortest round trip that reports of the peer tell, or what congestion control measured.
fn round_trip(transport: &Transport, downtracks: &slab::Slab<Downtrack>) -> Duration {
    let measured = transport.downtracks.iter().filter_map(|&position| {
        let downtrack = downtracks.get(position)?;
        downtrack.rtt_measured.then_some(downtrack.rtt)
    });
    let by_feedback = Some(transport.egress.controller.rtt()).filter(|rtt| !rtt.is_zero());
    measured.chain(by_feedback).min().unwrap_or_default()
}

/// The loss on the way to the peer: by transport-wide feedback, or the mean over what it reports.
fn lost(transport: &Transport, downtracks: &slab::Slab<Downtrack>) -> f32 {
    if transport.egress.is_measured() {
        return transport.egress.controller.loss();
    }
    let (mut sum, mut count) = (0u64, 0u64);
    for &position in &transport.downtracks {
        if let Some(downtrack) = downtracks.get(position).filter(|d| d.rtt_measured) {
            sum += u64::from(downtrack.meter.fraction_lost);
            count += 256;
        }
    }
    ratio(sum, count)
}

fn rate_bps(bytes: u64, elapsed: Duration) -> u64 {
    let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    bytes.saturating_mul(8_000_000).checked_div(us).unwrap_or(0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate of frames needs no more than 24 bits"
)]
fn per_second(count: u64, elapsed: Duration) -> f32 {
    if elapsed.is_zero() {
        0.0
    } else {
        count as f32 / elapsed.as_secs_f32()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio needs no more than 24 bits"
)]
fn ratio(part: u64, whole: u64) -> f32 {
    if whole == 0 {
        0.0
    } else {
        part as f32 / whole as f32
    }
}
