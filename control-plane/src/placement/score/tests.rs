//! Scores as examples and as properties.

use proptest::prelude::*;

use super::*;

fn edge(id: &str, region: &str, load: f64) -> Edge {
    Edge {
        node_id: id.to_owned(),
        region: region.to_owned(),
        url: format!("ws://{id}"),
        load,
    }
}

fn world() -> Vec<Edge> {
    ["fra", "iad", "nrt", "syd"]
        .iter()
        .map(|region| edge(&format!("edge-{region}"), region, 0.1))
        .collect()
}

/// A question with its defaults, owned so that tests can change one thing.
struct Asked {
    client: ClientPlace,
    network: Option<Network>,
    wish: Option<&'static str>,
    edges: Vec<Edge>,
    people: BTreeMap<String, usize>,
    links: Links,
    measured: Measured,
    allow: Residency,
    settings: Settings,
}

fn asked(at: Option<&str>) -> Asked {
    let client = at.and_then(geo::region).map_or_else(
        || ClientPlace::unknown("no geo data"),
        |region| ClientPlace::in_region(region, Basis::Address, ""),
    );
    Asked {
        client,
        network: Some(Network::of("192.0.2.1".parse().unwrap())),
        wish: None,
        edges: world(),
        people: BTreeMap::new(),
        links: Links::default(),
        measured: Measured::new(100),
        allow: Residency::default(),
        settings: Settings::default(),
    }
}

impl Asked {
    fn decide(&self) -> Result<Explanation, Error> {
        decide(&Question {
            client: self.client.clone(),
            network: self.network,
            wish: self.wish,
            edges: &self.edges,
            people: &self.people,
            links: &self.links,
            measured: &self.measured,
            allow: &self.allow,
            prices: &Prices::default(),
            settings: &self.settings,
        })
    }

    fn region(&self) -> String {
        self.decide().expect("an edge").region
    }
}

#[test]
fn near_the_client_when_nobody_else_is_there() {
    for (at, expected) in [
        ("lhr", "fra"),
        ("yyz", "iad"),
        ("akl", "syd"),
        ("icn", "nrt"),
    ] {
        assert_eq!(asked(Some(at)).region(), expected, "{at}");
    }
    let told = asked(Some("lhr")).decide().unwrap();
    assert!(told.reason.contains("London, GB"), "{}", told.reason);
    assert_eq!(told.candidates.len(), 4);
    for candidate in &told.candidates {
        let client = candidate.client_ms;
        assert!(client > candidate.client.expect("known").ms);
        let sum = client + candidate.room_ms + candidate.load_ms + candidate.price_ms;
        assert!((candidate.total_ms - sum).abs() < 1e-9, "{candidate:?}");
    }
}

#[test]
fn where_the_others_are_counts() {
    // Somebody in Dubai is nearer to Frankfurt by distance; the others are in Tokyo and the way there is bad.
    let mut asked = asked(Some("dxb"));
    assert_eq!(asked.region(), "fra");
    asked.people = [("edge-nrt".to_owned(), 5)].into();
    asked.links.insert("edge-fra", "edge-nrt", 400.0);
    let told = asked.decide().unwrap();
    assert_eq!(told.region, "nrt", "{told:?}");
    assert!(told.candidates[0].room_measured && told.reason.contains("to the others"));
}

#[test]
fn nobody_knows_where_the_client_is() {
    let mut asked = asked(None);
    let told = asked.decide().unwrap();
    assert!(
        told.reason.starts_with("automatic: nobody knows"),
        "{}",
        told.reason
    );
    assert_eq!(told.client.note, "no geo data");
    asked.edges = vec![
        edge("a", "fra", 0.5),
        edge("b", "fra", 0.2),
        edge("c", "iad", 0.4),
    ];
    assert_eq!(asked.decide().unwrap().node_id, "b", "the least loaded");
    asked.people = [("c".to_owned(), 1)].into();
    assert_eq!(asked.decide().unwrap().node_id, "c", "where the others are");
}

#[test]
fn measurements_of_earlier_clients_correct_the_model() {
    let mut asked = asked(Some("dxb"));
    let network = asked.network.unwrap();
    // Clients of this network reach Frankfurt by way of who knows where, and Tokyo well.
    asked.measured.learn(network, "fra", 350.0, Some(84.0));
    asked.measured.learn(network, "nrt", 110.0, Some(138.0));
    let told = asked.decide().unwrap();
    assert_eq!(told.region, "nrt");
    assert_eq!(told.candidates[0].client.unwrap().source, Source::Measured);
    let sydney = told.candidates.iter().find(|c| c.region == "syd").unwrap();
    assert_eq!(sydney.client.unwrap().source, Source::Corrected);
}

