//! The nodes that plans may use, and what is known of the links between them.
//!
//! Measurements reach plans through a gate: a value is adopted when it differs clearly from the one that plans use now,
//! and keeps doing so. So the small wobble that every link has changes no plan at all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use geo::{Region, RttModel};
use proto::NodeId;

use super::grid::Grid;
use super::problem::{Link, Place};
use crate::prices::Prices;

/// Round trip assumed towards a region that is not in the catalogue, in microseconds.
const UNKNOWN_RTT_US: u32 = 150_000;
/// A round trip is adopted when it differs by more than this share of the present one, …
const RTT_PERCENT: u32 = 10;
/// … and by more than this, in microseconds.
const RTT_US_MIN: u32 = 3_000;
/// A loss is adopted when it differs by more than half of the larger, and by more than this, in millionths.
const LOSS_PPM_MIN: u32 = 5_000;
/// A load is adopted when it differs by more than this, in thousandths of the capacity.
const LOAD_PERMILLE_MIN: u16 = 100;
/// How many reports in a row must say so. Both ends of a link report once a second.
const PERSIST: u8 = 4;
/// How many reports in a row must say that a link which was down is up: it must not flap.
const PERSIST_UP: u8 = 20;

/// What a node does in the mesh.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
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

/// One report on a link.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Observation {
    /// Whether the peer is heard.
    pub up: bool,
    /// Smoothed round trip; zero when there is none yet.
    pub rtt: Duration,
    /// Share of packets lost before repair, 0.0 to 1.0.
    pub loss: f64,
}

#[derive(Clone, PartialEq, Debug)]
struct Entry {
    site: Site,
    load_permille: u16,
    link_micro_usd: u32,
}

/// What is known of a measured link: what plans use, and how many reports in a row spoke against it.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Measured {
    rtt_us: u32,
    /// A round trip was reported: `rtt_us` is not the model's any more.
    seen: bool,
    loss_ppm: u32,
    down: bool,
    against_rtt: u8,
    against_loss: u8,
    against_state: u8,
}

/// All nodes that plans may use. A node has a slot for as long as it is there; slots are used again.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    prices: Prices,
    slots: Vec<Option<Entry>>,
    index: BTreeMap<NodeId, usize>,
    /// Modelled round trips by slot, microseconds.
    model_us: Grid<u32>,
    links: BTreeMap<(usize, usize), Measured>,
    /// Relays by region.
    relays: BTreeMap<String, BTreeSet<NodeId>>,
}

impl Topology {
    /// An empty one with these prices.
    pub fn new(prices: Prices) -> Self {
        Self {
            prices,
            ..Self::default()
        }
    }

