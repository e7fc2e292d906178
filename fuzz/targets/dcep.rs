//! DCEP (RFC 8832): a channel that was opened can be opened again by what we would write.
#![no_main]

use edge_node::core::dcep::{Message, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(Message::Open(open)) = parse(data) {
        let again = parse(&open.to_bytes());
        assert!(matches!(again, Some(Message::Open(again)) if again.label == open.label));
    }
});
