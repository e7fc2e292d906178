//! What traffic costs, by region of the sender.

use std::collections::BTreeMap;

use geo::price::Egress;

/// Prices of regions: an operator's own, else the list prices of [`geo::price`].
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Prices(BTreeMap<String, Egress>);

impl Prices {
    /// With these prices of the operator's own, by region code.
    pub fn new(own: BTreeMap<String, Egress>) -> Self {
        Self(own)
    }

    /// The prices of a region.
    pub fn of(&self, region: &str) -> Egress {
        self.0
            .get(region)
            .copied()
            .unwrap_or_else(|| geo::price::list_price_of(region))
    }

    /// Price of a gigabyte to another node in millionths of a US dollar. Nonsense costs nothing.
    pub fn link_micro_usd(&self, region: &str) -> u32 {
        let micro = (self.of(region).link * 1e6).round().clamp(0.0, 1e9);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped just above; not a number becomes 0"
        )]
        {
            micro as u32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_prices_come_first() {
        let own = Egress {
            link: 0.001,
            client: f64::NAN,
        };
        let prices = Prices::new([("gru".to_owned(), own)].into());
        assert_eq!(prices.link_micro_usd("gru"), 1_000);
        assert_eq!(prices.link_micro_usd("fra"), 20_000);
        let nonsense = Egress {
            link: f64::NAN,
            client: 0.0,
        };
        let prices = Prices::new([("fra".to_owned(), nonsense)].into());
        assert_eq!(prices.link_micro_usd("fra"), 0);
    }
}
