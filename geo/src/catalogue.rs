//! The catalogue of regions: metropolitan areas where clouds have data centres, named by an airport nearby.

use serde::{Deserialize, Serialize};

use crate::position::Position;

/// Where on the map a region belongs; also the unit of data-residency rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Continent {
    /// Africa.
    Africa,
    /// Asia, the Middle East included.
    Asia,
    /// Europe.
    Europe,
    /// North America.
    NorthAmerica,
    /// Australia, New Zealand and the Pacific.
    Oceania,
    /// South America.
    SouthAmerica,
}

/// One region of the catalogue.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Region {
    /// Short code: the IATA code of an airport nearby, lower case, for example `fra`.
    pub code: &'static str,
    /// The city people know it by.
    pub city: &'static str,
    /// ISO 3166-1 alpha-2 code of the country.
    pub country: &'static str,
    /// Continent.
    pub continent: Continent,
    /// Where its data centres are, to about ten kilometres.
    pub position: Position,
}

impl Region {
    /// Great-circle distance to another region in metres.
    pub fn distance_m(&self, other: &Self) -> f64 {
        self.position.distance_m(other.position)
    }
}

/// The region with this code, in any case of letters.
pub fn region(code: &str) -> Option<&'static Region> {
    REGIONS
        .iter()
        .find(|region| region.code.eq_ignore_ascii_case(code))
}

/// Where people of a country are, as far as the catalogue can tell: the middle of its regions there. `None` for a country
/// without one. `country` is an ISO 3166-1 alpha-2 code in any case of letters.
pub fn country_position(country: &str) -> Option<Position> {
    let regions = REGIONS
        .iter()
        .filter(|region| region.country.eq_ignore_ascii_case(country));
    Position::middle(regions.map(|region| region.position))
}

/// `candidates` by distance from `from`, nearest first, with the distance in metres. Codes that are not in the
/// catalogue are left out; equal distances keep the order of the codes.
pub fn rank<'a>(
    from: Position,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Vec<(&'static Region, f64)> {
    let mut ranked: Vec<_> = candidates
        .into_iter()
        .filter_map(region)
        .map(|region| (region, from.distance_m(region.position)))
        .collect();
    ranked.sort_by(|(a, a_m), (b, b_m)| a_m.total_cmp(b_m).then_with(|| a.code.cmp(b.code)));
    ranked.dedup_by_key(|(region, _)| region.code);
    ranked
}

/// The nearest of `candidates` with its distance in metres; `None` when none is in the catalogue.
pub fn nearest<'a>(
    from: Position,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<(&'static Region, f64)> {
    rank(from, candidates).into_iter().next()
}

const fn row(
    code: &'static str,
    city: &'static str,
    country: &'static str,
    continent: Continent,
    position: Position,
) -> Region {
    Region {
        code,
        city,
        country,
        continent,
        position,
    }
}

const fn at(latitude: f64, longitude: f64) -> Position {
    Position::known(latitude, longitude)
}

use Continent::{Africa, Asia, Europe, NorthAmerica, Oceania, SouthAmerica};

