//! How good a connection is for its participant, as a mean opinion score (ITU-T P.800: 1 bad to 5 excellent) and in the four steps
//! that clients show.
//!
//! Speech follows the E-model (ITU-T G.107) with its delay part as Cole and Rosenbluth fitted it ("Voice over IP performance
//! monitoring", ACM SIGCOMM CCR 31(2), 2001):
//!
//! ```text
//! R   = 93.2 - Id - Ie,eff
//! Id  = 0.024 d + 0.11 (d - 177.3) [d > 177.3]     d: mouth to ear in ms
//! Ie  = 95 p / (p + Bpl)                           p: loss in percent
//! MOS = 1 + 0.035 R + 7e-6 R (R - 60) (100 - R)
//! ```
//!
//! Pictures follow the form of the opinion model for video telephony (ITU-T G.1070): `MOS = 1 + Ic exp(-p / Dppl)`, with a coding
//! part `Ic` that each missing layer lowers, over the share of time in which the picture moved.

use std::time::Duration;

use livekit_protocol::ConnectionQuality;

/// R without any impairment (G.107 default values).
const R_MAX: f32 = 93.2;
/// Robustness of Opus with its concealment and in-band FEC to random loss, in percent: like G.711 with concealment (25.1 in G.113
/// appendix I), which it is at least equal to.
const LOSS_ROBUSTNESS_AUDIO: f32 = 25.1;
/// Delay of the ends beside network and jitter buffer, ms: a 20 ms frame, its look-ahead, capture and playout.
const END_DELAY_MS: f32 = 50.0;
/// Best coding quality of video, MOS above 1.
const CODING_MAX: f32 = 3.5;
/// What is left of the coding quality when the next lower layer comes instead: a quarter of the pixels.
const CODING_PER_LAYER: f32 = 0.75;
/// Loss before repair at which the part of the packets lost for good has cost all but 1/e, percent. G.1070 gives about 4 without
/// repair; here most is sent again in time.
const LOSS_ROBUSTNESS_VIDEO: f32 = 12.0;

/// At and above: excellent. R is 80 there, "satisfied" in G.107 table B.1.
const EXCELLENT_MIN: f32 = 4.0;
/// At and above: good. R is 60 there, below which nearly all users are dissatisfied.
const GOOD_MIN: f32 = 3.1;
/// A better step is only taken this far above its bound.
const MARGIN: f32 = 0.1;
/// And after this many windows in a row.
const BETTER_WINDOWS: u8 = 2;

/// What an audio stream went through.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Audio {
    /// Lost, 0 to 1.
    pub loss: f32,
    /// Round trip between client and edge.
    pub rtt: Duration,
    /// Interarrival jitter.
    pub jitter: Duration,
}

/// What a video stream went through.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Video {
    /// Lost before repair, 0 to 1.
    pub loss: f32,
    /// Layers between the one that is wanted and the one that is sent, on average.
    pub layers_missed: f32,
    /// Share of the time in which the picture stood, 0 to 1.
    pub standing: f32,
}

impl Audio {
    /// The score, 1 to 4.5.
    pub fn score(&self) -> f32 {
        let ms = |d: Duration| d.as_secs_f32() * 1000.0;
        // A playout buffer holds about twice the jitter.
        let delay = ms(self.rtt) / 2.0 + 2.0 * ms(self.jitter) + END_DELAY_MS;
        let delay_impairment = 0.024 * delay + 0.11 * (delay - 177.3).max(0.0);
        let loss = percent(self.loss);
        let loss_impairment = 95.0 * loss / (loss + LOSS_ROBUSTNESS_AUDIO);
        opinion(R_MAX - delay_impairment - loss_impairment)
    }
}

impl Video {
    /// The score, 1 to 4.5.
    pub fn score(&self) -> f32 {
        let coding = CODING_MAX * CODING_PER_LAYER.powf(self.layers_missed.max(0.0));
        let arrived = (-percent(self.loss) / LOSS_ROBUSTNESS_VIDEO).exp();
        1.0 + coding * arrived * (1.0 - self.standing.clamp(0.0, 1.0))
    }
}

fn percent(share: f32) -> f32 {
    share.clamp(0.0, 1.0) * 100.0
}

/// MOS of a rating R (G.107 annex B).
fn opinion(rating: f32) -> f32 {
    let r = rating.clamp(0.0, 100.0);
    (1.0 + 0.035 * r + 7e-6 * r * (r - 60.0) * (100.0 - r)).clamp(1.0, 4.5)
}

