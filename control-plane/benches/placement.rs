//! `cargo xtask bench placement --matrix FILE.csv`: what plans cost in delay and money, and what making them costs in time.
//!
//! The matrix has the columns `from,to,rtt_ms`; names are codes of the catalogue or of the cloud that it was measured in.
//! Random rooms have three to eight people in different regions, with an edge in each; relays are in three regions. The last
//! line of output is JSON: mean and worst round trip between people, for our plans, for the nearest edge with straight links,
//! for the best single hub of every room, and for the shortest ways there are; traffic between nodes against straight links.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark that cannot go on fails, and its result is what it prints"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use control_plane::core::{Core, Input, Output, Settings, Ticket};
use control_plane::placement::{self, Edge, Links, Question};
use control_plane::planner::{Figures, Observation, Problem, Request, Role, Site, Topology, solve};
use control_plane::prices::Prices;
use control_plane::registry::SessionId;
use control_plane::rules::{Bounds, Residency, Rules, Terms};
use control_plane::{RoomPolicy, store};
use geo::measured::{Measured, Network};
use proto::control::{self, ApiKeys, Hello};
use proto::{NodeId, RoomId};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

const ROOMS: usize = 1_000;
const SEED: u64 = 4;
const RELAYS: [&str; 3] = ["fra", "iad", "sin"];
/// Of the second part.
const NODES: usize = 100;
const RELAYS_OF_NODES: usize = 10;
const PLANNED_ROOMS: usize = 10_000;
const RUNS: usize = 5;

/// Regions of the cloud that the matrix was measured in, with the catalogue's code for the place.
const CLOUD: [(&str, &str); 19] = [
    ("af-south-1", "cpt"),
    ("ap-east-1", "hkg"),
    ("ap-northeast-1", "nrt"),
    ("ap-south-1", "bom"),
    ("ap-southeast-1", "sin"),
    ("ap-southeast-2", "syd"),
    ("ca-central-1", "yul"),
    ("eu-central-1", "fra"),
    ("eu-north-1", "arn"),
    ("eu-south-1", "mxp"),
    ("eu-west-1", "dub"),
    ("eu-west-2", "lhr"),
    ("eu-west-3", "cdg"),
    ("me-south-1", "bah"),
    ("sa-east-1", "gru"),
    ("us-east-1", "iad"),
    ("us-east-2", "cmh"),
    ("us-west-1", "sfo"),
    ("us-west-2", "pdx"),
];

