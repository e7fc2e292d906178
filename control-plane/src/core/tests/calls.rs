//! What servers ask for, and what they are told.

use livekit_protocol as lk;
use prost::Message as _;
use proto::control::{Command, CommandAnswer, CommandError, RoomSettings, command, command_answer};

use super::*;

const WITHIN: Duration = Duration::from_secs(5);

impl Mesh {
    fn call(&mut self, call: Call) -> Option<Result<Answer, CallError>> {
        let ticket = Ticket(0);
        self.input(Input::Call { ticket, call });
        self.answered.pop()
    }

    fn create(&mut self, request: lk::CreateRoomRequest) -> lk::Room {
        match self.call(Call::Create(Box::new(request))) {
            Some(Ok(Answer::Room(room))) => *room,
            other => panic!("{other:?}"),
        }
    }

    fn commands(&mut self, session: SessionId) -> Vec<Command> {
        let command = |message| match message {
            Down::Command(command) => Some(command),
            Down::Welcome(_) | Down::Peers(_) | Down::Keys(_) | Down::Plan(_) => None,
        };
        self.drain(session)
            .into_iter()
            .filter_map(command)
            .collect()
    }

    /// Names of the events since the last time.
    fn told(&mut self) -> Vec<String> {
        let events = std::mem::take(&mut self.events);
        events.into_iter().map(|e| e.content.event).collect()
    }

    /// One participant of the session's edge is in the room.
    fn present(&mut self, session: SessionId, room: &lk::Room) {
        let report = RoomReport {
            room: room.name.clone(),
            room_sid: room.sid.clone(),
            participants: vec![ParticipantReport {
                sid: "PA_a".to_owned(),
                identity: "ann".to_owned(),
                ..ParticipantReport::default()
            }],
            ..RoomReport::default()
        };
        self.message(session, Up::Room(report));
    }
}

fn named(name: &str) -> lk::CreateRoomRequest {
    lk::CreateRoomRequest {
        name: name.to_owned(),
        ..lk::CreateRoomRequest::default()
    }
}

#[test]
fn a_room_made_ahead_waits_as_long_as_it_was_told_to() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let room = mesh.create(lk::CreateRoomRequest {
        empty_timeout: 60,
        departure_timeout: 2,
        max_participants: 5,
        metadata: "m".to_owned(),
        ..named("R")
    });
    assert!(room.sid.starts_with("RM_"));
    assert_eq!((room.empty_timeout, room.max_participants), (60, 5));
    assert_eq!(mesh.told(), ["room_started"]);
    mesh.pass(Duration::from_secs(59));
    assert_eq!(mesh.core.room_count(), 1);

    // Made again it is the same room; what is not said stays.
    let again = mesh.create(lk::CreateRoomRequest {
        max_participants: 6,
        ..named("R")
    });
    assert_eq!((&again.sid, again.max_participants), (&room.sid, 6));
    assert_eq!((again.empty_timeout, again.metadata.as_str()), (60, "m"));
    assert!(mesh.told().is_empty());

    // Its edge learns what it is set to; when the last one has left it ends by the other timeout.
    let fra = mesh.connect("edge-fra", 1);
    let plan = mesh.assign("edge-fra", "R").expect("a plan");
    let settings = plan.settings.expect("settings");
    assert_eq!((settings.max_participants, settings.version), (6, 2));
    mesh.present(fra, &room);
    assert_eq!(mesh.told(), ["participant_joined"]);
    mesh.message(
        fra,
        Up::RoomClosed(RoomClosed {
            room: "R".to_owned(),
            room_sid: room.sid.clone(),
        }),
    );
    assert_eq!(mesh.told(), ["participant_left"]);
    mesh.pass(Duration::from_secs(3));
    assert_eq!(mesh.told(), ["room_finished"]);
    assert_eq!(mesh.core.room_count(), 0);
}

