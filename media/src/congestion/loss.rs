//! The rate that the losses allow.
//!
//! Losses have two causes: some that the rate has no part in (radio), and those of a full queue or a
//! policer, which begin above a certain rate. The model is the one of libwebrtc's `LossBasedBweV2`: a
//! packet is lost with the inherent probability `p`, and a survivor with `1 - limit/rate` when the rate
//! is above the limit. Over the last observations of a quarter second each, the likelihood of "there is no
//! limit" is compared with that of limits near what was delivered; `p` is fitted for each of them by
//! expectation maximisation, with a prior that remembers what was learnt.
//!
//! At a constant rate the causes cannot be told apart, and the prior, which prefers few inherent losses,
//! says "limit". So the rate falls a little once: when the losses stay the same at the lower rate, they are
//! inherent by likelihood, the limit goes and the prior learns `p`. When they stop, it was the limit.

use super::{Micros, seconds};

/// Length of an observation: libwebrtc's `observation_duration_lower_bound`.
const OBSERVATION_US: Micros = 250_000;

/// Observations remembered: 4 s, in which a limit is not tried again.
const OBSERVATIONS: usize = 16;

/// Weight of an observation against the next: libwebrtc's `temporal_weight_factor`.
const FADING: f64 = 0.9;

/// Packets that one observation counts as, at most: losses come in bursts and are not independent.
const PACKETS_MAX: f64 = 50.0;

/// Packets that the prior of the inherent loss counts as: one observation.
const PRIOR_PACKETS: f64 = 50.0;

/// Inherent loss before anything was learnt (libwebrtc's `initial_inherent_loss_estimate`), its least
/// (`inherent_loss_lower_bound`), and its most: beyond it a video is of no use without repair.
const INHERENT: f64 = 0.01;
const INHERENT_RANGE: (f64, f64) = (0.001, 0.3);

/// Steps of expectation maximisation; four digits of `p` need no more.
const FIT_STEPS: usize = 6;

/// Log-likelihood by which a limit must be better than none: odds of 20.
const LIMIT_ODDS: f64 = 3.0;

/// Log-likelihood by which "no limit" must be better without any prior to be believed for good.
const FREE_ODDS: f64 = 2.0;

/// Share of the way that the learnt inherent loss goes to what was fitted, up and down.
const LEARN_UP: f64 = 0.3;
const LEARN_DOWN: f64 = 0.1;

/// Growth of a limit per observation that does not confirm it.
const RAISE: f64 = 1.05;

/// A limit falls at most by this factor per observation: an outage is no rate.
const FALL: f64 = 0.5;

/// Observations without a sign of the limit until a probe may prove it wrong, 2 s: a probe is short, and
/// what a policer lets through at once is no rate.
const UNCONFIRMED: u32 = 8;

/// Weight of the newest observation in the loss shown.
const SHOWN_WEIGHT: f64 = 0.25;

/// What became of the packets sent within a quarter second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Observation {
    /// Packets reported on.
    pub(super) packets: f64,
    /// Those lost.
    pub(super) lost: f64,
    /// Rate sent in bit/s.
    pub(super) bps: f64,
}

impl Observation {
    /// As many packets as are taken to be independent.
    fn independent(self) -> Self {
        let scale = (PACKETS_MAX / self.packets).min(1.0);
        Self {
            packets: self.packets * scale,
            lost: self.lost * scale,
            bps: self.bps,
        }
    }

    fn delivered(&self) -> f64 {
        self.bps * (1.0 - self.lost / self.packets)
    }

    /// Probability that a packet which is not lost anyway is lost to the limit.
    fn excess(&self, limit: f64) -> f64 {
        (1.0 - limit / self.bps).max(0.0)
    }
}

/// How well a limit explains the observations.
#[derive(Debug, Clone, Copy)]
struct Fit {
    limit: f64,
    /// Inherent loss that fits best.
    inherent: f64,
    /// Log-likelihood of the observations alone, and with the prior.
    alone: f64,
    total: f64,
}

/// The observation under way.
#[derive(Debug, Clone, Copy, Default)]
struct Open {
    packets: f64,
    lost: f64,
    bits: f64,
    newest: Micros,
}

/// The model and its observations.
#[derive(Debug)]
pub(super) struct LossModel {
    ring: [Observation; OBSERVATIONS],
    count: usize,
    open: Open,
    /// Time sent of the last packet of the observation before.
    since: Option<Micros>,
    inherent: f64,
    limit: Option<f64>,
    /// Observations since the limit was last seen.
    unconfirmed: u32,
    shown: Option<f64>,
}

