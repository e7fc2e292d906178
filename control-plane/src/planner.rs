//! How a room crosses the mesh: a pure function from members, topology and policy to every node's next hops.
//!
//! The same input always gives the same plan, on every replica: ties are broken by node id, and the choice among
//! equal relays by rendezvous hashing of the room's name, so that rooms spread and few move when a relay goes.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::time::Duration;

use geo::{Region, RttModel};
use proto::NodeId;

use crate::config::RoomPolicy;

/// Round trip assumed towards a region that is not in the catalogue.
const UNKNOWN_RTT: Duration = Duration::from_millis(150);

/// What a node does in the mesh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Clients connect to it.
    Edge,
    /// Hands packets on between edges.
    Relay,
}

/// A node that plans may use.
#[derive(Clone, PartialEq, Debug)]
pub struct Site {
    /// What it does.
    pub role: Role,
    /// Code of its region.
    pub region: String,
    /// The region's row of the catalogue; `None` when it has none.
    pub place: Option<&'static Region>,
}

impl Site {
    /// A node by role and region code.
    pub fn new(role: Role, region: impl Into<String>) -> Self {
        let region = region.into();
        let place = geo::region(&region);
        Self {
            role,
            region,
            place,
        }
    }
}

/// All nodes that plans may use.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Topology {
    sites: BTreeMap<NodeId, Site>,
}

impl Topology {
    /// Adds or replaces a node. True when something changed.
    pub fn insert(&mut self, node: NodeId, site: Site) -> bool {
        self.sites.get(&node) != Some(&site) && {
            self.sites.insert(node, site);
            true
        }
    }

    /// Takes a node out. True when it was there.
    pub fn remove(&mut self, node: &NodeId) -> bool {
        self.sites.remove(node).is_some()
    }

    fn relays(&self) -> impl Iterator<Item = (&NodeId, &Site)> {
        self.sites
            .iter()
            .filter(|(_, site)| site.role == Role::Relay)
    }

    /// Modelled round trip between two nodes.
    fn rtt(&self, from: &NodeId, to: &NodeId) -> Duration {
        let place = |node| self.sites.get(node).and_then(|site| site.place);
        match (place(from), place(to)) {
            (Some(from), Some(to)) => RttModel::default().rtt(from.distance_m(to)),
            _ => UNKNOWN_RTT,
        }
    }
}

/// The way to one member edge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The member edge.
    pub edge: NodeId,
    /// The neighbour that everything to and from `edge` goes through; `edge` itself when direct.
    pub via: NodeId,
    /// Taken when `via` is dead.
    pub backup: Option<NodeId>,
}

/// Every involved node's hops: all members, and the relays that are a `via` or a `backup` of somebody.
pub type Hops = BTreeMap<NodeId, Vec<Hop>>;

/// Plans one room. Members that the topology does not know are planned for all the same: they may be back soon.
///
/// Properties: every member has a hop to every other; `via` is the edge itself or a node that has a hop straight to
/// it, so a path has at most two links; both directions of a pair take the same way.
pub fn plan(
    room: &str,
    members: &BTreeSet<NodeId>,
    topology: &Topology,
    policy: &RoomPolicy,
) -> Hops {
    let forced = match policy {
        RoomPolicy::Direct => None,
        RoomPolicy::Via(target) => forced_via(room, target, topology),
    };
    let mut hops = Hops::new();
    let mut between = BTreeSet::new();
    for from in members {
        let towards = members.iter().filter(|to| *to != from).map(|to| {
            let hop = match &forced {
                Some(via) if via != from && via != to => Hop {
                    edge: to.clone(),
                    via: via.clone(),
                    backup: Some(to.clone()),
                },
                _ => {
                    let backup = detour(room, from, to, topology);
                    Hop {
                        edge: to.clone(),
                        via: to.clone(),
                        backup,
                    }
                }
            };
            between.extend(hop.backup.iter().chain([&hop.via]).cloned());
            hop
        });
        hops.insert(from.clone(), towards.collect());
    }
    // Whoever stands between reaches every member straight: no loops, two links at most.
    for relay in between.difference(members) {
        let straight = |edge: &NodeId| Hop {
            edge: edge.clone(),
            via: edge.clone(),
            backup: None,
        };
        hops.insert(relay.clone(), members.iter().map(straight).collect());
    }
    hops
}

