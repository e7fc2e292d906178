//! Session descriptions (RFC 8866): whatever can be read can be answered, and our answer can be read.
#![no_main]

use edge_node::core::sdp::{Description, LocalTransport, SendParameters, extension_ids, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(offer) = parse(text) else { return };
    let _ = offer.receive_extension_ids();
    parse(&offer.to_sdp()).expect("a description that was written can be read");
    let mut answer = Description::answer_to(&offer, &LocalTransport::default());
    for (media, offered) in answer.media.iter_mut().zip(&offer.media) {
        let _ = extension_ids(offered);
        if !media.rejected && media.is_rtp() {
            media.send(SendParameters {
                stream: "PA_a|camera".to_owned(),
                track: "TR_a".to_owned(),
                ssrc: 1,
                rtx_ssrc: Some(2),
                cname: "PA_a".to_owned(),
            });
        }
    }
    let read = parse(&answer.to_sdp()).expect("an answer can be read");
    assert_eq!(read.media.len(), offer.media.len());
    assert!(
        read.media
            .iter()
            .zip(&offer.media)
            .all(|(ours, theirs)| ours.mid == theirs.mid)
    );
});
