//! What servers have done, and what the control plane is told.

use livekit_protocol as lk;
use lk::leave_request::Action;
use prost::Message as _;
use proto::control::command_error::Code;
use proto::control::{CommandError, RoomSettings};

use super::super::commands::RpcReply;
use super::*;

fn command(room: &mut Room, ms: u64, command: Command) -> Vec<Output> {
    room.handle_input(now(ms), Input::Command(9, Box::new(command)));
    outputs(room)
}

fn answer(outputs: &[Output]) -> Option<&Result<Vec<u8>, CommandError>> {
    outputs.iter().find_map(|output| match output {
        Output::Answer(9, answer) => Some(answer),
        _ => None,
    })
}

fn refusal(outputs: &[Output]) -> Code {
    match answer(outputs) {
        Some(Err(error)) => error.code(),
        other => panic!("{other:?}"),
    }
}

fn to<'a>(outputs: &'a [Output], whom: &'a str) -> impl Iterator<Item = &'a ToSession> {
    outputs.iter().filter_map(move |output| match output {
        Output::Session(sid, message) if sid.as_str() == whom => Some(message),
        _ => None,
    })
}

fn whom(identity: &str) -> lk::RoomParticipantIdentity {
    lk::RoomParticipantIdentity {
        room: "lounge".to_owned(),
        identity: identity.to_owned(),
        ..Default::default()
    }
}

/// Ann publishes a camera, Bob receives it.
fn pair() -> Room {
    let mut room = room("fra");
    room.handle_input(now(0), join("PA_a", "ann"));
    let published = FromSession::Published(camera("TR_a", "PA_a"));
    room.handle_input(now(1), said("PA_a", published));
    room.handle_input(now(2), join("PA_b", "bob"));
    outputs(&mut room);
    room
}

fn set(room: &mut Room, ms: u64, settings: RoomSettings) -> Vec<Output> {
    room.handle_input(now(ms), Input::Settings(settings));
    outputs(room)
}

#[test]
fn a_removed_participant_is_sent_away_for_good_and_only_one_of_ours() {
    let mut room = pair();
    let nobody = command(&mut room, 3, Command::Remove(whom("eve")));
    assert_eq!(refusal(&nobody), Code::NotFound);
    let out = command(&mut room, 4, Command::Remove(whom("ann")));
    assert!(matches!(answer(&out), Some(Ok(_))));
    let closed = to(&out, "PA_a").any(|m| {
        matches!(m, ToSession::Close { action: Action::Disconnect, reason }
            if *reason == lk::DisconnectReason::ParticipantRemoved)
    });
    assert!(closed);
    assert_eq!(
        updates(&out, "PA_b")[0].disconnect_reason(),
        lk::DisconnectReason::ParticipantRemoved
    );
    let out = command(&mut room, 5, Command::Delete);
    assert!(to(&out, "PA_b").any(|m| {
        matches!(m, ToSession::Close { reason, .. } if *reason == lk::DisconnectReason::RoomDeleted)
    }));
    assert!(room.is_empty());
}

#[test]
fn a_track_is_muted_for_everybody_at_once() {
    let mut room = pair();
    let mute = |track: &str| {
        Command::Mute(lk::MuteRoomTrackRequest {
            identity: "ann".to_owned(),
            track_sid: track.to_owned(),
            muted: true,
            ..Default::default()
        })
    };
    assert_eq!(
        refusal(&command(&mut room, 3, mute("TR_x"))),
        Code::NotFound
    );
    let out = command(&mut room, 4, mute("TR_a"));
    let answered = answer(&out).unwrap().as_ref().unwrap();
    let response = lk::MuteRoomTrackResponse::decode(answered.as_slice()).unwrap();
    assert!(response.track.unwrap().muted);
    assert!(updates(&out, "PA_b")[0].tracks[0].muted);
    assert!(
        to(&out, "PA_a").any(|m| matches!(m, ToSession::Mute(sid, true) if sid.as_str() == "TR_a"))
    );
    // Again it changes nothing.
    let out = command(&mut room, 5, mute("TR_a"));
    assert!(to(&out, "PA_a").next().is_none());
}

