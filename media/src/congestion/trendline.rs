//! Tells a growing queue from noise: the slope of the one-way delay over the last groups against a
//! threshold that adapts (draft-ietf-rmcat-gcc-02 section 5.4; libwebrtc's `TrendlineEstimator`).

use super::Micros;
use super::arrival::Spacing;

/// Groups that the line is fitted to: libwebrtc's `kDefaultTrendlineWindowSize`.
const WINDOW: usize = 20;

/// Weight of the past in the smoothed delay: libwebrtc's `kDefaultTrendlineSmoothingCoeff`.
const SMOOTHING: f64 = 0.9;

/// The slope is compared as if it were a delay: libwebrtc's `kDefaultTrendlineThresholdGain`.
const GAIN: f64 = 4.0;

/// Groups after which the slope has its full weight: libwebrtc's `kMinNumDeltas`.
const FULL_WEIGHT: u32 = 60;

/// Threshold at first, in milliseconds (draft section 5.4: `del_var_th(0)`).
const THRESHOLD_MS: f64 = 12.5;

/// Bounds of the threshold in milliseconds (draft section 5.4).
const THRESHOLD_RANGE_MS: (f64, f64) = (6.0, 600.0);

/// How fast the threshold rises and falls, per millisecond: libwebrtc's values of the draft's `K_u`
/// and `K_d`.
const GAIN_UP: f64 = 0.0087;
const GAIN_DOWN: f64 = 0.039;

/// Slopes further above the threshold do not move it, in milliseconds (draft section 5.4).
const OUTLIER_MS: f64 = 15.0;

/// The threshold moves by at most this much time at once: libwebrtc's `kMaxTimeDeltaMs`.
const STEP_MS: f64 = 100.0;

/// Overuse must last this long (draft section 5.4: `overuse_time_th`).
const OVERUSE_MS: f64 = 10.0;

/// What the delay says about the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Usage {
    /// The queue stays.
    #[default]
    Normal,
    /// The queue grows.
    Over,
    /// The queue drains.
    Under,
}

/// A delay at a time, both in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Point {
    at: f64,
    delay: f64,
}

/// The filter and the detector.
#[derive(Debug)]
pub(super) struct Trendline {
    points: [Point; WINDOW],
    groups: u32,
    origin: Option<Micros>,
    delay: f64,
    smoothed: f64,
    slope: f64,
    threshold: f64,
    threshold_at: Option<Micros>,
    /// How long the slope has been above the threshold, in milliseconds, and in how many groups.
    over: Option<(f64, u32)>,
    usage: Usage,
}

impl Trendline {
    pub(super) fn new() -> Self {
        Self {
            points: [Point::default(); WINDOW],
            groups: 0,
            origin: None,
            delay: 0.0,
            smoothed: 0.0,
            slope: 0.0,
            threshold: THRESHOLD_MS,
            threshold_at: None,
            over: None,
            usage: Usage::Normal,
        }
    }

    /// What the last group told.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Takes the spacing of one more group.
    pub(super) fn add(&mut self, spacing: Spacing) {
        let sent_ms = millis(spacing.sent_us);
        let origin = *self.origin.get_or_insert(spacing.arrived_at);
        self.delay += millis(spacing.arrived_us) - sent_ms;
        self.smoothed = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * self.delay;
        let place = self.groups as usize % WINDOW;
        if let Some(point) = self.points.get_mut(place) {
            *point = Point {
                at: millis(spacing.arrived_at - origin),
                delay: self.smoothed,
            };
        }
        self.groups = self.groups.wrapping_add(1).max(1);
        let slope = if self.groups as usize >= WINDOW {
            self.fit().unwrap_or(self.slope)
        } else {
            self.slope
        };
        self.detect(slope, sent_ms, spacing.arrived_at);
    }

    /// Slope of the least squares line.
    fn fit(&self) -> Option<f64> {
        let count = WINDOW as f64;
        let (at, delay) = self.points.iter().fold((0.0, 0.0), |(at, delay), point| {
            (at + point.at, delay + point.delay)
        });
        let (at, delay) = (at / count, delay / count);
        let (above, below) = self
            .points
            .iter()
            .fold((0.0, 0.0), |(above, below), point| {
                let from = point.at - at;
                (above + from * (point.delay - delay), below + from * from)
            });
        (below > 0.0).then(|| above / below)
    }

    fn detect(&mut self, slope: f64, sent_ms: f64, at: Micros) {
        if self.groups < 2 {
            return;
        }
        let level = f64::from(self.groups.min(FULL_WEIGHT)) * slope * GAIN;
        if level > self.threshold {
            // Over since somewhere between the two groups.
            let (over_ms, groups) = match self.over {
                Some((ms, groups)) => (ms + sent_ms, groups + 1),
                None => (sent_ms / 2.0, 1),
            };
            self.over = Some((over_ms, groups));
            if over_ms > OVERUSE_MS && groups > 1 && slope >= self.slope {
                self.over = Some((0.0, 0));
                self.usage = Usage::Over;
            }
        } else {
            self.over = None;
            self.usage = if level < -self.threshold {
                Usage::Under
            } else {
                Usage::Normal
            };
        }
        self.slope = slope;
        self.adapt(level.abs(), at);
    }

    fn adapt(&mut self, level: f64, at: Micros) {
        let since = self.threshold_at.replace(at).unwrap_or(at);
        if level > self.threshold + OUTLIER_MS {
            return;
        }
        let gain = if level < self.threshold {
            GAIN_DOWN
        } else {
            GAIN_UP
        };
        let elapsed = millis(at - since).clamp(0.0, STEP_MS);
        let (min, max) = THRESHOLD_RANGE_MS;
        self.threshold += gain * (level - self.threshold) * elapsed;
        self.threshold = self.threshold.clamp(min, max);
    }
}

/// Milliseconds.
fn millis(us: Micros) -> f64 {
    us as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds groups of 20 ms whose delay grows by `growth` milliseconds each.
    fn feed(trendline: &mut Trendline, at: &mut Micros, groups: usize, growth: f64) -> Vec<Usage> {
        (0..groups)
            .map(|_| {
                let arrived_us = 20_000 + super::super::whole_micros(growth * 1e3);
                *at += arrived_us;
                trendline.add(Spacing {
                    sent_us: 20_000,
                    arrived_us,
                    arrived_at: *at,
                });
                trendline.usage()
            })
            .collect()
    }

    #[test]
    fn a_growing_queue_is_over_and_a_draining_one_under() {
        let mut trendline = Trendline::new();
        let mut at = 0;
        let steady = feed(&mut trendline, &mut at, 60, 0.0);
        assert!(steady.iter().all(|&usage| usage == Usage::Normal));
        let growing = feed(&mut trendline, &mut at, 20, 4.0);
        assert!(growing.contains(&Usage::Over));
        let draining = feed(&mut trendline, &mut at, 30, -6.0);
        assert!(draining.contains(&Usage::Under));
        let steady = feed(&mut trendline, &mut at, 60, 0.0);
        assert_eq!(steady.last(), Some(&Usage::Normal));
    }
}
