use std::collections::BTreeMap;

use livekit_protocol::TrackSource;
use livekit_protocol::participant_info::Kind;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "a secret of at least thirty-two bytes";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn keys(key: &str) -> Option<Key> {
    let project = match key {
        "APIkey" => "default",
        "APIacme" => "acme",
        _ => return None,
    };
    Some(Key {
        secret: SECRET.to_owned(),
        project: project.to_owned(),
    })
}

fn sign(claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

/// What a server SDK puts in a token, changed as the test wants.
fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({
        "iss": "APIkey", "sub": "alice", "nbf": 1000, "exp": 2000, "name": "Alice", "jti": "alice",
        "metadata": "m", "attributes": {"role": "host"},
        "video": {"roomJoin": true, "room": "standup"},
    });
    change(&mut claims);
    claims
}

fn join(claims: &Value) -> Result<Grants, Error> {
    authorize_join(&sign(claims, SECRET), &keys, at(1500))
}

#[test]
fn defaults_allow_all_but_changing_metadata() {
    let grants = join(&claims(|_| {})).unwrap();
    assert_eq!(grants.identity.as_str(), "alice");
    assert_eq!(
        (grants.name.as_str(), grants.metadata.as_str()),
        ("Alice", "m")
    );
    assert_eq!(
        (grants.room.as_str(), grants.kind),
        ("standup", Kind::Standard)
    );
    assert_eq!(
        grants.attributes,
        BTreeMap::from([("role".to_owned(), "host".to_owned())])
    );
    let permissions = &grants.permissions;
    assert!(permissions.can_publish && permissions.can_subscribe && permissions.can_publish_data);
    assert!(!permissions.can_update_metadata && !permissions.hidden);
    assert!(permissions.allows_source(TrackSource::ScreenShare));
}

#[test]
fn grants_narrow_the_permissions() {
    let grants = join(&claims(|c| {
        c["kind"] = json!("agent");
        c["video"]["canPublishSources"] = json!(["microphone", "hologram"]);
        c["video"]["canSubscribe"] = json!(false);
        c["video"]["canUpdateOwnMetadata"] = json!(true);
        c["video"]["hidden"] = json!(true);
    }))
    .unwrap();
    assert_eq!(grants.kind, Kind::Agent);
    let permissions = &grants.permissions;
    assert!(permissions.allows_source(TrackSource::Microphone));
    assert!(!permissions.allows_source(TrackSource::Camera));
    assert!(!permissions.can_subscribe && permissions.can_update_metadata && permissions.hidden);
    assert_eq!(permissions.to_proto().can_publish_sources, [2, 0]);

    let grants = join(&claims(|c| c["video"]["canPublish"] = json!(false))).unwrap();
    assert!(
        !grants.permissions.can_publish_data,
        "data follows publishing unless it is set"
    );
    assert!(!grants.permissions.allows_source(TrackSource::Microphone));
}

#[test]
fn every_refusal_has_its_own_error() {
    let token = sign(&claims(|_| {}), SECRET);
    let verify_at = |seconds| verify(&token, &keys, at(seconds)).map(|_| ());
    assert_eq!(verify_at(2010), Ok(()));
    assert_eq!(verify_at(2011), Err(Error::Expired { seconds: 11 }));
    assert_eq!(verify_at(990), Ok(()));
    assert_eq!(verify_at(980), Err(Error::NotYetValid { seconds: 20 }));
    let other = sign(&claims(|_| {}), "another secret");
    assert_eq!(verify(&other, &keys, at(1500)), Err(Error::BadSignature));
    let unknown = claims(|c| c["iss"] = json!("nobody"));
    assert_eq!(join(&unknown), Err(Error::UnknownKey));
    assert_eq!(
        join(&claims(|c| c["video"]["roomJoin"] = json!(false))),
        Err(Error::NoRoomJoin)
    );
    assert_eq!(
        join(&claims(|c| c["video"] = Value::Null)),
        Err(Error::NoRoomJoin)
    );
    assert_eq!(
        join(&claims(|c| c["video"]["room"] = json!(""))),
        Err(Error::NoRoom)
    );
    assert_eq!(
        join(&claims(|c| c["sub"] = Value::Null)),
        Err(Error::NoIdentity)
    );
    let long = claims(|c| c["sub"] = json!("x".repeat(257)));
    assert_eq!(
        join(&long),
        Err(Error::TooLong {
            name: "identity",
            limit: 256
        })
    );
    for odd in [
        claims(|c| c["exp"] = Value::Null),
        claims(|c| c["exp"] = json!("tomorrow")),
        claims(|c| c["video"] = json!("all")),
        claims(|c| c["iss"] = json!(7)),
        json!([1, 2]),
    ] {
        assert!(matches!(join(&odd), Err(Error::Malformed { .. })), "{odd}");
    }
    for text in ["", "a.b.c", "..", &"x".repeat(MAX_TOKEN_BYTES + 1)] {
        assert!(matches!(
            verify(text, &keys, at(1500)),
            Err(Error::Malformed { .. })
        ));
    }
}