impl LossModel {
    pub(super) fn new() -> Self {
        Self {
            ring: [Observation::default(); OBSERVATIONS],
            count: 0,
            open: Open::default(),
            since: None,
            inherent: INHERENT,
            limit: None,
            unconfirmed: 0,
            shown: None,
        }
    }

    /// Rate in bit/s above which packets get lost; `None` for no such.
    pub(super) fn limit_bps(&self) -> Option<f64> {
        self.limit
    }

    /// Share of packets that get lost at any rate.
    pub(super) fn inherent(&self) -> f64 {
        self.inherent
    }

    /// Share of packets lost lately, for show.
    pub(super) fn shown(&self) -> f64 {
        self.shown.unwrap_or(0.0)
    }

    /// A packet's fate was reported.
    pub(super) fn reported(&mut self, sent_at: Micros, bytes: usize, received: bool) {
        let open = &mut self.open;
        open.packets += 1.0;
        open.lost += f64::from(u8::from(!received));
        open.bits += bytes as f64 * 8.0;
        open.newest = open.newest.max(sent_at);
        self.since.get_or_insert(sent_at);
    }

    /// A packet that was reported lost came late.
    pub(super) fn came_late(&mut self) {
        self.open.lost = (self.open.lost - 1.0).max(0.0);
    }

    /// Closes the observation when it is long enough. Returns whether there is a new judgement.
    pub(super) fn close(&mut self) -> bool {
        let Some(since) = self.since else {
            return false;
        };
        let open = self.open;
        if open.newest - since < OBSERVATION_US {
            return false;
        }
        self.open = Open::default();
        self.since = Some(open.newest);
        self.observe(Observation {
            packets: open.packets,
            lost: open.lost,
            bps: open.bits / seconds(open.newest - since),
        });
        true
    }

    /// Judges with one more observation.
    pub(super) fn observe(&mut self, observation: Observation) {
        if observation.packets < 1.0 || observation.bps <= 0.0 {
            return;
        }
        let loss = observation.lost / observation.packets;
        let shown = self.shown.unwrap_or(loss);
        self.shown = Some(shown + SHOWN_WEIGHT * (loss - shown));
        self.ring.rotate_right(1);
        if let Some(newest) = self.ring.first_mut() {
            *newest = observation.independent();
        }
        self.count = (self.count + 1).min(OBSERVATIONS);
        self.judge(observation);
    }

    /// A probe of this rate arrived: no limit below it, nor memory of one.
    pub(super) fn proven(&mut self, bps: f64) {
        let is_below = self.limit.is_some_and(|limit| limit < bps);
        if is_below && self.unconfirmed >= UNCONFIRMED {
            self.limit = None;
            self.count = 0;
        }
    }

    /// Limits above this rate have no effect and are forgotten.
    pub(super) fn forget_above(&mut self, bps: f64) {
        self.limit = self.limit.filter(|&limit| limit <= bps);
    }

    fn judge(&mut self, newest: Observation) {
        let free = self.fit(f64::INFINITY);
        let survive = 1.0 - self.inherent;
        let candidates = [
            newest.delivered(),
            newest.delivered() / survive,
            newest.bps * 0.95,
            self.limit.unwrap_or(newest.bps * 0.9),
            self.highest_delivered(),
            self.highest_delivered() / survive,
        ];
        let limited = candidates
            .into_iter()
            .map(|limit| self.fit(limit))
            .reduce(|best, fit| if fit.total > best.total { fit } else { best })
            .unwrap_or(free);
        if limited.total > free.total + LIMIT_ODDS {
            let floor = self.limit.unwrap_or(newest.bps).min(newest.bps) * FALL;
            self.limit = Some(limited.limit.max(floor));
            self.unconfirmed = 0;
            return;
        }
        self.unconfirmed = self.unconfirmed.saturating_add(1);
        if free.alone > limited.alone + FREE_ODDS {
            self.limit = None;
            self.learn(free.inherent, LEARN_UP);
        } else {
            self.limit = self.limit.map(|limit| limit * RAISE);
            if free.inherent < self.inherent {
                self.learn(free.inherent, LEARN_DOWN);
            }
        }
    }

    fn learn(&mut self, inherent: f64, share: f64) {
        let (min, max) = INHERENT_RANGE;
        self.inherent += share * (inherent - self.inherent);
        self.inherent = self.inherent.clamp(min, max);
    }

