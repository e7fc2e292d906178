//! From a problem to every node's next hops.

use std::collections::BTreeMap;

use proto::NodeId;
use serde::{Deserialize, Serialize};

use super::cost::{self, DOWN_US};
use super::grid::Grid;
use super::hubs;
use super::problem::{Problem, Shape};
use super::topology::Role;
use super::way::{Way, Ways};
use crate::config::RoomPolicy;

/// A way around is taken when it is faster than the straight one by this share, …
const DETOUR_PERCENT: u32 = 10;
/// … and by this much, in microseconds. It is left when the straight one is at least as fast again.
const DETOUR_US_MIN: u32 = 10_000;
/// A plan that is there is kept while another is not cheaper by this share.
const KEEP_PERCENT: u64 = 10;
/// A way that is there is kept while it is slower than its bound by at most this share.
const KEEP_DELAY_PERCENT: u64 = 15;

/// The way to one member edge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hop {
    /// The member edge.
    pub edge: NodeId,
    /// The neighbour that everything to and from `edge` goes through; `edge` itself when direct.
    pub via: NodeId,
    /// Taken when `via` is dead; never leads through it.
    pub backup: Option<NodeId>,
}

/// Every involved node's hops: all members, and the nodes that are a `via` or a `backup` of somebody.
pub type Hops = BTreeMap<NodeId, Vec<Hop>>;

/// What a plan costs beside one with straight ways only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Millionths of a US dollar for traffic between nodes, when every member publishes a gigabyte that all others want.
    pub price_micro_usd: u64,
    /// The same with straight ways.
    pub straight_price_micro_usd: u64,
    /// Mean round trip of all pairs of members in microseconds, repairs included.
    pub mean_us: u32,
    /// The same with straight ways.
    pub straight_mean_us: u32,
    /// The slowest pair's round trip in microseconds.
    pub worst_us: u32,
}

/// A room's plan.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Solution {
    /// What every node does.
    pub hops: Hops,
    /// For the next plan.
    pub shape: Shape,
    /// What it costs.
    pub figures: Figures,
    /// The ways before were kept, though others would be a little better.
    pub kept: bool,
}

/// Solves a problem. The same problem always gives the same solution.
///
/// Every member has a hop to every other. A way has at most three links, is the same in both directions, and every node on
/// it agrees on the rest of it. With `auto`, ways that are not straight keep the bounds whenever the straight one does.
pub fn solve(problem: &Problem) -> Solution {
    let solver = Solver::new(problem);
    let (ways, hubs, kept) = solver.ways();
    let hops = solver.hops(&ways);
    Solution {
        shape: solver.shape(&ways, &hubs),
        figures: solver.figures(&ways),
        hops,
        kept,
    }
}

/// A problem with what is worked out of it first.
#[derive(Debug)]
pub(super) struct Solver<'a> {
    pub(super) problem: &'a Problem,
    pub(super) delays: Grid<u32>,
    transit_us: Vec<u32>,
    /// Straight, or around a bad link.
    base: Ways,
    /// Pairs that must stay straight, since a way around leads over them.
    pinned: Grid<bool>,
    /// The ways before, for pairs of members that had one.
    previous: Option<Previous>,
}

#[derive(Debug)]
pub(super) struct Previous {
    /// The hub of every member that was there; `None` for one that was not, or whose hub is gone.
    pub(super) hubs: Vec<Option<usize>>,
    ways: Ways,
}

impl<'a> Solver<'a> {
    pub(super) fn new(problem: &'a Problem) -> Self {
        let mut solver = Self {
            delays: cost::delays(problem),
            transit_us: problem.nodes.iter().map(cost::transit_us).collect(),
            base: Ways::straight(problem.nodes.len()),
            pinned: Grid::new(problem.nodes.len(), false),
            previous: None,
            problem,
        };
        if problem.policy == RoomPolicy::Auto && problem.members > 1 {
            solver.previous = problem.previous.as_ref().map(|shape| solver.recall(shape));
            solver.go_around();
        }
        solver
    }