#[test]
fn other_algorithms_are_refused() {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let strong =
        jsonwebtoken::encode(&Header::new(Algorithm::HS384), &claims(|_| {}), &key).unwrap();
    assert!(matches!(
        verify(&strong, &keys, at(1500)),
        Err(Error::Malformed { .. })
    ));
    // {"alg":"none"}, the claims above, no signature.
    let signed = sign(&claims(|_| {}), SECRET);
    let payload = signed.split('.').nth(1).unwrap();
    let none = format!("eyJhbGciOiJub25lIn0.{payload}.");
    assert!(matches!(
        verify(&none, &keys, at(1500)),
        Err(Error::Malformed { .. })
    ));
}

#[test]
fn fractional_times_are_read() {
    let fraction = claims(|c| c["exp"] = json!(1999.75));
    assert_eq!(join(&fraction).unwrap().claims.exp, Some(1999));
    let negative = claims(|c| c["exp"] = json!(-5.0));
    assert_eq!(join(&negative), Err(Error::Expired { seconds: 1500 }));
}

#[test]
fn a_refreshed_token_says_the_same_for_longer() {
    let first = claims(|c| {
        c["sip"] = json!({"admin": true});
        c["roomConfig"] = json!({"maxParticipants": 5});
        c["video"]["canPublish"] = json!(false);
        c["video"]["futureGrant"] = json!(1);
    });
    let grants = join(&first).unwrap();
    let hour = Duration::from_secs(3600);
    let token = mint(&grants.claims, "APIkey", SECRET, hour, at(1500)).unwrap();
    let second = authorize_join(&token, &keys, at(5000)).unwrap();
    assert_eq!(
        (second.claims.nbf, second.claims.exp),
        (Some(1500), Some(5100))
    );
    assert_eq!(second.permissions, grants.permissions);
    assert_eq!(second.claims.other, grants.claims.other);
    assert_eq!(second.claims.video, grants.claims.video);
    assert_eq!(second.room_config, Some(json!({"maxParticipants": 5})));
    assert_eq!(
        mint(&grants.claims, "APIkey", "", hour, at(1500)),
        Err(Error::Signing)
    );
}

#[test]
fn debug_and_errors_keep_secrets() {
    let grants = join(&claims(|_| {})).unwrap();
    let shown = format!("{grants:?}");
    assert!(
        !shown.contains("alice") && !shown.contains("Alice"),
        "{shown}"
    );
    assert!(!Error::BadSignature.to_string().contains("eyJ"));
}

proptest! {
    #[test]
    fn no_token_makes_it_panic(text in ".{0,200}", parts in "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,40}") {
        prop_assert!(verify(&text, &keys, at(1500)).is_err());
        prop_assert!(verify(&parts, &keys, at(1500)).is_err());
    }
}

#[test]
fn a_room_is_of_the_keys_project_whatever_the_token_says() {
    let of_acme = join(&claims(|c| {
        c["iss"] = json!("APIacme");
        c["project"] = json!("apex");
    }));
    let mut grants = of_acme.unwrap();
    assert_eq!(grants.room.as_str(), "acme/standup");
    assert_eq!(grants.claims.project, "acme");
    let look_alike = join(&claims(|c| c["video"]["room"] = json!("acme/standup"))).unwrap();
    assert_ne!(look_alike.room, grants.room);

    // What it is renewed with names the room as the application does.
    let other = grants.room.beside("retro").unwrap();
    let permissions = grants.permissions.clone();
    grants.move_to(
        &other,
        &livekit_protocol::ParticipantInfo::default(),
        &permissions,
    );
    assert_eq!(grants.room.as_str(), "acme/retro");
    let hour = Duration::from_secs(3600);
    let token = mint(&grants.claims, "APIacme", SECRET, hour, at(1500)).unwrap();
    let again = authorize_join(&token, &keys, at(1600)).unwrap();
    assert_eq!(
        (again.room.as_str(), again.claims.project.as_str()),
        ("acme/retro", "acme")
    );
    let video = again.claims.video.unwrap();
    assert_eq!(video.room, "retro");
}

#[test]
fn names_are_one_line() {
    for bad in ["a\r\nb", "a\0", "\u{1b}[2J", "\u{2028}"] {
        for place in ["/sub", "/video/room"] {
            let refused = join(&claims(|c| *c.pointer_mut(place).unwrap() = json!(bad)));
            assert!(
                matches!(refused, Err(Error::BadName { .. })),
                "{place} {bad:?}"
            );
        }
    }
    assert!(
        join(&claims(
            |c| c["video"]["room"] = json!("'; DROP TABLE rooms; --")
        ))
        .is_ok()
    );
}