#[test]
fn rooms_that_cannot_be_are_refused() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let long = "x".repeat(513);
    for name in ["", long.as_str()] {
        let call = Call::Create(Box::new(named(name)));
        let refused = mesh.call(call);
        assert_eq!(refused, Some(Err(CallError::RoomName(name.len()))));
    }
    let nowhere = Call::Delete("R".into());
    assert_eq!(mesh.call(nowhere), Some(Err(CallError::NoRoom)));
    let (room, metadata) = ("R".into(), String::new());
    let nowhere = Call::SetMetadata { room, metadata };
    assert_eq!(mesh.call(nowhere), Some(Err(CallError::NoRoom)));
    mesh.create(named("R"));
    let (room, metadata) = ("R".into(), "x".repeat(METADATA_MAX + 1));
    let large = mesh.call(Call::SetMetadata { room, metadata });
    assert_eq!(large, Some(Err(CallError::Metadata(METADATA_MAX + 1))));
}

#[test]
fn new_metadata_goes_to_the_rooms_edges_with_a_plan() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let fra = mesh.connect("edge-fra", 1);
    let before = mesh.assign("edge-fra", "R").expect("a plan");
    mesh.drain(fra);
    let (room, metadata) = ("R".into(), "new".to_owned());
    let answer = mesh.call(Call::SetMetadata { room, metadata });
    assert!(matches!(answer, Some(Ok(Answer::Room(room))) if room.metadata == "new"));
    let plans = mesh.plans(fra);
    assert!(plans[0].epoch > before.epoch);
    let settings = plans[0].settings.clone().expect("settings");
    assert_eq!((settings.metadata.as_str(), settings.version), ("new", 1));
}

#[test]
fn a_deleted_room_ends_at_its_edges_even_at_one_that_did_not_hear_of_it() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let room = mesh.create(named("R"));
    let fra = mesh.connect("edge-fra", 1);
    mesh.assign("edge-fra", "R").expect("a plan");
    mesh.present(fra, &room);
    mesh.told();
    mesh.drain(fra);
    let deleted = mesh.call(Call::Delete("R".into()));
    assert_eq!(deleted, Some(Ok(Answer::Done)));
    assert_eq!(mesh.told(), ["participant_left", "room_finished"]);
    for _ in 0..2 {
        let commands = mesh.commands(fra);
        let [command] = &commands[..] else {
            panic!("{commands:?}")
        };
        assert_eq!(command.room_sid, room.sid);
        assert!(matches!(
            command.request,
            Some(command::Request::DeleteRoom(_))
        ));
        // It still has somebody there, so it is told again, and the room does not come back.
        mesh.present(fra, &room);
        assert_eq!(mesh.core.room_count(), 0);
    }
    assert!(mesh.told().is_empty());
    let anew = mesh.assign("edge-fra", "R").expect("a plan");
    assert_ne!(anew.room_sid, room.sid);
    // What the edge says of the old room does not end the new one.
    let (closed, room_sid) = ("R".to_owned(), room.sid.clone());
    let closed = RoomClosed {
        room: closed,
        room_sid,
    };
    mesh.message(fra, Up::RoomClosed(closed));
    mesh.pass(Duration::from_secs(400));
    assert_eq!(mesh.core.room_count(), 1);
}

