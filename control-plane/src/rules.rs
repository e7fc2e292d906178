//! What an operator says about rooms by name: how they cross the mesh, how much delay that may add, and which regions they
//! must not leave.

use std::fmt;
use std::str::FromStr;

use geo::Continent;
use proto::RoomId;
use serde::{Deserialize, Serialize};

use crate::config::RoomPolicy;

/// A part of the world that a room may be confined to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(into = "String")]
pub enum Area {
    /// One region of the catalogue, for example `fra`.
    Region(&'static str),
    /// All regions of a country, by its ISO 3166-1 alpha-2 code, for example `DE`.
    Country(&'static str),
    /// All regions of a continent, for example `europe`.
    Continent(Continent),
}

/// Neither a region, nor a country with a region, nor a continent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "area {0:?} is neither a region (fra), nor a country that has one (DE), nor a continent (africa, asia, europe, north_america, oceania, south_america)"
)]
pub struct UnknownArea(String);

const CONTINENTS: [(&str, Continent); 6] = [
    ("africa", Continent::Africa),
    ("asia", Continent::Asia),
    ("europe", Continent::Europe),
    ("north_america", Continent::NorthAmerica),
    ("oceania", Continent::Oceania),
    ("south_america", Continent::SouthAmerica),
];

impl FromStr for Area {
    type Err = UnknownArea;

    fn from_str(text: &str) -> Result<Self, UnknownArea> {
        if let Some(region) = geo::region(text) {
            return Ok(Self::Region(region.code));
        }
        if let Some((_, continent)) = CONTINENTS.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Continent(*continent));
        }
        let country = geo::REGIONS
            .iter()
            .find(|region| region.country.eq_ignore_ascii_case(text));
        country
            .map(|region| Self::Country(region.country))
            .ok_or_else(|| UnknownArea(text.chars().take(64).collect()))
    }
}

// Not derived: serde would have the static names borrowed from the input.
impl<'de> Deserialize<'de> for Area {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(code) | Self::Country(code) => f.write_str(code),
            Self::Continent(continent) => {
                let named = CONTINENTS.iter().find(|(_, known)| known == continent);
                f.write_str(named.map_or("", |(name, _)| name))
            }
        }
    }
}

impl From<Area> for String {
    fn from(area: Area) -> Self {
        area.to_string()
    }
}

impl Area {
    fn holds(&self, region: &geo::Region) -> bool {
        match self {
            Self::Region(code) => region.code == *code,
            Self::Country(country) => region.country == *country,
            Self::Continent(continent) => region.continent == *continent,
        }
    }
}

/// Where a room may be: in any of these areas; without areas anywhere.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Residency(Vec<Area>);

impl Residency {
    /// Confined to these areas.
    pub fn within(areas: Vec<Area>) -> Self {
        Self(areas)
    }

    /// Whether a node of this region may have a part in the room. A region that the catalogue does not know is in no area.
    pub fn permits(&self, region: &str) -> bool {
        self.0.is_empty()
            || geo::region(region).is_some_and(|place| self.0.iter().any(|area| area.holds(place)))
    }

    /// Whether it confines at all.
    pub fn is_everywhere(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("everywhere");
        }
        let areas: Vec<_> = self.0.iter().map(Area::to_string).collect();
        f.write_str(&areas.join(", "))
    }
}

/// How much delay a plan may cost. Both bounds hold for every pair of edges whose straight way keeps them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Bounds {
    /// Round trip that a cheaper way may add to the fastest one, in milliseconds.
    pub added_ms: u32,
    /// Round trip between two edges that no cheaper way may exceed, in milliseconds; 0 for none.
    pub pair_ms_max: u32,
}

/// What holds for one room.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Terms {
    /// How it crosses the mesh.
    pub policy: RoomPolicy,
    /// How much delay that may cost.
    pub bounds: Bounds,
    /// Where it may be.
    pub allow: Residency,
}

/// One `[[room_rules]]` table of the configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomRule {
    /// The rooms it is for: a name, or with a `*` at its end all names that begin so. `*` alone is every room.
    pub room: String,
    /// The project whose rooms it is for [default: rooms of all projects].
    pub project: Option<String>,
    /// How they cross the mesh [default: `room_policy`].
    pub policy: Option<RoomPolicy>,
    /// Round trip that a cheaper way may add, in milliseconds [default: `added_delay_ms`].
    pub added_delay_ms: Option<u32>,
    /// Round trip between two edges that no cheaper way may exceed, in milliseconds [default: `pair_delay_ms_max`].
    pub pair_delay_ms_max: Option<u32>,
    /// Regions, countries or continents that they must not leave; empty for anywhere.
    #[serde(default)]
    pub allow: Vec<Area>,
}

