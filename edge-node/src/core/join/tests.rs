use std::io::Write;

use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use livekit_protocol::ConnectionSettings;
use proptest::prelude::*;

use super::*;
use crate::core::token::Claims;

fn request() -> JoinRequest {
    JoinRequest {
        client_info: Some(ClientInfo {
            sdk: client_info::Sdk::Js.into(),
            version: "2.23.0".to_owned(),
            protocol: 17,
            browser: "chrome".to_owned(),
            ..ClientInfo::default()
        }),
        connection_settings: Some(ConnectionSettings {
            auto_subscribe: true,
            adaptive_stream: true,
            ..ConnectionSettings::default()
        }),
        publisher_offer: Some(SessionDescription {
            r#type: "offer".to_owned(),
            sdp: "v=0\r\n".repeat(50),
            id: 3,
            ..SessionDescription::default()
        }),
        ..JoinRequest::default()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn wrap(compression: i32, join_request: Vec<u8>) -> Vec<u8> {
    WrappedJoinRequest {
        compression,
        join_request,
    }
    .encode_to_vec()
}

fn parse_v1(wrapped: &[u8], engine: &impl Engine) -> Result<JoinParameters, Error> {
    let query = format!("access_token=t&join_request={}", engine.encode(wrapped));
    JoinParameters::parse(SignalPath::V1, &query)
}

#[test]
fn v1_in_every_coat() {
    let plain = wrap(0, request().encode_to_vec());
    let zipped = wrap(1, gzip(&request().encode_to_vec()));
    let expected = parse_v1(&plain, &URL_SAFE).unwrap();
    assert_eq!(expected.client.version, "2.23.0");
    assert!(expected.auto_subscribe && expected.adaptive_stream);
    assert_eq!(expected.publisher_offer.as_ref().unwrap().id, 3);
    assert_eq!(expected.reconnect, None);
    for wrapped in [&plain, &zipped] {
        assert_eq!(parse_v1(wrapped, &URL_SAFE_NO_PAD).as_ref(), Ok(&expected));
        assert_eq!(parse_v1(wrapped, &STANDARD).as_ref(), Ok(&expected));
    }
}

#[test]
fn v1_reconnect_carries_its_state() {
    let reconnecting = JoinRequest {
        reconnect: true,
        reconnect_reason: ReconnectReason::RrSubscriberFailed.into(),
        participant_sid: "PA_1".to_owned(),
        sync_state: Some(SyncState::default()),
        ..request()
    };
    let joined = parse_v1(&wrap(0, reconnecting.encode_to_vec()), &URL_SAFE).unwrap();
    let reconnect = joined.reconnect.unwrap();
    assert_eq!(reconnect.sid, Some(ParticipantSid::from("PA_1")));
    assert_eq!(reconnect.reason, ReconnectReason::RrSubscriberFailed);
    assert!(reconnect.sync_state.is_some());
}

#[test]
fn v0_of_livekit_client() {
    let attributes = URL_SAFE.encode(r#"{"role":"host"}"#);
    let query = format!(
        "access_token=t&auto_subscribe=1&sdk=js&version=2.15.1&protocol=16&client_protocol=1\
         &os=Linux&browser=chrome&browser_version=156.0&adaptive_stream=1&reconnect=1&sid=PA_2\
         &reconnect_reason=2&attributes={attributes}&sdk=python&unknown=%ff"
    );
    let joined = JoinParameters::parse(SignalPath::V0, &query).unwrap();
    assert_eq!(joined.client.sdk(), client_info::Sdk::Js);
    assert_eq!(
        (joined.client.protocol, joined.client.client_protocol),
        (16, 1)
    );
    assert_eq!(joined.client.browser_version, "156.0");
    assert!(joined.auto_subscribe && joined.adaptive_stream);
    assert_eq!(
        joined.attributes.get("role").map(String::as_str),
        Some("host")
    );
    let reconnect = joined.reconnect.unwrap();
    assert_eq!(reconnect.sid, Some(ParticipantSid::from("PA_2")));
    assert_eq!(reconnect.reason, ReconnectReason::RrPublisherFailed);
}

#[test]
fn v0_defaults() {
    let joined = JoinParameters::parse(SignalPath::V0, "").unwrap();
    assert!(joined.auto_subscribe && !joined.adaptive_stream);
    assert_eq!(
        (joined.reconnect, joined.subscriber_allow_pause),
        (None, None)
    );
    let native = "sdk=reactnative&auto_subscribe=0&reconnect=0&reconnect_reason=99&protocol=x";
    let joined = JoinParameters::parse(SignalPath::V0, native).unwrap();
    assert_eq!(joined.client.sdk(), client_info::Sdk::ReactNative);
    assert!(!joined.auto_subscribe && joined.reconnect.is_none());
}

#[test]
fn refusals() {
    let v1 = |query: &str| JoinParameters::parse(SignalPath::V1, query).map(|_| ());
    assert_eq!(v1("access_token=t"), Err(Error::MissingJoinRequest));
    assert_eq!(
        v1("join_request=!"),
        Err(Error::Base64 {
            parameter: "join_request"
        })
    );
    let wrapped = |bytes: &[u8]| parse_v1(bytes, &URL_SAFE).map(|_| ());
    assert_eq!(
        wrapped(&[0xff]),
        Err(Error::Protobuf {
            message: "WrappedJoinRequest"
        })
    );
    assert_eq!(
        wrapped(&wrap(0, vec![7])),
        Err(Error::Protobuf {
            message: "JoinRequest"
        })
    );
    assert_eq!(wrapped(&wrap(1, vec![7])), Err(Error::Gzip));
    assert_eq!(wrapped(&wrap(9, vec![])), Err(Error::Compression(9)));
    let bomb = wrap(1, gzip(&vec![0; 64 << 20]));
    assert_eq!(wrapped(&bomb), Err(Error::TooLarge));
    let crowd = (0..=MAX_ATTRIBUTES)
        .map(|i| (i.to_string(), String::new()))
        .collect();
    let crowded = JoinRequest {
        participant_attributes: crowd,
        ..request()
    };
    assert_eq!(
        wrapped(&wrap(0, crowded.encode_to_vec())),
        Err(Error::Attributes)
    );
    let v0 = |query: &str| JoinParameters::parse(SignalPath::V0, query).map(|_| ());
    assert_eq!(v0("attributes=W10"), Err(Error::Attributes));
    assert_eq!(
        v0("attributes=!"),
        Err(Error::Base64 {
            parameter: "attributes"
        })
    );
}

#[test]
fn the_header_goes_before_the_query() {
    let query = "x=1&access_token=from%20query";
    assert_eq!(
        access_token(Some("Bearer abc"), query).as_deref(),
        Some("abc")
    );
    assert_eq!(
        access_token(Some("bearer  abc "), query).as_deref(),
        Some("abc")
    );
    assert_eq!(
        access_token(Some("Basic abc"), query).as_deref(),
        Some("from query")
    );
    assert_eq!(access_token(None, query).as_deref(), Some("from query"));
    assert_eq!(access_token(Some("Bearer "), "access_token="), None);
    assert_eq!(access_token(None, ""), None);
}

#[test]
fn metadata_needs_the_right() {
    let claims = |right: bool| -> Claims {
        serde_json::from_value(serde_json::json!({
            "iss": "k", "sub": "a", "exp": 1, "metadata": "old", "attributes": {"a": "1", "b": "2"},
            "video": {"roomJoin": true, "room": "r", "canUpdateOwnMetadata": right},
        }))
        .unwrap()
    };
    let attributes = [("a", ""), ("b", "3"), ("c", "4")];
    let joining = JoinRequest {
        metadata: "new".to_owned(),
        participant_attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..request()
    };
    let joined = parse_v1(&wrap(0, joining.encode_to_vec()), &URL_SAFE).unwrap();
    let mut grants = claims(true).join_grants().unwrap();
    assert_eq!(joined.apply_to(&mut grants), Ok(()));
    assert_eq!(grants.metadata, "new");
    let merged: Vec<_> = grants
        .attributes
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(merged, [("a", "1"), ("b", "3"), ("c", "4")]);
    let mut grants = claims(false).join_grants().unwrap();
    assert_eq!(joined.apply_to(&mut grants), Err(Error::MetadataNotAllowed));
    let nothing = JoinParameters::parse(SignalPath::V0, "").unwrap();
    assert_eq!(nothing.apply_to(&mut grants), Ok(()));
}

proptest! {
    #[test]
    fn no_query_makes_it_panic(query in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for path in [SignalPath::V0, SignalPath::V1] {
            drop(JoinParameters::parse(path, &query));
        }
        drop(parse_v1(&bytes, &URL_SAFE));
        drop(parse_v1(&wrap(1, gzip(&bytes)), &URL_SAFE));
    }
}
