//! How much a transport may send: Google congestion control (draft-ietf-rmcat-gcc-02, and what
//! libwebrtc does since), pure.
//!
//! Feedback tells when each packet arrived. The spacing of packet groups at both ends gives the slope of
//! the queueing delay ([`trendline`]), which moves an estimate up or down ([`aimd`]); losses that the rate
//! causes cap it ([`loss`]); probes, short bursts at a higher rate, find what is free ([`probe`],
//! [`cluster`]).

mod acked;
mod aimd;
mod alr;
mod arrival;
mod backlog;
mod cluster;
mod history;
mod loss;
mod probe;
mod trendline;

use std::time::{Duration, Instant};

pub use probe::Probe;

use crate::twcc::{Feedback, ReferenceClock};
use acked::AckedRate;
use aimd::{Aimd, Sample};
use alr::AppLimited;
use arrival::{Groups, Timing};
use backlog::Backlog;
use cluster::{Clusters, Measured};
use history::{History, Reported};
use loss::{LossModel, Observation};
use probe::{Conditions, Prober};
use trendline::{Trendline, Usage};

/// Microseconds since some epoch, or between two times.
type Micros = i64;

/// Weight of a new round trip in the smoothed one (RFC 6298 section 2).
const RTT_WEIGHT: f64 = 0.125;

/// Round trip before one is measured, as in libwebrtc.
const RTT_US: Micros = 200_000;

/// Delay filters start again after a pause of this length: libwebrtc's `kStreamTimeOut`.
const STREAM_TIMEOUT_US: Micros = 2_000_000;

/// Feedback is missing two round trips and this long after the packet: the longest interval of
/// feedback that receivers use (250 ms) twice.
const FEEDBACK_LATE_US: Micros = 500_000;

/// Share of the estimate that is kept each time that feedback is missing (TCP's answer to a timeout,
/// RFC 5681 section 3.1, and RFC 8083's reason to stop).
const UNHEARD: f64 = 0.5;

/// An estimate that nothing confirmed for this long halves towards the start rate, each time: paths change
/// (RFC 7661 section 4.4 gives up what was not used for some time).
const STALE_US: Micros = 30_000_000;

/// A sender that fills a path with others has at least this share of what a probe measures there: the
/// estimate's own ups and downs are between 0.85 and 1.
const FAR_OFF: f64 = 0.7;

/// The time in which a raised estimate shows in the rate received: its window, a feedback interval and a
/// round trip.
const RISING_US: Micros = 1_000_000;

/// How much faster than the estimate the pacer may send: frames come in bursts, and what waits in the
/// pacer is late. libwebrtc sends at 2.5 times; an edge gets its frames paced already, and a keyframe for a narrow path must not fill
/// the queue of that path: audio that is sent behind it waits there.
const PACE: f64 = 1.25;

/// What a controller starts from.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Estimate before anything is measured, in bit/s: 1 Mbit/s, a 540p video, unless set.
    pub start_bps: u64,
    /// Least estimate in bit/s: 30 kbit/s, one voice, unless set.
    pub min_bps: u64,
    /// Highest estimate in bit/s: 100 Mbit/s unless set.
    pub max_bps: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            start_bps: 1_000_000,
            min_bps: 30_000,
            max_bps: 100_000_000,
        }
    }
}

/// What a controller knows, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// What may be sent, in bit/s.
    pub target_bps: u64,
    /// What the delay allows, in bit/s.
    pub delay_bps: u64,
    /// What the losses allow, in bit/s; `None` for no limit.
    pub loss_bps: Option<u64>,
    /// What arrives, in bit/s.
    pub acked_bps: Option<u64>,
    /// What the path carried when it was last full, in bit/s.
    pub capacity_bps: Option<u64>,
    /// Share of packets that get lost at any rate.
    pub inherent_loss: f32,
    /// The sender has less to send than it may.
    pub app_limited: bool,
    /// Feedback messages taken.
    pub feedbacks: u64,
    /// Times that the queue was found growing.
    pub overuses: u64,
    /// Times that feedback was missing.
    pub timeouts: u64,
    /// Probes handed out.
    pub probes: u64,
    /// Probes that measured a rate.
    pub probes_measured: u64,
}

/// Bytes and packets.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    bytes: u64,
    packets: u64,
}

