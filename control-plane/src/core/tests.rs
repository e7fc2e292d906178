//! The core as a dialogue: inputs in virtual time, what nodes hear in return.

use proto::control::{
    self, ApiKey, ApiKeys, LinkState, Load, ParticipantReport, RoomClosed, RoomPlan, RoomReport,
};

use super::*;
use crate::config::RoomPolicy;

mod calls;
mod drain;
mod random;
mod standby;

const GRACE: Duration = Duration::from_secs(2);

struct Mesh {
    core: Core,
    now: Instant,
    sessions: u64,
    saved: BTreeMap<String, RoomRecord>,
    answers: Vec<Result<AssignResponse, AssignError>>,
    heard: BTreeMap<SessionId, Vec<Down>>,
    closed: Vec<SessionId>,
    answered: Vec<Result<Answer, CallError>>,
    events: Vec<Event>,
}

fn settings(policy: RoomPolicy) -> Settings {
    Settings {
        control_id: "control-0".to_owned(),
        ring: Ring::alone("control-0"),
        mesh: "test".to_owned(),
        rules: Rules::everywhere(policy),
        prices: Prices::default(),
        keys: ApiKeys {
            keys: vec![ApiKey {
                key: "devkey".to_owned(),
                secret: "secret".to_owned(),
                project: "default".to_owned(),
            }],
            version: 1,
        },
        node_grace: GRACE,
        restart_grace: Duration::from_secs(15),
        empty_room: Duration::from_secs(20),
        origin: Instant::now(),
        origin_ms: 1_000,
        seed: [7; 32],
    }
}

fn hello(node: &str, incarnation: u64) -> Hello {
    let (role, region) = node.split_once('-').expect("role-region");
    let edge = role == "edge";
    Hello {
        node_id: node.to_owned(),
        incarnation,
        role: if edge {
            control::Role::Edge
        } else {
            control::Role::Relay
        }
        .into(),
        region: region.to_owned(),
        link_addresses: vec!["127.0.0.1:1".to_owned()],
        client_url: if edge {
            "ws://127.0.0.1:2".to_owned()
        } else {
            String::new()
        },
        ..Hello::default()
    }
}

impl Mesh {
    fn new(policy: RoomPolicy) -> Self {
        Self::restored(policy, Saved::default())
    }

    fn restored(policy: RoomPolicy, saved: Saved) -> Self {
        let settings = settings(policy);
        let now = settings.origin;
        let mut mesh = Self {
            core: Core::new(settings),
            now,
            sessions: 0,
            saved: BTreeMap::new(),
            answers: Vec::new(),
            heard: BTreeMap::new(),
            closed: Vec::new(),
            answered: Vec::new(),
            events: Vec::new(),
        };
        mesh.input(Input::Restore(saved));
        mesh
    }

    fn input(&mut self, input: Input) {
        self.core.handle_input(self.now, input);
        loop {
            match self.core.poll_output(self.now) {
                Output::Save(Change::Room(record)) => {
                    self.saved.insert(record.room.to_string(), record);
                }
                Output::Save(_) | Output::Update(_) | Output::Shadow(_) => {}
                Output::Transmit { session, message } => {
                    let message = message.message.expect("a message");
                    if let Down::Plan(plan) = &message {
                        let saved = &self.saved[&plan.room];
                        assert!(plan.epoch <= saved.epoch, "sent before it was saved");
                    }
                    self.heard.entry(session).or_default().push(message);
                }
                Output::Assigned { result, .. } => self.answers.push(result),
                Output::Answered { result, .. } => self.answered.push(result),
                Output::Event(event) => self.events.push(event),
                Output::Close { session, .. } => self.closed.push(session),
                Output::Timeout(_) => break,
            }
        }
    }

    fn connect(&mut self, node: &str, incarnation: u64) -> SessionId {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        self.input(Input::Connected {
            session,
            hello: hello(node, incarnation),
        });
        session
    }

    fn message(&mut self, session: SessionId, message: Up) {
        self.input(Input::Message { session, message });
    }

    fn assign(&mut self, node: &str, room: &str) -> Result<RoomPlan, AssignError> {
        let (node, room) = (NodeId::from(node), RoomId::from(room));
        self.input(Input::Assign {
            ticket: Ticket(0),
            node,
            room,
            room_config: Vec::new(),
        });
        self.answers
            .pop()
            .expect("an answer")
            .map(|answer| answer.plan.expect("a plan"))
    }

