//! When to try a higher rate (libwebrtc's `ProbeController`).

use std::time::Duration;

use smallvec::SmallVec;

use super::{Micros, whole_bits};

/// First probes over the start rate: libwebrtc's exponential scales.
const START_SCALES: [f64; 2] = [3.0, 6.0];

/// The next probe over a result, when the result reached the share of the probe's rate below: libwebrtc's
/// `further_exponential_probe_scale` and `further_probe_threshold`.
const FURTHER_SCALE: f64 = 2.0;
const FURTHER_FROM: f64 = 0.7;

/// A periodic probe over the estimate: libwebrtc's `alr_probe_scale`.
const PERIODIC_SCALE: f64 = 2.0;

/// Time between probes while more is wanted: libwebrtc's `alr_probing_interval`.
const PERIOD_US: Micros = 5_000_000;

/// Time between probes when what is wanted rises, or while nothing fits and nothing is sent: libwebrtc waits for the result as long. Then all that is wanted is tried at once,
/// as at the start: somebody waits for a picture.
const RAISED_PERIOD_US: Micros = 1_000_000;

/// Probes that a rise is worth: a busy moment may spoil the first one.
const RAISED_TRIES: u8 = 2;

/// Time until a result counts as missing: libwebrtc's `kMaxWaitingTimeForProbingResult`.
const RESULT_US: Micros = 1_000_000;

/// A fall below this share within the time below is large: libwebrtc's `kBitrateDropThreshold` and
/// `kBitrateDropTimeoutMs`.
const LARGE_DROP: f64 = 0.66;
const DROP_US: Micros = 5_000_000;

/// After a large drop the rate before is tried, times this: libwebrtc's `kProbeFractionAfterDrop`.
const AFTER_DROP: f64 = 0.85;

/// Time that a queue gets to drain before it: two of the slowest decrease intervals and a feedback.
const DRAIN_US: Micros = 1_500_000;

/// What is wanted is tried with this much above it: less would come and go with every wave.
const ABOVE_WANTED: f64 = 1.25;

/// An estimate this much above what is wanted is enough.
const ENOUGH: f64 = 1.1;

/// A probe must be this much above the estimate to be worth its bytes.
const WORTH: f64 = 1.05;

/// Shortest probe: libwebrtc's `min_probe_duration`, a third longer because of Wi-Fi's bursts.
const DURATION_US: u64 = 20_000;

/// Packets of a probe at least (libwebrtc's `min_probe_packets_sent`), each of at least as many bytes as
/// padding has.
const PACKETS_MIN: usize = 5;
const PACKET_BYTES_MIN: usize = 300;

/// A probe that the pacer should send now: packets, of media first and then padding, marked with the
/// id and spaced at the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// To be passed to [`super::Controller::packet_sent`] with each of its packets.
    pub id: u32,
    /// Rate in bit/s.
    pub bps: u64,
    /// Bytes on the wire to send in all, in at least five packets.
    pub bytes: usize,
    /// How long that takes at the rate.
    pub duration: Duration,
}

/// What probing goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conditions {
    pub(super) now: Micros,
    /// The estimate in bit/s.
    pub(super) bps: f64,
    /// Highest rate allowed by the configuration and the receiver.
    pub(super) max_bps: f64,
    /// The queue is short and neither grows nor drains.
    pub(super) calm: bool,
    /// Nothing has been sent for a while.
    pub(super) idle: bool,
}

/// Decides on probes.
#[derive(Debug)]
pub(super) struct Prober {
    next_id: u32,
    ready: SmallVec<[Probe; 2]>,
    /// A result of at least this rate is followed by another probe.
    further_from: Option<f64>,
    /// When the last probe was made.
    at: Option<Micros>,
    /// What could be used in bit/s; `None` while nobody said.
    wanted: Option<f64>,
    /// The last that was more than nothing.
    wanted_last: f64,
    /// It rose: so many probes are due for that.
    raised: u8,
    /// The rate before a decrease, and when that was.
    high: Option<(f64, Micros)>,
    /// The rate to try again, and when.
    recovery: Option<(f64, Micros)>,
}

impl Prober {
    pub(super) fn new() -> Self {
        Self {
            next_id: 1,
            ready: SmallVec::new(),
            further_from: None,
            at: None,
            wanted: None,
            wanted_last: 0.0,
            raised: 0,
            high: None,
            recovery: None,
        }
    }

    /// The first probes.
    pub(super) fn start(&mut self, conditions: Conditions) {
        for scale in START_SCALES {
            self.make(conditions, conditions.bps * scale);
        }
    }

    /// What could be used. Nothing in between is no rise: an estimate about what is wanted comes and goes.
    pub(super) fn set_wanted(&mut self, bps: f64) {
        self.wanted = Some(bps);
        if bps > 0.0 {
            if bps > self.wanted_last * ENOUGH {
                self.raised = RAISED_TRIES;
            }
            self.wanted_last = bps;
        } else {
            self.raised = 0;
        }
    }

    /// Whether there is a probe to send.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next probe to send.
    pub(super) fn poll(&mut self) -> Option<Probe> {
        (!self.ready.is_empty()).then(|| self.ready.remove(0))
    }

    /// A probe measured this rate.
    pub(super) fn measured(&mut self, conditions: Conditions, bps: f64) {
        if self.further_from.is_some_and(|from| bps >= from) {
            self.further_from = None;
            self.make(conditions, bps * FURTHER_SCALE);
        }
    }

