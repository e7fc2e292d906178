//! RTCP compounds (RFC 3550, RFC 4585, RFC 5104) and transport-wide feedback.
#![no_main]

use libfuzzer_sys::fuzz_target;
use media::rtcp::{Packet, Packets};
use media::twcc::Feedback;

fuzz_target!(|data: &[u8]| {
    for packet in Packets::new(data) {
        match packet {
            Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks, .. } => {
                blocks.for_each(drop);
            }
            Packet::Bye { ssrcs } | Packet::Remb { ssrcs, .. } => ssrcs.for_each(drop),
            Packet::Nack { lost, .. } => assert!(lost.count() <= 17 * data.len()),
            Packet::Fir { entries } => entries.for_each(drop),
            Packet::TransportFeedback { body } => {
                if let Some(feedback) = Feedback::parse(body) {
                    assert!(feedback.arrivals().count() <= 1 << 16);
                }
            }
            _ => {}
        }
    }
});