    /// Observations from the newest, with their weights.
    fn weighted(&self) -> impl Iterator<Item = (f64, &Observation)> {
        let weights = std::iter::successors(Some(1.0), |weight| Some(weight * FADING));
        weights.zip(self.ring.iter().take(self.count))
    }

    fn highest_delivered(&self) -> f64 {
        self.weighted()
            .map(|(_, observation)| observation.delivered())
            .fold(0.0, f64::max)
    }

    fn fit(&self, limit: f64) -> Fit {
        let (min, max) = INHERENT_RANGE;
        let mut p = self.inherent.max(INHERENT);
        for _ in 0..FIT_STEPS {
            let start = (PRIOR_PACKETS, PRIOR_PACKETS * self.inherent);
            let (packets, lost) = self.weighted().fold(start, |(packets, lost), (weight, o)| {
                // Of the lost ones, those that were not lost to the limit.
                let inherent = o.lost * p / (p + (1.0 - p) * o.excess(limit));
                (packets + weight * o.packets, lost + weight * inherent)
            });
            p = (lost / packets).clamp(min, max);
        }
        let alone = self.weighted().fold(0.0, |sum, (weight, o)| {
            let loss = p + (1.0 - p) * o.excess(limit);
            sum + weight * log_likelihood(o.packets, o.lost, loss)
        });
        let prior = log_likelihood(PRIOR_PACKETS, PRIOR_PACKETS * self.inherent, p);
        Fit {
            limit,
            inherent: p,
            alone,
            total: alone + prior,
        }
    }
}

/// Of `lost` packets out of `packets` when each is lost with this probability.
fn log_likelihood(packets: f64, lost: f64, probability: f64) -> f64 {
    let probability = probability.clamp(1e-6, 1.0 - 1e-6);
    lost * probability.ln() + (packets - lost) * (1.0 - probability).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends at the limit, up to `wanted`, over a path that loses at random and above a rate. Returns the
    /// rates.
    fn run(model: &mut LossModel, count: usize, wanted: f64, path: (f64, f64)) -> Vec<f64> {
        (0..count)
            .map(|_| {
                let (inherent, policed) = path;
                let bps = model.limit_bps().map_or(wanted, |limit| limit.min(wanted));
                let loss = inherent + (1.0 - inherent) * (1.0 - policed / bps).max(0.0);
                let packets = (bps / 4.0 / 9600.0).round();
                model.observe(Observation {
                    packets,
                    lost: (packets * loss).round(),
                    bps,
                });
                bps
            })
            .collect()
    }

    fn mean(rates: &[f64]) -> f64 {
        rates.iter().sum::<f64>() / rates.len() as f64
    }

    #[test]
    fn constant_loss_is_learnt_and_does_not_limit() {
        for loss in [0.02, 0.05, 0.1, 0.2] {
            let mut model = LossModel::new();
            let rates = run(&mut model, 80, 5e6, (loss, f64::INFINITY));
            assert!(mean(&rates) > 0.93 * 5e6, "{loss}: {rates:?}");
            assert!(mean(&rates[40..]) > 0.97 * 5e6, "{loss}: {rates:?}");
        }
    }

    #[test]
    fn a_policer_sets_the_limit() {
        for inherent in [0.0, 0.03] {
            let mut model = LossModel::new();
            let rates = run(&mut model, 80, 5e6, (inherent, 2e6));
            let late = mean(&rates[10..]);
            assert!((1.7e6..2.4e6).contains(&late), "{inherent}: {rates:?}");
        }
    }

    #[test]
    fn a_policer_after_constant_loss_is_seen() {
        let mut model = LossModel::new();
        run(&mut model, 80, 4e6, (0.1, f64::INFINITY));
        let rates = run(&mut model, 80, 4e6, (0.1, 2e6));
        let late = mean(&rates[10..]);
        assert!((1.6e6..2.6e6).contains(&late), "{rates:?}");
        let rates = run(&mut model, 80, 4e6, (0.0, f64::INFINITY));
        assert!(mean(&rates[40..]) > 3.9e6, "{rates:?}");
    }

    #[test]
    fn an_outage_halves_the_limit_at_most() {
        let mut model = LossModel::new();
        run(&mut model, 20, 4e6, (0.0, f64::INFINITY));
        model.observe(Observation {
            packets: 100.0,
            lost: 100.0,
            bps: 4e6,
        });
        assert!(model.limit_bps().is_some_and(|limit| limit >= 2e6));
    }
}
