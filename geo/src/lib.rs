//! Where things are: region catalogue, great-circle distance, the round-trip model, look-up of addresses in databases that
//! are handed in, and what clouds charge for traffic. Pure, no I/O.
//!
//! ```
//! let fra = geo::region("fra").ok_or("fra is in the catalogue")?;
//! let syd = geo::region("syd").ok_or("syd is in the catalogue")?;
//! assert_eq!((fra.distance_m(syd) / 1e6).round(), 16.0);
//! assert!(geo::RttModel::default().rtt(fra.distance_m(syd)).as_millis() > 250);
//! # Ok::<(), &str>(())
//! ```

mod catalogue;
pub mod lookup;
pub mod measured;
mod position;
pub mod price;
mod rtt;

pub use catalogue::{Continent, REGIONS, Region, country_position, nearest, rank, region};
pub use position::{EARTH_RADIUS_M, Error, Position};
pub use rtt::{RttModel, rtt_between};
