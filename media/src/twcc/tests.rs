use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::rtcp::{Packet, Packets, Writer};

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
fn start() -> Instant {
    Instant::now()
}

/// Everything that the receiver has to report, as `(seq, arrival in ticks of 250 us)`.
fn report(receiver: &mut Receiver) -> Vec<(u16, Option<i64>)> {
    let mut reported = Vec::new();
    while receiver.is_due() {
        let mut out = [0; 1200];
        let mut writer = Writer::new(&mut out);
        receiver.write(&mut writer, (1, 2));
        let len = writer.len();
        for packet in Packets::new(&out[..len]) {
            let Packet::TransportFeedback { body } = packet else {
                panic!("{packet:?}")
            };
            let feedback = Feedback::parse(body).unwrap();
            let reference = i64::from(feedback.reference) * 64_000;
            let ticks = |at: i64| (reference + at) / 250;
            reported.extend(feedback.arrivals().map(|(seq, at)| (seq, at.map(ticks))));
        }
    }
    reported
}

#[test]
fn losses_and_arrivals_are_told_apart() {
    let origin = start();
    let mut receiver = Receiver::new(origin);
    let at = |ms| origin + Duration::from_millis(ms);
    receiver.record(65534, at(1000));
    receiver.record(65535, at(1010));
    receiver.record(2, at(1500));
    assert_eq!(
        report(&mut receiver),
        [
            (65534, Some(4000)),
            (65535, Some(4040)),
            (0, None),
            (1, None),
            (2, Some(6000)),
        ]
    );
    // The gap is filled late: reported again from there.
    receiver.record(1, at(1510));
    assert_eq!(report(&mut receiver), [(1, Some(6040)), (2, Some(6000))]);
    assert!(!receiver.is_due());
}

#[test]
fn a_pause_longer_than_a_delta_starts_another_packet() {
    let origin = start();
    let mut receiver = Receiver::new(origin);
    receiver.record(1, origin + Duration::from_secs(1));
    receiver.record(2, origin + Duration::from_secs(60));
    assert_eq!(report(&mut receiver), [(1, Some(4000)), (2, Some(240_000))]);
}

/// A feedback body with these chunks and deltas.
fn body(base: u16, count: u16, reference: u32, rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(base.to_be_bytes());
    body.extend(count.to_be_bytes());
    body.extend(&reference.to_be_bytes()[1..]);
    body.push(7);
    body.extend(rest);
    body
}

#[test]
fn every_kind_of_chunk_is_read() {
    let rest = [
        0b0010_0000,
        3, // run of three small deltas
        0b0000_0000,
        2, // run of two lost
        0b1010_0000,
        1, // one-bit vector: received, 12 lost, received
        0b1101_1000,
        0, // two-bit vector: small, large, five lost
        4,
        0,
        1, // deltas of the run
        2,
        3, // of the one-bit vector
        8,
        0xff,
        0xfe, // small, then minus two ticks
    ];
    let body = body(0xfffe, 26, 5, &rest);
    let feedback = Feedback::parse(&body).unwrap();
    let arrived: Vec<_> = feedback
        .arrivals()
        .filter_map(|(seq, at)| Some((seq, at? / 250)))
        .collect();
    assert_eq!(
        arrived,
        [
            (0xfffe, 4),
            (0xffff, 4),
            (0, 5),
            (3, 7),
            (16, 10),
            (17, 18),
            (18, 16)
        ]
    );
    assert_eq!(feedback.arrivals().count(), 26);
}

#[test]
fn a_feedback_without_its_chunks_is_malformed() {
    assert!(Feedback::parse(&body(1, 8, 0, &[0x20, 7])).is_none());
    assert!(Feedback::parse(&body(1, 7, 0, &[0x20])).is_none());
    // Deltas are missing: what is there counts.
    let cut = body(1, 3, 0, &[0x20, 3, 9]);
    let feedback = Feedback::parse(&cut).unwrap();
    assert_eq!(feedback.arrivals().collect::<Vec<_>>(), [(1, Some(2250))]);
}

#[test]
fn reference_times_wrap_and_come_in_any_order() {
    let mut clock = ReferenceClock::default();
    let mut units = |reference| {
        let body = body(1, 1, reference, &[0x20, 1, 0]);
        clock.micros(&Feedback::parse(&body).unwrap()) / 64_000
    };
    assert_eq!(units(0xff_fffe), 0xff_fffe);
    assert_eq!(units(1), 0x100_0001);
    assert_eq!(units(0xff_ffff), 0xff_ffff);
    assert_eq!(units(2), 0x100_0002);
}

proptest! {
    #[test]
    fn every_arrival_is_reported_in_time(
        first in any::<u16>(),
        steps in proptest::collection::vec((1u16..4, 0u64..30_000), 1..1000),
    ) {
        let origin = start();
        let mut receiver = Receiver::new(origin);
        let (mut seq, mut at) = (first, 0);
        let mut expected = Vec::new();
        let mut reported = Vec::new();
        for (i, (step, pause)) in steps.into_iter().enumerate() {
            seq = seq.wrapping_add(step);
            at += pause;
            receiver.record(seq, origin + Duration::from_micros(at));
            expected.push((seq, i64::try_from(at / 250).unwrap()));
            if i % 300 == 299 {
                reported.extend(report(&mut receiver));
            }
        }
        reported.extend(report(&mut receiver));
        let arrived: Vec<_> =
            reported.into_iter().filter_map(|(seq, at)| Some((seq, at?))).collect();
        prop_assert_eq!(arrived, expected);
    }
}