#[test]
fn load_spreads_and_full_edges_are_left_out() {
    let mut asked = asked(Some("fra"));
    asked.edges = vec![
        edge("a", "fra", 0.9),
        edge("b", "fra", 0.3),
        edge("c", "lhr", 0.0),
    ];
    assert_eq!(asked.decide().unwrap().node_id, "b");
    asked.edges[1].load = 1.0;
    asked.edges[0].load = 1.2;
    let told = asked.decide().unwrap();
    assert_eq!(told.node_id, "c");
    assert_eq!(told.candidates[2].excluded.as_deref(), Some("full"));
    asked.edges[2].load = 1.1;
    assert!(
        asked.decide().is_ok(),
        "with all full somebody has to take it"
    );
}

#[test]
fn wishes_are_granted_or_explained() {
    let mut asked = asked(Some("fra"));
    asked.wish = Some("syd");
    let told = asked.decide().unwrap();
    assert_eq!(
        (told.region.as_str(), told.reason.as_str()),
        ("syd", "the region asked for")
    );
    assert_eq!(
        told.candidates
            .iter()
            .filter(|c| c.excluded.is_none())
            .count(),
        1
    );
    asked.wish = Some("lhr");
    let told = asked.decide().unwrap();
    assert_eq!(told.region, "fra");
    assert_eq!(
        told.reason,
        "lhr is not served; fra is the nearest served region, 638 km away"
    );
    asked.wish = Some("moon");
    let served = ["fra", "iad", "nrt", "syd"].map(str::to_owned).to_vec();
    let unknown = Error::UnknownRegion {
        region: "moon".to_owned(),
        served,
    };
    assert_eq!(asked.decide(), Err(unknown));
    asked.edges.clear();
    assert_eq!(asked.decide(), Err(Error::NoEdge));
}

#[test]
fn residency_comes_before_everything() {
    let mut asked = asked(Some("syd"));
    asked.allow = Residency::within(vec!["europe".parse().unwrap()]);
    let told = asked.decide().unwrap();
    assert_eq!(told.region, "fra");
    let out: Vec<_> = told.candidates[1..]
        .iter()
        .filter_map(|c| c.excluded.as_deref())
        .collect();
    assert_eq!(out.len(), 3);
    assert!(
        out.contains(&"iad is not where the room may be: europe"),
        "{out:?}"
    );
    asked.wish = Some("syd");
    let told = asked.decide().unwrap();
    assert_eq!(told.region, "fra");
    assert!(
        told.reason
            .starts_with("syd is not where the room may be (europe)"),
        "{}",
        told.reason
    );
    asked.edges.remove(0);
    let confined = Error::Confined {
        allowed: "europe".to_owned(),
    };
    assert_eq!(asked.decide(), Err(confined));
}

proptest! {
    #[test]
    fn a_choice_is_permitted_the_best_and_always_the_same(
        places in proptest::collection::vec((0..geo::REGIONS.len(), 0.0..1.3_f64, 0..4_usize), 1..12),
        at in proptest::option::of(0..geo::REGIONS.len()),
        confined in any::<bool>(),
        links in proptest::collection::vec((0..12_usize, 0..12_usize, 1.0..500.0_f64), 0..20),
    ) {
        let mut asked = asked(at.map(|at| geo::REGIONS[at].code));
        let name = |index: usize| format!("edge-{index:02}");
        asked.edges = places.iter().enumerate().map(|(index, (region, load, _))| edge(&name(index), geo::REGIONS[*region].code, *load)).collect();
        asked.people = places.iter().enumerate().map(|(index, (.., people))| (name(index), *people)).collect();
        for (a, b, ms) in links {
            asked.links.insert(&name(a), &name(b), ms);
        }
        if confined {
            asked.allow = Residency::within(vec!["europe".parse().unwrap(), "asia".parse().unwrap()]);
        }
        let told = asked.decide();
        prop_assert_eq!(&told, &asked.decide());
        match told {
            Ok(told) => {
                prop_assert!(asked.allow.permits(&told.region));
                prop_assert_eq!(told.candidates.len(), asked.edges.len());
                prop_assert_eq!(&told.candidates[0].node_id, &told.node_id);
                prop_assert!(told.candidates[0].excluded.is_none());
                for candidate in told.candidates.iter().filter(|candidate| candidate.excluded.is_none()) {
                    prop_assert!(told.candidates[0].total_ms <= candidate.total_ms);
                }
            }
            Err(error) => {
                let nowhere = asked.edges.iter().all(|edge| !asked.allow.permits(&edge.region));
                prop_assert!(nowhere, "{}", error);
            }
        }
    }
}