    /// Adds or replaces a node. True when something changed.
    pub fn insert(&mut self, node: NodeId, site: Site) -> bool {
        let known = self.index.get(&node).copied();
        if known.is_some_and(|slot| self.site_at(slot) == Some(&site)) {
            return false;
        }
        self.remove(&node);
        let slot = self.slots.iter().position(Option::is_none);
        let slot = slot.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.make_room(self.slots.len());
        for (other, entry) in self.slots.iter().enumerate() {
            if let Some(entry) = entry {
                self.model_us
                    .set_both(slot, other, model_us(&site, &entry.site));
            }
        }
        if site.role == Role::Relay {
            let relays = self.relays.entry(site.region.clone()).or_default();
            relays.insert(node.clone());
        }
        let entry = Entry {
            link_micro_usd: self.prices.link_micro_usd(&site.region),
            site,
            load_permille: 0,
        };
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(entry);
        }
        self.index.insert(node, slot);
        true
    }

    /// Takes a node out, with what was measured of its links. True when it was there.
    pub fn remove(&mut self, node: &NodeId) -> bool {
        let Some(slot) = self.index.remove(node) else {
            return false;
        };
        let gone = self.slots.get_mut(slot).and_then(Option::take);
        if let Some(entry) = gone
            && let Some(relays) = self.relays.get_mut(&entry.site.region)
        {
            relays.remove(node);
            if relays.is_empty() {
                self.relays.remove(&entry.site.region);
            }
        }
        self.links.retain(|(a, b), _| *a != slot && *b != slot);
        true
    }

    /// A node by id.
    pub fn site(&self, node: &NodeId) -> Option<&Site> {
        self.site_at(*self.index.get(node)?)
    }

    /// Takes a node's report on one of its links. True when plans have to follow.
    pub fn observe(&mut self, node: &NodeId, peer: &NodeId, seen: Observation) -> bool {
        let (Some(a), Some(b)) = (self.index.get(node), self.index.get(peer)) else {
            return false;
        };
        if a == b {
            return false;
        }
        let key = (*a.min(b), *a.max(b));
        let rtt_us = u32::try_from(seen.rtt.as_micros()).unwrap_or(u32::MAX);
        let loss_ppm = ppm(seen.loss);
        let model = self.model_us.at(key.0, key.1);
        let measured = self.links.entry(key).or_insert_with(|| Measured {
            rtt_us: model,
            seen: false,
            loss_ppm: 0,
            down: false,
            against_rtt: 0,
            against_loss: 0,
            against_state: 0,
        });
        measured.take(seen.up, rtt_us, loss_ppm)
    }

    /// Takes a node's report of load: people per place, 0.0 to 1.0 and above. True when plans have to follow.
    pub fn observe_load(&mut self, node: &NodeId, load: f64) -> bool {
        let slot = self.index.get(node).copied();
        let entry = slot.and_then(|slot| self.slots.get_mut(slot)?.as_mut());
        let Some(entry) = entry else {
            return false;
        };
        let permille = u16::try_from(ppm(load) / 1_000).unwrap_or(u16::MAX);
        let changed = entry.load_permille.abs_diff(permille) > LOAD_PERMILLE_MIN;
        if changed {
            entry.load_permille = permille;
        }
        changed
    }

    /// A node as plans see it. Unknown ones are taken for edges that cost nothing.
    pub(super) fn place(&self, node: &NodeId) -> Place {
        let slot = self.index.get(node).copied();
        let entry = slot.and_then(|slot| self.slots.get(slot)?.as_ref());
        Place {
            id: node.clone(),
            region: entry.map_or_else(String::new, |entry| entry.site.region.clone()),
            role: entry.map_or(Role::Edge, |entry| entry.site.role),
            load_permille: entry.map_or(0, |entry| entry.load_permille),
            link_micro_usd: entry.map_or(0, |entry| entry.link_micro_usd),
        }
    }

    /// A link as plans see it.
    pub(super) fn link(&self, a: Option<usize>, b: Option<usize>) -> Link {
        let modelled = |rtt_us| Link {
            rtt_us,
            loss_ppm: 0,
            down: false,
            measured: false,
        };
        let (Some(a), Some(b)) = (a, b) else {
            return modelled(UNKNOWN_RTT_US);
        };
        match self.links.get(&(a.min(b), a.max(b))) {
            Some(measured) => Link {
                rtt_us: measured.rtt_us,
                loss_ppm: measured.loss_ppm,
                down: measured.down,
                measured: measured.seen,
            },
            None => modelled(self.model_us.at(a, b)),
        }
    }

    /// A node's slot.
    pub(super) fn slot(&self, node: &NodeId) -> Option<usize> {
        self.index.get(node).copied()
    }

    /// Relays by region.
    pub(super) fn relays(&self) -> impl Iterator<Item = (&str, &BTreeSet<NodeId>)> {
        self.relays
            .iter()
            .map(|(region, relays)| (region.as_str(), relays))
    }

    fn site_at(&self, slot: usize) -> Option<&Site> {
        Some(&self.slots.get(slot)?.as_ref()?.site)
    }

    /// Grows the table of modelled round trips, by doubling.
    fn make_room(&mut self, slots: usize) {
        if self.model_us.width() >= slots {
            return;
        }
        let mut larger = Grid::new(slots.next_power_of_two().max(8), 0);
        for row in 0..self.model_us.width() {
            for column in 0..self.model_us.width() {
                larger.set(row, column, self.model_us.at(row, column));
            }
        }
        self.model_us = larger;
    }
}

impl Measured {
    fn take(&mut self, up: bool, rtt_us: u32, loss_ppm: u32) -> bool {
        let mut changed = false;
        if persists(&mut self.against_state, up == self.down, || {
            if up { PERSIST_UP } else { PERSIST }
        }) {
            self.down = !up;
            changed = true;
        }
        // A link that is down measures nothing.
        if !up || rtt_us == 0 {
            return changed;
        }
        let tolerance = (self.rtt_us / 100 * RTT_PERCENT).max(RTT_US_MIN);
        let differs = self.rtt_us.abs_diff(rtt_us) > tolerance;
        if !self.seen {
            // The first measurement replaces the model at once.
            self.seen = true;
            self.rtt_us = rtt_us;
            changed |= differs;
        } else if persists(&mut self.against_rtt, differs, || PERSIST) {
            self.rtt_us = rtt_us;
            changed = true;
        }
        let tolerance = (self.loss_ppm.max(loss_ppm) / 2).max(LOSS_PPM_MIN);
        if persists(
            &mut self.against_loss,
            self.loss_ppm.abs_diff(loss_ppm) > tolerance,
            || PERSIST,
        ) {
            self.loss_ppm = loss_ppm;
            changed = true;
        }
        changed
    }
}

/// Counts reports in a row that speak against a value; true when there are enough of them.
fn persists(count: &mut u8, against: bool, enough: impl Fn() -> u8) -> bool {
    *count = if against { count.saturating_add(1) } else { 0 };
    let reached = *count >= enough();
    if reached {
        *count = 0;
    }
    reached
}

fn model_us(from: &Site, to: &Site) -> u32 {
    match (from.place, to.place) {
        (Some(from), Some(to)) => {
            let rtt = RttModel::default().rtt(from.distance_m(to));
            u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)
        }
        _ => UNKNOWN_RTT_US,
    }
}

/// A share in millionths; nonsense is none.
fn ppm(share: f64) -> u32 {
    let millionths = (share * 1e6).round().clamp(0.0, 65e6);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped just above; not a number becomes 0"
    )]
    {
        millionths as u32
    }
}
