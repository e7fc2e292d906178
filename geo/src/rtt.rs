//! How long a round trip takes when nobody has measured it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalogue::region;

/// Round-trip time from distance: light in fibre, stretched by how cables really run.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RttModel {
    /// Propagation speed one way in km per millisecond. Light in glass of refractive index 1.47 does 204.
    pub km_per_ms: f64,
    /// Path length over great-circle distance. Median over 19 cloud regions 1.73 (p10 1.38, p90 2.46).
    pub stretch: f64,
    /// Smallest round trip in milliseconds: switches and hosts, for two nodes of one city.
    pub floor_ms: f64,
}

impl Default for RttModel {
    fn default() -> Self {
        Self {
            km_per_ms: 200.0,
            stretch: 1.73,
            floor_ms: 0.5,
        }
    }
}

impl RttModel {
    /// Round trip over `distance_m` metres of great circle. Nonsense in (negative, not a number) gives the floor.
    pub fn rtt(&self, distance_m: f64) -> Duration {
        let ms = 2.0 * distance_m / 1_000.0 / self.km_per_ms * self.stretch;
        // `max` drops a NaN in favour of the floor.
        let secs = ms.max(self.floor_ms) / 1_000.0;
        Duration::try_from_secs_f64(secs).unwrap_or(Duration::ZERO)
    }
}

/// Round trip between two regions of the catalogue by the default model; `None` when one is unknown.
pub fn rtt_between(from: &str, to: &str) -> Option<Duration> {
    Some(RttModel::default().rtt(region(from)?.distance_m(region(to)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(from: &str, to: &str) -> f64 {
        rtt_between(from, to)
            .expect("both in the catalogue")
            .as_secs_f64()
            * 1_000.0
    }

    /// Rows of a matrix measured between cloud regions in 2020, in milliseconds.
    const MEASURED: [(&str, &str, f64); 8] = [
        ("fra", "iad", 85.6),
        ("fra", "syd", 281.9),
        ("iad", "syd", 198.0),
        ("fra", "sin", 178.0),
        ("nrt", "iad", 152.4),
        ("gru", "iad", 113.0),
        ("lhr", "fra", 14.7),
        ("sin", "syd", 90.5),
    ];

    #[test]
    fn the_model_is_within_a_factor_of_two_of_measured_round_trips() {
        for (from, to, measured) in MEASURED {
            let ratio = ms(from, to) / measured;
            assert!((0.5..2.0).contains(&ratio), "{from}-{to}: {ratio}");
        }
    }

    #[test]
    fn symmetric_with_a_floor() {
        assert_eq!(ms("fra", "syd"), ms("syd", "fra"));
        assert_eq!(ms("fra", "fra"), 0.5);
        assert_eq!(rtt_between("fra", "nowhere"), None);
    }

    #[test]
    fn nonsense_gives_the_floor() {
        let model = RttModel::default();
        assert_eq!(model.rtt(f64::NAN), Duration::from_micros(500));
        assert_eq!(model.rtt(-1.0), Duration::from_micros(500));
    }
}
