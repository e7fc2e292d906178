use proptest::prelude::*;

use super::*;

fn block() -> impl Strategy<Value = ReportBlock> {
    (any::<[u32; 5]>(), any::<u8>(), -0x80_0000..0x7f_ffff_i32).prop_map(
        |([ssrc, highest_seq, jitter, last_sr, delay_since_last_sr], fraction_lost, lost)| {
            ReportBlock {
                ssrc,
                fraction_lost,
                lost,
                highest_seq,
                jitter,
                last_sr,
                delay_since_last_sr,
            }
        },
    )
}

#[test]
fn a_compound_reads_back() {
    let mut out = [0; 512];
    let mut writer = Writer::new(&mut out);
    let info = SenderInfo {
        ssrc: 1,
        ntp: 2 << 40,
        rtp_timestamp: 3,
        packets: 4,
        octets: 5,
    };
    writer.sender_report(&info, &[]).unwrap();
    writer.source_description(1, "someone").unwrap();
    writer.pli(1, 77).unwrap();
    writer.fir(1, 78, 9).unwrap();
    writer.remb(1, 2_500_000, &[5, 6]).unwrap();
    writer.bye(42).unwrap();
    let len = writer.len();
    let packets: Vec<_> = Packets::new(&out[..len]).collect();
    let [
        Packet::SenderReport { info: read, .. },
        Packet::SourceDescription,
        Packet::Pli { media_ssrc: 77 },
        Packet::Fir { entries },
        Packet::Remb { bitrate, ssrcs },
        Packet::Bye { ssrcs: leaving },
    ] = &packets[..]
    else {
        panic!("{packets:?}")
    };
    assert_eq!(*read, info);
    assert_eq!(entries.clone().collect::<Vec<_>>(), [(78, 9)]);
    assert_eq!(*bitrate, 2_500_000);
    assert_eq!(ssrcs.clone().collect::<Vec<_>>(), [5, 6]);
    assert_eq!(leaving.clone().collect::<Vec<_>>(), [42]);
}

#[test]
fn a_packet_that_does_not_fit_is_left_out() {
    let mut out = [0; 20];
    let mut writer = Writer::new(&mut out);
    writer.pli(1, 2).unwrap();
    assert_eq!(writer.pli(1, 3), None);
    assert_eq!(writer.len(), 12);
}

proptest! {
    #[test]
    fn nacks_round_trip(start in any::<u16>(), steps in proptest::collection::vec(1u16..40, 1..60)) {
        let lost: Vec<u16> = steps
            .iter()
            .scan(start, |seq, step| {
                *seq = seq.wrapping_add(*step);
                Some(*seq)
            })
            .collect();
        let mut out = [0; 512];
        let mut writer = Writer::new(&mut out);
        writer.nack(1, 2, &lost).unwrap();
        let len = writer.len();
        let Some(Packet::Nack { media_ssrc: 2, lost: read }) = Packets::new(&out[..len]).next() else {
            panic!("no NACK")
        };
        prop_assert_eq!(read.collect::<Vec<_>>(), lost);
    }

    #[test]
    fn report_blocks_round_trip(blocks in proptest::collection::vec(block(), 0..31)) {
        let mut out = [0; 1024];
        let mut writer = Writer::new(&mut out);
        writer.receiver_report(7, &blocks).unwrap();
        let len = writer.len();
        let Some(Packet::ReceiverReport { ssrc: 7, blocks: read }) = Packets::new(&out[..len]).next()
        else {
            panic!("no RR")
        };
        prop_assert_eq!(read.collect::<Vec<_>>(), blocks);
    }

    #[test]
    fn bitrates_keep_18_bits(bitrate in any::<u64>()) {
        let mut out = [0; 64];
        let mut writer = Writer::new(&mut out);
        writer.remb(1, bitrate, &[]).unwrap();
        let len = writer.len();
        let Some(Packet::Remb { bitrate: read, .. }) = Packets::new(&out[..len]).next() else {
            panic!("no REMB")
        };
        prop_assert!(read <= bitrate && bitrate - read <= bitrate >> 17);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 200u8..208) {
        if let [first, second, high, ..] = &mut bytes[..] {
            *first = 0x80 | *first & 0x3f;
            *second = kind;
            *high = 0;
        }
        for packet in Packets::new(&bytes) {
            if let Packet::Nack { lost, .. } = packet {
                prop_assert!(lost.count() <= 17 * 50);
            } else if let Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks, .. } = packet {
                prop_assert!(blocks.count() <= 31);
            } else if let Packet::TransportFeedback { body } = packet
                && let Some(feedback) = crate::twcc::Feedback::parse(body)
            {
                prop_assert!(feedback.arrivals().count() <= usize::from(feedback.count));
            }
        }
    }
}
