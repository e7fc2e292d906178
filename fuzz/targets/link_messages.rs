//! Control messages on a link's streams, in pieces of every size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay::link::message::{Decoder, encode};

fuzz_target!(|data: &[u8]| {
    let (piece, stream) = match data.split_first() {
        Some((first, rest)) => (usize::from(*first).max(1), rest),
        None => return,
    };
    let mut decoder = Decoder::default();
    for bytes in stream.chunks(piece) {
        decoder.push(bytes);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => {
                    let mut again = Decoder::default();
                    again.push(&encode(message));
                    assert!(matches!(again.next_message(), Ok(Some(_))));
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
});
