//! Real DB-IP data: where twenty well-known addresses on six continents are sent, and why.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use control_plane::RoomPolicy;
use control_plane::placement::geo_data::Sources;
use control_plane::placement::{Asked, Links, Moment, Placer, Settings};
use control_plane::prices::Prices;
use control_plane::rules::Rules;
use proto::control::{Hello, Node, NodeState, Role};

/// Addresses of universities and exchanges: they do not move, and are no anycast. Each with whose it is, and the region that
/// a person would choose.
const KNOWN: [(&str, &str, &str); 20] = [
    ("129.132.98.12", "ETH, Zürich", "zrh"),
    ("141.2.22.74", "University of Frankfurt", "fra"),
    ("131.111.150.25", "University of Cambridge", "lhr"),
    ("128.214.222.24", "University of Helsinki", "hel"),
    ("193.0.6.139", "RIPE NCC, Amsterdam", "ams"),
    ("133.11.93.0", "University of Tokyo", "nrt"),
    ("143.248.5.153", "KAIST, Daejeon", "icn"),
    ("140.112.8.116", "NTU, Taipei", "tpe"),
    ("137.132.21.27", "NUS, Singapore", "sin"),
    ("103.21.124.133", "IIT Bombay", "bom"),
    ("171.67.215.200", "Stanford University", "sfo"),
    ("128.83.40.147", "University of Texas, Austin", "dfw"),
    ("142.150.210.13", "University of Toronto", "yyz"),
    ("132.248.10.44", "UNAM, Mexico City", "qro"),
    ("143.107.1.1", "University of São Paulo", "gru"),
    ("157.92.5.10", "University of Buenos Aires", "eze"),
    ("137.158.154.230", "University of Cape Town", "cpt"),
    (
        "146.141.13.50",
        "University of the Witwatersrand, Johannesburg",
        "jnb",
    ),
    ("130.216.159.127", "University of Auckland", "akl"),
    (
        "130.95.128.140",
        "University of Western Australia, Perth",
        "per",
    ),
];

fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("ANTIPODE_GEO_DIR") {
        return PathBuf::from(folder);
    }
    let given = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache")));
    cache.expect("a home directory").join("antipode/geo")
}

/// An edge in every region of the catalogue.
fn edges() -> Vec<Node> {
    let edge = |region: &geo::Region| Node {
        hello: Some(Hello {
            node_id: format!("edge-{}", region.code),
            role: Role::Edge.into(),
            region: region.code.to_owned(),
            client_url: format!("wss://{}.example.org", region.code),
            ..Hello::default()
        }),
        state: NodeState::Ready.into(),
        ..Node::default()
    };
    geo::REGIONS.iter().map(edge).collect()
}

fn missing(folder: &Path) -> String {
    format!(
        "no DB-IP data in {}: `make test` and `antipode geo fetch` put it there",
        folder.display()
    )
}

#[test]
fn twenty_known_addresses_get_the_region_a_person_would_choose() {
    let folder = folder();
    let sources = Sources {
        files: Vec::new(),
        folder: Some(folder.clone()),
    };
    let atlas = sources
        .open(&std::env::temp_dir())
        .unwrap_or_else(|error| panic!("{error}: {}", missing(&folder)));
    let rules = Rules::everywhere(RoomPolicy::Auto);
    let placer = Placer::new(Settings::default(), rules, Prices::default());
    placer.set_atlas(atlas);
    let (nodes, links) = (edges(), Links::default());
    let mut wrong = Vec::new();
    for (address, whose, expected) in KNOWN {
        let asked = Asked {
            address: Some(address.parse().unwrap()),
            ..Asked::default()
        };
        let moment = Moment {
            nodes: &nodes,
            links: &links,
            room: None,
        };
        let told = placer.place(&asked, moment).unwrap();
        let second = &told.candidates[1];
        println!(
            "{address:<16} {whose:<46} {:<24} {} ({:.1} ms; next {} {:.1} ms)",
            told.client.to_string(),
            told.region,
            told.candidates[0].total_ms,
            second.region,
            second.total_ms,
        );
        assert!(
            told.attribution
                .as_ref()
                .is_some_and(|whose| whose.url == "https://db-ip.com")
        );
        if told.region != expected {
            wrong.push(format!(
                "{address} ({whose}): {} instead of {expected}; {}",
                told.region, told.reason
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_command_shows_where_addresses_are_and_whose_data_says_so() {
    let folder = folder();
    let output = Command::new(env!("CARGO_BIN_EXE_antipode"))
        .args(["geo", "lookup", "--dir"])
        .arg(&folder)
        .args(["129.132.98.12", "2001:67c:10ec::1", "127.0.0.1"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}: {}", missing(&folder));
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[1].contains("Zurich") && lines[1].contains("zrh"),
        "{text}"
    );
    assert!(lines[2].contains("CH"), "{text}");
    assert!(lines[3].contains("not found"), "{text}");
    assert!(lines[4].contains("db-ip.com"), "{text}");
}
