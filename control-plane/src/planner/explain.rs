//! Why a plan is as it is, and whether it is what the same input gives again.

use proto::NodeId;
use serde::{Deserialize, Serialize};

use super::cost;
use super::problem::{Malformed, Problem};
use super::solve::{Figures, Solution, Solver, solve};
use super::way::Way;
use crate::config::RoomPolicy;
use crate::rules::Bounds;

/// A decision as it is written down: what went in and what came out.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// Epoch of the plan.
    pub epoch: u64,
    /// What went in.
    pub problem: Problem,
    /// What came out.
    pub solution: Solution,
}

/// What solving a decision again gave.
#[derive(Clone, PartialEq, Debug)]
pub enum Replayed {
    /// The identical solution.
    Identical,
    /// Another one.
    Different(Box<Solution>),
}

impl Decision {
    /// Solves the problem again.
    ///
    /// # Errors
    /// When the record is malformed or of another version.
    pub fn replay(&self) -> Result<Replayed, Malformed> {
        self.problem.check()?;
        let again = solve(&self.problem);
        Ok(if again == self.solution {
            Replayed::Identical
        } else {
            Replayed::Different(Box::new(again))
        })
    }
}

/// A plan for people: every pair of edges with every way that could be taken.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanExplanation {
    /// How the room is to cross the mesh.
    pub policy: RoomPolicy,
    /// How much delay a cheaper way may cost.
    pub bounds: Bounds,
    /// What the plan costs.
    pub figures: Figures,
    /// The ways before were kept, though others would be a little better.
    pub kept: bool,
    /// Pairs of members.
    pub pairs: Vec<Pair>,
}

/// A pair of members.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pair {
    /// One edge.
    pub from: NodeId,
    /// The other.
    pub to: NodeId,
    /// Taken when the first node of the way is dead.
    pub backup: Option<NodeId>,
    /// Ways, the one that is taken first, then by delay.
    pub candidates: Vec<Candidate>,
}

/// A way that could be taken, with the terms of its cost.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// Who stands between, in order; nobody when straight.
    pub through: Vec<NodeId>,
    /// It is taken.
    pub chosen: bool,
    /// Round trip of its links, in milliseconds.
    pub rtt_ms: f64,
    /// All of its links are measured; else some round trips are modelled by distance.
    pub measured: bool,
    /// Expected delay by repairs, in milliseconds.
    pub repair_ms: f64,
    /// Delay by the nodes between and their load, in milliseconds.
    pub load_ms: f64,
    /// Price of a gigabyte from `from` to `to` alone, in US dollars.
    pub usd_per_gb: f64,
    /// A link of it is down.
    pub down: bool,
    /// It keeps the room's bounds.
    pub within_bounds: bool,
}

impl Candidate {
    /// Round trip with all that adds to it, in milliseconds.
    pub fn total_ms(&self) -> f64 {
        self.rtt_ms + self.repair_ms + self.load_ms
    }
}

/// Explains a solution of a problem.
pub fn explain(problem: &Problem, solution: &Solution) -> PlanExplanation {
    let solver = Solver::new(problem);
    let pairs = solver.pairs();
    PlanExplanation {
        policy: problem.policy.clone(),
        bounds: problem.bounds,
        figures: solution.figures,
        kept: solution.kept,
        pairs: pairs
            .filter_map(|pair| pair_of(&solver, solution, pair))
            .collect(),
    }
}

fn pair_of(solver: &Solver<'_>, solution: &Solution, (a, b): (usize, usize)) -> Option<Pair> {
    let nodes = &solver.problem.nodes;
    let id = |place: usize| nodes.get(place).map(|place| place.id.clone());
    let (from, to) = (id(a)?, id(b)?);
    let hop = solution
        .hops
        .get(&from)?
        .iter()
        .find(|hop| hop.edge == to)?;
    let taken: Vec<NodeId> = solution
        .shape
        .ways
        .iter()
        .find(|(one, other, _)| *one == from && *other == to)
        .map_or_else(Vec::new, |(_, _, between)| between.clone());
    let place = |id: &NodeId| nodes.iter().position(|place| place.id == *id);
    let mut ways = vec![Way::Straight];
    ways.extend(
        (0..nodes.len())
            .filter(|x| *x != a && *x != b)
            .map(Way::Over),
    );
    if let [first, second] = taken.as_slice() {
        ways.push(Way::OverTwo(place(first)?, place(second)?));
    }
    let mut candidates: Vec<_> = ways
        .into_iter()
        .map(|way| candidate(solver, (a, b), way, &taken))
        .collect();
    candidates.sort_by(|one, other| {
        let key = |candidate: &Candidate| (!candidate.chosen, candidate.down);
        key(one)
            .cmp(&key(other))
            .then_with(|| one.total_ms().total_cmp(&other.total_ms()))
    });
    Some(Pair {
        from,
        to,
        backup: hop.backup.clone(),
        candidates,
    })
}

fn candidate(solver: &Solver<'_>, (a, b): (usize, usize), way: Way, taken: &[NodeId]) -> Candidate {
    let nodes = &solver.problem.nodes;
    let (mut rtt_us, mut repair_us, mut load_us, mut micro_usd) = (0_u64, 0_u64, 0_u64, 0_u64);
    let (mut measured, mut down) = (true, false);
    let mut at = a;
    for next in way.between().chain([b]) {
        if let Some(link) = solver.problem.link(at, next) {
            rtt_us += u64::from(link.rtt_us);
            repair_us += u64::from(cost::repair_us(link));
            measured &= link.measured;
            down |= link.down;
        }
        if let Some(place) = nodes.get(at) {
            micro_usd += u64::from(place.link_micro_usd);
            load_us += if at == a {
                0
            } else {
                u64::from(cost::transit_us(place))
            };
        }
        at = next;
    }
    let through: Vec<NodeId> = way
        .between()
        .filter_map(|place| nodes.get(place).map(|place| place.id.clone()))
        .collect();
    Candidate {
        chosen: through == taken,
        through,
        rtt_ms: thousandth(rtt_us),
        measured,
        repair_ms: thousandth(repair_us),
        load_ms: thousandth(load_us),
        usd_per_gb: thousandth(micro_usd) / 1e3,
        down,
        within_bounds: way == Way::Straight || solver.allows((a, b), way, false),
    }
}

fn thousandth(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / 1e3
}
