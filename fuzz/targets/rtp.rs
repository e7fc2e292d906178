//! RTP (RFC 3550), its header extensions and every payload descriptor; what comes from a link, too.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use media::layer::{Context, Reader, primary_block};
use media::packet::{Codec, LayerMeta, Pool};
use media::rtp::{View, header_len};

const CODECS: [Codec; 6] = [
    Codec::Opus,
    Codec::Vp8,
    Codec::Vp9,
    Codec::H264,
    Codec::H265,
    Codec::Av1,
];

fuzz_target!(|data: &[u8]| {
    let _ = header_len(data);
    if let Ok(view) = View::parse(data) {
        let payload = view.payload();
        assert!(payload.len() + usize::from(view.padding()) <= data.len());
        let descriptor = view
            .extensions()
            .map(|(_, value)| value)
            .last()
            .unwrap_or_default();
        for codec in CODECS {
            let mut reader = Reader::default();
            let context = Context {
                timestamp: 1,
                marker: true,
                descriptor,
            };
            reader.read(codec, payload, context);
            reader.read(
                codec,
                payload,
                Context {
                    descriptor: &[],
                    ..context
                },
            );
        }
        let _ = primary_block(payload);
    }
    let mut pool = Pool::new(1);
    let layer = LayerMeta::from_bits(0);
    if let Ok(packet) = pool.from_canonical(data, (layer, 0), Instant::now()) {
        // What a link delivered can be put on the next one.
        let mut out = [0; 2048];
        let len = packet
            .write_canonical(&mut out)
            .expect("a packet from a link fits a link");
        let again = pool
            .from_canonical(&out[..len], (layer, 0), Instant::now())
            .expect("is readable");
        assert_eq!(again.payload(), packet.payload());
        assert_eq!(
            again.dependency_descriptor(),
            packet.dependency_descriptor()
        );
    }
});
