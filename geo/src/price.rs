//! What clouds charge for outgoing traffic, where an operator says nothing of its own.

use serde::{Deserialize, Serialize};

use crate::catalogue::{Continent, region};

/// Prices of one region in US dollars per gigabyte (10⁹ bytes) sent.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// To another region of the same operator.
    pub link: f64,
    /// To clients on the Internet.
    pub client: f64,
}

/// List prices by continent, rounded, of a large public cloud in 2020 (the year of the round-trip matrix that plans are
/// measured against): first ten terabytes a month. What matters to plans is their proportion.
pub fn list_price(continent: Continent) -> Egress {
    let (link, client) = match continent {
        Continent::Europe | Continent::NorthAmerica => (0.02, 0.09),
        Continent::Asia => (0.09, 0.12),
        Continent::Oceania => (0.098, 0.114),
        Continent::SouthAmerica => (0.138, 0.15),
        Continent::Africa => (0.147, 0.154),
    };
    Egress { link, client }
}

/// List price of a region of the catalogue; of an unknown one the price of the dearest continent, so that nobody is
/// surprised by a bill.
pub fn list_price_of(code: &str) -> Egress {
    list_price(region(code).map_or(Continent::Africa, |region| region.continent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continents_differ_and_the_unknown_is_dear() {
        assert!(list_price_of("gru").link > 5.0 * list_price_of("fra").link);
        assert_eq!(list_price_of("nowhere"), list_price(Continent::Africa));
    }
}
