//! Distances between the regions: one emulated path per pair of nodes, which the dialling node is sent through.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lab::wan::{Path, Proxy};

use super::layout::{Node, loopback};
use super::options::Options;

/// Peers that a node dials at a proxy's address instead of their own, by node id.
pub(crate) type Via = BTreeMap<String, SocketAddr>;

/// The running emulator; dropping it ends all paths.
#[derive(Debug, Default)]
pub(crate) struct Wan {
    proxies: Vec<Proxy>,
    via: BTreeMap<String, Via>,
}

impl Wan {
    /// Starts a path between every two nodes of different regions: half the modelled round trip in each direction, and the
    /// loss asked for. Nothing with `--wan off`.
    ///
    /// # Errors
    /// When a path has no port or thread.
    pub(crate) fn start(nodes: &[Node], options: &Options) -> std::io::Result<Self> {
        let mut wan = Self::default();
        if !options.wan.is_on() {
            return Ok(wan);
        }
        for (dialler, target) in pairs(nodes) {
            let delay = one_way(dialler, target);
            let path = |seed| Path {
                loss: options.loss,
                seed,
                ..Path::with_delay(delay)
            };
            let seed = u64::try_from(wan.proxies.len()).unwrap_or(0) * 2;
            let proxy = Proxy::start(
                loopback(0),
                target.link_address(),
                path(seed + 1),
                path(seed + 2),
            )?;
            tracing::info!(
                from = dialler.id,
                to = target.id,
                one_way_ms = delay.as_secs_f64() * 1e3,
                loss = options.loss,
                "emulated path"
            );
            let via = wan.via.entry(dialler.id.clone()).or_default();
            via.insert(target.id.clone(), proxy.local_addr());
            wan.proxies.push(proxy);
        }
        Ok(wan)
    }

    /// Where `node` dials its peers.
    pub(crate) fn via(&self, node: &str) -> Via {
        self.via.get(node).cloned().unwrap_or_default()
    }
}

/// All pairs of different regions, the dialling node first: the one with the lower id.
fn pairs(nodes: &[Node]) -> impl Iterator<Item = (&Node, &Node)> {
    nodes.iter().flat_map(move |dialler| {
        let targets = nodes.iter().filter(move |target| dialler.id < target.id);
        let apart = targets.filter(move |target| target.region.code != dialler.region.code);
        apart.map(move |target| (dialler, target))
    })
}

fn one_way(from: &Node, to: &Node) -> Duration {
    geo::RttModel::default().rtt(from.region.distance_m(to.region)) / 2
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::up::layout::Layout;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn start(flags: &[&str]) -> (Layout, Wan) {
        let flags = ["up", "--base-port", "0"].iter().chain(flags);
        let options = Cli::try_parse_from(flags).map(|cli| cli.options).unwrap();
        let layout = Layout::new(&options).unwrap();
        let wan = Wan::start(&layout.nodes, &options).unwrap();
        (layout, wan)
    }

    #[test]
    fn each_pair_of_regions_has_one_path_that_the_lower_id_dials() {
        let (layout, wan) = start(&["--regions", "fra,fra,syd", "--relays", "sin"]);
        assert_eq!(layout.nodes.len(), 4);
        // Six pairs, one of them within a region.
        assert_eq!(wan.proxies.len(), 5);
        let via = wan.via("edge-fra-0");
        assert_eq!(
            via.keys().collect::<Vec<_>>(),
            ["edge-syd-0", "relay-sin-0"]
        );
        assert!(wan.via("relay-sin-0").is_empty());
        for proxy in &wan.proxies {
            assert!(
                layout
                    .nodes
                    .iter()
                    .any(|node| node.link_address() == proxy.target())
            );
        }
    }

    #[test]
    fn half_the_round_trip_each_way() {
        let (layout, _) = start(&["--regions", "fra,syd", "--relays", ""]);
        let delay = one_way(&layout.nodes[0], &layout.nodes[1]);
        assert_eq!(delay * 2, geo::rtt_between("fra", "syd").unwrap());
    }

    #[test]
    fn off_means_none() {
        let (_, wan) = start(&["--wan", "off"]);
        assert!(wan.proxies.is_empty());
    }
}