    /// The ways, every member's hub, and whether they are those before.
    fn ways(&self) -> (Ways, Vec<usize>, bool) {
        let own: Vec<usize> = (0..self.problem.members).collect();
        match &self.problem.policy {
            RoomPolicy::Direct => (self.base.clone(), own, false),
            RoomPolicy::Via(target) => (self.through(target), own, false),
            RoomPolicy::Auto => {
                let (fresh, hubs) = hubs::cheapest(self, own);
                let Some(kept) = hubs::kept(self) else {
                    return (fresh, hubs, false);
                };
                let (fresh_price, kept_price) = (self.price(&fresh), self.price(&kept.0));
                if fresh_price * 100 < kept_price * (100 - KEEP_PERCENT) {
                    (fresh, hubs, false)
                } else {
                    let same = kept.0 == fresh;
                    (kept.0, kept.1, !same)
                }
            }
        }
    }

    /// Every pair through one node.
    fn through(&self, target: &str) -> Ways {
        let mut ways = Ways::straight(self.problem.nodes.len());
        let via = self
            .problem
            .nodes
            .iter()
            .position(|place| place.id.as_str() == target);
        let Some(via) = via else {
            return ways;
        };
        for (a, b) in self.pairs().filter(|(a, b)| *a != via && *b != via) {
            ways.set(a, b, Way::Over(via));
        }
        ways
    }

