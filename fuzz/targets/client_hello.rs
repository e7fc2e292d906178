//! The first datagrams of a DTLS association, one per line of the input: read before DTLS itself sees them.
#![no_main]

use edge_node::core::client_hello::ClientHello;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut hello = ClientHello::default();
    for datagram in data.split(|byte| *byte == b'\n') {
        hello.push(datagram);
        if hello.is_complete() {
            let _ = hello.best_profile();
        }
    }
});
