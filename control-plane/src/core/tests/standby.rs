//! A replica that does not own a room, and takes it over.

use proto::control::RoomSettings;

use super::*;

/// The other replica owns everything; both hear the nodes.
fn standing_by() -> (Mesh, SessionId) {
    let mut mesh = Mesh::new(RoomPolicy::Direct);
    mesh.input(Input::Ring(Ring::new("control-0", ["other".to_owned()])));
    let fra = mesh.connect("edge-fra", 1);
    (mesh, fra)
}

fn record(sid: &str, epoch: u64, members: &[&str]) -> RoomRecord {
    RoomRecord {
        room: "R".into(),
        sid: sid.into(),
        epoch,
        members: members.iter().map(|&node| NodeId::from(node)).collect(),
        created_at_ms: 77,
        settings: RoomSettings::default(),
    }
}

fn owns_all(mesh: &mut Mesh, living: Vec<RoomRecord>) {
    mesh.input(Input::Ring(Ring::alone("control-0")));
    mesh.input(Input::Adopt(living));
}

fn names(mesh: &Mesh) -> Vec<&str> {
    mesh.events
        .iter()
        .map(|event| event.content.event.as_str())
        .collect()
}

#[test]
fn a_room_of_another_replica_is_followed_and_not_planned() {
    let (mut mesh, fra) = standing_by();
    assert_eq!(mesh.assign("edge-fra", "R"), Err(AssignError::NotOwner));
    mesh.report(fra, "R", 4);
    assert!(mesh.plans(fra).is_empty() && mesh.saved.is_empty() && mesh.events.is_empty());
    assert_eq!(mesh.core.room_count(), 0, "it is counted where it is owned");

    // Its owner dies: the new one knows who is there, and tells what the dead one may not have told.
    owns_all(&mut mesh, vec![record("RM_reported", 4, &["edge-fra"])]);
    let plan = mesh.plans(fra).pop().expect("a plan");
    assert_eq!((plan.epoch, plan.room_sid.as_str()), (5, "RM_reported"));
    assert_eq!(mesh.saved["R"].created_at_ms, 77);
    assert_eq!(names(&mesh), ["room_started", "participant_joined"]);
    assert_eq!(mesh.core.room_count(), 1);
    assert!(mesh.assign("edge-fra", "R").is_ok());

    // It loses the room again, and is silent.
    mesh.input(Input::Ring(Ring::new("control-0", ["other".to_owned()])));
    assert_eq!(mesh.assign("edge-fra", "R"), Err(AssignError::NotOwner));
    let saved = mesh.saved["R"].epoch;
    mesh.report(fra, "R", 9);
    assert!(mesh.plans(fra).is_empty());
    assert_eq!(mesh.saved["R"].epoch, saved);
}

#[test]
fn a_gained_room_waits_for_what_the_store_has_of_it() {
    let (mut mesh, fra) = standing_by();
    mesh.report(fra, "R", 4);
    mesh.input(Input::Ring(Ring::alone("control-0")));
    assert_eq!(mesh.assign("edge-fra", "R"), Err(AssignError::NotOwner));
    mesh.report(fra, "R", 5);
    assert!(mesh.plans(fra).is_empty() && mesh.events.is_empty());
    // A room that this replica never heard of comes along, with a member that has to confirm it.
    let other = RoomRecord {
        room: "S".into(),
        ..record("RM_s", 2, &["edge-fra"])
    };
    mesh.input(Input::Adopt(vec![record("RM_reported", 9, &[]), other]));
    let plans = mesh.plans(fra);
    let epochs: Vec<_> = plans.iter().map(|p| (p.room.as_str(), p.epoch)).collect();
    assert_eq!(epochs, [("R", 10), ("S", 3)]);
    mesh.pass(CONFIRM_WITHIN);
    mesh.pass(CONFIRM_WITHIN);
    assert!(mesh.saved["S"].members.is_empty(), "nobody confirmed it");
    assert!(!mesh.saved["R"].members.is_empty());
}

#[test]
fn a_room_that_its_owner_ended_is_not_begun_again() {
    let (mut mesh, fra) = standing_by();
    mesh.report(fra, "R", 4);
    let closed = RoomClosed {
        room: "R".to_owned(),
        ..RoomClosed::default()
    };
    mesh.message(fra, Up::RoomClosed(closed));
    owns_all(&mut mesh, Vec::new());
    assert!(mesh.saved.is_empty() && mesh.plans(fra).is_empty());
    let told = ["room_started", "participant_joined", "participant_left"];
    assert_eq!(names(&mesh), told, "should the owner not have told it");
    mesh.pass(Duration::from_secs(60));
    assert_eq!(mesh.core.room_count(), 0);
    // One that stays empty elsewhere is forgotten in time.
    let (mut mesh, fra) = standing_by();
    mesh.report(fra, "R", 4);
    let again = RoomReport {
        room: "R".to_owned(),
        room_sid: "RM_later".to_owned(),
        epoch: 1,
        participants: vec![ParticipantReport::default()],
        ..RoomReport::default()
    };
    // The next room of the name takes its place at once.
    mesh.message(fra, Up::Room(again));
    owns_all(&mut mesh, vec![record("RM_later", 1, &["edge-fra"])]);
    assert_eq!(mesh.plans(fra).pop().expect("a plan").room_sid, "RM_later");
}
