use proptest::prelude::*;

use super::*;
use crate::layer::PictureId;

fn vp8(id: u16, wide: bool, tl0: u8) -> Vp8 {
    Vp8 {
        picture_id: Some(PictureId {
            value: id,
            wide,
            offset: 2,
        }),
        tl0_picture: Some((tl0, if wide { 4 } else { 3 })),
        ..Vp8::default()
    }
}

#[test]
fn a_gap_is_kept_and_what_is_left_out_is_closed() {
    let mut rewriter = Rewriter::new(100);
    rewriter.switch(5000, 0, 0, None);
    let mut seq = |input| rewriter.forward(input, 0, None).map(|packet| packet.seq);
    assert_eq!(seq(5000), Some(100));
    assert_eq!(seq(5003), Some(103));
    assert_eq!(seq(5001), Some(101));
    rewriter.skip(5004, None);
    let mut seq = |input| rewriter.forward(input, 0, None).map(|packet| packet.seq);
    assert_eq!(seq(5005), Some(104));
    assert_eq!(seq(5002), Some(102));
    assert_eq!(seq(5004), None);
    assert_eq!(seq(4999), None);
}

#[test]
fn a_run_left_out_by_a_hop_before_is_closed_and_what_is_missing_before_it_is_not() {
    let mut rewriter = Rewriter::new(100);
    rewriter.switch(5000, 0, 0, None);
    let seq =
        |rewriter: &mut Rewriter, input| rewriter.forward(input, 0, None).map(|packet| packet.seq);
    assert_eq!(seq(&mut rewriter, 5000), Some(100));
    // 5001 is missing, 5002 to 65,099 were left out.
    rewriter.skip_run(5002, 65_100);
    assert_eq!(seq(&mut rewriter, 65_100), Some(102));
    // A run that was told already, or lies behind, changes nothing.
    rewriter.skip_run(65_000, 65_100);
    assert_eq!(seq(&mut rewriter, 65_101), Some(103));
    assert_eq!(seq(&mut rewriter, 65_099), None);
    // Within the window what is missing can still come.
    rewriter.skip_run(65_103, 65_110);
    assert_eq!(seq(&mut rewriter, 65_110), Some(105));
    assert_eq!(seq(&mut rewriter, 65_102), Some(104));
    assert_eq!(seq(&mut rewriter, 65_105), None);
}

#[test]
fn a_switch_goes_on_from_the_last_packet() {
    let mut rewriter = Rewriter::new(1);
    rewriter.switch(10, 1000, 7, None);
    assert_eq!(rewriter.forward(10, 1000, None).unwrap().timestamp, 1007);
    // Another stream whose clock would go backwards is put right behind.
    rewriter.switch(900, 50, 0, None);
    let packet = rewriter.forward(900, 50, None).unwrap();
    assert_eq!((packet.seq, packet.timestamp), (2, 1008));
}

#[test]
fn picture_ids_go_on_over_a_switch_in_both_forms() {
    for wide in [false, true] {
        let mask = if wide { 0x7fff } else { 0x7f };
        let mut pictures = Pictures::default();
        pictures.switch(&vp8(mask, wide, 255));
        let first = pictures.forward(&vp8(mask, wide, 255)).unwrap();
        assert_eq!(
            (first.picture_id, first.tl0_picture),
            (Some(mask), Some(255))
        );
        let wrapped = pictures.forward(&vp8(0, wide, 0)).unwrap();
        assert_eq!(
            (wrapped.picture_id, wrapped.tl0_picture),
            (Some(0), Some(0))
        );
        pictures.switch(&vp8(77, wide, 9));
        let switched = pictures.forward(&vp8(77, wide, 9)).unwrap();
        assert_eq!(
            (switched.picture_id, switched.tl0_picture),
            (Some(1), Some(1))
        );
        pictures.skip(&vp8(78, wide, 9));
        let after = pictures.forward(&vp8(79, wide, 10)).unwrap();
        assert_eq!((after.picture_id, after.tl0_picture), (Some(2), Some(2)));
        assert_eq!(pictures.forward(&vp8(78, wide, 9)), None);
    }
}

#[test]
fn new_ids_are_written_in_the_payloads_form() {
    let mut wide = [0x90, 0xc0, 0x80, 0x01, 5, 0];
    let parsed = Vp8::parse(&wide).unwrap();
    let rewrite = PictureRewrite {
        picture_id: Some(0x1234),
        tl0_picture: Some(9),
    };
    rewrite.apply(&parsed, &mut wide);
    assert_eq!(wide, [0x90, 0xc0, 0x92, 0x34, 9, 0]);
    let mut narrow = [0x90, 0xc0, 0x01, 5, 0];
    let parsed = Vp8::parse(&narrow).unwrap();
    rewrite.apply(&parsed, &mut narrow);
    assert_eq!(narrow, [0x90, 0xc0, 0x34, 9, 0]);
}

proptest! {
    /// Whatever is lost, late or left out: each forwarded number is unique, in order of the input,
    /// and the numbers have no hole but for what is lost.
    #[test]
    fn numbers_agree_with_a_plain_count(
        fates in proptest::collection::vec(0u8..5, 1..400),
        late_by in 1usize..60,
    ) {
        let mut renumber = Renumber::<16>::default();
        renumber.start(1000, 50);
        let mut next = 50;
        // 0: left out here; 1: lost; 2: late; 3: in time; 4: left out by a hop before, which the next packet in time tells.
        let run = |end: usize| fates[..end].iter().rev().take_while(|&&fate| fate == 4).count();
        let told = |i: usize| fates[i..].iter().find(|&&fate| fate != 4).is_some_and(|&fate| fate == 0 || fate == 3);
        let expected: Vec<_> = fates.iter().enumerate().map(|(i, &fate)| {
            (fate > 0 && !(fate == 4 && told(i))).then(|| { next += 1; next - 1 })
        }).collect();
        for i in 0..fates.len() + late_by {
            if i < fates.len() {
                let input = 1000 + i as u64;
                if fates[i] == 0 || fates[i] == 3 {
                    renumber.skip_run(input - run(i) as u64, input);
                }
                match fates[i] {
                    0 => renumber.skip(input),
                    3 => prop_assert_eq!(renumber.forward(input), expected[i]),
                    _ => {}
                }
            }
            if i >= late_by && fates[i - late_by] == 2 {
                let input = 1000 + (i - late_by) as u64;
                prop_assert_eq!(renumber.forward(input), expected[i - late_by]);
            }
        }
    }
}

#[test]
fn another_subscription_goes_on_where_the_first_ended() {
    let mut first = Rewriter::new(100);
    first.switch(5000, 90_000, 0, Some(&vp8(7, true, 3)));
    assert!(
        first
            .forward(5000, 90_000, Some(&vp8(7, true, 3)))
            .is_some()
    );
    // A packet that is missing keeps its number.
    assert!(
        first
            .forward(5002, 93_000, Some(&vp8(8, true, 4)))
            .is_some()
    );
    let mut second = Rewriter::resume(first.suspend());
    let input = vp8(900, true, 200);
    second.switch(1, 10, 0, Some(&input));
    let packet = second.forward(1, 10, Some(&input)).unwrap();
    assert_eq!((packet.seq, packet.timestamp), (103, 93_001));
    assert_eq!(
        (packet.picture.picture_id, packet.picture.tl0_picture),
        (Some(9), Some(5))
    );
}
