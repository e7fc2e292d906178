use std::time::{Duration, Instant};

use super::*;
use crate::rewrite::{PictureRewrite, Rewritten};

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
fn start() -> Instant {
    Instant::now()
}

fn collect(generator: &mut NackGenerator, now: Instant) -> Vec<u16> {
    let mut lost = [0; 32];
    let count = generator.collect(now, &mut lost);
    lost[..count].to_vec()
}

#[test]
fn a_gap_is_asked_for_after_the_hold_and_again_after_a_round_trip() {
    let now = start();
    let ms = |n| now + Duration::from_millis(n);
    let mut generator = NackGenerator::new(Duration::from_millis(8));
    assert_eq!(generator.receive(0x1_fffe, now), Receipt::New);
    assert_eq!(generator.receive(0x2_0002, now), Receipt::New);
    assert!(collect(&mut generator, ms(5)).is_empty());
    assert_eq!(
        generator.receive(0x2_0000, ms(6)),
        Receipt::Late { asked: false }
    );
    assert_eq!(generator.poll_timeout(), Some(ms(8)));
    assert_eq!(collect(&mut generator, ms(8)), [0xffff, 1]);
    assert!(collect(&mut generator, ms(9)).is_empty());
    assert_eq!(
        generator.receive(0x2_0001, ms(48)),
        Receipt::Late { asked: true }
    );
    assert_eq!(generator.receive(0x2_0001, ms(49)), Receipt::Duplicate);
    assert!(generator.rtt() < Duration::from_millis(100));
    assert_eq!(collect(&mut generator, ms(150)), [0xffff]);
}

#[test]
fn a_lost_cause_is_given_up() {
    let now = start();
    let mut generator = NackGenerator::new(Duration::ZERO);
    generator.receive(10, now);
    generator.receive(12, now);
    let asked = (0..100)
        .filter(|i| !collect(&mut generator, now + Duration::from_millis(i * 200)).is_empty())
        .count();
    assert_eq!(asked, 10);
    assert_eq!(generator.poll_timeout(), None);
}

#[test]
fn a_huge_gap_stays_bounded() {
    let now = start();
    let mut generator = NackGenerator::new(Duration::ZERO);
    generator.receive(10, now);
    generator.receive(100_000, now);
    let mut lost = [0; 4096];
    assert_eq!(generator.collect(now, &mut lost), 512);
}

#[test]
fn history_answers_once_per_interval() {
    let mut history = SendHistory::new(100);
    let picture = PictureRewrite {
        picture_id: Some(5),
        tl0_picture: None,
    };
    let sent = Rewritten {
        seq: 0x1_0003,
        timestamp: 77,
        picture,
        marker: true,
    };
    history.record(&sent, 2, 9, 65_530);
    assert!(history.ask(3, 65_535, 20, 5).is_none());
    let record = history.ask(3, 65_560, 20, 5).unwrap();
    assert_eq!(
        (record.in_seq(), record.stream(), record.timestamp()),
        (9, 2, 77)
    );
    assert_eq!((record.picture(), record.marker()), (picture, true));
    assert!(history.ask(3, 65_561, 20, 5).is_none());
    assert!(history.ask(4, 65_561, 20, 5).is_none());
    assert!(history.ask(3, 70_000, 20, 1).is_none());
}

#[test]
fn rtx_is_taken_apart() {
    assert_eq!(split_rtx(&[1, 2, 3]), Some((258, &[3][..])));
    assert_eq!(split_rtx(&[1]), None);
}