/// The node that a `via` policy names: a node by id, else the room's pick of the relays of that region.
fn forced_via(room: &str, target: &str, topology: &Topology) -> Option<NodeId> {
    if let Some((node, _)) = topology.sites.get_key_value(target) {
        return Some(node.clone());
    }
    topology
        .relays()
        .filter(|(_, site)| site.region == target)
        .max_by_key(|(node, _)| (weight(room, node), *node))
        .map(|(node, _)| node.clone())
}

/// The relay with the shortest way from one edge to another.
fn detour(room: &str, from: &NodeId, to: &NodeId, topology: &Topology) -> Option<NodeId> {
    topology
        .relays()
        // A sum of two terms: the same for both directions.
        .min_by_key(|(node, _)| {
            let rtt = topology.rtt(from, node) + topology.rtt(node, to);
            (rtt, std::cmp::Reverse(weight(room, node)), *node)
        })
        .map(|(node, _)| node.clone())
}

/// Rendezvous weight of a node for a room: FNV-1a, which is stable over versions and replicas.
fn weight(room: &str, node: &NodeId) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.write(room.as_bytes());
    // No byte of UTF-8: ("ab", "c") and ("a", "bc") differ.
    hash.write_u8(0xff);
    hash.write(node.as_str().as_bytes());
    hash.finish()
}