    /// All pairs of members, the lower place first.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let members = self.problem.members;
        (0..members).flat_map(move |a| (a + 1..members).map(move |b| (a, b)))
    }

    pub(super) fn count(&self) -> usize {
        self.problem.nodes.len()
    }

    pub(super) fn is_up(&self, a: usize, b: usize) -> bool {
        a == b || self.delays.at(a, b) < DOWN_US
    }

    /// Round trip of a way in microseconds, repairs and waiting included.
    pub(super) fn delay_us(&self, from: usize, to: usize, way: Way) -> u32 {
        let mut at = from;
        let mut sum = 0_u32;
        for next in way.between() {
            let transit = self.transit_us.get(next).copied().unwrap_or(0);
            sum = sum
                .saturating_add(self.delays.at(at, next))
                .saturating_add(transit);
            at = next;
        }
        sum.saturating_add(self.delays.at(at, to))
    }

    /// Finds ways around links that are down, lossy or slow, for pairs with a member.
    fn go_around(&mut self) {
        let count = self.count();
        let mut bad = Grid::new(count, false);
        for a in 0..self.problem.members {
            for b in a + 1..count {
                let limit = detour_below(self.delays.at(a, b));
                // Mostly no way is that short, and nothing is to be looked for.
                let found = limit > 0
                    && (0..count).any(|x| x != a && x != b && self.around_us(a, b, x) < limit);
                let held = self.held_detour(a, b);
                bad.set_both(a, b, found || held.is_some());
            }
        }
        for (a, b) in self.pairs() {
            if bad.at(a, b)
                && let Some(x) = self.detour(a, b, &bad)
            {
                self.base.set(a, b, Way::Over(x));
                self.pinned.set_both(a, x, true);
                self.pinned.set_both(x, b, true);
            }
        }
    }

    fn around_us(&self, a: usize, b: usize, x: usize) -> u32 {
        self.delay_us(a, b, Way::Over(x))
    }

    /// The node that a pair's way led around by, while the straight one is slower than that.
    fn held_detour(&self, a: usize, b: usize) -> Option<usize> {
        let Way::Over(x) = self.previous.as_ref()?.ways.of(a, b) else {
            return None;
        };
        // A way over the pair's hub is no way around.
        let hubs = &self.previous.as_ref()?.hubs;
        let hub = [a, b].iter().any(|end| hubs.get(*end) == Some(&Some(x)));
        (!hub && self.around_us(a, b, x) < self.delays.at(a, b)).then_some(x)
    }

    /// The node to go around by: the one before, unless another is clearly better; links that themselves need a way
    /// around do not help.
    fn detour(&self, a: usize, b: usize, bad: &Grid<bool>) -> Option<usize> {
        let usable = |x: &usize| *x != a && *x != b && !bad.at(a, *x) && !bad.at(*x, b);
        let held = self.held_detour(a, b).filter(usable);
        let straight = self.delays.at(a, b);
        let best = (0..self.count())
            .filter(usable)
            .min_by_key(|x| (self.around_us(a, b, *x), *x))?;
        let best_us = self.around_us(a, b, best);
        match held {
            Some(x) if best_us >= detour_below(self.around_us(a, b, x)) => Some(x),
            _ if best_us < detour_below(straight) => Some(best),
            held => held,
        }
    }

    /// Straight or around: what a pair takes without a hub.
    pub(super) fn base(&self) -> &Ways {
        &self.base
    }

    pub(super) fn is_pinned(&self, a: usize, b: usize) -> bool {
        self.pinned.at(a, b)
    }

    pub(super) fn previous(&self) -> Option<&Previous> {
        self.previous.as_ref()
    }

    /// Whether a pair may take a way. `keeping` the plan before, pairs that were in it take the way they had, as long as it
    /// is not much slower than allowed.
    pub(super) fn allows(&self, pair: (usize, usize), way: Way, keeping: bool) -> bool {
        let (a, b) = pair;
        let had = self
            .previous
            .as_ref()
            .filter(|_| keeping)
            .and_then(|before| before.way(a, b));
        if had.is_some_and(|had| had != way) {
            return false;
        }
        let fastest = u64::from(self.delay_us(a, b, self.base.of(a, b)));
        let delay = u64::from(self.delay_us(a, b, way));
        let bounds = self.problem.bounds;
        let mut limit = fastest + u64::from(bounds.added_ms) * 1_000;
        if had.is_some() {
            limit += limit * KEEP_DELAY_PERCENT / 100;
        }
        let pair_max = u64::from(bounds.pair_ms_max) * 1_000;
        delay <= limit && (pair_max == 0 || fastest > pair_max || delay <= pair_max)
    }

    /// What traffic between nodes costs, in millionths of a US dollar, when every member publishes a gigabyte that all
    /// others want: a stream crosses a link once, whoever is behind it.
    pub(super) fn price(&self, ways: &Ways) -> u64 {
        let words = self.count().div_ceil(64);
        let mut sends = vec![0_u64; self.count() * words];
        let mut total = 0;
        for source in 0..self.problem.members {
            sends.fill(0);
            for to in (0..self.problem.members).filter(|to| *to != source) {
                let mut at = source;
                for next in ways.of(source, to).between().chain([to]) {
                    if let Some(word) = sends.get_mut(at * words + next / 64) {
                        *word |= 1 << (next % 64);
                    }
                    at = next;
                }
            }
            let places = self.problem.nodes.iter().zip(sends.chunks(words.max(1)));
            total += places
                .map(|(place, sends)| {
                    let copies: u32 = sends.iter().map(|word| word.count_ones()).sum();
                    u64::from(place.link_micro_usd) * u64::from(copies)
                })
                .sum::<u64>();
        }
        total
    }

    fn figures(&self, ways: &Ways) -> Figures {
        let straight = Ways::straight(self.count());
        let (mean_us, worst_us) = self.spread(ways);
        let (straight_mean_us, _) = self.spread(&straight);
        Figures {
            price_micro_usd: self.price(ways),
            straight_price_micro_usd: self.price(&straight),
            mean_us,
            straight_mean_us,
            worst_us,
        }
    }

    /// Mean and worst round trip of all pairs.
    fn spread(&self, ways: &Ways) -> (u32, u32) {
        let (mut sum, mut worst, mut pairs) = (0_u64, 0, 0_u64);
        for (a, b) in self.pairs() {
            let delay = self.delay_us(a, b, ways.of(a, b));
            sum += u64::from(delay);
            worst = worst.max(delay);
            pairs += 1;
        }
        let mean = sum.checked_div(pairs).unwrap_or(0);
        (u32::try_from(mean).unwrap_or(u32::MAX), worst)
    }

    fn id(&self, place: usize) -> Option<&NodeId> {
        self.problem.nodes.get(place).map(|place| &place.id)
    }

    fn hops(&self, ways: &Ways) -> Hops {
        let members = self.problem.members;
        let mut between = vec![false; self.count()];
        let mut mark = |place: usize| {
            if let Some(marked) = between.get_mut(place) {
                *marked = true;
            }
        };
        let mut hops = Hops::new();
        for from in 0..members {
            let mut table = Vec::with_capacity(members.saturating_sub(1));
            for to in (0..members).filter(|to| *to != from) {
                let way = ways.of(from, to);
                let backup = self.backup(from, to, ways);
                way.between().chain(backup).for_each(&mut mark);
                table.extend(self.hop(to, way, backup));
            }
            if let Some(id) = self.id(from) {
                hops.insert(id.clone(), table);
            }
        }
        for node in members..self.count() {
            if !between.get(node).copied().unwrap_or(false) {
                continue;
            }
            // Straight to most members; what leads on over a second node goes straight when that dies.
            let table = (0..members).filter_map(|to| {
                let way = ways.of(node, to);
                let backup = (way != Way::Straight).then_some(to);
                self.hop(to, way, backup)
            });
            if let Some(id) = self.id(node) {
                hops.insert(id.clone(), table.collect());
            }
        }
        hops
    }

    fn hop(&self, to: usize, way: Way, backup: Option<usize>) -> Option<Hop> {
        let via = way.between().next().unwrap_or(to);
        Some(Hop {
            edge: self.id(to)?.clone(),
            via: self.id(via)?.clone(),
            backup: backup.and_then(|node| self.id(node)).cloned(),
        })
    }

    /// Where to go when a pair's next hop is dead: straight, or when that is the way or down, over a node that goes
    /// straight to both ends; a relay rather than another member. The same in both directions.
    fn backup(&self, from: usize, to: usize, ways: &Ways) -> Option<usize> {
        let way = ways.of(from, to);
        if way != Way::Straight && self.is_up(from, to) {
            return Some(to);
        }
        let stands = |x: &usize| {
            *x != from
                && *x != to
                && way.between().all(|node| node != *x)
                && self.is_up(from, *x)
                && self.is_up(*x, to)
                && ways.is_straight(*x, from)
                && ways.is_straight(*x, to)
        };
        let is_relay = |x: usize| {
            self.problem
                .nodes
                .get(x)
                .is_some_and(|p| p.role == Role::Relay)
        };
        (0..self.count())
            .filter(stands)
            .min_by_key(|x| (!is_relay(*x), self.around_us(from, to, *x), *x))
            .or_else(|| (way != Way::Straight).then_some(to))
    }

    fn shape(&self, ways: &Ways, hubs: &[usize]) -> Shape {
        let id = |place: usize| self.id(place).cloned();
        let hubs = hubs.iter().enumerate();
        let mut shape = Shape {
            hubs: hubs
                .filter_map(|(member, hub)| Some((id(member)?, id(*hub)?)))
                .collect(),
            ways: Vec::new(),
        };
        for from in 0..self.count() {
            for to in from + 1..self.count() {
                let way = ways.of(from, to);
                if way != Way::Straight
                    && let (Some(from), Some(to)) = (id(from), id(to))
                {
                    shape
                        .ways
                        .push((from, to, way.between().filter_map(id).collect()));
                }
            }
        }
        shape
    }

    /// The ways before in terms of this problem. What led over a node that is gone is forgotten.
    fn recall(&self, shape: &Shape) -> Previous {
        let nodes = self.problem.nodes.iter().enumerate();
        let places: BTreeMap<&NodeId, usize> = nodes.map(|(at, place)| (&place.id, at)).collect();
        let place = |id: &NodeId| places.get(id).copied();
        let mut previous = Previous {
            hubs: vec![None; self.problem.members],
            ways: Ways::straight(self.count()),
        };
        for (member, hub) in &shape.hubs {
            if let Some(known) = place(member).and_then(|at| previous.hubs.get_mut(at)) {
                *known = place(hub);
            }
        }
        for (from, to, between) in &shape.ways {
            let between: Vec<_> = between.iter().map(place).collect();
            let way = match between.as_slice() {
                [Some(x)] => Way::Over(*x),
                [Some(x), Some(y)] => Way::OverTwo(*x, *y),
                _ => continue,
            };
            if let (Some(from), Some(to)) = (place(from), place(to)) {
                previous.ways.set(from, to, way);
            }
        }
        previous
    }
}

impl Previous {
    /// The way that a pair of members had, if both were there with their hubs.
    fn way(&self, a: usize, b: usize) -> Option<Way> {
        let there =
            |end: usize| end >= self.hubs.len() || self.hubs.get(end).copied().flatten().is_some();
        (there(a) && there(b)).then(|| self.ways.of(a, b))
    }
}

/// What a way around must be faster than, to be taken instead of one of this delay.
fn detour_below(delay_us: u32) -> u32 {
    let margin = (delay_us / 100 * DETOUR_PERCENT).max(DETOUR_US_MIN);
    delay_us.saturating_sub(margin)
}