    fn report(&mut self, session: SessionId, room: &str, epoch: u64) {
        let report = RoomReport {
            room: room.to_owned(),
            room_sid: "RM_reported".to_owned(),
            epoch,
            participants: vec![ParticipantReport::default()],
            ..RoomReport::default()
        };
        self.message(session, Up::Room(report));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.input(Input::Timeout);
    }

    fn drain(&mut self, session: SessionId) -> Vec<Down> {
        self.heard.remove(&session).unwrap_or_default()
    }

    fn plans(&mut self, session: SessionId) -> Vec<RoomPlan> {
        let plan = |message| match message {
            Down::Plan(plan) => Some(plan),
            Down::Welcome(_) | Down::Peers(_) | Down::Keys(_) | Down::Command(_) => None,
        };
        self.drain(session).into_iter().filter_map(plan).collect()
    }

    fn saved(&self, nodes: &[(&str, u64)]) -> Saved {
        let rooms: Vec<_> = self.saved.values().cloned().collect();
        Saved {
            epoch_max: rooms.iter().map(|room| room.epoch).max().unwrap_or(0),
            rooms,
            nodes: nodes
                .iter()
                .map(|(node, incarnation)| hello(node, *incarnation))
                .collect(),
        }
    }
}

fn via(plan: &RoomPlan) -> Vec<(&str, &str, &str)> {
    plan.next_hops
        .iter()
        .map(|h| (h.edge.as_str(), h.via.as_str(), h.backup.as_str()))
        .collect()
}

#[test]
fn a_node_is_welcomed_with_keys_and_peers_and_the_others_hear_of_it() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let fra = mesh.connect("edge-fra", 1);
    let heard = mesh.drain(fra);
    assert!(
        matches!(&heard[..], [Down::Welcome(w), Down::Keys(k), Down::Peers(p)]
            if w.mesh == "test" && k.keys.len() == 1 && p.peers.is_empty()),
        "{heard:?}"
    );
    let syd = mesh.connect("edge-syd", 1);
    assert!(matches!(&mesh.drain(fra)[..], [Down::Peers(p)] if p.peers[0].node_id == "edge-syd"));
    mesh.drain(syd);
    mesh.input(Input::Disconnected { session: syd });
    assert!(mesh.drain(fra).is_empty(), "suspect nodes keep their links");
    mesh.pass(GRACE);
    assert!(matches!(&mesh.drain(fra)[..], [Down::Peers(p)] if p.peers.is_empty()));
}

#[test]
fn a_second_member_gives_both_and_the_relay_a_new_plan() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let [fra, syd, sin] = ["edge-fra", "edge-syd", "relay-sin"].map(|node| mesh.connect(node, 1));
    let first = mesh.assign("edge-fra", "R").expect("a plan");
    assert_eq!((first.members.len(), first.next_hops.len()), (1, 0));
    assert!(mesh.plans(sin).is_empty() && mesh.plans(syd).is_empty());
    mesh.drain(fra);

    let second = mesh.assign("edge-syd", "R").expect("a plan");
    assert!(second.epoch > first.epoch && second.room_sid == first.room_sid);
    assert_eq!(via(&second), [("edge-fra", "edge-fra", "relay-sin")]);
    let told = mesh.plans(fra);
    assert_eq!(via(&told[0]), [("edge-syd", "edge-syd", "relay-sin")]);
    assert_eq!((told[0].epoch, told.len()), (second.epoch, 1));
    assert_eq!(mesh.plans(sin)[0].next_hops.len(), 2);

    let again = mesh.assign("edge-syd", "R").expect("a plan");
    assert_eq!(again, second, "nothing changed, no new epoch");
    assert!(mesh.plans(fra).is_empty());
}

