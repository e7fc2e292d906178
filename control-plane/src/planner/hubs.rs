//! Cheaper ways over hubs: a member where traffic is dear hands its streams to one where it is cheap, once, and that one
//! hands them on. Hubs go straight to each other, so a way has at most three links.

use super::solve::Solver;
use super::way::{Way, Ways};

/// Rooms with more members than this keep straight ways: the search would take too long.
const MEMBERS_MAX: usize = 24;
/// Nodes that are looked at as a hub for one member, the cheapest first, among equals the nearest.
const HUBS_MAX: usize = 6;
/// A hub has to save this share of the price.
const SAVING_PERCENT: u64 = 1;
/// Each pass looks at every member once. The second one mends what the first one's later choices changed.
const PASSES: usize = 2;

/// The cheapest ways that a short search finds, beginning with these hubs, and the hubs it ends with.
pub(super) fn cheapest(solver: &Solver<'_>, own: Vec<usize>) -> (Ways, Vec<usize>) {
    let all: Vec<usize> = (0..own.len()).collect();
    search(solver, own, &all, false)
}

/// The plan before: its members keep their hubs, only new ones are looked at. `None` when there was none.
pub(super) fn kept(solver: &Solver<'_>) -> Option<(Ways, Vec<usize>)> {
    let previous = solver.previous()?;
    let mut hubs: Vec<usize> = Vec::with_capacity(previous.hubs.len());
    let mut new = Vec::new();
    for (member, hub) in previous.hubs.iter().enumerate() {
        if hub.is_none() {
            new.push(member);
        }
        hubs.push(hub.unwrap_or(member));
    }
    Some(search(solver, hubs, &new, true))
}

fn search(
    solver: &Solver<'_>,
    mut hubs: Vec<usize>,
    movable: &[usize],
    keeping: bool,
) -> (Ways, Vec<usize>) {
    let mut best = ways(solver, &hubs, keeping);
    let members = solver.problem.members;
    if !(3..=MEMBERS_MAX).contains(&members) || movable.is_empty() || prices_are_equal(solver) {
        return (best, hubs);
    }
    let mut price = solver.price(&best);
    let mut order = movable.to_vec();
    order.sort_by_key(|member| (std::cmp::Reverse(price_of(solver, *member)), *member));
    for _ in 0..PASSES {
        let mut improved = false;
        for member in &order {
            if hubs
                .iter()
                .enumerate()
                .any(|(other, hub)| other != *member && hub == member)
            {
                // Others hand it their streams: it cannot hand its own on.
                continue;
            }
            for hub in candidates(solver, *member, &hubs) {
                let before = hubs.clone();
                if let Some(own) = hubs.get_mut(*member) {
                    *own = hub;
                }
                let tried = ways(solver, &hubs, keeping);
                let tried_price = solver.price(&tried);
                if tried_price * 100 < price * (100 - SAVING_PERCENT) {
                    (best, price, improved) = (tried, tried_price, true);
                } else {
                    hubs = before;
                }
            }
        }
        if !improved {
            break;
        }
    }
    (best, hubs)
}

fn price_of(solver: &Solver<'_>, place: usize) -> u32 {
    solver
        .problem
        .nodes
        .get(place)
        .map_or(0, |place| place.link_micro_usd)
}

/// With equal prices there is nothing to save.
fn prices_are_equal(solver: &Solver<'_>) -> bool {
    let mut prices = solver
        .problem
        .nodes
        .iter()
        .map(|place| place.link_micro_usd);
    let first = prices.next();
    prices.all(|price| Some(price) == first)
}

/// Nodes that may be a member's hub: cheaper than itself, within reach, and not handing their own streams to another.
fn candidates(solver: &Solver<'_>, member: usize, hubs: &[usize]) -> Vec<usize> {
    let own = price_of(solver, member);
    let mut found: Vec<_> = (0..solver.count())
        .filter(|node| *node != member && solver.is_up(member, *node))
        .filter(|node| hubs.get(*node).is_none_or(|hub| hub == node))
        .map(|node| (price_of(solver, node), solver.delays.at(member, node), node))
        .filter(|(price, _, _)| *price < own)
        .collect();
    found.sort_unstable();
    found.truncate(HUBS_MAX);
    found.into_iter().map(|(_, _, node)| node).collect()
}

/// The ways that follow from every member's hub. A pair goes over hubs where its bound allows it and every node on the way
/// agrees on the rest of it; else straight, or around a bad link.
fn ways(solver: &Solver<'_>, hubs: &[usize], keeping: bool) -> Ways {
    let mut ways = solver.base().clone();
    let hub_of = |node: usize| hubs.get(node).copied().unwrap_or(node);
    let mut serving = vec![false; solver.count()];
    for (_, hub) in hubs
        .iter()
        .enumerate()
        .filter(|(member, hub)| member != *hub)
    {
        if let Some(serves) = serving.get_mut(*hub) {
            *serves = true;
        }
    }
    let is_hub = |node: usize| serving.get(node).copied().unwrap_or(false);
    let straight = |ways: &Ways, a, b| ways.is_straight(a, b) && solver.is_up(a, b);
    let members = solver.problem.members;
    // From a hub to another one's member.
    for hub in (0..solver.count()).filter(|node| is_hub(*node)) {
        for to in 0..members {
            let second = hub_of(to);
            let other = second != to && second != hub && to != hub;
            let bound = || hub >= members || solver.allows((hub, to), Way::Over(second), keeping);
            let free = other && !solver.is_pinned(hub, to);
            if free && straight(&ways, hub, second) && straight(&ways, second, to) && bound() {
                ways.set(hub, to, Way::Over(second));
            }
        }
    }
    for (a, b) in solver.pairs() {
        let (first, second) = (hub_of(a), hub_of(b));
        if is_hub(a) || is_hub(b) || (first == a && second == b) || solver.is_pinned(a, b) {
            continue;
        }
        let agree = |ways: &Ways, way: Way| match way {
            Way::Straight => true,
            Way::Over(x) => straight(ways, a, x) && straight(ways, x, b),
            Way::OverTwo(x, y) => {
                straight(ways, a, x)
                    && straight(ways, x, y)
                    && straight(ways, y, b)
                    && ways.of(x, b) == Way::Over(y)
                    && ways.of(a, y) == Way::Over(x)
            }
        };
        let both =
            (first != a && second != b && first != second).then_some(Way::OverTwo(first, second));
        let over = |hub: usize, own: usize| (hub != own).then_some(Way::Over(hub));
        let options = [both, over(first, a), over(second, b)];
        let taken = options
            .into_iter()
            .flatten()
            .find(|way| agree(&ways, *way) && solver.allows((a, b), *way, keeping));
        if let Some(way) = taken {
            ways.set(a, b, way);
        }
    }
    ways
}