/// Estimates what one transport may send.
#[derive(Debug)]
pub struct Controller {
    origin: Instant,
    config: Config,
    history: History,
    reference: ReferenceClock,
    groups: Groups,
    trendline: Trendline,
    backlog: Backlog,
    acked: AckedRate,
    aimd: Aimd,
    loss: LossModel,
    limited: AppLimited,
    prober: Prober,
    clusters: Clusters,
    remb_bps: Option<f64>,
    /// A probe raised the estimate at this time.
    raised_at: Option<Micros>,
    /// Round trip in microseconds, smoothed.
    rtt_us: Option<f64>,
    /// The first packet after the last feedback was sent at this time.
    waiting_since: Option<Micros>,
    sent_at: Option<Micros>,
    /// When the last feedback or report came.
    heard_at: Option<Micros>,
    /// Sent in all, and until the last report of a peer without feedback came at this time.
    sent: Sent,
    sent_before: (Sent, Micros),
    has_feedback: bool,
    stats: Stats,
}

impl Controller {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(config: &Config, now: Instant) -> Self {
        let start = config.start_bps as f64;
        let range = (config.min_bps as f64, config.max_bps as f64);
        Self {
            origin: now,
            config: *config,
            history: History::new(),
            reference: ReferenceClock::default(),
            groups: Groups::default(),
            trendline: Trendline::new(),
            backlog: Backlog::new(),
            acked: AckedRate::default(),
            aimd: Aimd::new(start, range),
            loss: LossModel::new(),
            limited: AppLimited::new(0, whole_micros(start)),
            prober: Prober::new(),
            clusters: Clusters::default(),
            remb_bps: None,
            raised_at: None,
            rtt_us: None,
            waiting_since: None,
            sent_at: None,
            heard_at: None,
            sent: Sent::default(),
            sent_before: (Sent::default(), 0),
            has_feedback: false,
            stats: Stats::default(),
        }
    }

    /// A packet of `bytes` on the wire was sent; `probe` when it belongs to one. Does not allocate.
    #[inline]
    pub fn packet_sent(&mut self, now: Instant, seq: u16, bytes: usize, probe: Option<u32>) {
        let now = self.micros(now);
        if self.sent_at.is_none() {
            self.started(now);
        }
        self.sent_at = Some(now);
        self.waiting_since.get_or_insert(now);
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        self.sent.bytes += u64::from(bytes);
        self.sent.packets += 1;
        self.history
            .push(now, seq, bytes, probe.map_or(0, History::probe_mark));
        self.limited.sent(now, bytes);
    }

    /// Transport-wide feedback came.
    pub fn feedback(&mut self, now: Instant, feedback: &Feedback<'_>) {
        let now = self.micros(now);
        self.restart_after_pause(now);
        let reference = self.reference.micros(feedback);
        let mut newest_sent = None;
        let mut least = None::<Micros>;
        // They arrived like the others, at about the time of the first that is known.
        let survive = 1.0 - self.loss.shown();
        let mut unheard = whole_bits(self.history.passed_over(feedback.base) as f64 * survive);
        for (seq, arrival) in feedback.arrivals() {
            let Some(packet) = self.history.report(now, seq, arrival.is_some()) else {
                continue;
            };
            let arrival = arrival.map(|arrival| Timing {
                sent_at: packet.sent_at,
                arrived_at: reference + arrival,
                reported_at: now,
            });
            if arrival.is_some() && packet.is_newest {
                newest_sent = Some(packet.sent_at);
            }
            if let Some(timing) = arrival {
                let delay = timing.arrived_at - timing.sent_at;
                least = Some(least.map_or(delay, |least| least.min(delay)));
                self.acked.add(
                    timing.arrived_at,
                    packet.bytes as u64 + std::mem::take(&mut unheard),
                );
            }
            self.take(now, &packet, arrival);
        }
        self.history.make_room();
        if let Some(least) = least {
            self.backlog.add(now, least);
        }
        if let Some(sent_at) = newest_sent {
            self.measured_rtt(now - sent_at);
        }
        self.heard(now);
        self.has_feedback = true;
        self.stats.feedbacks += 1;
        self.update(now);
    }