/// 64-bit FNV-1a with a final mix, since FNV's high bits change little with the last bytes.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::from(name)
    }

    fn topology(nodes: &[(&str, Role, &str)]) -> Topology {
        let mut topology = Topology::default();
        for (name, role, region) in nodes {
            topology.insert(node(name), Site::new(*role, *region));
        }
        topology
    }

    fn members(names: &[&str]) -> BTreeSet<NodeId> {
        names.iter().map(|name| node(name)).collect()
    }

    fn hop(edge: &str, via: &str, backup: Option<&str>) -> Hop {
        Hop {
            edge: node(edge),
            via: node(via),
            backup: backup.map(node),
        }
    }

    const WORLD: [(&str, Role, &str); 4] = [
        ("edge-fra", Role::Edge, "fra"),
        ("edge-syd", Role::Edge, "syd"),
        ("relay-iad", Role::Relay, "iad"),
        ("relay-sin", Role::Relay, "sin"),
    ];

    #[test]
    fn direct_with_the_nearest_relay_as_backup() {
        let plan = plan(
            "R",
            &members(&["edge-fra", "edge-syd"]),
            &topology(&WORLD),
            &RoomPolicy::Direct,
        );
        assert_eq!(
            plan[&node("edge-fra")],
            [hop("edge-syd", "edge-syd", Some("relay-sin"))]
        );
        assert_eq!(
            plan[&node("edge-syd")],
            [hop("edge-fra", "edge-fra", Some("relay-sin"))]
        );
        assert_eq!(
            plan[&node("relay-sin")],
            [
                hop("edge-fra", "edge-fra", None),
                hop("edge-syd", "edge-syd", None)
            ]
        );
        assert_eq!(plan.len(), 3, "a relay that nobody needs gets no plan");
    }

    #[test]
    fn direct_without_relays_has_no_backup() {
        let topology = topology(&WORLD[..2]);
        let plan = plan(
            "R",
            &members(&["edge-fra", "edge-syd"]),
            &topology,
            &RoomPolicy::Direct,
        );
        assert_eq!(plan[&node("edge-fra")], [hop("edge-syd", "edge-syd", None)]);
    }

    #[test]
    fn via_a_region_or_a_node_with_the_straight_link_as_backup() {
        for target in ["iad", "relay-iad"] {
            let policy = RoomPolicy::Via(target.to_owned());
            let plan = plan(
                "R",
                &members(&["edge-fra", "edge-syd"]),
                &topology(&WORLD),
                &policy,
            );
            assert_eq!(
                plan[&node("edge-fra")],
                [hop("edge-syd", "relay-iad", Some("edge-syd"))]
            );
            assert!(plan.contains_key(&node("relay-iad")));
        }
    }

    #[test]
    fn via_nobody_falls_back_to_direct() {
        let policy = RoomPolicy::Via("gru".to_owned());
        let plan = plan(
            "R",
            &members(&["edge-fra", "edge-syd"]),
            &topology(&WORLD),
            &policy,
        );
        assert_eq!(
            plan[&node("edge-fra")],
            [hop("edge-syd", "edge-syd", Some("relay-sin"))]
        );
    }

    #[test]
    fn via_an_edge_that_is_a_member_itself() {
        let nodes = [
            ("a", Role::Edge, "fra"),
            ("b", Role::Edge, "iad"),
            ("c", Role::Edge, "syd"),
        ];
        let policy = RoomPolicy::Via("b".to_owned());
        let plan = plan("R", &members(&["a", "b", "c"]), &topology(&nodes), &policy);
        assert_eq!(
            plan[&node("a")],
            [hop("b", "b", None), hop("c", "b", Some("c"))]
        );
        assert_eq!(plan[&node("b")], [hop("a", "a", None), hop("c", "c", None)]);
    }

    #[test]
    fn one_member_needs_nobody() {
        let plan = plan(
            "R",
            &members(&["edge-fra"]),
            &topology(&WORLD),
            &RoomPolicy::Direct,
        );
        assert_eq!(plan, Hops::from([(node("edge-fra"), vec![])]));
    }

    #[test]
    fn rooms_spread_over_the_relays_of_a_region() {
        let names: Vec<_> = (0..4).map(|n| format!("relay-{n}")).collect();
        let nodes: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), Role::Relay, "sin"))
            .collect();
        let topology = topology(&nodes);
        let mut rooms_of = BTreeMap::<NodeId, u32>::new();
        for room in 0..1_000 {
            let via = forced_via(&format!("room-{room}"), "sin", &topology).expect("four relays");
            *rooms_of.entry(via).or_default() += 1;
        }
        assert!(rooms_of.len() == 4 && rooms_of.values().all(|rooms| (200..300).contains(rooms)));
    }

    prop_compose! {
        fn world()(
            roles in proptest::collection::vec((any::<bool>(), 0..geo::REGIONS.len()), 1..24),
            member_bits in any::<u32>(),
            policy in 0..4_usize,
            target in 0..24_usize,
        ) -> (Topology, BTreeSet<NodeId>, RoomPolicy) {
            let mut topology = Topology::default();
            let mut members = BTreeSet::new();
            for (index, (relay, region)) in roles.iter().enumerate() {
                let name = NodeId::from(format!("n{index:02}"));
                let role = if *relay { Role::Relay } else { Role::Edge };
                topology.insert(name.clone(), Site::new(role, geo::REGIONS[*region].code));
                if role == Role::Edge && member_bits & (1 << index) != 0 {
                    members.insert(name);
                }
            }
            let target = match policy {
                0 | 1 => None,
                2 => Some(format!("n{target:02}")),
                _ => roles.get(target).map(|(_, region)| geo::REGIONS[*region].code.to_owned()),
            };
            (topology, members, target.map_or(RoomPolicy::Direct, RoomPolicy::Via))
        }
    }

    proptest! {
        #[test]
        fn every_edge_reaches_every_other_in_two_links((topology, members, policy) in world()) {
            let plan = plan("R", &members, &topology, &policy);
            for from in &members {
                for to in members.iter().filter(|to| *to != from) {
                    let hop = plan[from].iter().find(|hop| hop.edge == *to).expect("a hop to each");
                    prop_assert_ne!(Some(&hop.via), hop.backup.as_ref());
                    for next in hop.backup.iter().chain([&hop.via]) {
                        prop_assert_ne!(next, from);
                        if next != to {
                            let onward = plan[next].iter().find(|hop| hop.edge == *to);
                            prop_assert_eq!(onward.map(|hop| &hop.via), Some(to));
                        }
                    }
                }
            }
        }

        #[test]
        fn both_directions_take_the_same_way((topology, members, policy) in world()) {
            let plan = plan("R", &members, &topology, &policy);
            let between = |from: &NodeId, to: &NodeId| {
                let hop = plan[from].iter().find(|hop| hop.edge == *to).expect("a hop to each");
                (hop.via != *to).then(|| hop.via.clone())
            };
            for from in &members {
                for to in members.iter().filter(|to| *to != from) {
                    prop_assert_eq!(between(from, to), between(to, from));
                }
            }
        }

        #[test]
        fn the_same_input_gives_the_same_plan((topology, members, policy) in world()) {
            prop_assert_eq!(
                plan("R", &members, &topology, &policy),
                plan("R", &members, &topology, &policy)
            );
        }
    }
}