fn main() -> anyhow::Result<()> {
    let matrix = Matrix::read(&matrix_file()?)?;
    let world = World::new(&matrix);
    let mut rng = StdRng::seed_from_u64(SEED);
    let rooms: Vec<BTreeSet<&str>> = (0..ROOMS)
        .map(|_| {
            let size = rng.random_range(3..=8);
            matrix
                .regions
                .choose_multiple(&mut rng, size)
                .copied()
                .collect()
        })
        .collect();
    let mut tally = Tally::default();
    for room in &rooms {
        tally.take_baselines(&matrix, room);
    }
    let ours = ours_of(&world, &rooms, 0);
    let cheaper = ours_summary(&ours_of(&world, &rooms, 20));
    let unbound = ours_summary(&ours_of(&world, &rooms, 100_000));
    let mut one_us: Vec<f64> = ours
        .planned
        .iter()
        .map(|took| took.as_secs_f64() * 1e6)
        .collect();
    one_us.sort_by(f64::total_cmp);
    let (planned_rooms, mut replans) = (PLANNED_ROOMS, Vec::new());
    let mut replanned = 0;
    for _ in 0..RUNS {
        let (changed, took) = replan_after_loss();
        replanned = changed;
        replans.push(took.as_secs_f64() * 1e3);
    }
    replans.sort_by(f64::total_cmp);
    let at = |sorted: &[f64], percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    let summary = ours_summary(&ours);
    println!(
        "{}",
        json!({
            "rooms": ROOMS,
            "regions": matrix.regions.len(),
            "optimum_mean_ms": tenth(mean(&tally.optimum)),
            "ours_mean_ms": summary["mean_ms"],
            "nearest_mean_ms": tenth(mean(&tally.nearest)),
            "hub_mean_ms": tenth(mean(&tally.hub)),
            "ours_worst_ms": summary["worst_ms"],
            "nearest_worst_ms": tenth(worst(&tally.nearest)),
            "hub_worst_ms": tenth(worst(&tally.hub)),
            "optimum_worst_ms": tenth(worst(&tally.optimum)),
            "egress_vs_direct": summary["egress_vs_direct"],
            "added_20_ms": cheaper,
            "unbound": unbound,
            "nodes": NODES,
            "planned_rooms": planned_rooms,
            "plans_changed_by_loss": replanned,
            "plan_10k_rooms_ms": tenth(at(&replans, 50)),
            "plan_one_room_us": tenth(at(&one_us, 50)),
            "plan_one_room_p99_us": tenth(at(&one_us, 99)),
        })
    );
    Ok(())
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Cargo adds `--bench`.
fn matrix_file() -> anyhow::Result<PathBuf> {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let usage = "usage: cargo xtask bench placement --matrix FILE.csv (columns from,to,rtt_ms)";
    while let Some(arg) = args.next() {
        if arg == "--matrix" {
            return args.next().map(PathBuf::from).context(usage);
        }
    }
    anyhow::bail!(usage)
}

/// Round trips between regions, the mean of both directions.
struct Matrix {
    regions: Vec<&'static str>,
    rtt_ms: BTreeMap<(&'static str, &'static str), f64>,
}

impl Matrix {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let mut sums: BTreeMap<(&str, &str), (f64, f64)> = BTreeMap::new();
        let mut lines = text.lines();
        let head = lines.next().unwrap_or_default();
        anyhow::ensure!(
            head.trim() == "from,to,rtt_ms",
            "{}: columns are {head:?}",
            file.display()
        );
        for (number, line) in lines
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let wrong = || format!("{}: line {}: {line:?}", file.display(), number + 2);
            let mut cells = line.trim().split(',');
            let mut region = || code(cells.next()?);
            let (from, to) = region().zip(region()).with_context(wrong)?;
            let ms: f64 = cells
                .next()
                .and_then(|ms| ms.parse().ok())
                .with_context(wrong)?;
            for pair in [(from, to), (to, from)] {
                let (sum, count) = sums.entry(pair).or_default();
                *sum += ms;
                *count += 1.0;
            }
        }
        let regions: BTreeSet<_> = sums.keys().map(|(from, _)| *from).collect();
        anyhow::ensure!(
            regions.len() >= 8,
            "{}: fewer than eight regions",
            file.display()
        );
        Ok(Self {
            regions: regions.into_iter().collect(),
            rtt_ms: sums
                .into_iter()
                .map(|(pair, (sum, count))| (pair, sum / count))
                .collect(),
        })
    }

    fn ms(&self, from: &'static str, to: &'static str) -> f64 {
        if from == to {
            0.0
        } else {
            self.rtt_ms
                .get(&(from, to))
                .copied()
                .unwrap_or(f64::INFINITY)
        }
    }
}

fn code(name: &str) -> Option<&'static str> {
    let cloud = CLOUD.iter().find(|(cloud, _)| *cloud == name);
    let name = cloud.map_or(name, |(_, code)| code);
    geo::region(name).map(|region| region.code)
}

/// Round trips between all people of all rooms.
#[derive(Default)]
struct Tally {
    optimum: Vec<f64>,
    nearest: Vec<f64>,
    hub: Vec<f64>,
}

