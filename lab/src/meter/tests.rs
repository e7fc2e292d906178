//! Counting under loss, duplicates and reordering.

use super::*;

fn packet(source: u32, counter: u64, sent_ns: u64) -> Vec<u8> {
    let mut payload = vec![0; 100];
    Stamp {
        source,
        counter,
        sent_ns,
    }
    .write(&mut payload);
    payload
}

#[test]
fn loss_duplicates_and_order_are_told_apart() {
    let meter = Meter::new(Arc::new(Window::default()));
    for counter in [10, 11, 13, 12, 13, 16] {
        meter.receive_at(&packet(1, counter, 1_000_000), 3_000_000);
    }
    meter.receive_at(&packet(2, 0, 1_000_000), 3_000_000);
    meter.receive_at(b"not ours", 3_000_000);
    let received = meter.received();
    assert_eq!(received.packets, 6);
    assert_eq!(received.gaps, 2, "14 and 15");
    assert_eq!(received.duplicates, 1);
    assert_eq!(received.strangers, 1);
    assert_eq!(received.tracks, 2);
    assert_eq!(received.bytes, 600);
    assert!(received.delay_us.value_at_quantile(0.5).abs_diff(2000) < 40);
}

#[test]
fn long_streams_and_jumps_keep_the_count() {
    let meter = Meter::new(Arc::new(Window::default()));
    for counter in 0..100_000 {
        meter.receive_at(&packet(1, counter, 1), 2);
    }
    meter.receive_at(&packet(1, 200_000, 1), 2);
    meter.receive_at(&packet(1, 199_999, 1), 2);
    meter.receive_at(&packet(1, 5, 1), 2);
    let received = meter.received();
    assert_eq!(received.packets, 100_002);
    assert_eq!(received.gaps, 99_999);
    assert_eq!(received.duplicates, 1);
}

#[test]
fn only_the_window_counts() {
    let window = Arc::new(Window::closed());
    let meter = Meter::new(Arc::clone(&window));
    meter.receive_at(&packet(1, 0, 100), 200);
    window.set(1000, 2000);
    meter.receive_at(&packet(1, 1, 999), 1100);
    meter.receive_at(&packet(1, 2, 1000), 1100);
    meter.receive_at(&packet(1, 3, 2000), 2100);
    assert_eq!(meter.received().packets, 1);
}
