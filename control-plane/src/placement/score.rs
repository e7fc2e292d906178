//! The score of every edge for one participant, term by term. Pure: what is known goes in, a choice with its reasons comes
//! out, and the same input always gives the same choice.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use geo::lookup::Attribution;
use geo::measured::{Expected, Measured, Network, Source};
use geo::{Position, RttModel};
use serde::{Deserialize, Serialize};

use super::{Edge, Error, Settings, served};
use crate::prices::Prices;
use crate::rules::Residency;

/// What one participant receives in an hour of talking, in gigabytes: 2 Mbit/s.
const GB_PER_HOUR: f64 = 0.9;
/// Round trip assumed between edges of which nothing is known, in milliseconds.
const UNKNOWN_LINK_MS: f64 = 150.0;
/// Length of a region's code as it is shown back.
const REGION_SHOWN: usize = 64;

/// How a client's place became known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Its address was found.
    Address,
    /// Its address was not, but its name server's was.
    Resolver,
    /// It named a region.
    Region,
    /// Nothing was found: the configured default.
    Default,
    /// Nothing was found, and there is no default.
    Unknown,
}

/// Where a client is, as far as is known.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClientPlace {
    /// How that is known.
    pub basis: Basis,
    /// Its network; never its whole address.
    pub network: Option<String>,
    /// City, in English.
    pub city: Option<String>,
    /// ISO 3166-1 alpha-2 code of the country.
    pub country: Option<String>,
    /// Where it is.
    pub position: Option<Position>,
    /// What was tried and not found, for people; empty when nothing went wrong.
    pub note: String,
}

impl ClientPlace {
    /// Nowhere that anybody knows of.
    pub fn unknown(note: impl Into<String>) -> Self {
        Self {
            basis: Basis::Unknown,
            network: None,
            city: None,
            country: None,
            position: None,
            note: note.into(),
        }
    }

    /// In a region of the catalogue.
    pub fn in_region(region: &geo::Region, basis: Basis, note: impl Into<String>) -> Self {
        Self {
            basis,
            network: None,
            city: Some(region.city.to_owned()),
            country: Some(region.country.to_owned()),
            position: Some(region.position),
            note: note.into(),
        }
    }
}

impl std::fmt::Display for ClientPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.city, &self.country) {
            (Some(city), Some(country)) => write!(f, "{city}, {country}"),
            (Some(place), None) | (None, Some(place)) => f.write_str(place),
            (None, None) => f.write_str("unknown"),
        }
    }
}

/// Measured round trips between nodes, in milliseconds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Links(BTreeMap<String, BTreeMap<String, f64>>);

impl Links {
    /// Takes a measurement; it counts for both directions. Of several the last one holds.
    pub fn insert(&mut self, a: &str, b: &str, rtt_ms: f64) {
        for (a, b) in [(a, b), (b, a)] {
            let peers = self.0.entry(a.to_owned()).or_default();
            peers.insert(b.to_owned(), rtt_ms);
        }
    }

    /// Round trip between two edges, and whether it was measured.
    fn between(&self, a: &Edge, b: &Edge) -> (f64, bool) {
        if a.node_id == b.node_id {
            return (0.0, true);
        }
        let measured = self
            .0
            .get(&a.node_id)
            .and_then(|peers| peers.get(&b.node_id));
        measured.map_or_else(
            || {
                (
                    modelled_ms(&a.region, &b.region).unwrap_or(UNKNOWN_LINK_MS),
                    false,
                )
            },
            |ms| (*ms, true),
        )
    }
}

fn modelled_ms(a: &str, b: &str) -> Option<f64> {
    geo::rtt_between(a, b).map(|rtt| rtt.as_secs_f64() * 1e3)
}

/// What the model says of a client at a place and a region, in milliseconds.
pub fn client_model_ms(position: Option<Position>, region: &str) -> Option<f64> {
    let distance_m = geo::region(region)?.position.distance_m(position?);
    Some(RttModel::default().rtt(distance_m).as_secs_f64() * 1e3)
}

/// A participant that wants an edge, and all that the choice depends on.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Where it is.
    pub client: ClientPlace,
    /// Its network, for what earlier clients measured.
    pub network: Option<Network>,
    /// The region that it insists on.
    pub wish: Option<&'a str>,
    /// Edges that are ready.
    pub edges: &'a [Edge],
    /// How many people of the room are on which node.
    pub people: &'a BTreeMap<String, usize>,
    /// Measured round trips between nodes.
    pub links: &'a Links,
    /// Measured round trips of earlier clients.
    pub measured: &'a Measured,
    /// Where the room may be.
    pub allow: &'a Residency,
    /// What traffic costs.
    pub prices: &'a Prices,
    /// What terms weigh.
    pub settings: &'a Settings,
}