    /// The estimate fell from a rate to what the conditions say.
    pub(super) fn decreased(&mut self, conditions: Conditions, before: f64) {
        let now = conditions.now;
        let (high, _) = *match &mut self.high {
            Some(high) if now - high.1 < DROP_US => high,
            high => high.insert((before, now)),
        };
        if conditions.bps < LARGE_DROP * high {
            self.recovery = Some((AFTER_DROP * high, now + DRAIN_US));
        }
        self.further_from = None;
        self.ready.clear();
    }

    /// Makes the probe that is due.
    pub(super) fn tick(&mut self, conditions: Conditions) {
        let now = conditions.now;
        let since = self.at.map_or(Micros::MAX, |at| now - at);
        if !conditions.calm || self.further_from.is_some() && since < RESULT_US {
            return;
        }
        if let Some((bps, at)) = self.recovery
            && now >= at
        {
            self.recovery = None;
            self.high = None;
            self.make(conditions, bps);
            return;
        }
        let period = if self.raised > 0 || conditions.idle {
            RAISED_PERIOD_US
        } else {
            PERIOD_US
        };
        if since >= period && self.recovery.is_none() && self.wants(conditions.bps) {
            let scale = if self.raised > 0 {
                START_SCALES[1]
            } else {
                PERIODIC_SCALE
            };
            self.make(conditions, conditions.bps * scale);
        }
    }

    /// Whether more than this rate could be used.
    fn wants(&self, bps: f64) -> bool {
        self.wanted.is_none_or(|wanted| bps < wanted * ENOUGH)
    }

    fn make(&mut self, conditions: Conditions, bps: f64) {
        let wanted = self.wanted.map_or(f64::INFINITY, |bps| bps * ABOVE_WANTED);
        let bps = bps.min(wanted).min(conditions.max_bps);
        if bps < conditions.bps * WORTH || self.ready.len() == self.ready.inline_size() {
            return;
        }
        self.raised = self.raised.saturating_sub(1);
        self.at = Some(conditions.now);
        self.further_from = Some(bps * FURTHER_FROM);
        let bps = whole_bits(bps);
        let bytes = usize::try_from(bps * DURATION_US / 8_000_000).unwrap_or(usize::MAX);
        let bytes = bytes.max(PACKETS_MIN * PACKET_BYTES_MIN);
        self.ready.push(Probe {
            id: self.next_id,
            bps,
            bytes,
            duration: Duration::from_micros(bytes as u64 * 8_000_000 / bps.max(1)),
        });
        self.next_id = self.next_id.wrapping_add(1).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: Micros, bps: f64) -> Conditions {
        Conditions {
            now: seconds * 1_000_000,
            bps,
            max_bps: 100e6,
            calm: true,
            idle: false,
        }
    }

    fn rates(prober: &mut Prober) -> Vec<u64> {
        std::iter::from_fn(|| prober.poll().map(|probe| probe.bps)).collect()
    }

    #[test]
    fn starts_at_three_and_six_times_and_doubles_while_it_works() {
        let mut prober = Prober::new();
        prober.start(at(0, 1e6));
        assert_eq!(rates(&mut prober), [3_000_000, 6_000_000]);
        prober.measured(at(0, 5e6), 5e6);
        assert_eq!(rates(&mut prober), [10_000_000]);
        prober.measured(at(0, 5e6), 5e6);
        assert!(rates(&mut prober).is_empty());
    }

    #[test]
    fn tries_every_five_seconds_what_is_wanted() {
        let mut prober = Prober::new();
        prober.set_wanted(1.5e6);
        let mut probed = Vec::new();
        for second in 0..20 {
            prober.tick(at(second, 1e6));
            probed.extend(rates(&mut prober).into_iter().map(|bps| (second, bps)));
        }
        let expected = [
            (0, 1_875_000),
            // Once more soon: somebody waits.
            (1, 1_875_000),
            (6, 1_875_000),
            (11, 1_875_000),
            (16, 1_875_000),
        ];
        assert_eq!(probed, expected);
        prober.set_wanted(0.0);
        prober.tick(at(30, 1e6));
        assert!(rates(&mut prober).is_empty());
        prober.set_wanted(3e6);
        prober.tick(at(31, 1e6));
        assert_eq!(rates(&mut prober), [3_750_000]);
        prober.set_wanted(0.0);
        prober.set_wanted(3e6);
        prober.tick(at(33, 1e6));
        assert!(rates(&mut prober).is_empty());
        prober.set_wanted(6e6);
        prober.tick(at(33, 1e6));
        assert_eq!(rates(&mut prober), [6_000_000]);
    }

    #[test]
    fn tries_the_old_rate_after_a_large_drop() {
        let mut prober = Prober::new();
        prober.set_wanted(3e6);
        prober.decreased(at(10, 2e6), 3e6);
        prober.decreased(at(11, 1e6), 2e6);
        prober.tick(at(12, 1e6));
        assert!(rates(&mut prober).is_empty());
        prober.tick(at(13, 1e6));
        assert_eq!(rates(&mut prober), [2_550_000]);
    }

    #[test]
    fn has_at_least_five_packets_of_padding() {
        let mut prober = Prober::new();
        prober.start(at(0, 50e3));
        let probe = prober.poll().unwrap();
        assert_eq!((probe.bps, probe.bytes), (150_000, 1500));
        assert_eq!(probe.duration, Duration::from_millis(80));
    }
}
