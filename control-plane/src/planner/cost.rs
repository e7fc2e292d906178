//! What a way costs: time and money.

use super::grid::Grid;
use super::problem::{Link, Place, Problem};

/// Delay of a link that is down, in microseconds: worse than any way around.
pub(super) const DOWN_US: u32 = 30_000_000;
/// What a node that hands a packet on and back adds to a round trip, in microseconds (a hop's own delay was measured at
/// 0.1–0.2 ms each way).
const TRANSIT_US: u32 = 400;
/// What a full node adds to a round trip on top, in microseconds; it grows with the square of the load.
const FULL_US: u32 = 20_000;
/// Packets of a video frame: one lost packet of them makes the frame wait for its repair.
const FRAME_PACKETS: i32 = 8;
/// A repair comes back after this many round trips of its link, …
const REPAIR_RTTS: f64 = 1.1;
/// … and this many microseconds.
const REPAIR_US: f64 = 3_000.0;

/// Expected delay that repairs on a link add to a frame, in microseconds: the share of frames that lose a packet times how
/// long the repair takes.
pub(super) fn repair_us(link: Link) -> u32 {
    if link.loss_ppm == 0 {
        return 0;
    }
    let loss = (f64::from(link.loss_ppm) / 1e6).min(1.0);
    let late = 1.0 - (1.0 - loss).powi(FRAME_PACKETS);
    let us = late * (REPAIR_RTTS * f64::from(link.rtt_us) + REPAIR_US);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and clamped"
    )]
    {
        us.min(f64::from(DOWN_US)) as u32
    }
}

/// What a node between adds to a round trip, in microseconds.
pub(super) fn transit_us(place: &Place) -> u32 {
    let load = u64::from(place.load_permille.min(2_000));
    let waiting = u64::from(FULL_US) * load * load / 1_000_000;
    TRANSIT_US.saturating_add(u32::try_from(waiting).unwrap_or(u32::MAX))
}

/// Delays of all links of a problem, in microseconds.
pub(super) fn delays(problem: &Problem) -> Grid<u32> {
    let count = problem.nodes.len();
    let mut delays = Grid::new(count, 0);
    let mut links = problem.links.iter();
    for a in 0..count {
        for b in a + 1..count {
            let delay = match links.next() {
                Some(link) if !link.down => link
                    .rtt_us
                    .saturating_add(repair_us(*link))
                    .min(DOWN_US - 1),
                _ => DOWN_US,
            };
            delays.set_both(a, b, delay);
        }
    }
    delays
}