/// A choice, and every edge it was made among.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Where the client is.
    pub client: ClientPlace,
    /// The chosen edge.
    pub node_id: String,
    /// Its region.
    pub region: String,
    /// Where clients reach it.
    pub url: String,
    /// The reason in one sentence.
    pub reason: String,
    /// All edges, the chosen one first, then by score, those that were left out last.
    pub candidates: Vec<Candidate>,
    /// To be shown with it, when the client's place is from data whose licence wants that.
    pub attribution: Option<Attribution>,
}

/// One edge with the terms of its score, all in milliseconds: less is better.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// The edge.
    pub node_id: String,
    /// Its region.
    pub region: String,
    /// Expected round trip between client and edge; `None` when nobody knows where the client is.
    pub client: Option<Expected>,
    /// What that counts like.
    #[serde(default)]
    pub client_ms: f64,
    /// Mean round trip from the edge to where the room's other people are; 0 for an empty room.
    pub room_ms: f64,
    /// All of those round trips were measured; else some are modelled by distance.
    pub room_measured: bool,
    /// People per place the edge has, 0.0 to 1.0 and above.
    pub load: f64,
    /// What its load counts like.
    pub load_ms: f64,
    /// What an hour of talking costs there, in US dollars.
    pub usd_per_hour: f64,
    /// What that price counts like.
    pub price_ms: f64,
    /// The sum of all terms.
    pub total_ms: f64,
    /// Why the edge is out of the question; `None` when it is not.
    pub excluded: Option<String>,
}

/// Decides.
///
/// # Errors
/// When no edge is ready, none is where the room may be, or nothing is known about the wished region.
pub fn decide(question: &Question<'_>) -> Result<Explanation, Error> {
    let Question { edges, allow, .. } = question;
    if edges.is_empty() {
        return Err(Error::NoEdge);
    }
    let may = |edge: &&Edge| allow.permits(&edge.region);
    if !edges.iter().any(|edge| may(&edge)) {
        return Err(Error::Confined {
            allowed: allow.to_string(),
        });
    }
    let served_wish = question.wish.filter(|wish| {
        let mut permitted = edges.iter().filter(may);
        permitted.any(|edge| edge.region == *wish)
    });
    let mut client = question.client.clone();
    if let (Some(wish), None) = (question.wish, served_wish) {
        // Not served, or the room must not be there: as if the client were there.
        let place = geo::region(wish).ok_or_else(|| Error::UnknownRegion {
            region: wish.chars().take(REGION_SHOWN).collect(),
            served: served(edges).into_iter().map(str::to_owned).collect(),
        })?;
        client = ClientPlace::in_region(place, Basis::Region, "");
    }
    let room = Room::of(question);
    let all_full = edges.iter().filter(may).all(|edge| edge.load >= 1.0);
    let mut candidates: Vec<_> = edges
        .iter()
        .map(|edge| {
            let mut candidate = room.score(edge, &client);
            candidate.excluded = if !allow.permits(&edge.region) {
                Some(format!(
                    "{} is not where the room may be: {allow}",
                    edge.region
                ))
            } else if let Some(wish) = served_wish.filter(|wish| *wish != edge.region) {
                Some(format!("{wish} was asked for"))
            } else {
                (edge.load >= 1.0 && !all_full).then(|| "full".to_owned())
            };
            candidate
        })
        .collect();
    candidates.sort_by(better);
    let best = candidates.first().ok_or(Error::NoEdge)?;
    let edge = edges
        .iter()
        .find(|edge| edge.node_id == best.node_id)
        .ok_or(Error::NoEdge)?;
    Ok(Explanation {
        node_id: edge.node_id.clone(),
        region: edge.region.clone(),
        url: edge.url.clone(),
        reason: reason(question, served_wish, &client, best),
        client,
        candidates,
        attribution: None,
    })
}

fn better(a: &Candidate, b: &Candidate) -> Ordering {
    (a.excluded.is_some().cmp(&b.excluded.is_some()))
        .then_with(|| a.total_ms.total_cmp(&b.total_ms))
        .then_with(|| a.load.total_cmp(&b.load))
        .then_with(|| a.node_id.cmp(&b.node_id))
}

/// A question with where the room's people are.
struct Room<'a> {
    question: &'a Question<'a>,
    /// Edges that have people of the room, with how many.
    people: Vec<(&'a Edge, f64)>,
    /// The cheapest price among those edges for traffic to another node, in US dollars per gigabyte.
    link_price: f64,
}

