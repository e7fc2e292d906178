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
fn report(receiver: &mut Receiver) -> Vec<(u16, Option<u128>)> {
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
            let ticks = |at: Duration| at.as_micros() / 250;
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
            expected.push((seq, u128::from(at / 250)));
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