/// Turns scores of successive windows into steps: down at once, up only when it lasts.
#[derive(Debug)]
pub struct Meter {
    quality: ConnectionQuality,
    better: u8,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            quality: ConnectionQuality::Excellent,
            better: 0,
        }
    }
}

impl Meter {
    /// The step now.
    pub fn quality(&self) -> ConnectionQuality {
        self.quality
    }

    /// Takes the score of one window.
    pub fn observe(&mut self, score: f32) {
        let now = step(score);
        if rank(now) <= rank(self.quality) {
            self.quality = now;
            self.better = 0;
            return;
        }
        let firm = step(score - MARGIN);
        if rank(firm) <= rank(self.quality) {
            self.better = 0;
            return;
        }
        self.better += 1;
        if self.better >= BETTER_WINDOWS {
            self.quality = firm;
            self.better = 0;
        }
    }
}

fn step(score: f32) -> ConnectionQuality {
    if score >= EXCELLENT_MIN {
        ConnectionQuality::Excellent
    } else if score >= GOOD_MIN {
        ConnectionQuality::Good
    } else {
        ConnectionQuality::Poor
    }
}

fn rank(quality: ConnectionQuality) -> u8 {
    match quality {
        ConnectionQuality::Lost => 0,
        ConnectionQuality::Poor => 1,
        ConnectionQuality::Good => 2,
        ConnectionQuality::Excellent => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConnectionQuality::{Excellent, Good, Poor};

    #[test]
    fn speech_by_loss_delay_and_jitter() {
        // Loss, round trip ms, jitter ms, step. R of the first: 93.2 - 0.024 * 50 = 92.0, MOS 4.39.
        let table = [
            (0.0, 0, 0, Excellent),
            (0.0, 150, 5, Excellent),
            (0.01, 60, 5, Excellent),
            (0.02, 60, 5, Excellent),
            (0.05, 60, 5, Good),
            (0.08, 150, 10, Good),
            (0.15, 60, 5, Poor),
            (0.0, 400, 30, Good),
            (0.0, 900, 60, Poor),
            (1.0, 60, 5, Poor),
        ];
        for (loss, rtt, jitter, expected) in table {
            let audio = Audio {
                loss,
                rtt: Duration::from_millis(rtt),
                jitter: Duration::from_millis(jitter),
            };
            let score = audio.score();
            assert_eq!(step(score), expected, "{audio:?}: {score}");
        }
        assert!((Audio::default().score() - 4.39).abs() < 0.01);
    }

    #[test]
    fn pictures_by_loss_layers_and_standing() {
        let table = [
            (0.0, 0.0, 0.0, Excellent),
            (0.01, 0.0, 0.0, Excellent),
            (0.05, 0.0, 0.0, Good),
            (0.15, 0.0, 0.0, Poor),
            (0.0, 1.0, 0.0, Good),
            (0.0, 2.0, 0.0, Poor),
            (0.0, 0.0, 0.1, Excellent),
            (0.0, 0.0, 0.3, Good),
            (0.0, 0.0, 1.0, Poor),
        ];
        for (loss, layers_missed, standing, expected) in table {
            let video = Video {
                loss,
                layers_missed,
                standing,
            };
            let score = video.score();
            assert_eq!(step(score), expected, "{video:?}: {score}");
        }
    }

    #[test]
    fn worse_at_once_better_when_it_lasts() {
        let mut meter = Meter::default();
        let mut after = |score| {
            meter.observe(score);
            meter.quality()
        };
        assert_eq!(after(2.0), Poor);
        assert_eq!(after(4.4), Poor);
        assert_eq!(after(4.4), Excellent);
        assert_eq!(after(3.9), Good);
        // Just over the bound is not enough.
        for _ in 0..5 {
            assert_eq!(after(4.05), Good);
        }
        assert_eq!(after(4.2), Good);
        assert_eq!(after(3.5), Good);
        assert_eq!(after(4.2), Good, "counted anew");
        assert_eq!(after(4.2), Excellent);
    }

    #[test]
    fn scores_stay_in_range_whatever_comes() {
        for loss in [-1.0, 0.0, 0.5, 2.0] {
            let audio = Audio {
                loss,
                rtt: Duration::from_secs(100),
                jitter: Duration::from_secs(9),
            };
            let video = Video {
                loss,
                layers_missed: 9.0,
                standing: 7.0,
            };
            for score in [audio.score(), video.score()] {
                assert!((1.0..=4.5).contains(&score), "{score}");
            }
        }
    }
}