impl Tally {
    fn take_baselines(&mut self, matrix: &Matrix, room: &BTreeSet<&'static str>) {
        let people: Vec<_> = room.iter().copied().collect();
        let pairs = || {
            let firsts = people.iter().enumerate();
            firsts.flat_map(|(at, a)| people[at + 1..].iter().map(move |b| (*a, *b)))
        };
        // The best hub of all regions for this room.
        let through =
            |hub: &'static str| pairs().map(move |(a, b)| matrix.ms(a, hub) + matrix.ms(hub, b));
        let best = matrix
            .regions
            .iter()
            .copied()
            .min_by(|a, b| through(a).sum::<f64>().total_cmp(&through(b).sum::<f64>()));
        self.hub.extend(through(best.expect("regions")));
        self.nearest.extend(pairs().map(|(a, b)| matrix.ms(a, b)));
        // The shortest way over at most two other regions.
        self.optimum.extend(pairs().map(|(a, b)| {
            let mut shortest = matrix.ms(a, b);
            for x in &matrix.regions {
                shortest = shortest.min(matrix.ms(a, x) + matrix.ms(x, b));
                for y in &matrix.regions {
                    shortest = shortest.min(matrix.ms(a, x) + matrix.ms(x, y) + matrix.ms(y, b));
                }
            }
            shortest
        }));
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Edges in all regions of the matrix and relays in some, with everything measured.
struct World<'a> {
    matrix: &'a Matrix,
    topology: Topology,
    edges: Vec<Edge>,
    links: Links,
    measured: Measured,
}

fn edge_of(region: &str) -> String {
    format!("edge-{region}")
}

/// Everybody of a region is in one network.
fn network_of(matrix: &Matrix, region: &str) -> Network {
    let at = matrix
        .regions
        .iter()
        .position(|known| *known == region)
        .unwrap_or(0);
    Network::of([192, 0, u8::try_from(at).unwrap_or(0), 1].into())
}

impl<'a> World<'a> {
    fn new(matrix: &'a Matrix) -> Self {
        let mut topology = Topology::new(Prices::default());
        let mut nodes: Vec<(String, &'static str)> = Vec::new();
        for region in &matrix.regions {
            topology.insert(
                edge_of(region).as_str().into(),
                Site::new(Role::Edge, *region),
            );
            nodes.push((edge_of(region), region));
        }
        for region in RELAYS
            .iter()
            .filter(|region| matrix.regions.contains(region))
        {
            let relay = format!("relay-{region}");
            topology.insert(relay.as_str().into(), Site::new(Role::Relay, *region));
            nodes.push((relay, region));
        }
        let (mut links, mut measured) = (Links::default(), Measured::new(100));
        for (a, from) in &nodes {
            for (b, to) in nodes.iter().filter(|(b, _)| a < b) {
                // Two nodes of one region are next to each other.
                let ms = matrix.ms(from, to).max(0.3);
                let seen = Observation {
                    up: true,
                    rtt: Duration::from_secs_f64(ms / 1e3),
                    loss: 0.0,
                };
                topology.observe(&a.as_str().into(), &b.as_str().into(), seen);
                links.insert(a, b, ms);
            }
        }
        for from in &matrix.regions {
            for to in &matrix.regions {
                // Below anything that is left out as nonsense, and as good as nothing.
                let ms = matrix.ms(from, to).max(1e-6);
                measured.learn(network_of(matrix, from), to, ms, None);
            }
        }
        let edges = matrix.regions.iter().map(|region| Edge {
            node_id: edge_of(region),
            region: (*region).to_owned(),
            url: String::new(),
            load: 0.0,
        });
        Self {
            edges: edges.collect(),
            matrix,
            topology,
            links,
            measured,
        }
    }

    /// The edges that our placement chooses for a room's people, one after the other.
    fn place(&self, room: &BTreeSet<&'static str>) -> Vec<(&'static str, &'static str)> {
        let mut people: BTreeMap<String, usize> = BTreeMap::new();
        let mut placed = Vec::new();
        for person in room {
            let place = geo::region(person).expect("of the catalogue");
            let basis = placement::score::Basis::Address;
            let question = Question {
                client: placement::score::ClientPlace::in_region(place, basis, ""),
                network: Some(network_of(self.matrix, person)),
                wish: None,
                edges: &self.edges,
                people: &people,
                links: &self.links,
                measured: &self.measured,
                allow: &Residency::default(),
                prices: &Prices::default(),
                settings: &placement::Settings::default(),
            };
            let chosen = placement::score::decide(&question).expect("edges are ready");
            *people.entry(chosen.node_id).or_default() += 1;
            placed.push((
                *person,
                geo::region(&chosen.region).expect("of the catalogue").code,
            ));
        }
        placed
    }
}

#[derive(Default)]
struct Ours {
    rtts_ms: Vec<f64>,
    planned: Vec<Duration>,
    price: u64,
    straight_price: u64,
    moved: usize,
}

fn ours_of(world: &World<'_>, rooms: &[BTreeSet<&'static str>], added_ms: u32) -> Ours {
    let terms = Terms {
        policy: RoomPolicy::Auto,
        bounds: Bounds {
            added_ms,
            pair_ms_max: 0,
        },
        allow: Residency::default(),
    };
    let mut ours = Ours::default();
    for (number, room) in rooms.iter().enumerate() {
        let placed = world.place(room);
        ours.moved += placed
            .iter()
            .filter(|(person, edge)| person != edge)
            .count();
        let members: BTreeSet<NodeId> = placed
            .iter()
            .map(|(_, edge)| edge_of(edge).as_str().into())
            .collect();
        let name = RoomId::from(format!("room-{number}"));
        let request = Request {
            room: &name,
            members: &members,
            terms: &terms,
            previous: None,
        };
        let began = Instant::now();
        let problem = Problem::of(request, &world.topology);
        let solution = solve(&problem);
        ours.planned.push(began.elapsed());
        let Figures {
            price_micro_usd,
            straight_price_micro_usd,
            ..
        } = solution.figures;
        ours.price += price_micro_usd;
        ours.straight_price += straight_price_micro_usd;
        let told = control_plane::planner::explain(&problem, &solution);
        let between: BTreeMap<_, _> = told
            .pairs
            .iter()
            .map(|pair| {
                (
                    (pair.from.as_str(), pair.to.as_str()),
                    pair.candidates[0].total_ms(),
                )
            })
            .collect();
        for (at, (one, first)) in placed.iter().enumerate() {
            for (other, second) in &placed[at + 1..] {
                let (a, b) = (edge_of(first), edge_of(second));
                let pair = (a.as_str().min(&b), a.as_str().max(&b));
                let edges_ms = if a == b { 0.0 } else { between[&pair] };
                let access = world.matrix.ms(one, first) + world.matrix.ms(other, second);
                ours.rtts_ms.push(access + edges_ms);
            }
        }
    }
    ours
}

fn ours_summary(ours: &Ours) -> serde_json::Value {
    let share = ours.price as f64 / ours.straight_price as f64;
    json!({
        "mean_ms": tenth(mean(&ours.rtts_ms)),
        "worst_ms": tenth(worst(&ours.rtts_ms)),
        "egress_vs_direct": (share * 1e3).round() / 1e3,
        "people_not_at_their_nearest_edge": ours.moved,
    })
}

/// 10,000 rooms of two to five edges over 100 nodes, ten of them relays; one relay dies. How many plans changed, and how long
/// it took to look at all of them, in the core as it runs: with records to save and messages to send.
fn replan_after_loss() -> (usize, Duration) {
    let now = Instant::now();
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut core = Core::new(settings(now));
    let mut edges = Vec::new();
    for node in 0..NODES {
        let hello = hello(node);
        if hello.role() == control::Role::Edge {
            edges.push(hello.node_id.clone());
        }
        let session = SessionId(node as u64);
        core.handle_input(now, Input::Connected { session, hello });
    }
    drain(&mut core, now);
    for room in 0..PLANNED_ROOMS {
        let size = rng.random_range(2..=5);
        for node in edges.choose_multiple(&mut rng, size) {
            let assign = Input::Assign {
                ticket: Ticket(0),
                node: node.as_str().into(),
                room: format!("room-{room}").as_str().into(),
                room_config: Vec::new(),
            };
            core.handle_input(now, assign);
        }
        drain(&mut core, now);
    }
    let session = SessionId(0);
    core.handle_input(now, Input::Disconnected { session });
    drain(&mut core, now);
    let began = Instant::now();
    core.handle_input(now + Duration::from_secs(2), Input::Timeout);
    let took = began.elapsed();
    (drain(&mut core, now), took)
}

fn settings(now: Instant) -> Settings {
    let terms = Terms {
        policy: RoomPolicy::Auto,
        bounds: Bounds {
            added_ms: 20,
            pair_ms_max: 0,
        },
        allow: Residency::default(),
    };
    Settings {
        control_id: String::new(),
        ring: control_plane::ring::Ring::alone(""),
        mesh: String::new(),
        rules: Rules::new(terms, &[]),
        prices: Prices::default(),
        keys: ApiKeys::default(),
        node_grace: Duration::from_secs(1),
        restart_grace: Duration::from_secs(1),
        empty_room: Duration::from_secs(1),
        origin: now,
        origin_ms: 0,
        seed: [1; 32],
    }
}

/// The first ten are relays.
fn hello(node: usize) -> Hello {
    let region = geo::REGIONS[node * 7 % geo::REGIONS.len()].code;
    let (kind, role) = if node < RELAYS_OF_NODES {
        ("relay", control::Role::Relay)
    } else {
        ("edge", control::Role::Edge)
    };
    Hello {
        node_id: format!("{kind}-{region}-{node}"),
        incarnation: 1,
        role: role.into(),
        region: region.to_owned(),
        link_addresses: vec!["127.0.0.1:1".to_owned()],
        client_url: "ws://127.0.0.1:2".to_owned(),
        ..Hello::default()
    }
}

/// Takes all outputs; returns how many rooms have a new plan.
fn drain(core: &mut Core, now: Instant) -> usize {
    let mut planned = 0;
    loop {
        match core.poll_output(now) {
            Output::Timeout(_) => return planned,
            Output::Save(store::Change::Room(_)) => planned += 1,
            Output::Save(_)
            | Output::Transmit { .. }
            | Output::Assigned { .. }
            | Output::Answered { .. }
            | Output::Event(_)
            | Output::Close { .. }
            | Output::Update(_)
            | Output::Shadow(_) => {}
        }
    }
}
