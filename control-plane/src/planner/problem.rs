//! What one room's plan is made from, and nothing else: small enough to be kept, written down and solved again.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::hash::Hasher;

use proto::{NodeId, RoomId};
use serde::{Deserialize, Serialize};

use super::topology::{Role, Topology};
use crate::config::RoomPolicy;
use crate::rules::{Bounds, Terms};

/// Version of this record. Another version's records are refused, since their solution may differ.
pub const VERSION: u32 = 1;
/// Regions whose relay is looked at for one room, those with the shortest ways to its members.
const TRANSITS_MAX: usize = 8;
/// Most nodes of a record that is read from a file.
const NODES_MAX: usize = 2_048;

/// One room's members, the nodes that may stand between them, and what is known of all the links.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// [`VERSION`].
    pub version: u32,
    /// The room.
    pub room: RoomId,
    /// How it is to cross the mesh; a region to go through is resolved to a node already.
    pub policy: RoomPolicy,
    /// How much delay a cheaper way may cost.
    pub bounds: Bounds,
    /// How many of `nodes` are members; they come first.
    pub members: usize,
    /// Members, then candidates to stand between, each by id.
    pub nodes: Vec<Place>,
    /// Links of every pair of nodes: of the first one to all later ones, of the second one, and so on.
    pub links: Vec<Link>,
    /// The plan before, to be kept unless another one is clearly better.
    pub previous: Option<Shape>,
}

/// A node as plans see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The node.
    pub id: NodeId,
    /// Code of its region; empty when the node is not known.
    pub region: String,
    /// What it does.
    pub role: Role,
    /// People per place it has, in thousandths.
    pub load_permille: u16,
    /// Price of a gigabyte it sends to another node, in millionths of a US dollar.
    pub link_micro_usd: u32,
}

/// A link as plans see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Round trip in microseconds.
    pub rtt_us: u32,
    /// Share of packets lost before repair, in millionths.
    pub loss_ppm: u32,
    /// Nothing gets through.
    pub down: bool,
    /// Measured, not modelled.
    pub measured: bool,
}

/// What the next plan needs to know of this one: which ways were not straight.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Every member and the node that it hands its streams to; itself when it has no hub.
    pub hubs: Vec<(NodeId, NodeId)>,
    /// Ways that are not straight: from, to, and who stands between, in that order.
    pub ways: Vec<(NodeId, NodeId, Vec<NodeId>)>,
}

/// A record that cannot be a problem.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// Of another version of the planner.
    #[error("version {0} of the record; this planner solves version {VERSION}")]
    Version(u32),
    /// Too large, or counts that do not fit together.
    #[error("{nodes} nodes of which {members} are members, and {links} links, do not fit together")]
    Size {
        /// Nodes there are.
        nodes: usize,
        /// Members said.
        members: usize,
        /// Links there are.
        links: usize,
    },
    /// Members or candidates are not sorted by id, or one is there twice.
    #[error("nodes are not in order at {0}")]
    Order(NodeId),
}

/// Which room is to be planned.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// Edges that serve it. Those that the topology does not know are planned for all the same: they may be back soon.
    pub members: &'a BTreeSet<NodeId>,
    /// What holds for it.
    pub terms: &'a Terms,
    /// Its plan before.
    pub previous: Option<&'a Shape>,
}

impl Problem {
    /// What a room's plan is to be made from.
    pub fn of(request: Request<'_>, topology: &Topology) -> Self {
        let Request {
            room,
            members,
            terms,
            previous,
        } = request;
        let forced = match &terms.policy {
            RoomPolicy::Via(target) => forced(room, target, request, topology),
            RoomPolicy::Direct | RoomPolicy::Auto => None,
        };
        let mut transits = if members.len() > 1 {
            transits(request, topology)
        } else {
            Vec::new()
        };
        if let Some(node) = &forced
            && members.len() > 1
            && !members.contains(node)
            && !transits.contains(node)
        {
            transits.push(node.clone());
        }
        transits.sort();
        let ids = || members.iter().chain(&transits);
        let slots: Vec<_> = ids().map(|node| topology.slot(node)).collect();
        let mut links = Vec::with_capacity(slots.len() * slots.len() / 2);
        for (index, a) in slots.iter().enumerate() {
            let later = slots.iter().skip(index + 1);
            links.extend(later.map(|b| topology.link(*a, *b)));
        }
        let policy = match (&terms.policy, forced) {
            (RoomPolicy::Via(_), Some(node)) => RoomPolicy::Via(node.to_string()),
            // Nobody there to go through.
            (RoomPolicy::Via(_), None) => RoomPolicy::Direct,
            (policy, _) => policy.clone(),
        };
        Self {
            version: VERSION,
            room: room.clone(),
            policy,
            bounds: terms.bounds,
            members: members.len(),
            nodes: ids().map(|node| topology.place(node)).collect(),
            links,
            previous: previous.filter(|_| members.len() > 1).cloned(),
        }
    }