    /// A receiver report block came: `fraction_lost` in 1/256 since the last one, `rtt` zero when it
    /// is not known. Peers without transport-wide feedback are estimated by it.
    pub fn report(&mut self, now: Instant, fraction_lost: u8, rtt: Duration) {
        let now = self.micros(now);
        if !rtt.is_zero() {
            self.measured_rtt(micros(rtt));
        }
        if self.has_feedback {
            // The path works, even if feedback gets lost.
            self.heard(now);
            return;
        }
        let (before, at) = self.sent_before;
        let elapsed = now - at;
        if elapsed < STREAM_TIMEOUT_US / 8 && self.heard_at.is_some() {
            // Another block of the same time.
            return;
        }
        self.sent_before = (self.sent, now);
        self.heard(now);
        let loss = f64::from(fraction_lost) / 256.0;
        let packets = (self.sent.packets - before.packets) as f64;
        let bytes = (self.sent.bytes - before.bytes) as f64;
        let bps = bytes * 8.0 / seconds(elapsed).max(1e-3);
        self.loss.observe(Observation {
            packets,
            lost: packets * loss,
            bps,
        });
        // Without feedback there are no probes.
        self.aimd.increase(Sample {
            limited: false,
            ..self.sample(now, Some(bps))
        });
        self.loss.forget_above(self.aimd.bps());
        self.apply();
    }

    /// A REMB came: the receiver's own estimate, which caps ours. A peer that sends no transport-wide
    /// feedback is believed.
    pub fn remb(&mut self, now: Instant, bps: u64) {
        let now = self.micros(now);
        self.remb_bps = Some(bps as f64);
        if !self.has_feedback {
            self.aimd.set(now, bps as f64);
        }
        self.heard(now);
        self.apply();
    }

    /// Says how much could be used in all if there were room, in bit/s: more than the target drives probing,
    /// zero or less than the target ends it.
    pub fn set_wanted(&mut self, now: Instant, bps: u64) {
        let now = self.micros(now);
        self.prober.set_wanted(bps as f64);
        if !self.has_feedback {
            return;
        }
        if !self.is_sending(now) {
            // Feedback comes only for what is sent: what was known of queues is old, and nobody else will ask again.
            self.forget_delays();
        }
        self.prober.tick(self.conditions(now));
    }

    /// Whether [`Self::poll_probe`] has one.
    #[must_use]
    pub fn has_probe(&self) -> bool {
        self.prober.is_ready()
    }

    /// What may be sent in bit/s; `None` until the peer told anything of the path: peers that never do are
    /// not limited.
    #[must_use]
    pub fn target_bps(&self) -> Option<u64> {
        self.heard_at.map(|_| whole_bits(self.target()))
    }

    /// Rate of the pacer in bit/s. A queue that is to drain gets no more than the target.
    #[must_use]
    pub fn pacing_bps(&self) -> u64 {
        let pace = if self.backlog.is_long() { 1.0 } else { PACE };
        whole_bits(self.target() * pace)
    }

