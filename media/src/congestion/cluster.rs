//! What a probe measured: the rate at which its packets arrived
//! (libwebrtc's `ProbeBitrateEstimator`).

use smallvec::SmallVec;

use super::arrival::Timing;
use super::history::{History, Reported};
use super::probe::Probe;
use super::{Micros, seconds};

/// Probes under way at a time.
const CLUSTERS: usize = 4;

/// Share of a probe's bytes that must be reported on: libwebrtc's `kMinReceivedBytesRatio`.
const REPORTED_PERCENT: usize = 80;

/// Packets that must have arrived: libwebrtc's `kMinReceivedProbesRatio` of its five.
const ARRIVED_MIN: u32 = 4;

/// A probe is forgotten after this time: libwebrtc's `kMaxClusterHistory`.
const HISTORY_US: Micros = 1_000_000;

/// Longest time from the first to the last packet: libwebrtc's `kMaxProbeInterval`.
const SPAN_MAX_US: Micros = 1_000_000;

/// Packets that arrive this much faster than sent were held back: libwebrtc's `kMaxValidRatio`.
const FASTER_MAX: f64 = 2.0;

/// Below this share of the rate sent, the path was full: libwebrtc's `kMinRatioForUnsaturatedLink`.
const FULL: f64 = 0.9;

/// Share of a full path's rate that is used: libwebrtc's `kTargetUtilizationFraction`.
pub(super) const UTILIZATION: f64 = 0.95;

/// A measured rate in bit/s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    pub(super) bps: f64,
    /// The path was full: there is no more than this.
    pub(super) full: bool,
}

#[derive(Debug, Clone, Copy)]
struct Cluster {
    mark: u16,
    planned_bytes: usize,
    fresh: bool,
    sent: Ends,
    arrived: Ends,
    last_report: Micros,
}

/// First and last of some packets.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    packets: u32,
    bytes: usize,
    first: (Micros, usize),
    last: (Micros, usize),
}

impl Ends {
    fn add(&mut self, at: Micros, bytes: usize) {
        if self.packets == 0 || at < self.first.0 {
            self.first = (at, bytes);
        }
        if self.packets == 0 || at >= self.last.0 {
            self.last = (at, bytes);
        }
        self.packets += 1;
        self.bytes += bytes;
    }

    /// Rate over the span when `not_counted` bytes lie outside it.
    fn bps(&self, not_counted: usize) -> Option<f64> {
        let span = self.last.0 - self.first.0;
        let bits = self.bytes.saturating_sub(not_counted) as f64 * 8.0;
        (0 < span && span <= SPAN_MAX_US).then(|| bits / seconds(span))
    }
}

/// The probes under way.
#[derive(Debug, Default)]
pub(super) struct Clusters(SmallVec<[Cluster; CLUSTERS]>);

impl Clusters {
    /// A probe is about to be sent.
    pub(super) fn expect(&mut self, now: Micros, probe: &Probe) {
        self.0
            .retain(|cluster| now - cluster.last_report < HISTORY_US);
        if self.0.len() == CLUSTERS {
            self.0.remove(0);
        }
        self.0.push(Cluster {
            mark: History::probe_mark(probe.id),
            planned_bytes: probe.bytes,
            fresh: false,
            sent: Ends::default(),
            arrived: Ends::default(),
            last_report: now,
        });
    }

    /// A packet of a probe was reported on.
    pub(super) fn reported(&mut self, now: Micros, packet: &Reported, arrival: Option<Timing>) {
        let of_probe = |cluster: &&mut Cluster| cluster.mark == packet.probe;
        let Some(cluster) = self.0.iter_mut().find(of_probe) else {
            return;
        };
        cluster.fresh = true;
        cluster.last_report = now;
        if !packet.was_lost {
            cluster.sent.add(packet.sent_at, packet.bytes);
        }
        if let Some(arrival) = arrival {
            cluster.arrived.add(arrival.arrived_at, packet.bytes);
        }
    }

    /// The highest rate that the last reports complete. `inherent` is the share of packets that get lost
    /// at any rate.
    pub(super) fn measure(&mut self, inherent: f64) -> Option<Measured> {
        let fresh = self.0.iter_mut().filter_map(|cluster| {
            let fresh = std::mem::take(&mut cluster.fresh);
            fresh.then(|| cluster.measure(inherent)).flatten()
        });
        fresh.max_by(|a, b| a.bps.total_cmp(&b.bps))
    }
}

impl Cluster {
    fn measure(&self, inherent: f64) -> Option<Measured> {
        let enough = self.planned_bytes * REPORTED_PERCENT / 100;
        if self.sent.bytes < enough || self.arrived.packets < ARRIVED_MIN {
            return None;
        }
        // The last packet sent and the first one received lie outside the spans.
        let sent = self.sent.bps(self.sent.last.1)?;
        let arrived = self.arrived.bps(self.arrived.first.1)? / (1.0 - inherent);
        if arrived > FASTER_MAX * sent {
            return None;
        }
        let full = arrived < FULL * sent;
        Some(Measured {
            bps: if full {
                UTILIZATION * arrived
            } else {
                arrived.min(sent)
            },
            full,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What ten packets of 1000 bytes, sent every 4 ms and received with these gaps, measure.
    fn measured(gap_us: Micros, lost: Micros, inherent: f64) -> Option<Measured> {
        let mut clusters = Clusters::default();
        let probe = Probe {
            id: 3,
            bps: 2_000_000,
            bytes: 10_000,
            duration: Duration::from_millis(40),
        };
        clusters.expect(0, &probe);
        for i in 0..10 {
            let packet = Reported {
                sent_at: i * 4000,
                bytes: 1000,
                probe: History::probe_mark(3),
                was_lost: false,
                is_newest: true,
            };
            let arrival = (i >= lost).then_some(Timing {
                sent_at: i * 4000,
                arrived_at: i * gap_us,
                reported_at: 0,
            });
            clusters.reported(100_000, &packet, arrival);
        }
        clusters.measure(inherent)
    }

    #[test]
    fn measures_the_slower_end() {
        let free = measured(4000, 0, 0.0).unwrap();
        assert!((free.bps - 2e6).abs() < 1.0 && !free.full);
        let full = measured(8000, 0, 0.0).unwrap();
        assert!((full.bps - 0.95e6).abs() < 1.0 && full.full);
        assert_eq!(measured(1000, 0, 0.0), None);
        assert_eq!(measured(4000, 7, 0.0), None);
        // What is lost at any rate is no sign of a full path.
        assert!(measured(4000, 3, 0.1).is_some_and(|measured| !measured.full));
    }
}
