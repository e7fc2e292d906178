//! How a room crosses the mesh: a pure function from members, topology and terms to every node's next hops.
//!
//! [`Problem::of`] takes from the [`Topology`] what one room's plan depends on; [`solve`] solves it. The same problem always
//! gives the same solution, on every replica: ties are broken by node id, and the choice among a region's relays by
//! rendezvous hashing of the room's name. So a problem that was written down can be solved again and compared.
//!
//! A straight way is the default. `auto` goes around links that are down, lossy or slow, and over hubs where that costs less
//! and the bounds allow it. A plan that is there is kept until another is clearly better.

mod cost;
mod explain;
mod grid;
mod hubs;
mod problem;
mod solve;
mod topology;
mod way;

pub use explain::{Candidate, Decision, Pair, PlanExplanation, Replayed, explain};
pub use problem::{Link, Malformed, Place, Problem, Request, Shape, VERSION};
pub use solve::{Figures, Hop, Hops, Solution, solve};
pub use topology::{Observation, Role, Site, Topology};

#[cfg(test)]
mod tests;