#[test]
fn a_closed_room_shrinks_and_an_empty_one_ends_for_its_relays() {
    let mut mesh = Mesh::new(RoomPolicy::Via("sin".to_owned()));
    let [fra, syd, sin] = ["edge-fra", "edge-syd", "relay-sin"].map(|node| mesh.connect(node, 1));
    mesh.assign("edge-fra", "R").expect("a plan");
    let plan = mesh.assign("edge-syd", "R").expect("a plan");
    assert_eq!(via(&plan), [("edge-fra", "relay-sin", "edge-fra")]);
    for session in [fra, syd, sin] {
        mesh.drain(session);
    }

    mesh.message(
        syd,
        Up::RoomClosed(RoomClosed {
            room: "R".to_owned(),
            ..RoomClosed::default()
        }),
    );
    assert!(mesh.plans(syd).is_empty(), "it knows");
    assert_eq!(mesh.plans(fra)[0].members, ["edge-fra"]);
    let relays = mesh.plans(sin);
    assert_eq!((relays[0].members.len(), relays[0].next_hops.len()), (1, 0));
    mesh.message(
        fra,
        Up::RoomClosed(RoomClosed {
            room: "R".to_owned(),
            ..RoomClosed::default()
        }),
    );

    let back = mesh.assign("edge-fra", "R").expect("a plan");
    assert_eq!(back.room_sid, plan.room_sid, "back before the room ended");
    mesh.message(
        fra,
        Up::RoomClosed(RoomClosed {
            room: "R".to_owned(),
            ..RoomClosed::default()
        }),
    );
    mesh.pass(Duration::from_secs(21));
    let anew = mesh.assign("edge-fra", "R").expect("a plan");
    assert_ne!(anew.room_sid, plan.room_sid);
    assert!(anew.epoch > back.epoch, "epochs grow over a room's end");
}

#[test]
fn a_dead_relay_is_planned_around_and_a_dead_edge_is_left_out() {
    let mut mesh = Mesh::new(RoomPolicy::Via("sin".to_owned()));
    let [fra, _, sin] = ["edge-fra", "edge-syd", "relay-sin"].map(|node| mesh.connect(node, 1));
    mesh.assign("edge-fra", "R").expect("a plan");
    mesh.assign("edge-syd", "R").expect("a plan");
    mesh.drain(fra);
    mesh.input(Input::Disconnected { session: sin });
    assert!(
        mesh.plans(fra).is_empty(),
        "nodes took their backup already"
    );
    mesh.pass(GRACE);
    assert_eq!(via(&mesh.plans(fra)[0]), [("edge-syd", "edge-syd", "")]);
    mesh.connect("relay-sin", 2);
    assert_eq!(
        via(&mesh.plans(fra)[0]),
        [("edge-syd", "relay-sin", "edge-syd")]
    );
    mesh.input(Input::Disconnected {
        session: SessionId(2),
    });
    mesh.pass(GRACE);
    assert_eq!(mesh.plans(fra)[0].members, ["edge-fra"]);
}

#[test]
fn an_edge_that_peers_still_hear_keeps_its_rooms() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let [fra, syd] = ["edge-fra", "edge-syd"].map(|node| mesh.connect(node, 1));
    mesh.assign("edge-fra", "R").expect("a plan");
    mesh.assign("edge-syd", "R").expect("a plan");
    mesh.drain(fra);
    mesh.input(Input::Disconnected { session: syd });
    for _ in 0..10 {
        mesh.pass(Duration::from_secs(1));
        let link = LinkState {
            peer: "edge-syd".to_owned(),
            up: true,
            ..LinkState::default()
        };
        mesh.message(fra, Up::Links(LinkReport { links: vec![link] }));
    }
    assert!(mesh.drain(fra).is_empty());
}

#[test]
fn a_restarted_edge_serves_nothing_and_a_reconnected_one_what_it_reports() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let [fra, syd] = ["edge-fra", "edge-syd"].map(|node| mesh.connect(node, 1));
    for room in ["R", "S"] {
        mesh.assign("edge-fra", room).expect("a plan");
        mesh.assign("edge-syd", room).expect("a plan");
    }
    mesh.input(Input::Disconnected { session: syd });
    mesh.drain(fra);
    let syd = mesh.connect("edge-syd", 1);
    assert_eq!(mesh.plans(syd).len(), 2, "told what it may have missed");
    mesh.report(syd, "R", 0);
    mesh.pass(CONFIRM_WITHIN);
    let plans = mesh.plans(fra);
    assert_eq!(
        (plans.len(), plans[0].room.as_str(), plans[0].members.len()),
        (1, "S", 1)
    );
    mesh.connect("edge-syd", 2);
    assert_eq!(mesh.plans(fra)[0].members, ["edge-fra"]);
    assert_eq!(mesh.closed, [syd], "the old session is closed");
}

#[test]
fn a_report_brings_back_a_room_that_was_lost() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let fra = mesh.connect("edge-fra", 1);
    mesh.report(fra, "R", 41);
    let plan = mesh.plans(fra).pop().expect("a plan");
    assert_eq!((plan.room_sid.as_str(), plan.epoch), ("RM_reported", 42));
    mesh.report(fra, "R", u64::MAX);
    assert!(mesh.plans(fra).is_empty(), "nonsense uses up no epochs");
    // A report that overtook the closing of the room, in the other order.
    mesh.message(
        fra,
        Up::RoomClosed(RoomClosed {
            room: "R".to_owned(),
            ..RoomClosed::default()
        }),
    );
    mesh.report(fra, "R", 42);
    assert_eq!(mesh.plans(fra).pop().expect("a plan").members, ["edge-fra"]);
}

