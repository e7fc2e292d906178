//! What the router says about how transports do.

use super::call::{Call, Encoder, high, key, publish_video};
use super::*;
use crate::rtcp::ReportBlock;

#[test]
fn a_report_covers_what_happened_since_the_one_before() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    publish_video(&mut call, alice, 1, &[]);
    call.subscribe(bob, 1, high());
    let mut camera = Encoder::new(alice, 11, "v", "");
    for frame in 0..30 {
        // Of every frame's two packets the last one is lost once in ten frames.
        let packets = camera.vp8(frame == 0, 0, 2);
        for (position, (packet, index)) in packets.into_iter().enumerate() {
            if frame % 10 != 5 || position == 0 {
                call.send(alice, packet, index);
            }
        }
        call.advance(33);
    }
    let block = ReportBlock {
        ssrc: 0x2001,
        fraction_lost: 16,
        ..ReportBlock::default()
    };
    call.report(bob, |writer| writer.receiver_report(1, &[block]).unwrap());
    call.report(bob, |writer| writer.pli(1, 0x2001).unwrap());
    call.advance(10);

    let report = call.router.report(call.now, key(alice)).unwrap();
    let uplink = &report.uplinks[0];
    assert_eq!((uplink.track, uplink.stream), (TrackKey(1), 0));
    assert!((uplink.loss - 3.0 / 60.0).abs() < 0.001, "{uplink:?}");
    assert!((uplink.fps - 30.0).abs() < 0.5, "{uplink:?}");
    assert!(uplink.nacks >= 3 && uplink.bps > 0);
    let report = call.router.report(call.now, key(bob)).unwrap();
    let sub = &report.subscriptions[0];
    assert_eq!((sub.track, sub.wanted), (TrackKey(1), high()));
    assert_eq!(sub.sent.map(|target| target.layer), Some(0));
    assert_eq!((sub.plis, sub.paused), (1, false));
    assert!((sub.loss - 1.0 / 16.0).abs() < 0.001);
    assert!(report.sent_bps >= sub.bps && sub.bps > 0);

    call.advance(1000);
    let report = call.router.report(call.now, key(bob)).unwrap();
    assert_eq!(
        (report.subscriptions[0].bps, report.subscriptions[0].plis),
        (0, 0)
    );
    assert_eq!(call.router.reports(call.now).len(), 2);
    assert!(call.router.report(call.now, TransportKey(99)).is_none());
}
