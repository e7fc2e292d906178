//! The steps by which one video can be sent, from the cheapest to everything wanted.

use super::{LAYERS, Rates, TEMPORALS, Video};
use crate::router::Target;

/// Most steps of a video.
const STEPS_MAX: usize = LAYERS * TEMPORALS;

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// What is sent.
    pub target: Target,
    /// What it costs in bit/s, everything included.
    pub bps: u64,
    /// What it is worth, in thousandths of the lowest layer.
    worth: u64,
    /// What it is worth more than the step before.
    gain: u64,
    /// What it costs more than the step before.
    extra: u64,
}

impl Step {
    /// Worth per bit; more while it is had already, so that equals do not take turns.
    pub(super) fn density(&self, had: bool) -> u64 {
        let gain = self.gain * if had { 3 } else { 2 };
        gain.saturating_mul(1_000_000) / self.extra.max(1)
    }
}

/// All steps of one video; each costs more than the one before.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ladder {
    steps: [Option<Step>; STEPS_MAX],
    len: usize,
}

impl Ladder {
    /// The steps of a video.
    #[must_use]
    pub fn new(video: &Video) -> Self {
        let mut ladder = Self::default();
        let layers = usize::from(video.wanted.layer).min(LAYERS - 1);
        let frames = usize::from(video.wanted.temporal).min(top_temporal(&video.rates));
        if video.screen {
            // Sharpness first.
            for layer in 0..=layers {
                ladder.add((layer, 0), video);
            }
            for temporal in 1..=frames {
                ladder.add((layers, temporal), video);
            }
        } else {
            for temporal in 0..=frames {
                ladder.add((0, temporal), video);
            }
            for layer in 1..=layers {
                // A sharper picture is not worth less than half of the frames.
                for temporal in frames.saturating_sub(1)..=frames {
                    ladder.add((layer, temporal), video);
                }
            }
        }
        ladder
    }

    /// A step that costs no more than ones before replaces them: it is better and cheaper.
    fn add(&mut self, (layer, temporal): (usize, usize), video: &Video) {
        let (rates, wanted) = (&video.rates, video.wanted.temporal);
        let bps = cost(rates, (layer, temporal), video.svc);
        while self.len > 0 && self.cost(self.len) >= bps {
            self.len -= 1;
        }
        let top = top_temporal(rates);
        let worth = worth(layer, top.saturating_sub(temporal));
        let before = self.len.checked_sub(1).and_then(|last| self.step(last));
        let (worth_before, bps_before) = before.map_or((0, 0), |step| (step.worth, step.bps));
        // The highest temporal layer stands for all above that may yet come.
        let temporal = if temporal < top { temporal } else { 7 };
        let step = Step {
            target: Target {
                layer: u8::try_from(layer).unwrap_or(0),
                temporal: u8::try_from(temporal).unwrap_or(7).min(wanted),
            },
            bps,
            worth,
            gain: worth.saturating_sub(worth_before),
            extra: bps.saturating_sub(bps_before),
        };
        if let Some(slot) = self.steps.get_mut(self.len) {
            *slot = Some(step);
            self.len += 1;
        }
    }

    /// The step after `given` steps; `None` at the top.
    #[must_use]
    pub fn step(&self, given: usize) -> Option<Step> {
        let steps = self.steps.get(..self.len)?;
        steps.get(given).copied().flatten()
    }

    /// What `given` steps cost in bit/s.
    #[must_use]
    pub fn cost(&self, given: usize) -> u64 {
        let step = given.checked_sub(1).and_then(|last| self.step(last));
        step.map_or(0, |step| step.bps)
    }

    /// What everything wanted costs in bit/s.
    #[must_use]
    pub fn top_cost(&self) -> u64 {
        self.cost(self.len)
    }

    /// What is sent with `given` steps; `None` for none.
    #[must_use]
    pub fn target(&self, given: usize) -> Option<Target> {
        self.step(given.checked_sub(1)?).map(|step| step.target)
    }

    /// How many steps do not go beyond a target.
    #[must_use]
    pub fn steps_of(&self, target: Option<Target>) -> usize {
        let Some(target) = target else { return 0 };
        let within = |step: &Step| {
            step.target.layer <= target.layer && step.target.temporal <= target.temporal
        };
        let steps = self.steps.get(..self.len).unwrap_or_default();
        let within = |step: &Option<Step>| step.as_ref().is_some_and(within);
        steps.iter().rposition(within).map_or(0, |last| last + 1)
    }
}

/// Thousandths of the lowest layer: each layer doubles the sides of the picture, each temporal layer that is missing halves the
/// frames per second.
fn worth(layer: usize, missing: usize) -> u64 {
    let layers = [1000, 1800, 2600];
    let frames = [1000, 850, 600];
    let of = |table: [u64; 3], index: usize| table.get(index.min(2)).copied().unwrap_or(0);
    of(layers, layer) * of(frames, missing) / 1000
}

fn top_temporal(rates: &Rates) -> usize {
    let used = |temporal: &usize| {
        rates
            .iter()
            .any(|layer| layer.get(*temporal).is_some_and(|bps| *bps > 0))
    };
    (0..TEMPORALS).rev().find(used).unwrap_or(0)
}

fn cost(rates: &Rates, (layer, temporal): (usize, usize), svc: bool) -> u64 {
    let of_layer = |index: usize| -> u64 {
        let rates = rates.get(index).copied().unwrap_or_default();
        rates.iter().take(temporal + 1).sum()
    };
    if svc {
        (0..=layer).map(of_layer).sum()
    } else {
        of_layer(layer)
    }
}
