//! What a client puts in the URL: parameters of both paths, and the access token.
#![no_main]

use std::time::SystemTime;

use edge_node::core::join::{JoinParameters, SignalPath, access_token};
use edge_node::core::token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| {
    let keys = |key: &str| {
        (key == "devkey").then(|| token::Key {
            secret: "secret".to_owned(),
            project: "default".to_owned(),
        })
    };
    if let Some(token) = access_token(Some(query), query) {
        drop(token::authorize_join(&token, &keys, SystemTime::UNIX_EPOCH));
    }
    drop(token::authorize_join(query, &keys, SystemTime::UNIX_EPOCH));
    for path in [SignalPath::V0, SignalPath::V1] {
        drop(JoinParameters::parse(path, query));
    }
    // Bytes instead of text: as a join request without its base64.
    drop(JoinParameters::parse(
        SignalPath::V1,
        &format!("join_request={query}"),
    ));
});
