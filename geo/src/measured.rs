//! What round trips of earlier clients teach about the next one from the same network.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Weight of a new measurement against those before.
const GAIN: f64 = 0.2;
/// The model is at most this wrong; a measurement that says more is taken for a broken client.
const CORRECTION: std::ops::RangeInclusive<f64> = 0.3..=4.0;
/// Longest round trip that is believed, in milliseconds.
const RTT_MS_MAX: f64 = 5_000.0;

/// A client network: what addresses of one access line or campus have in common. 24 bits of an IPv4 address, 48 of an
/// IPv6 address; the rest is not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Network(IpAddr);

impl Network {
    /// The network of an address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                IpAddr::from([a, b, c, 0])
            }
            IpAddr::V6(v6) => {
                let [a, b, c, ..] = v6.segments();
                IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
            }
        })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = if self.0.is_ipv4() { 24 } else { 48 };
        write!(f, "{}/{bits}", self.0)
    }
}

/// Where an expected round trip comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Distance alone.
    Model,
    /// Distance, corrected by what clients of this network saw towards other regions.
    Corrected,
    /// Clients of this network were measured towards this region.
    Measured,
}

/// An expected round trip.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Expected {
    /// Milliseconds.
    pub ms: f64,
    /// Where it comes from.
    pub source: Source,
}

#[derive(Clone, Copy, Debug)]
struct Mean {
    ms: f64,
    /// Measured over modelled; `None` when nobody knew where the network is.
    ratio: Option<f64>,
}

/// Mean round trips by client network and region, the latest networks only.
#[derive(Debug)]
pub struct Measured {
    networks: BTreeMap<Network, BTreeMap<String, Mean>>,
    /// Oldest first.
    order: VecDeque<Network>,
    capacity: usize,
}

impl Measured {
    /// Keeps at most `capacity` networks; a new one makes the oldest be forgotten.
    pub fn new(capacity: usize) -> Self {
        Self {
            networks: BTreeMap::new(),
            order: VecDeque::new(),
            capacity: capacity.max(1),
        }
    }

    /// How many networks are known.
    pub fn len(&self) -> usize {
        self.networks.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// A client of `network` saw `rtt_ms` towards `region`; `model_ms` is what the model had said, if anything. What cannot
    /// be is left out.
    pub fn learn(&mut self, network: Network, region: &str, rtt_ms: f64, model_ms: Option<f64>) {
        if !(rtt_ms > 0.0 && rtt_ms <= RTT_MS_MAX) {
            return;
        }
        if !self.networks.contains_key(&network) {
            if self.networks.len() >= self.capacity
                && let Some(oldest) = self.order.pop_front()
            {
                self.networks.remove(&oldest);
            }
            self.order.push_back(network);
        }
        let ratio = model_ms
            .filter(|model| *model > 0.0)
            .map(|model| (rtt_ms / model).clamp(*CORRECTION.start(), *CORRECTION.end()));
        let regions = self.networks.entry(network).or_default();
        match regions.get_mut(region) {
            Some(mean) => {
                mean.ms += GAIN * (rtt_ms - mean.ms);
                mean.ratio = match (mean.ratio, ratio) {
                    (Some(before), Some(now)) => Some(before + GAIN * (now - before)),
                    (before, now) => now.or(before),
                };
            }
            None => {
                regions.insert(region.to_owned(), Mean { ms: rtt_ms, ratio });
            }
        }
    }

    /// What a client of `network` may expect towards `region`, given what the model says. `None` when neither the model
    /// nor a measurement knows anything.
    pub fn expect(
        &self,
        network: Option<Network>,
        region: &str,
        model_ms: Option<f64>,
    ) -> Option<Expected> {
        let regions = network.and_then(|network| self.networks.get(&network));
        if let Some(mean) = regions.and_then(|regions| regions.get(region)) {
            return Some(Expected {
                ms: mean.ms,
                source: Source::Measured,
            });
        }
        let model_ms = model_ms?;
        let ratios: Vec<f64> = regions
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter_map(|mean| mean.ratio)
            .collect();
        if ratios.is_empty() {
            return Some(Expected {
                ms: model_ms,
                source: Source::Model,
            });
        }
        let count = u32::try_from(ratios.len()).unwrap_or(u32::MAX);
        let ratio = ratios.iter().sum::<f64>() / f64::from(count);
        Some(Expected {
            ms: model_ms * ratio,
            source: Source::Corrected,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> Network {
        Network::of(address.parse().unwrap())
    }

    #[test]
    fn networks_keep_no_host() {
        assert_eq!(network("192.0.2.77").to_string(), "192.0.2.0/24");
        assert_eq!(network("::ffff:192.0.2.77"), network("192.0.2.1"));
        assert_eq!(network("2001:db8:1:2::3").to_string(), "2001:db8:1::/48");
    }

    #[test]
    fn measurements_replace_the_model_and_correct_it_elsewhere() {
        let mut measured = Measured::new(10);
        let here = network("192.0.2.1");
        let model = measured.expect(Some(here), "fra", Some(10.0));
        assert_eq!(
            model,
            Some(Expected {
                ms: 10.0,
                source: Source::Model
            })
        );
        measured.learn(here, "fra", 20.0, Some(10.0));
        let known = measured.expect(Some(here), "fra", Some(10.0)).unwrap();
        assert_eq!((known.ms, known.source), (20.0, Source::Measured));
        let other = measured.expect(Some(here), "lhr", Some(15.0)).unwrap();
        assert_eq!((other.ms, other.source), (30.0, Source::Corrected));
        let elsewhere = measured.expect(Some(network("198.51.100.1")), "lhr", Some(15.0));
        assert_eq!(elsewhere.unwrap().source, Source::Model);
        assert_eq!(measured.expect(Some(here), "lhr", None), None);
        for _ in 0..50 {
            measured.learn(here, "fra", 40.0, Some(10.0));
        }
        let later = measured.expect(Some(here), "fra", None).unwrap();
        assert!((later.ms - 40.0).abs() < 0.1, "{later:?}");
    }

    #[test]
    fn nonsense_is_left_out_and_the_oldest_forgotten() {
        let mut measured = Measured::new(2);
        for rtt_ms in [0.0, -1.0, f64::NAN, f64::INFINITY, 6_000.0] {
            measured.learn(network("192.0.2.1"), "fra", rtt_ms, None);
        }
        assert!(measured.is_empty());
        for third in 0..5_u8 {
            let address = IpAddr::from([192, 0, third, 1]);
            measured.learn(Network::of(address), "fra", 5.0, None);
        }
        assert_eq!(measured.len(), 2);
        assert!(
            measured
                .expect(Some(network("192.0.0.1")), "fra", None)
                .is_none()
        );
        assert!(
            measured
                .expect(Some(network("192.0.4.1")), "fra", None)
                .is_some()
        );
    }
}
