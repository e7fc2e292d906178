//! Frames of the signalling WebSocket, in both encodings: what can be read as a request can be read.
#![no_main]

use edge_node::core::signal::{Frame, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    drop(decode(&Frame::Binary(bytes::Bytes::copy_from_slice(data))));
    if let Ok(text) = std::str::from_utf8(data) {
        drop(decode(&Frame::Text(text.to_owned())));
    }
});
