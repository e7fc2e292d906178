//! TURN (RFC 8656): a stream cut into messages, and each message, as datagrams are, handed to the server's side of a client.
#![no_main]

use std::sync::Arc;
use std::time::Instant;

use edge_node::core::session::Now;
use edge_node::core::turn::{Admitted, Client, Output, Secret, Server, Unframed, split};
use libfuzzer_sys::fuzz_target;
use rtc_dtls::crypto_provider::default_provider;

fuzz_target!(|data: &[u8]| {
    let Ok(crypto) = default_provider() else {
        return;
    };
    let server = Server {
        realm: "fuzz".to_owned(),
        secret: Secret::new([1; 32]),
        crypto,
        peers: [([127, 0, 0, 1], 7882).into()].into(),
        addresses: vec![[127, 0, 0, 1].into()],
    };
    let now = Now {
        instant: Instant::now(),
        unix_ms: 1_790_000_000_000,
    };
    let mut client = Client::new(Arc::new(server), ([127, 0, 0, 1], 4000).into());
    let mut hand_over = |message: &[u8]| {
        let admit = |_: &str| {
            Ok(Admitted {
                port: 50_000,
                place: (),
            })
        };
        // Nobody can guess the password: nothing may be relayed.
        assert!(client.handle_message(now, message, admit).is_none());
        while let Some(output) = client.poll_output() {
            assert!(!matches!(output, Output::Allocated));
        }
    };
    hand_over(data);
    let mut rest = data;
    while let Unframed::Message { length, consumed } = split(rest) {
        let (message, more) = rest.split_at(consumed);
        hand_over(&message[..length]);
        rest = more;
    }
});