#[test]
fn a_command_is_answered_by_its_edge_or_in_time() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let command = |node: &str| Call::Command {
        node: node.into(),
        command: Box::new(Command {
            request: Some(command::Request::SendData(vec![1])),
            ..Command::default()
        }),
        within: WITHIN,
    };
    let nobody = mesh.call(command("edge-fra"));
    assert_eq!(nobody, Some(Err(CallError::NotConnected)));
    let (fra, syd) = (mesh.connect("edge-fra", 1), mesh.connect("edge-syd", 1));
    let mut asked = || {
        assert_eq!(mesh.call(command("edge-fra")), None, "it waits");
        let ids: Vec<u64> = mesh.commands(fra).iter().map(|c| c.request_id).collect();
        ids[0]
    };
    let ids = [asked(), asked(), asked(), asked()];
    let answer = |id: u64, result| {
        Up::Answer(CommandAnswer {
            request_id: id,
            result: Some(result),
        })
    };
    let response = || command_answer::Result::Response(vec![7]);
    // Another node cannot answer for it.
    mesh.message(syd, answer(ids[0], response()));
    assert!(mesh.answered.is_empty());
    mesh.message(fra, answer(ids[0], response()));
    assert_eq!(mesh.answered.pop(), Some(Ok(Answer::Response(vec![7]))));
    mesh.message(fra, answer(ids[0], response()));
    assert_eq!(mesh.answered.pop(), None, "it was answered already");
    let refused = CommandError {
        message: "no".to_owned(),
        ..CommandError::default()
    };
    let error = command_answer::Result::Error(refused.clone());
    mesh.message(fra, answer(ids[1], error));
    assert_eq!(mesh.answered.pop(), Some(Err(CallError::Edge(refused))));
    mesh.pass(WITHIN);
    let late = [Err(CallError::TimedOut), Err(CallError::TimedOut)];
    assert_eq!(std::mem::take(&mut mesh.answered), late);
    assert_eq!(mesh.call(command("edge-fra")), None);
    mesh.input(Input::Disconnected { session: fra });
    assert_eq!(mesh.answered.pop(), Some(Err(CallError::NotConnected)));
}

#[test]
fn the_same_happening_is_the_same_event_after_a_restart() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let room = mesh.create(named("R"));
    let fra = mesh.connect("edge-fra", 1);
    mesh.assign("edge-fra", "R").expect("a plan");
    mesh.present(fra, &room);
    let ids = |mesh: &mut Mesh| {
        let events = std::mem::take(&mut mesh.events);
        let ids = events.into_iter().map(|e| (e.content.event.clone(), e.id));
        ids.collect::<BTreeMap<_, _>>()
    };
    let first = ids(&mut mesh);
    let saved = mesh.saved(&[("edge-fra", 1)]);
    let mut mesh = Mesh::restored(RoomPolicy::Direct, saved);
    let fra = mesh.connect("edge-fra", 1);
    mesh.present(fra, &room);
    let second = ids(&mut mesh);
    assert_eq!(second.len(), 1);
    assert_eq!(second["participant_joined"], first["participant_joined"]);
    assert!(second["participant_joined"].starts_with("EV_"));
}

#[test]
fn a_restarted_control_plane_learns_from_edges_what_rooms_are_set_to() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    let fra = mesh.connect("edge-fra", 1);
    let settings = RoomSettings {
        metadata: "kept".to_owned(),
        version: 3,
        ..RoomSettings::default()
    };
    let report = RoomReport {
        room: "R".to_owned(),
        room_sid: "RM_old".to_owned(),
        participants: vec![ParticipantReport::default()],
        settings: Some(settings),
        ..RoomReport::default()
    };
    mesh.message(fra, Up::Room(report));
    let room = mesh.create(named("R"));
    assert_eq!(
        (room.sid.as_str(), room.metadata.as_str()),
        ("RM_old", "kept")
    );
}

#[test]
fn a_room_is_set_to_what_its_first_participant_brings() {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    mesh.connect("edge-fra", 1);
    let config = lk::RoomConfiguration {
        max_participants: 3,
        metadata: "mine".to_owned(),
        ..lk::RoomConfiguration::default()
    };
    for (room_config, limit) in [(config.encode_to_vec(), 3), (vec![0xff], 3)] {
        mesh.input(Input::Assign {
            ticket: Ticket(0),
            node: "edge-fra".into(),
            room: "R".into(),
            room_config,
        });
        let plan = mesh.answers.pop().expect("an answer").expect("a plan").plan;
        let settings = plan.and_then(|plan| plan.settings).expect("settings");
        assert_eq!(settings.max_participants, limit);
    }
}