impl RoomRule {
    fn is_for(&self, (project, room): (&str, &str)) -> bool {
        if self.project.as_ref().is_some_and(|own| own != project) {
            return false;
        }
        match self.room.strip_suffix('*') {
            Some(beginning) => room.starts_with(beginning),
            None => room == self.room,
        }
    }
}

/// All rules. The first that is for a room holds, alone; rooms without a rule have the general terms.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    general: Terms,
    rules: Vec<(RoomRule, Terms)>,
}

impl Rules {
    /// Rules over general terms, which fill in what a rule leaves out.
    pub fn new(general: Terms, rules: &[RoomRule]) -> Self {
        let terms = |rule: &RoomRule| Terms {
            policy: rule
                .policy
                .clone()
                .unwrap_or_else(|| general.policy.clone()),
            bounds: Bounds {
                added_ms: rule.added_delay_ms.unwrap_or(general.bounds.added_ms),
                pair_ms_max: rule.pair_delay_ms_max.unwrap_or(general.bounds.pair_ms_max),
            },
            allow: Residency::within(rule.allow.clone()),
        };
        Self {
            rules: rules
                .iter()
                .map(|rule| (rule.clone(), terms(rule)))
                .collect(),
            general,
        }
    }

    /// One policy for all rooms, without bounds or confinement.
    pub fn everywhere(policy: RoomPolicy) -> Self {
        let general = Terms {
            policy,
            ..Terms::default()
        };
        Self::new(general, &[])
    }

    /// What holds for a room.
    pub fn of(&self, room: &RoomId) -> &Terms {
        let room = (room.project(), room.name());
        let rule = self.rules.iter().find(|(rule, _)| rule.is_for(room));
        rule.map_or(&self.general, |(_, terms)| terms)
    }

    /// Whether some room is forced through this node by name.
    pub fn name(&self, node: &str) -> bool {
        let terms = self.rules.iter().map(|(_, terms)| terms);
        terms
            .chain([&self.general])
            .any(|terms| matches!(&terms.policy, RoomPolicy::Via(target) if target == node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_parse_and_print() {
        for text in ["fra", "DE", "europe", "south_america"] {
            assert_eq!(text.parse::<Area>().unwrap().to_string(), text);
        }
        assert_eq!("de".parse::<Area>(), Ok(Area::Country("DE")));
        for text in ["", "moon", "XX", "Europe"] {
            assert!(text.parse::<Area>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn residency_is_by_region_country_or_continent() {
        let of = |areas: &[&str]| {
            Residency::within(areas.iter().map(|area| area.parse().unwrap()).collect())
        };
        assert!(of(&[]).permits("fra") && of(&[]).permits("unheard-of"));
        assert!(of(&["DE"]).permits("fra") && !of(&["DE"]).permits("lhr"));
        assert!(of(&["europe"]).permits("lhr") && !of(&["europe"]).permits("iad"));
        assert!(of(&["syd", "iad"]).permits("iad") && !of(&["syd"]).permits("mel"));
        assert!(!of(&["europe"]).permits("unheard-of"));
    }

    #[test]
    fn the_first_rule_holds_and_is_filled_in() {
        let rules: Vec<RoomRule> = serde_json::from_str(
            r#"[{"room":"clinic-*","allow":["DE","CH"],"added_delay_ms":5},
                {"room":"clinic-9","policy":"direct"},
                {"room":"vault","project":"acme","added_delay_ms":7},
                {"room":"cheap","policy":"auto","pair_delay_ms_max":300}]"#,
        )
        .unwrap();
        let general = Terms {
            policy: RoomPolicy::Via("sin".to_owned()),
            bounds: Bounds {
                added_ms: 20,
                pair_ms_max: 0,
            },
            allow: Residency::default(),
        };
        let rules = Rules::new(general.clone(), &rules);
        let of = |room: &str| rules.of(&RoomId::from(room));
        assert_eq!(of("lounge"), &general);
        let clinic = of("clinic-9");
        assert_eq!(
            (clinic.bounds.added_ms, &clinic.policy),
            (5, &general.policy)
        );
        assert!(!clinic.allow.permits("lhr") && clinic.allow.permits("zrh"));
        let cheap = of("cheap");
        assert_eq!((cheap.bounds.added_ms, cheap.bounds.pair_ms_max), (20, 300));
        assert!(cheap.allow.is_everywhere());
        assert!(!of("acme/clinic-9").allow.permits("lhr"), "all projects");
        assert_eq!(of("acme/vault").bounds.added_ms, 7);
        assert_eq!(of("vault"), &general, "one project's only");
        assert!(rules.name("sin") && !rules.name("fra"));
        assert!(serde_json::from_str::<RoomRule>(r#"{"room":"x","allow":["moon"]}"#).is_err());
        assert!(serde_json::from_str::<RoomRule>(r#"{"room":"x","alow":[]}"#).is_err());
    }
}
