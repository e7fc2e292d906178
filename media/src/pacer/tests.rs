use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
fn start() -> Instant {
    Instant::now()
}

/// Everything that goes out up to `until`, as `(ms after the start, what)`.
fn drain(
    pacer: &mut Pacer<u32>,
    bytes: usize,
    (start, until): (Instant, Instant),
) -> Vec<(u128, u32)> {
    let mut out = Vec::new();
    while let Some(at) = pacer.poll_timeout().filter(|&at| at <= until) {
        while let Some(item) = pacer.pop(at) {
            pacer.spend(bytes);
            out.push(((at - start).as_millis(), item));
        }
    }
    out
}

#[test]
fn without_a_rate_everything_goes_at_once() {
    let now = start();
    let mut pacer: Pacer<u32> = Pacer::new(now);
    for _ in 0..1000 {
        assert!(pacer.is_open(now, Class::Media));
        pacer.spend(1200);
    }
    assert_eq!(pacer.poll_timeout(), None);
}

#[test]
fn a_keyframe_is_spread_at_the_pacing_rate() {
    let now = start();
    let mut pacer = Pacer::new(now);
    pacer.set_rate(now, Some(2_400_000), 2_400_000);
    let mut at_once = 0;
    for packet in 0..50u32 {
        if pacer.is_open(now, Class::Media) {
            pacer.spend(1200);
            at_once += 1;
        } else {
            pacer.push(Class::Media, 1200, packet).unwrap();
        }
    }
    // 5 ms at 300 bytes per ms, and the packet that overdraws.
    assert_eq!(at_once, 2);
    assert_eq!(pacer.queue(), 192 * MS);
    let sent = drain(&mut pacer, 1200, (now, now + 300 * MS));
    assert_eq!(sent.len(), 48);
    assert!(sent.iter().map(|(_, packet)| *packet).eq(2..50), "order");
    let last = sent.last().map_or(0, |(at, _)| *at);
    assert!((188..=200).contains(&last), "{last} ms");
    for window in sent.windows(5) {
        assert!(window[4].0 - window[0].0 >= 10, "{window:?}");
    }
}

#[test]
fn repairs_go_before_media_and_audio_before_all() {
    let now = start();
    let mut pacer = Pacer::new(now);
    pacer.set_rate(now, Some(400_000), 400_000);
    pacer.spend(1200);
    for (class, item) in [(Class::Media, 1), (Class::Media, 2), (Class::Repair, 3)] {
        assert!(!pacer.is_open(now, class));
        pacer.push(class, 1200, item).unwrap();
    }
    assert!(pacer.is_open(now, Class::Audio));
    pacer.spend(100);
    let sent = drain(&mut pacer, 1200, (now, now + 200 * MS));
    let order: Vec<u32> = sent.iter().map(|(_, item)| *item).collect();
    assert_eq!(order, [3, 1, 2]);
}

#[test]
fn what_is_sent_in_excess_of_the_target_settles_at_its_rate() {
    let now = start();
    let mut pacer: Pacer<u32> = Pacer::new(now);
    pacer.spend(1_000_000);
    assert_eq!(pacer.excess(now), Duration::ZERO);
    pacer.set_rate(now, Some(2_000_000), 800_000);
    // 10 kB take 100 ms.
    pacer.spend(10_000);
    assert_eq!(pacer.excess(now), 100 * MS);
    pacer.push(Class::Media, 1000, 1).unwrap();
    assert_eq!(pacer.excess(now + 60 * MS), 50 * MS);
    assert_eq!(pacer.excess(now + 200 * MS), 10 * MS);
    pacer.spend(5000);
    pacer.forgive(5000);
    assert_eq!(pacer.excess(now + 200 * MS), 10 * MS);
}

#[test]
fn a_full_lane_gives_back() {
    let now = start();
    let mut pacer = Pacer::new(now);
    pacer.set_rate(now, Some(1000), 1000);
    for item in 0..1024 {
        pacer.push(Class::Media, 10, item).unwrap();
    }
    assert_eq!(pacer.push(Class::Media, 10, 7), Err(7));
    assert_eq!(pacer.push(Class::Repair, 10, 8), Ok(()));
    pacer.retain(|item| *item < 10);
    assert_eq!(pacer.queue(), Duration::from_millis(11 * 80));
}

proptest! {
    /// In any window no more leaves than rate times window, a burst and a packet.
    #[test]
    fn the_rate_holds(
        rate_kbps in 50u64..20_000,
        steps in proptest::collection::vec((0u64..20_000, 40usize..1200), 1..300),
    ) {
        let begin = start();
        let mut now = begin;
        let mut pacer: Pacer<usize> = Pacer::new(now);
        pacer.set_rate(now, Some(rate_kbps * 1000), rate_kbps * 1000);
        let mut sent: Vec<(Instant, usize)> = Vec::new();
        for (us, bytes) in steps {
            let next = now + Duration::from_micros(us);
            while let Some(at) = pacer.poll_timeout().filter(|&at| at <= next) {
                while let Some(bytes) = pacer.pop(at) {
                    pacer.spend(bytes);
                    sent.push((at, bytes));
                }
            }
            now = next;
            if pacer.is_open(now, Class::Media) {
                pacer.spend(bytes);
                sent.push((now, bytes));
            } else {
                prop_assert!(pacer.push(Class::Media, bytes, bytes).is_ok());
            }
        }
        for (i, (from, _)) in sent.iter().enumerate() {
            let mut total = 0;
            for (to, bytes) in &sent[i..] {
                let ms = (*to - *from + BURST).as_secs_f64() * 1000.0;
                prop_assert!((total as f64) <= ms * rate_kbps as f64 / 8.0 + 1200.0 + 1.0);
                total += bytes;
            }
        }
    }
}
