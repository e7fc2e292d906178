//! Round trips to clients, by network: what the control plane learns from, to place later clients of the same networks.
//! No address leaves the edge, only its network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use proto::control::{ClientReport, ClientRtt};

/// How often they are reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Networks of one report; the others have to wait for their next measurement.
const NETWORKS_MAX: usize = 512;

/// Gathers measurements into reports.
#[derive(Debug, Default)]
pub struct ClientRtts {
    /// The shortest round trip of each network: what the path takes, without waiting in anybody's queue.
    shortest: BTreeMap<IpAddr, Duration>,
    since: Option<Instant>,
}

impl ClientRtts {
    /// Takes measurements of single clients. Returns a report when one is due.
    pub fn take(
        &mut self,
        now: Instant,
        measured: impl IntoIterator<Item = (IpAddr, Duration)>,
    ) -> Option<ClientReport> {
        for (address, rtt) in measured {
            let network = network(address);
            if let Some(known) = self.shortest.get_mut(&network) {
                *known = rtt.min(*known);
            } else if self.shortest.len() < NETWORKS_MAX {
                self.shortest.insert(network, rtt);
            }
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < REPORT_INTERVAL {
            return None;
        }
        self.since = Some(now);
        let rtts = std::mem::take(&mut self.shortest).into_iter();
        let rtts: Vec<_> = rtts
            .map(|(network, rtt)| ClientRtt {
                network: network.to_string(),
                rtt_us: u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX),
            })
            .collect();
        (!rtts.is_empty()).then_some(ClientReport { rtts })
    }
}

/// An address without its host's part: 24 bits of IPv4, 48 of IPv6 are left.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_each_network_every_ten_seconds_and_no_host() {
        let mut rtts = ClientRtts::default();
        let now = Instant::now();
        let of = |address: &str, ms| (address.parse().unwrap(), Duration::from_millis(ms));
        assert_eq!(
            rtts.take(now, [of("192.0.2.7", 40), of("192.0.2.9", 30)]),
            None
        );
        let mapped = [of("::ffff:192.0.2.1", 50), of("2001:db8:1:2::3", 9)];
        assert_eq!(rtts.take(now + Duration::from_secs(9), mapped), None);
        let report = rtts.take(now + REPORT_INTERVAL, []).expect("due");
        let rtts_of: Vec<_> = report
            .rtts
            .iter()
            .map(|r| (r.network.as_str(), r.rtt_us))
            .collect();
        assert_eq!(rtts_of, [("192.0.2.0", 30_000), ("2001:db8:1::", 9_000)]);
        assert_eq!(
            rtts.take(now + 2 * REPORT_INTERVAL, []),
            None,
            "nothing new"
        );
    }

    #[test]
    fn a_report_has_an_end() {
        let mut rtts = ClientRtts::default();
        let now = Instant::now();
        let many = (0..2_000_u32).map(|n| (IpAddr::from((n << 8).to_be_bytes()), REPORT_INTERVAL));
        assert_eq!(rtts.take(now, many), None);
        let report = rtts.take(now + REPORT_INTERVAL, []).expect("due");
        assert_eq!(report.rtts.len(), NETWORKS_MAX);
    }
}