    /// Checks a record that came from outside.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.version != VERSION {
            return Err(Malformed::Version(self.version));
        }
        let (nodes, members, links) = (self.nodes.len(), self.members, self.links.len());
        let pairs = nodes.saturating_mul(nodes.saturating_sub(1)) / 2;
        if nodes > NODES_MAX || members > nodes || links != pairs {
            return Err(Malformed::Size {
                nodes,
                members,
                links,
            });
        }
        let (own, others) = self.nodes.split_at(members);
        for part in [own, others] {
            for (a, b) in part.iter().zip(part.iter().skip(1)) {
                if a.id >= b.id {
                    return Err(Malformed::Order(b.id.clone()));
                }
            }
        }
        match others
            .iter()
            .find(|place| own.iter().any(|member| member.id == place.id))
        {
            Some(twice) => Err(Malformed::Order(twice.id.clone())),
            None => Ok(()),
        }
    }

    /// Whether a node has a part in it, be it as a candidate.
    pub fn concerns(&self, node: &NodeId) -> bool {
        self.nodes.iter().any(|place| place.id == *node)
    }

    /// The link of two different nodes by their places in `nodes`.
    pub fn link(&self, a: usize, b: usize) -> Option<Link> {
        let (first, second) = (a.min(b), a.max(b));
        if first == second || second >= self.nodes.len() {
            return None;
        }
        let before = first * (2 * self.nodes.len() - first - 1) / 2;
        self.links.get(before + second - first - 1).copied()
    }
}

/// The node that a `via` policy names: a node by id, else the room's pick of the relays of that region.
fn forced(
    room: &RoomId,
    target: &str,
    request: Request<'_>,
    topology: &Topology,
) -> Option<NodeId> {
    let allow = &request.terms.allow;
    let named = NodeId::from(target);
    if let Some(site) = topology.site(&named) {
        return allow.permits(&site.region).then_some(named);
    }
    let (region, relays) = topology.relays().find(|(region, _)| *region == target)?;
    allow
        .permits(region)
        .then(|| pick(room, relays, request.previous))?
}

/// Of the relays of one region the room's own: the one it has, else by rendezvous hashing, so that rooms spread and few
/// move when a relay goes.
fn pick(room: &RoomId, relays: &BTreeSet<NodeId>, previous: Option<&Shape>) -> Option<NodeId> {
    let has = |node: &NodeId| previous.is_some_and(|shape| shape.goes_through(node));
    relays
        .iter()
        .max_by_key(|node| (has(node), weight(room.as_str(), node), Reverse(*node)))
        .cloned()
}

/// The relays that may stand between a room's members: one per allowed region, of those with the shortest ways.
fn transits(request: Request<'_>, topology: &Topology) -> Vec<NodeId> {
    let Request {
        room,
        members,
        terms,
        previous,
    } = request;
    let slots: Vec<_> = members.iter().map(|node| topology.slot(node)).collect();
    let far = |node: &NodeId| {
        let slot = topology.slot(node);
        let links = slots.iter().map(|member| topology.link(*member, slot));
        links.map(|link| u64::from(link.rtt_us)).sum::<u64>()
    };
    let mut found: Vec<_> = topology
        .relays()
        .filter(|(region, _)| terms.allow.permits(region))
        .filter_map(|(_, relays)| pick(room, relays, previous))
        .filter(|node| !members.contains(node))
        .map(|node| (far(&node), node))
        .collect();
    found.sort();
    found.truncate(TRANSITS_MAX);
    found.into_iter().map(|(_, node)| node).collect()
}

impl Shape {
    fn goes_through(&self, node: &NodeId) -> bool {
        self.ways
            .iter()
            .any(|(_, _, between)| between.contains(node))
    }
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
