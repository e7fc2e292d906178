//! Which edge a client is sent to.

use geo::Region;
use proto::control::{Node, NodeState, Role};

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

/// A choice and why it was made.
#[derive(Clone, PartialEq, Debug)]
pub struct Choice {
    /// The edge.
    pub edge: Edge,
    /// The reason, for people.
    pub reason: String,
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

/// The edge for a client: of the wished region, else of the served region nearest to it; without a wish, the least
/// loaded of all.
///
/// # Errors
/// When no edge is ready, or nothing is known about the wished region.
pub fn choose(edges: &[Edge], wish: Option<&str>) -> Result<Choice, Error> {
    let Some(wish) = wish else {
        let edge = least_loaded(edges, None).ok_or(Error::NoEdge)?.clone();
        let reason = format!("automatic: the least loaded of {} ready edges", edges.len());
        return Ok(Choice { edge, reason });
    };
    if let Some(edge) = least_loaded(edges, Some(wish)) {
        return Ok(Choice {
            edge: edge.clone(),
            reason: "the region asked for".to_owned(),
        });
    }
    let served = served(edges);
    if served.is_empty() {
        return Err(Error::NoEdge);
    }
    let unknown = || Error::UnknownRegion {
        region: wish.chars().take(64).collect(),
        served: served.iter().map(|region| (*region).to_owned()).collect(),
    };
    let wished: &Region = geo::region(wish).ok_or_else(unknown)?;
    let nearest = geo::nearest(wished.position, served.iter().copied());
    let (near, distance_m) = nearest.ok_or_else(unknown)?;
    let edge = least_loaded(edges, Some(near.code)).ok_or_else(unknown)?;
    let reason = format!(
        "{} is not served; {} is the nearest served region, {:.0} km away",
        wished.code,
        near.code,
        distance_m / 1_000.0
    );
    Ok(Choice {
        edge: edge.clone(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use proto::control::{Hello, Load};

    use super::*;

    fn node(id: &str, region: &str, participants: u32, state: NodeState) -> Node {
        let hello = Hello {
            node_id: id.to_owned(),
            role: Role::Edge.into(),
            region: region.to_owned(),
            client_url: format!("ws://{id}"),
            capacity: 100,
            ..Hello::default()
        };
        let load = Load {
            participants,
            ..Load::default()
        };
        Node {
            hello: Some(hello),
            state: state.into(),
            load: Some(load),
            connected_at_ms: 0,
        }
    }

    fn edges() -> Vec<Edge> {
        ready_edges(&[
            node("edge-fra-0", "fra", 50, NodeState::Ready),
            node("edge-fra-1", "fra", 20, NodeState::Ready),
            node("edge-iad-0", "iad", 30, NodeState::Ready),
            node("edge-syd-0", "syd", 0, NodeState::Suspect),
        ])
    }

    fn chosen(wish: Option<&str>) -> Result<String, Error> {
        choose(&edges(), wish).map(|choice| choice.edge.node_id)
    }

    #[test]
    fn the_wished_region_else_the_nearest_else_the_least_loaded() {
        assert_eq!(chosen(Some("iad")), Ok("edge-iad-0".to_owned()));
        assert_eq!(chosen(Some("lhr")), Ok("edge-fra-1".to_owned()));
        assert_eq!(chosen(Some("gru")), Ok("edge-iad-0".to_owned()));
        assert_eq!(chosen(None), Ok("edge-fra-1".to_owned()));
        let served = vec!["fra".to_owned(), "iad".to_owned()];
        let unknown = Error::UnknownRegion {
            region: "moon".to_owned(),
            served,
        };
        assert_eq!(chosen(Some("moon")), Err(unknown));
        assert_eq!(choose(&[], Some("fra")), Err(Error::NoEdge));
        assert_eq!(choose(&[], None), Err(Error::NoEdge));
    }

    #[test]
    fn the_reason_is_for_people() {
        let choice = choose(&edges(), Some("lhr")).expect("fra is near");
        assert!(
            choice.reason.starts_with("lhr is not served; fra"),
            "{}",
            choice.reason
        );
    }
}