#[test]
fn permissions_take_effect_and_the_hidden_vanish() {
    let mut room = pair();
    let update = |permission: lk::ParticipantPermission| {
        Command::Update(Box::new(lk::UpdateParticipantRequest {
            identity: "bob".to_owned(),
            metadata: "m".to_owned(),
            permission: Some(permission),
            attributes: [("seat".to_owned(), "4".to_owned())].into(),
            ..Default::default()
        }))
    };
    let out = command(
        &mut room,
        3,
        update(lk::ParticipantPermission {
            hidden: true,
            ..Default::default()
        }),
    );
    let info =
        lk::ParticipantInfo::decode(answer(&out).unwrap().as_ref().unwrap().as_slice()).unwrap();
    assert_eq!(
        (info.metadata.as_str(), info.attributes["seat"].as_str()),
        ("m", "4")
    );
    assert!(to(&out, "PA_b").any(|m| matches!(m, ToSession::Unsubscribe(_))));
    assert!(
        to(&out, "PA_b")
            .any(|m| matches!(m, ToSession::Permissions(p) if !p.can_publish && p.hidden))
    );
    let seen = updates(&out, "PA_a");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].state(), lk::participant_info::State::Disconnected);
    let out = command(
        &mut room,
        4,
        update(lk::ParticipantPermission {
            can_subscribe: true,
            ..Default::default()
        }),
    );
    assert_eq!(subscribed(&out, "PA_b"), ["TR_a"]);
    assert_eq!(updates(&out, "PA_a")[0].identity, "bob");
}

/// Calls Ann; the call's id.
fn begun(room: &mut Room, ms: u64) -> String {
    let call = Command::Rpc(lk::PerformRpcRequest {
        destination_identity: "ann".to_owned(),
        method: "shout".to_owned(),
        payload: "hi".to_owned(),
        response_timeout_ms: 1_000,
        ..Default::default()
    });
    let out = command(room, ms, call);
    assert!(answer(&out).is_none());
    let packet = to(&out, "PA_a").find_map(|message| match message {
        ToSession::Data {
            reliable: true,
            payload,
        } => lk::DataPacket::decode(payload.clone()).ok(),
        _ => None,
    });
    let packet = packet.unwrap();
    let Some(lk::data_packet::Value::RpcRequest(request)) = packet.value else {
        panic!("{packet:?}")
    };
    assert_eq!(
        packet.participant_identity, request.id,
        "the answer comes back to nobody else"
    );
    request.id
}

fn reply(room: &mut Room, ms: u64, (who, id): (&str, &str), reply: RpcReply) -> Vec<Output> {
    room.handle_input(now(ms), said(who, FromSession::Reply(id.to_owned(), reply)));
    outputs(room)
}

