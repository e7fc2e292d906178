//! Gathers what placement decides by: where addresses are, what earlier clients measured, the moment's nodes and links.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use geo::lookup::{Atlas, Attribution};
use geo::measured::{Measured, Network};
use proto::RoomId;
use proto::control::{ClientRtt, GetRoomResponse, Link, Node};
use runtime::mapped::PrivateMap;
use serde::{Deserialize, Serialize};

use super::score::{self, Basis, ClientPlace, Explanation, Links, Question};
use super::{Error, Settings, ready_edges};
use crate::prices::Prices;
use crate::rules::Rules;

/// Decisions that are kept for `explain`; the oldest go first.
const DECISIONS: usize = 1_024;
/// Measurements of one report that are looked at.
const RTTS_MAX: usize = 1_024;

/// What a client says of itself, or what is seen of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked<'a> {
    /// The room it wants to join.
    pub room: Option<&'a RoomId>,
    /// Its address.
    pub address: Option<IpAddr>,
    /// Address of the name server that asked for it.
    pub resolver: Option<IpAddr>,
    /// The region it is in, by its own word.
    pub at: Option<&'a str>,
    /// The region it insists on.
    pub wish: Option<&'a str>,
}

/// The mesh at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// All nodes.
    pub nodes: &'a [Node],
    /// Measured round trips between them.
    pub links: &'a Links,
    /// The room, if it lives.
    pub room: Option<&'a GetRoomResponse>,
}

/// A decision that was made for somebody.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Placed {
    /// The room.
    pub room: RoomId,
    /// Whom it was made for.
    pub identity: String,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The decision.
    pub explanation: Explanation,
}

/// Places clients on edges.
#[derive(Debug)]
pub struct Placer {
    settings: Settings,
    rules: Rules,
    prices: Prices,
    atlas: ArcSwap<Atlas<PrivateMap>>,
    measured: Mutex<Measured>,
    placed: Mutex<VecDeque<Placed>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left behind is still a set of whole measurements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Placer {
    /// One that knows no places of addresses yet.
    pub fn new(settings: Settings, rules: Rules, prices: Prices) -> Self {
        Self {
            measured: Mutex::new(Measured::new(settings.networks)),
            settings,
            rules,
            prices,
            atlas: ArcSwap::default(),
            placed: Mutex::new(VecDeque::new()),
        }
    }

    /// Replaces the databases that tell where addresses are.
    pub fn set_atlas(&self, atlas: Atlas<PrivateMap>) {
        self.atlas.store(Arc::new(atlas));
    }

    /// Takes what an edge of a region measured of its clients.
    pub fn learn(&self, region: &str, rtts: &[ClientRtt]) {
        for rtt in rtts.iter().take(RTTS_MAX) {
            let Ok(address) = rtt.network.parse::<IpAddr>() else {
                continue;
            };
            let position = self.look_up(address).and_then(|(place, _)| place.position);
            let model_ms = score::client_model_ms(position, region);
            let rtt_ms = f64::from(rtt.rtt_us) / 1e3;
            lock(&self.measured).learn(Network::of(address), region, rtt_ms, model_ms);
        }
    }

    /// Decides which edge a client is sent to.
    ///
    /// # Errors
    /// When no edge is ready, none is where the room may be, or a region that was named is unknown.
    pub fn place(&self, asked: &Asked<'_>, moment: Moment<'_>) -> Result<Explanation, Error> {
        let edges = ready_edges(moment.nodes);
        let (client, attribution) = self.locate(asked, &edges)?;
        let rooms = moment.room.map(|room| room.nodes.iter());
        let people: BTreeMap<String, usize> = rooms
            .into_iter()
            .flatten()
            .map(|node| {
                let report = node.report.as_ref();
                (
                    node.node_id.clone(),
                    report.map_or(0, |report| report.participants.len()),
                )
            })
            .collect();
        let measured = lock(&self.measured);
        let nameless = RoomId::from("");
        let question = Question {
            network: asked.address.map(Network::of),
            wish: asked.wish,
            client,
            edges: &edges,
            people: &people,
            links: moment.links,
            measured: &measured,
            allow: &self.rules.of(asked.room.unwrap_or(&nameless)).allow,
            prices: &self.prices,
            settings: &self.settings,
        };
        let mut explanation = score::decide(&question)?;
        explanation.attribution = attribution;
        Ok(explanation)
    }

    /// Remembers a decision for `explain`.
    pub fn remember(&self, placed: Placed) {
        let mut kept = lock(&self.placed);
        if kept.len() >= DECISIONS {
            kept.pop_front();
        }
        kept.push_back(placed);
    }

    /// The decisions for a room that are remembered, the latest of each identity.
    pub fn remembered(&self, room: &RoomId) -> Vec<Placed> {
        let kept = lock(&self.placed);
        let of_room = kept.iter().filter(|placed| placed.room == *room);
        let latest: BTreeMap<&str, &Placed> = of_room
            .map(|placed| (placed.identity.as_str(), placed))
            .collect();
        latest.into_values().cloned().collect()
    }

    /// Where a client is, and what has to be shown with that.
    fn locate(
        &self,
        asked: &Asked<'_>,
        edges: &[super::Edge],
    ) -> Result<(ClientPlace, Option<Attribution>), Error> {
        if let Some(at) = asked.at {
            let region = geo::region(at).ok_or_else(|| Error::UnknownRegion {
                region: at.chars().take(64).collect(),
                served: super::served(edges)
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
            })?;
            return Ok((ClientPlace::in_region(region, Basis::Region, ""), None));
        }
        let mut tried = Vec::new();
        for (address, basis, what) in [
            (asked.address, Basis::Address, "address"),
            (asked.resolver, Basis::Resolver, "name server"),
        ] {
            let Some(address) = address else { continue };
            if let Some((mut place, attribution)) = self.look_up(address) {
                place.basis = basis;
                place.note = tried.join("; ");
                return Ok((place, attribution));
            }
            tried.push(self.not_found(address, what));
        }
        let note = tried.join("; ");
        let place = match geo::region(&self.settings.default_region) {
            Some(region) => ClientPlace::in_region(region, Basis::Default, note),
            None => ClientPlace::unknown(note),
        };
        Ok((place, None))
    }

    fn not_found(&self, address: IpAddr, what: &str) -> String {
        let network = Network::of(address);
        if self.atlas.load().databases().is_empty() {
            format!("{what} in {network} not looked up: no geo data")
        } else {
            format!("{what} in {network} is not in the geo data")
        }
    }

    fn look_up(&self, address: IpAddr) -> Option<(ClientPlace, Option<Attribution>)> {
        let atlas = self.atlas.load();
        let (found, database) = match atlas.find(address) {
            Ok(found) => found?,
            Err(error) => {
                tracing::warn!(%error, "geo data is damaged");
                return None;
            }
        };
        let country = found.country.as_deref();
        let position = found.position.or_else(|| geo::country_position(country?))?;
        let place = ClientPlace {
            basis: Basis::Address,
            network: Some(found.network),
            city: found.city,
            country: found.country,
            position: Some(position),
            note: String::new(),
        };
        Some((place, database.attribution()))
    }
}

/// The measured round trips of links that are up.
pub(crate) fn links_of(links: &[Link]) -> Links {
    let mut table = Links::default();
    for link in links {
        let Some(state) = link
            .state
            .as_ref()
            .filter(|state| state.up && state.rtt_us > 0)
        else {
            continue;
        };
        table.insert(&link.node_id, &state.peer, f64::from(state.rtt_us) / 1e3);
    }
    table
}
