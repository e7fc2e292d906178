//! STUN (RFC 8489) as it arrives at the shard: demultiplexing by user fragment, then the ICE-lite server.
#![no_main]

use std::time::Instant;

use edge_node::core::ice::{
    Credentials, Input, Output, Path, Server, SessionId, local_ufrag, shard_of_ufrag,
};
use libfuzzer_sys::fuzz_target;
use rtc_dtls::crypto_provider::default_provider;

fuzz_target!(|data: &[u8]| {
    if let Some(ufrag) = local_ufrag(data) {
        let _ = shard_of_ufrag(&ufrag);
    }
    let Ok(crypto) = default_provider() else {
        return;
    };
    let mut server = Server::new(crypto);
    let now = Instant::now();
    let credentials = Credentials {
        ufrag: "edge".to_owned(),
        pwd: "0123456789abcdefghijkl".to_owned(),
    };
    server.handle_input(
        now,
        Input::Open {
            session: SessionId(1),
            credentials,
        },
    );
    let path = Path::udp(([127, 0, 0, 1], 4000).into());
    server.handle_input(
        now,
        Input::Stun {
            path,
            message: data,
        },
    );
    while !matches!(server.poll_output(), Output::Timeout(_)) {}
});