    /// Whether packets wait on the path for longer than frames and other traffic explain.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.backlog.is_long()
    }

    /// A probe to send now. Only for peers that negotiated transport-wide feedback: nobody else measures it.
    pub fn poll_probe(&mut self) -> Option<Probe> {
        let probe = self.prober.poll()?;
        self.clusters
            .expect(self.sent_at.unwrap_or_default(), &probe);
        self.stats.probes += 1;
        Some(probe)
    }

    /// Smoothed round trip; zero until measured.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        let micros = self.rtt_us.map_or(0, whole_bits);
        Duration::from_micros(micros)
    }

    /// Share of packets lost lately, before repair.
    #[must_use]
    pub fn loss(&self) -> f32 {
        ratio(self.loss.shown())
    }

    /// When [`Self::handle_timeout`] wants to be called: feedback will be missing then.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let at = self.waiting_since? + self.patience();
        let at = u64::try_from(at).ok()?;
        self.has_feedback
            .then(|| self.origin + Duration::from_micros(at))
    }

    /// Backs off when feedback is missing: the path may be lost, and what is sent then fills its queue.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.micros(now);
        let Some(since) = self.waiting_since.filter(|_| self.has_feedback) else {
            return;
        };
        if now - since < self.patience() {
            return;
        }
        self.waiting_since = Some(now);
        self.stats.timeouts += 1;
        let before = self.estimate();
        self.aimd.set(now, before * UNHEARD);
        self.apply();
        self.prober.decreased(self.conditions(now), before);
    }

    /// What is known.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            target_bps: whole_bits(self.target()),
            delay_bps: whole_bits(self.aimd.bps()),
            loss_bps: self.loss.limit_bps().map(whole_bits),
            acked_bps: self.acked.bps().map(whole_bits),
            capacity_bps: self.aimd.capacity_bps().map(whole_bits),
            inherent_loss: ratio(self.loss.inherent()),
            app_limited: self
                .sent_at
                .is_none_or(|sent_at| self.limited.is_limited(sent_at)),
            ..self.stats
        }
    }

    /// The first packet is about to be sent.
    #[cold]
    fn started(&mut self, now: Micros) {
        self.prober.start(self.conditions(now));
        self.sent_before.1 = now;
    }

    /// One packet's fate.
    fn take(&mut self, now: Micros, packet: &Reported, arrival: Option<Timing>) {
        if packet.was_lost {
            self.loss.came_late();
        } else {
            self.loss
                .reported(packet.sent_at, packet.bytes, arrival.is_some());
        }
        if packet.probe != 0 {
            self.clusters.reported(now, packet, arrival);
        }
        let Some(timing) = arrival else {
            return;
        };
        if let Some(spacing) = self.groups.add(timing) {
            self.trendline.add(spacing);
        }
    }

    /// Moves the estimate by what the last feedback told.
    fn update(&mut self, now: Micros) {
        let before = self.estimate();
        let inherent = self.loss.inherent();
        let acked = self.acked_bps(now).map(|bps| bps / (1.0 - inherent));
        let sample = self.sample(now, acked);
        let measured = self.clusters.measure(inherent);
        self.stats.probes_measured += u64::from(measured.is_some());
        if let Some(measured) = measured.filter(|measured| measured.full)
            && !self.backlog.is_long()
        {
            // A probe of 20 ms makes no long queue.
            self.aimd.filled(now, measured.bps);
        }
        // On a narrow path one packet delays the next by tens of milliseconds, which looks like a slope where no queue is.
        let usage = match self.trendline.usage() {
            Usage::Over if self.backlog.is_none() => Usage::Normal,
            usage => usage,
        };
        let worth = measured.and_then(|probe| self.worth(probe, usage, sample));
        match (worth, usage) {
            (Some(bps), _) => {
                self.raised_at = Some(now);
                self.aimd.probed(now, bps);
                self.loss.proven(bps);
            }
            (None, Usage::Over) => {
                // A keyframe fills a path that was half empty: what arrives then is what the path carries.
                let latest = self.acked.latest_bps();
                let acked_bps = sample.acked_bps.into_iter().chain(latest).reduce(f64::max);
                let burst = Sample {
                    acked_bps,
                    ..sample
                };
                self.stats.overuses += u64::from(self.aimd.decrease(burst));
            }
            (None, Usage::Under) => self.aimd.drain(),
            (None, Usage::Normal) => self.aimd.increase(sample),
        }
        if self.loss.close() {
            self.loss.forget_above(self.aimd.bps());
        }
        self.apply();
        let conditions = self.conditions(now);
        if conditions.bps < before {
            self.prober.decreased(conditions, before);
        } else if let Some(measured) = measured {
            self.prober.measured(conditions, measured.bps);
        }
        self.prober.tick(conditions);
    }

    /// What arrives. The rate of half a second is too low after a probe raised the estimate.
    fn acked_bps(&self, now: Micros) -> Option<f64> {
        let steady = self.acked.bps();
        let is_rising = self.raised_at.is_some_and(|at| now - at < RISING_US);
        let latest = self.acked.latest_bps().filter(|_| is_rising);
        steady.into_iter().chain(latest).reduce(f64::max)
    }

    /// The rate that a probe's result sets. One that filled the path measured a moment's share of it, at the
    /// cost of others there: it moves the estimate of a busy sender only when that is far off. It also made
    /// the queue that grows; a queue that grows without being filled by the probe has another cause.
    fn worth(&self, measured: Measured, usage: Usage, sample: Sample) -> Option<f64> {
        let Measured { bps, full } = measured;
        let estimate = self.aimd.bps();
        let is_busy = sample
            .acked_bps
            .is_some_and(|acked| acked > FAR_OFF * estimate);
        let is_news = match (full, is_busy) {
            (true, _) if sample.limited => true,
            (true, true) => estimate < FAR_OFF * bps,
            (true, false) => estimate < bps,
            (false, _) => usage != Usage::Over && estimate < bps,
        };
        is_news.then_some(bps)
    }

    /// Delays before a pause say nothing about those after it, and an estimate gets old.
    fn restart_after_pause(&mut self, now: Micros) {
        let Some(heard_at) = self.heard_at else {
            return;
        };
        let pause = now - heard_at;
        if pause > STREAM_TIMEOUT_US {
            self.forget_delays();
        }
        let start = self.config.start_bps as f64;
        let halvings = i32::try_from(pause / STALE_US).unwrap_or(i32::MAX).min(32);
        if halvings > 0 && self.aimd.bps() > start {
            let bps = self.aimd.bps() * 0.5f64.powi(halvings);
            self.aimd.set(now, bps.max(start));
        }
    }

    fn forget_delays(&mut self) {
        self.groups = Groups::default();
        self.trendline = Trendline::new();
        self.backlog.forget_queue();
    }

    /// The peer was heard of.
    fn heard(&mut self, now: Micros) {
        self.heard_at = Some(now);
        self.waiting_since = self.history.is_waiting().then_some(now);
    }

    fn measured_rtt(&mut self, sample: Micros) {
        let sample = sample.max(0) as f64;
        let rtt = self.rtt_us.unwrap_or(sample);
        self.rtt_us = Some(rtt + RTT_WEIGHT * (sample - rtt));
    }

    /// The budget of a sender that is limited follows the target.
    fn apply(&mut self) {
        self.limited.set_rate(whole_micros(self.target()));
    }

    /// What the path is believed to carry.
    fn estimate(&self) -> f64 {
        let capped = self
            .loss
            .limit_bps()
            .into_iter()
            .chain(self.remb_bps)
            .fold(self.aimd.bps(), f64::min);
        capped.max(self.config.min_bps as f64)
    }

    /// What may be sent: less while a queue is to be drained.
    fn target(&self) -> f64 {
        (self.estimate() * self.backlog.share()).max(self.config.min_bps as f64)
    }

    /// How long feedback may take.
    fn patience(&self) -> Micros {
        2 * self.rtt_micros() + FEEDBACK_LATE_US
    }

    fn rtt_micros(&self) -> Micros {
        self.rtt_us.map_or(RTT_US, whole_micros)
    }

    fn is_sending(&self, now: Micros) -> bool {
        self.sent_at.is_some_and(|at| now - at < STREAM_TIMEOUT_US)
    }

    fn sample(&self, now: Micros, acked_bps: Option<f64>) -> Sample {
        Sample {
            now,
            acked_bps,
            rtt_us: self.rtt_micros(),
            limited: self.limited.is_limited(now),
        }
    }

    fn conditions(&self, now: Micros) -> Conditions {
        let max = self.config.max_bps as f64;
        Conditions {
            now,
            bps: self.estimate(),
            max_bps: self.remb_bps.map_or(max, |remb| remb.min(max)),
            calm: self.trendline.usage() == Usage::Normal && !self.backlog.is_long(),
            idle: !self.is_sending(now),
        }
    }

    fn micros(&self, now: Instant) -> Micros {
        micros(now.saturating_duration_since(self.origin))
    }
}

#[inline]
fn micros(duration: Duration) -> Micros {
    let micros = duration.as_secs() * 1_000_000 + u64::from(duration.subsec_micros());
    micros.cast_signed()
}

fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}

/// Whole bit/s or microseconds of a number that is not negative.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast saturates, rates and times are far below"
)]
fn whole_bits(value: f64) -> u64 {
    value as u64
}

/// A share between 0 and 1.
#[expect(clippy::cast_possible_truncation, reason = "24 bits are enough")]
fn ratio(value: f64) -> f32 {
    value as f32
}

/// Whole microseconds or bit/s.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast saturates, rates and times are far below"
)]
fn whole_micros(value: f64) -> Micros {
    value as Micros
}

#[cfg(test)]
mod tests;