impl<'a> Room<'a> {
    fn of(question: &'a Question<'a>) -> Self {
        let count = |edge: &Edge| question.people.get(&edge.node_id).copied().unwrap_or(0);
        let people: Vec<_> = question
            .edges
            .iter()
            .map(|edge| {
                (
                    edge,
                    f64::from(u32::try_from(count(edge)).unwrap_or(u32::MAX)),
                )
            })
            .filter(|(_, count)| *count > 0.0)
            .collect();
        let prices = people
            .iter()
            .map(|(edge, _)| question.prices.of(&edge.region).link);
        Self {
            question,
            link_price: prices.reduce(f64::min).unwrap_or(0.0),
            people,
        }
    }

    fn score(&self, edge: &Edge, client: &ClientPlace) -> Candidate {
        let Question {
            measured,
            links,
            prices,
            settings,
            network,
            ..
        } = self.question;
        let model_ms = client_model_ms(client.position, &edge.region);
        // A client that names another place than its own is not measured there.
        let network = network.filter(|_| client.basis != Basis::Region);
        let client = measured.expect(network, &edge.region, model_ms);
        let client_ms = client.map_or(0.0, |expected| expected.ms * settings.client_weight);
        let (mut sum_ms, mut count, mut room_measured) = (0.0, 0.0, true);
        for (other, people) in &self.people {
            let (ms, was_measured) = links.between(edge, other);
            sum_ms += ms * people;
            count += people;
            room_measured &= was_measured;
        }
        let room_ms = if count > 0.0 { sum_ms / count } else { 0.0 };
        let price = prices.of(&edge.region);
        let joins =
            self.people.is_empty() || self.people.iter().any(|(on, _)| on.node_id == edge.node_id);
        // An edge that is new to the room has everything sent to it, and sends its own.
        let links_price = if joins {
            0.0
        } else {
            price.link + self.link_price
        };
        let usd_per_hour = GB_PER_HOUR * (price.client + links_price);
        let load_ms = settings.load_ms * edge.load * edge.load;
        let price_ms = settings.ms_per_usd_hour * usd_per_hour;
        Candidate {
            node_id: edge.node_id.clone(),
            region: edge.region.clone(),
            client,
            client_ms,
            room_ms,
            room_measured,
            load: edge.load,
            load_ms,
            usd_per_hour,
            price_ms,
            total_ms: client_ms + room_ms + load_ms + price_ms,
            excluded: None,
        }
    }
}

/// The reason for people.
fn reason(
    question: &Question<'_>,
    served_wish: Option<&str>,
    client: &ClientPlace,
    best: &Candidate,
) -> String {
    if served_wish.is_some() {
        return "the region asked for".to_owned();
    }
    if let Some(wish) = question.wish {
        return instead_of(question, wish, &best.region);
    }
    let Some(expected) = best.client else {
        let edges = question.edges.len();
        return if question.people.values().any(|people| *people > 0) {
            "automatic: nobody knows where the client is; best for those in the room".to_owned()
        } else {
            format!(
                "automatic: nobody knows where the client is; the least loaded and cheapest of {edges} ready edges"
            )
        };
    };
    let how = match expected.source {
        Source::Measured => "measured",
        Source::Corrected => "by distance and measurements",
        Source::Model => "by distance",
    };
    let room = if question.people.values().any(|people| *people > 0) {
        format!(", {:.0} ms to the others", best.room_ms)
    } else {
        String::new()
    };
    format!(
        "automatic: client in {client}; {} is {:.0} ms away ({how}){room}",
        best.region, expected.ms
    )
}

/// The reason when the wished region cannot be had.
fn instead_of(question: &Question<'_>, wish: &str, chosen: &str) -> String {
    let why = if question.edges.iter().any(|edge| edge.region == wish) {
        format!("{wish} is not where the room may be ({})", question.allow)
    } else {
        format!("{wish} is not served")
    };
    let permitted = question.edges.iter().map(|edge| edge.region.as_str());
    let permitted = permitted.filter(|region| question.allow.permits(region));
    let nearest = geo::region(wish).and_then(|place| geo::nearest(place.position, permitted));
    match nearest {
        Some((near, metres)) if near.code == chosen => {
            let km = metres / 1e3;
            format!("{why}; {chosen} is the nearest served region, {km:.0} km away")
        }
        _ => format!("{why}; {chosen} has the best score from there"),
    }
}

#[cfg(test)]
mod tests;