/// All regions, by continent.
pub const REGIONS: &[Region] = &[
    row("cpt", "Cape Town", "ZA", Africa, at(-33.93, 18.42)),
    row("jnb", "Johannesburg", "ZA", Africa, at(-26.20, 28.05)),
    row("los", "Lagos", "NG", Africa, at(6.52, 3.38)),
    row("nbo", "Nairobi", "KE", Africa, at(-1.29, 36.82)),
    row("bah", "Bahrain", "BH", Asia, at(26.07, 50.56)),
    row("blr", "Bengaluru", "IN", Asia, at(12.97, 77.59)),
    row("bom", "Mumbai", "IN", Asia, at(19.08, 72.88)),
    row("cgk", "Jakarta", "ID", Asia, at(-6.21, 106.85)),
    row("del", "Delhi", "IN", Asia, at(28.61, 77.21)),
    row("doh", "Doha", "QA", Asia, at(25.29, 51.53)),
    row("dxb", "Dubai", "AE", Asia, at(25.20, 55.27)),
    row("hkg", "Hong Kong", "HK", Asia, at(22.32, 114.17)),
    row("hyd", "Hyderabad", "IN", Asia, at(17.39, 78.49)),
    row("icn", "Seoul", "KR", Asia, at(37.57, 126.98)),
    row("kix", "Osaka", "JP", Asia, at(34.69, 135.50)),
    row("kul", "Kuala Lumpur", "MY", Asia, at(3.15, 101.69)),
    row("nrt", "Tokyo", "JP", Asia, at(35.68, 139.69)),
    row("sin", "Singapore", "SG", Asia, at(1.35, 103.82)),
    row("tlv", "Tel Aviv", "IL", Asia, at(32.07, 34.78)),
    row("tpe", "Taipei", "TW", Asia, at(25.03, 121.57)),
    row("ams", "Amsterdam", "NL", Europe, at(52.37, 4.90)),
    row("arn", "Stockholm", "SE", Europe, at(59.33, 18.07)),
    row("cdg", "Paris", "FR", Europe, at(48.86, 2.35)),
    row("dub", "Dublin", "IE", Europe, at(53.35, -6.26)),
    row("fra", "Frankfurt", "DE", Europe, at(50.11, 8.68)),
    row("hel", "Helsinki", "FI", Europe, at(60.17, 24.94)),
    row("lhr", "London", "GB", Europe, at(51.51, -0.13)),
    row("mad", "Madrid", "ES", Europe, at(40.42, -3.70)),
    row("mxp", "Milan", "IT", Europe, at(45.46, 9.19)),
    row("waw", "Warsaw", "PL", Europe, at(52.23, 21.01)),
    row("zrh", "Zurich", "CH", Europe, at(47.38, 8.54)),
    row("atl", "Atlanta", "US", NorthAmerica, at(33.75, -84.39)),
    row("cmh", "Columbus", "US", NorthAmerica, at(39.96, -83.00)),
    row("dfw", "Dallas", "US", NorthAmerica, at(32.78, -96.80)),
    row("dsm", "Des Moines", "US", NorthAmerica, at(41.59, -93.62)),
    row("iad", "Ashburn", "US", NorthAmerica, at(39.04, -77.49)),
    row("lax", "Los Angeles", "US", NorthAmerica, at(34.05, -118.24)),
    row("mia", "Miami", "US", NorthAmerica, at(25.76, -80.19)),
    row("ord", "Chicago", "US", NorthAmerica, at(41.88, -87.63)),
    row("pdx", "Portland", "US", NorthAmerica, at(45.52, -122.68)),
    row("phx", "Phoenix", "US", NorthAmerica, at(33.45, -112.07)),
    row("qro", "Querétaro", "MX", NorthAmerica, at(20.59, -100.39)),
    row(
        "sfo",
        "San Francisco",
        "US",
        NorthAmerica,
        at(37.77, -122.42),
    ),
    row("yul", "Montreal", "CA", NorthAmerica, at(45.50, -73.57)),
    row("yyc", "Calgary", "CA", NorthAmerica, at(51.05, -114.07)),
    row("yyz", "Toronto", "CA", NorthAmerica, at(43.65, -79.38)),
    row("akl", "Auckland", "NZ", Oceania, at(-36.85, 174.76)),
    row("mel", "Melbourne", "AU", Oceania, at(-37.81, 144.96)),
    row("per", "Perth", "AU", Oceania, at(-31.95, 115.86)),
    row("syd", "Sydney", "AU", Oceania, at(-33.87, 151.21)),
    row("bog", "Bogotá", "CO", SouthAmerica, at(4.71, -74.07)),
    row(
        "eze",
        "Buenos Aires",
        "AR",
        SouthAmerica,
        at(-34.60, -58.38),
    ),
    row("gru", "São Paulo", "BR", SouthAmerica, at(-23.55, -46.63)),
    row("scl", "Santiago", "CL", SouthAmerica, at(-33.45, -70.67)),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_is_well_formed_and_codes_are_unique() {
        let codes: BTreeSet<_> = REGIONS.iter().map(|region| region.code).collect();
        assert_eq!(codes.len(), REGIONS.len());
        assert!(REGIONS.len() >= 25);
        for region in REGIONS {
            let position = region.position;
            assert_eq!(
                Ok(position),
                Position::new(position.latitude(), position.longitude())
            );
            assert!(region.code.len() == 3 && region.code.chars().all(|c| c.is_ascii_lowercase()));
            assert_eq!(region.country.len(), 2);
        }
    }

    #[test]
    fn hemispheres_are_right() {
        for region in REGIONS {
            let (latitude, longitude) = (region.position.latitude(), region.position.longitude());
            match region.continent {
                Europe => assert!(latitude > 35.0 && (-10.0..41.0).contains(&longitude)),
                NorthAmerica => assert!(latitude > 7.0 && longitude < -50.0),
                SouthAmerica => assert!(latitude < 13.0 && longitude < -34.0),
                Oceania => assert!(latitude < 0.0 && longitude > 110.0),
                Africa => assert!(latitude < 38.0 && (-18.0..52.0).contains(&longitude)),
                Asia => assert!(latitude > -11.0 && longitude > 25.0),
            }
        }
    }

    #[test]
    fn known_distances() {
        let km = |from, to| {
            let (from, to) = (region(from).expect("known"), region(to).expect("known"));
            from.distance_m(to) / 1_000.0
        };
        assert!(
            (km("fra", "syd") - 16_480.0).abs() < 100.0,
            "{}",
            km("fra", "syd")
        );
        assert!(
            (km("fra", "iad") - 6_550.0).abs() < 100.0,
            "{}",
            km("fra", "iad")
        );
        assert!(
            (km("lhr", "fra") - 640.0).abs() < 20.0,
            "{}",
            km("lhr", "fra")
        );
    }

    #[test]
    fn countries_are_where_their_regions_are() {
        let india = country_position("in").expect("four regions");
        let km = india.distance_m(region("hyd").expect("known").position) / 1_000.0;
        assert!(km < 500.0, "{km}");
        assert_eq!(country_position("FR"), region("cdg").map(|r| r.position));
        assert_eq!(country_position("AQ"), None);
    }

    #[test]
    fn nearest_of_some_and_of_none() {
        let zurich = region("ZRH").expect("codes are found in any case").position;
        let (nearest_region, metres) =
            nearest(zurich, ["syd", "iad", "fra", "moon"]).expect("three are known");
        assert_eq!(nearest_region.code, "fra");
        assert!((metres / 1_000.0 - 304.0).abs() < 20.0, "{metres}");
        assert_eq!(nearest(zurich, ["moon"]), None);
        let order: Vec<_> = rank(zurich, ["syd", "fra", "fra", "iad"])
            .iter()
            .map(|(r, _)| r.code)
            .collect();
        assert_eq!(order, ["fra", "iad", "syd"]);
    }
}