#[test]
fn after_a_restart_epochs_grow_and_nobody_is_left_out_early() {
    let mut mesh = Mesh::new(RoomPolicy::Via("sin".to_owned()));
    for node in ["edge-fra", "edge-syd", "relay-sin"] {
        mesh.connect(node, 1);
    }
    let plan = mesh.assign("edge-fra", "R").expect("a plan");
    let last = mesh.assign("edge-syd", "R").expect("a plan");

    let nodes = [("edge-fra", 1), ("edge-syd", 1), ("relay-sin", 1)];
    let mut mesh = Mesh::restored(RoomPolicy::Via("sin".to_owned()), mesh.saved(&nodes));
    let fra = mesh.connect("edge-fra", 1);
    let heard = mesh.drain(fra);
    let peers = heard.iter().find_map(|m| {
        if let Down::Peers(p) = m {
            Some(p)
        } else {
            None
        }
    });
    assert_eq!(
        peers.map(|p| p.peers.len()),
        Some(2),
        "links to those not back yet stay"
    );
    let told = heard
        .iter()
        .find_map(|m| if let Down::Plan(p) = m { Some(p) } else { None });
    let told = told.expect("its plan");
    assert!(told.epoch > last.epoch && told.room_sid == plan.room_sid);
    assert_eq!(via(told), [("edge-syd", "relay-sin", "edge-syd")]);
    mesh.report(fra, "R", last.epoch);
    mesh.pass(Duration::from_secs(14));
    assert!(mesh.plans(fra).is_empty());
    mesh.pass(Duration::from_secs(1));
    assert_eq!(
        mesh.plans(fra).pop().expect("a plan").members,
        ["edge-fra"],
        "syd did not return"
    );
    let anew = mesh.assign("edge-fra", "other").expect("a plan");
    assert!(anew.epoch > last.epoch);
}

#[test]
fn what_could_not_be_saved_is_planned_anew() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let [fra, syd] = ["edge-fra", "edge-syd"].map(|node| mesh.connect(node, 1));
    mesh.assign("edge-fra", "R").expect("a plan");
    let lost = mesh.assign("edge-syd", "R").expect("a plan");
    mesh.message(
        syd,
        Up::RoomClosed(RoomClosed {
            room: "R".to_owned(),
            ..RoomClosed::default()
        }),
    );
    let shrunk = mesh.plans(fra).pop().expect("a plan");
    mesh.input(Input::SaveFailed {
        rooms: vec!["R".into()],
    });
    mesh.pass(SAVE_RETRY);
    let again = mesh.plans(fra).pop().expect("a plan");
    assert!(again.epoch > shrunk.epoch && shrunk.epoch > lost.epoch);
    assert_eq!(again.members, ["edge-fra"]);
}

#[test]
fn what_may_not_be_assigned() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    mesh.connect("edge-fra", 1);
    mesh.connect("relay-sin", 1);
    assert_eq!(
        mesh.assign("edge-fra", ""),
        Err(AssignError::BadName(proto::BadName::Empty))
    );
    let long = "x".repeat(513);
    assert_eq!(
        mesh.assign("edge-fra", &long),
        Err(AssignError::RoomName(513))
    );
    for node in ["relay-sin", "edge-gru", ""] {
        assert_eq!(
            mesh.assign(node, "R"),
            Err(AssignError::Node(node.to_owned()))
        );
    }
}

#[test]
fn late_and_foreign_messages_are_harmless() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let fra = mesh.connect("edge-fra", 1);
    mesh.drain(fra);
    for session in [fra, SessionId(99)] {
        mesh.message(
            session,
            Up::RoomClosed(RoomClosed {
                room: "none".to_owned(),
                ..RoomClosed::default()
            }),
        );
        mesh.message(session, Up::Room(RoomReport::default()));
        mesh.message(session, Up::Load(Load::default()));
        mesh.message(session, Up::Hello(Hello::default()));
    }
    mesh.input(Input::Disconnected {
        session: SessionId(99),
    });
    mesh.input(Input::SaveFailed {
        rooms: vec!["none".into()],
    });
    mesh.pass(Duration::from_secs(1));
    assert!(mesh.drain(fra).is_empty());
}
