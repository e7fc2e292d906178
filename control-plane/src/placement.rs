//! Which edge a client is sent to: the one that serves the whole room best, not just the nearest one. [`score`] decides,
//! without I/O, and says why; [`Placer`] gathers what it decides by.

pub mod geo_data;
mod placer;
pub mod score;

use proto::control::{Node, NodeState, Role};
use serde::{Deserialize, Serialize};

pub(crate) use placer::links_of;
pub use placer::{Asked, Moment, Placed, Placer};
pub use score::{Explanation, Links, Question};

/// What a score's terms weigh.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where a client is taken to be that nothing is known of, a region's code; empty for nowhere.
    pub default_region: String,
    /// What a millisecond between client and edge counts like against one between edges. More than 1: whatever is lost between them
    /// takes another of those round trips, and nobody can go around it.
    pub client_weight: f64,
    /// What a full edge counts like, in milliseconds; it grows with the square of the load.
    pub load_ms: f64,
    /// How many milliseconds of delay a US dollar per hour of talking is worth.
    pub ms_per_usd_hour: f64,
    /// Client networks whose round trips are remembered.
    pub networks: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_region: String::new(),
            client_weight: 1.5,
            load_ms: 50.0,
            ms_per_usd_hour: 100.0,
            networks: 50_000,
        }
    }
}

impl Settings {
    /// Its weights with their names.
    pub fn weights(&self) -> [(&'static str, f64); 3] {
        [
            ("client_weight", self.client_weight),
            ("load_ms", self.load_ms),
            ("ms_per_usd_hour", self.ms_per_usd_hour),
        ]
    }
}

/// An edge that takes clients.
#[derive(Clone, PartialEq, Debug)]
pub struct Edge {
    /// Its id.
    pub node_id: String,
    /// Its region.
    pub region: String,
    /// Where clients reach it.
    pub url: String,
    /// Participants per place it has, 0.0 (idle) to 1.0 (full) and above.
    pub load: f64,
}

/// Why there is no edge for a client.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// No edge is ready.
    #[error("no edge is ready")]
    NoEdge,
    /// The region is neither served nor in the catalogue, so that no neighbour of it can be found.
    #[error("region {region:?} is unknown; served regions: {}", served.join(", "))]
    UnknownRegion {
        /// What was asked for.
        region: String,
        /// Regions that have a ready edge.
        served: Vec<String>,
    },
    /// Edges are ready, but none where the room may be.
    #[error("no edge is ready where the room may be: {allowed}")]
    Confined {
        /// Where it may be.
        allowed: String,
    },
}

/// Edges that are ready, by id.
pub fn ready_edges(nodes: &[Node]) -> Vec<Edge> {
    let ready = |node: &&Node| node.state() == NodeState::Ready;
    let edge = |node: &Node| {
        let hello = node.hello.as_ref()?;
        let takes_clients = hello.role() == Role::Edge && !hello.client_url.is_empty();
        let participants = node.load.map_or(0, |load| load.participants);
        takes_clients.then(|| Edge {
            node_id: hello.node_id.clone(),
            region: hello.region.clone(),
            url: hello.client_url.clone(),
            // An edge that names no capacity counts as a big one.
            load: f64::from(participants)
                / f64::from(if hello.capacity == 0 {
                    10_000
                } else {
                    hello.capacity
                }),
        })
    };
    nodes.iter().filter(ready).filter_map(edge).collect()
}

/// Regions that have an edge, without repetition, by code.
pub fn served(edges: &[Edge]) -> Vec<&str> {
    let mut regions: Vec<_> = edges.iter().map(|edge| edge.region.as_str()).collect();
    regions.sort_unstable();
    regions.dedup();
    regions
}

/// The least loaded edge, of one region or of all; the first by id among equals.
pub fn least_loaded<'a>(edges: &'a [Edge], region: Option<&str>) -> Option<&'a Edge> {
    let candidates = edges
        .iter()
        .filter(|edge| region.is_none_or(|region| edge.region == region));
    candidates.min_by(|a, b| {
        a.load
            .total_cmp(&b.load)
            .then_with(|| a.node_id.cmp(&b.node_id))
    })
}