fn rpc_code(outputs: &[Output]) -> u32 {
    match answer(outputs) {
        Some(Err(error)) => error.rpc_code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_is_answered_by_whom_it_was_for() {
    let mut room = pair();
    let id = begun(&mut room, 10);
    let payload = |text: &str| RpcReply::Payload(text.to_owned());
    let foreign = reply(&mut room, 11, ("PA_b", &id), payload("no"));
    assert!(answer(&foreign).is_none(), "Bob was not asked");
    reply(&mut room, 11, ("PA_a", &id), RpcReply::Ack);
    let out = reply(&mut room, 12, ("PA_a", &id), payload("HI"));
    let response = answer(&out).unwrap().as_ref().unwrap();
    let response = lk::PerformRpcResponse::decode(response.as_slice()).unwrap();
    assert_eq!(response.payload, "HI");

    let id = begun(&mut room, 20);
    let error = lk::RpcError {
        code: 7,
        message: "busy".to_owned(),
        data: String::new(),
    };
    let failed = reply(&mut room, 21, ("PA_a", &id), RpcReply::Failed(error));
    assert_eq!(rpc_code(&failed), 7);
}

#[test]
fn a_call_that_nobody_answers_is_given_up() {
    let mut room = pair();
    begun(&mut room, 30);
    room.handle_input(now(7_100), Input::Tick);
    assert_eq!(rpc_code(&outputs(&mut room)), 1_501, "never acknowledged");
    let id = begun(&mut room, 8_000);
    reply(&mut room, 8_001, ("PA_a", &id), RpcReply::Ack);
    room.handle_input(now(16_100), Input::Tick);
    assert_eq!(rpc_code(&outputs(&mut room)), 1_502, "no answer");
    begun(&mut room, 17_000);
    let out = command(&mut room, 17_001, Command::Remove(whom("ann")));
    let codes = out.iter().filter_map(|o| match o {
        Output::Answer(9, Err(error)) => Some(error.rpc_code),
        _ => None,
    });
    assert_eq!(codes.collect::<Vec<u32>>(), [1_503], "it left");
}

#[test]
fn data_of_a_server_reaches_those_it_is_for() {
    let mut room = pair();
    let out = command(
        &mut room,
        3,
        Command::Data(lk::SendDataRequest {
            data: b"x".to_vec(),
            destination_identities: vec!["bob".to_owned()],
            topic: Some("t".to_owned()),
            ..Default::default()
        }),
    );
    assert!(to(&out, "PA_a").next().is_none());
    let Some(ToSession::Data {
        reliable: true,
        payload,
    }) = to(&out, "PA_b").next()
    else {
        panic!("{out:?}")
    };
    let packet = lk::DataPacket::decode(payload.clone()).unwrap();
    assert!(packet.participant_identity.is_empty());
    let Some(lk::data_packet::Value::User(user)) = packet.value else {
        panic!("no user packet")
    };
    assert_eq!(
        (user.payload.as_slice(), user.topic.as_deref()),
        (b"x".as_slice(), Some("t"))
    );
}

#[test]
fn settings_are_told_and_the_limit_is_kept() {
    let mut room = pair();
    let settings = RoomSettings {
        max_participants: 2,
        metadata: "new".to_owned(),
        version: 3,
        ..Default::default()
    };
    let out = set(&mut room, 3, settings.clone());
    let told = to(&out, "PA_a").any(|m| {
        matches!(m, ToSession::Signal(r) if matches!(r.as_ref(), Response::RoomUpdate(u)
            if u.room.as_ref().is_some_and(|r| r.metadata == "new" && r.max_participants == 2)))
    });
    assert!(told);
    let old = RoomSettings {
        version: 2,
        ..Default::default()
    };
    assert!(set(&mut room, 4, old).is_empty(), "older settings are late");
    room.handle_input(now(5), join("PA_c", "cy"));
    let out = outputs(&mut room);
    let refused = |out: &[Output]| {
        to(out, "PA_c").any(|m| {
            matches!(m, ToSession::Close { reason, .. } if *reason == lk::DisconnectReason::JoinFailure)
        })
    };
    assert!(refused(&out));
    // Who comes again takes the place that it has.
    room.handle_input(now(6), join("PA_b2", "bob"));
    assert!(!to(&outputs(&mut room), "PA_b2").any(|m| matches!(m, ToSession::Close { .. })));
    // A revoked token lets nobody in, even when there is a place.
    let settings = RoomSettings {
        max_participants: 0,
        revoked: [("cy".to_owned(), 10)].into(),
        version: 4,
        ..settings
    };
    set(&mut room, 7, settings);
    room.handle_input(now(8), join("PA_c", "cy"));
    assert!(refused(&outputs(&mut room)));
}

#[test]
fn of_two_that_came_in_at_two_edges_for_one_place_the_later_one_goes() {
    let (mut fra, mut syd) = (room("fra"), room("syd"));
    let settings = RoomSettings {
        max_participants: 1,
        version: 1,
        ..Default::default()
    };
    set(&mut fra, 0, settings.clone());
    set(&mut syd, 0, settings);
    fra.handle_input(now(100), join("PA_a", "ann"));
    syd.handle_input(now(101), join("PA_b", "bob"));
    let (from_fra, from_syd) = (outputs(&mut fra), outputs(&mut syd));
    fra.handle_input(now(200), Input::State(state(&from_syd).unwrap()));
    syd.handle_input(now(200), Input::State(state(&from_fra).unwrap()));
    let goes =
        |out: &[Output], sid: &str| to(out, sid).any(|m| matches!(m, ToSession::Close { .. }));
    assert!(!goes(&outputs(&mut fra), "PA_a"));
    assert!(goes(&outputs(&mut syd), "PA_b"));
}

#[test]
fn a_participant_that_moves_leaves_without_its_session_ending() {
    let mut room = pair();
    let out = command(
        &mut room,
        3,
        Command::Move(lk::MoveParticipantRequest {
            identity: "bob".to_owned(),
            destination_room: "attic".to_owned(),
            ..Default::default()
        }),
    );
    assert!(to(&out, "PA_b").any(|m| matches!(m, ToSession::Unsubscribe(_))));
    assert!(!to(&out, "PA_b").any(|m| matches!(m, ToSession::Close { .. })));
    let moving = out.iter().find_map(|o| match o {
        Output::Move(9, sid, moving) if sid.as_str() == "PA_b" => Some(moving),
        _ => None,
    });
    let moving = moving.unwrap();
    assert_eq!(
        (moving.info.identity.as_str(), moving.auto_subscribe),
        ("bob", true)
    );
    assert_eq!(
        updates(&out, "PA_a")[0].state(),
        lk::participant_info::State::Disconnected
    );

    let mut attic = super::room("fra");
    attic.handle_input(now(4), join("PA_w", "wat"));
    outputs(&mut attic);
    let Input::Join(mut join) = join("PA_b2", "bob") else {
        unreachable!()
    };
    join.moved = Some("token".to_owned());
    attic.handle_input(now(5), Input::Join(join));
    let out = outputs(&mut attic);
    let Some(ToSession::Signal(first)) = to(&out, "PA_b2").next() else {
        panic!("{out:?}")
    };
    let Response::RoomMoved(moved) = first.as_ref() else {
        panic!("{first:?}")
    };
    assert_eq!(
        (moved.token.as_str(), moved.other_participants.len()),
        ("token", 1)
    );
    assert_eq!(moved.participant.as_ref().unwrap().sid, "PA_b2");
}

/// Hands what one room has for another over.
fn carry(out: &[Output], other: &mut Room, ms: u64) -> Vec<Output> {
    for output in out {
        match output {
            Output::Forward(_, mirror) => {
                other.handle_input(now(ms), Input::Mirror(mirror.clone()));
            }
            Output::ForwardEnded(_, sid) => {
                other.handle_input(now(ms), Input::ForwardEnded(sid.clone()));
            }
            _ => {}
        }
    }
    outputs(other)
}

fn forward(sid: &str) -> Command {
    let request = lk::ForwardParticipantRequest {
        identity: "ann".to_owned(),
        destination_room: "attic".to_owned(),
        ..Default::default()
    };
    Command::Forward(request, sid.into())
}

#[test]
fn a_forwarded_participant_does_in_the_other_room_what_it_does_in_its_own() {
    let (mut lounge, mut attic) = (pair(), room("fra"));
    attic.handle_input(now(0), join("PA_w", "wat"));
    outputs(&mut attic);
    let out = command(&mut lounge, 10, forward("PA_f"));
    let there = carry(&out, &mut attic, 11);
    assert_eq!(subscribed(&there, "PA_w"), ["TR_a"]);
    assert!(
        there
            .iter()
            .any(|o| matches!(o, Output::OfferTrack(t) if t.key == TrackKey(1)))
    );
    let seen = updates(&there, "PA_w");
    let forwarded = lk::participant_info::KindDetail::Forwarded as i32;
    assert!(
        seen.iter()
            .all(|p| p.sid == "PA_f" && p.kind_details.contains(&forwarded))
    );
    assert_eq!(attic.report(now(12), true).0.participants.len(), 2);

    // It mutes: the other room hears. It cannot be addressed there, but taken out.
    let muted = command(
        &mut lounge,
        20,
        Command::Mute(lk::MuteRoomTrackRequest {
            identity: "ann".to_owned(),
            track_sid: "TR_a".to_owned(),
            muted: true,
            ..Default::default()
        }),
    );
    let there = carry(&muted, &mut attic, 21);
    assert!(updates(&there, "PA_w").last().unwrap().tracks[0].muted);
    let refused = command(
        &mut attic,
        22,
        Command::Move(lk::MoveParticipantRequest {
            identity: "ann".to_owned(),
            ..Default::default()
        }),
    );
    assert_eq!(refusal(&refused), Code::FailedPrecondition);
    let out = command(&mut attic, 23, Command::Remove(whom("ann")));
    assert!(
        out.iter()
            .any(|o| matches!(o, Output::WithdrawTrack(TrackKey(1))))
    );
    carry(&out, &mut lounge, 24);
    // What was under way does not bring it back, and its own room sends no more.
    carry(&muted, &mut attic, 25);
    assert_eq!(attic.report(now(26), true).0.participants.len(), 1);
    let again = FromSession::Published(camera("TR_a", "PA_a"));
    lounge.handle_input(now(30), said("PA_a", again));
    assert!(
        !outputs(&mut lounge)
            .iter()
            .any(|o| matches!(o, Output::Forward(..)))
    );

    // Forwarded anew, it goes with its own session.
    let out = command(&mut lounge, 40, forward("PA_g"));
    carry(&out, &mut attic, 41);
    let leave = FromSession::Leave(lk::DisconnectReason::ClientInitiated);
    lounge.handle_input(now(50), said("PA_a", leave));
    let out = outputs(&mut lounge);
    let there = carry(&out, &mut attic, 51);
    assert_eq!(
        updates(&there, "PA_w").last().unwrap().state(),
        lk::participant_info::State::Disconnected
    );
    assert!(
        there
            .iter()
            .any(|o| matches!(o, Output::WithdrawTrack(TrackKey(1))))
    );
}

#[test]
fn who_is_in_the_other_room_in_person_is_not_forwarded_over() {
    let (mut lounge, mut attic) = (pair(), room("fra"));
    attic.handle_input(now(0), join("PA_x", "ann"));
    outputs(&mut attic);
    let out = command(&mut lounge, 10, forward("PA_f"));
    let there = carry(&out, &mut attic, 11);
    assert!(
        there
            .iter()
            .any(|o| matches!(o, Output::ForwardEnded(room, sid)
        if room.as_str() == "lounge" && sid.as_str() == "PA_f"))
    );
    assert_eq!(attic.report(now(12), true).0.participants.len(), 1);
}

#[test]
fn reports_say_what_changed_and_departures_until_they_are_heard() {
    let mut room = pair();
    let (full, _) = room.report(now(3), true);
    assert_eq!((full.participants.len(), full.partial), (2, false));
    let info = lk::ParticipantInfo::decode(full.participants[0].info.clone()).unwrap();
    assert_eq!((info.identity.as_str(), info.tracks.len()), ("ann", 1));
    let (_, news) = room.report(now(4), false);
    assert!(!news);
    room.handle_input(now(5), said("PA_b", FromSession::Active));
    let leave = FromSession::Leave(lk::DisconnectReason::ClientInitiated);
    room.handle_input(now(6), said("PA_a", leave));
    outputs(&mut room);
    let (partial, news) = room.report(now(7), false);
    assert!(news && partial.partial);
    let sids: Vec<&str> = partial
        .participants
        .iter()
        .map(|p| p.sid.as_str())
        .collect();
    assert_eq!(sids, ["PA_b"]);
    let [departure] = &partial.departures[..] else {
        panic!("{partial:?}")
    };
    let last = lk::ParticipantInfo::decode(departure.info.clone()).unwrap();
    assert_eq!(
        last.disconnect_reason(),
        lk::DisconnectReason::ClientInitiated
    );
    assert!(room.report(now(8), false).0.departures.is_empty());
    // A new session may not have heard it.
    assert_eq!(room.report(now(9), true).0.departures.len(), 1);
    assert!(room.report(now(70_000), true).0.departures.is_empty());
}
