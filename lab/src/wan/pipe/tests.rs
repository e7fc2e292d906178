//! Virtual-time dialogues with a pipe.

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Offers `count` packets of `len` bytes, one every `gap`; returns (index, delay) in order of arrival.
fn run(pipe: &mut Pipe<u32>, count: u32, len: usize, gap: Duration) -> Vec<(u32, Duration)> {
    let start = Instant::now();
    let sent_at = |index: u32| start + gap * index;
    let mut out = Vec::new();
    let mut take = |pipe: &mut Pipe<u32>, until: Option<Instant>| {
        while let Some(due) = pipe.poll_timeout()
            && until.is_none_or(|until| due < until)
        {
            let index = pipe.pop(due).unwrap();
            out.push((index, due - sent_at(index)));
        }
    };
    for index in 0..count {
        take(pipe, Some(sent_at(index)));
        let _dropped = pipe.push(sent_at(index), len, index).is_err();
    }
    take(pipe, None);
    out
}

#[test]
fn a_perfect_wire_delivers_at_once_and_in_order() {
    let mut pipe = Pipe::new(Path::default());
    let out = run(&mut pipe, 1000, 1200, MS);
    assert_eq!(out.len(), 1000);
    assert!(out.iter().all(|(_, delay)| delay.is_zero()));
    assert!(out.is_sorted_by_key(|(index, _)| *index));
    assert_eq!(pipe.stats().dropped(), 0);
}

#[test]
fn nothing_comes_out_before_its_delay() {
    let mut pipe = Pipe::new(Path::with_delay(40 * MS));
    let now = Instant::now();
    pipe.push(now, 100, 7).unwrap();
    assert_eq!(pipe.pop(now + 39 * MS), None);
    assert_eq!(pipe.poll_timeout(), Some(now + 40 * MS));
    assert_eq!(pipe.pop(now + 40 * MS), Some(7));
    assert!(pipe.is_empty());
}

#[test]
fn random_loss_is_near_its_probability() {
    let mut pipe = Pipe::new(Path {
        loss: 0.03,
        ..Path::default()
    });
    let out = run(&mut pipe, 50_000, 1200, MS);
    let lost = 50_000 - out.len();
    assert!((1300..1700).contains(&lost), "{lost} lost");
    assert_eq!(pipe.stats().dropped_loss, lost as u64);
}

#[test]
fn burst_loss_comes_in_bursts_of_the_stated_length() {
    // Stationary share of the bad state: 0.01 / (0.01 + 0.2) = 4.8 %; mean burst 5 packets.
    let burst_loss = BurstLoss {
        enter: 0.01,
        leave: 0.2,
        loss: 1.0,
    };
    let mut pipe = Pipe::new(Path {
        burst_loss: Some(burst_loss),
        ..Path::default()
    });
    let out = run(&mut pipe, 100_000, 1200, MS);
    let lost = 100_000 - out.len();
    assert!((4000..5600).contains(&lost), "{lost} lost");
    let bursts = out
        .windows(2)
        .filter(|pair| pair[1].0 - pair[0].0 > 1)
        .count();
    let mean = lost as f64 / bursts as f64;
    assert!((4.2..5.8).contains(&mean), "mean burst {mean}");
}

#[test]
fn a_bottleneck_serialises_and_its_queue_drops_the_tail() {
    // 1,250 bytes = 10 ms at 1 Mbps; offered twice the rate for 2 s.
    let path = Path {
        rate_bps: Some(1_000_000),
        queue_ms: 300,
        ..Path::default()
    };
    let mut pipe = Pipe::new(path);
    let out = run(&mut pipe, 400, 1250, 5 * MS);
    let delay_max = out.iter().map(|(_, delay)| *delay).max().unwrap();
    assert!(delay_max <= 310 * MS, "{delay_max:?}");
    assert!(delay_max >= 300 * MS, "{delay_max:?}");
    // 2 s of sending time plus a full queue, at 100 packets per second.
    assert!((225..=235).contains(&out.len()), "{} came out", out.len());
    assert_eq!(pipe.stats().dropped_queue, 400 - out.len() as u64);
}

#[test]
fn jitter_spreads_delay_without_reordering() {
    let mut pipe = Pipe::new(Path {
        delay: 20 * MS,
        jitter: 10 * MS,
        ..Path::default()
    });
    let out = run(&mut pipe, 5000, 1200, 20 * MS);
    assert!(out.is_sorted_by_key(|(index, _)| *index));
    let (min, max) = (
        out.iter().map(|x| x.1).min().unwrap(),
        out.iter().map(|x| x.1).max().unwrap(),
    );
    assert!(min >= 20 * MS && min < 21 * MS, "{min:?}");
    assert!(max <= 30 * MS && max > 29 * MS, "{max:?}");
}

#[test]
fn reordered_packets_are_overtaken_and_counted() {
    let mut pipe = Pipe::new(Path {
        reorder: 0.1,
        ..Path::default()
    });
    let out = run(&mut pipe, 10_000, 1200, MS);
    assert_eq!(out.len(), 10_000);
    let late = out.windows(2).filter(|pair| pair[1].0 < pair[0].0).count();
    assert!((700..1100).contains(&late), "{late} overtaken");
    assert!((900..1100).contains(&pipe.stats().reordered));
}

#[test]
fn a_shorter_delay_does_not_overtake_packets_under_way() {
    let mut pipe = Pipe::new(Path::with_delay(100 * MS));
    let now = Instant::now();
    pipe.push(now, 100, 1).unwrap();
    pipe.set_path(Path::with_delay(10 * MS));
    pipe.push(now + MS, 100, 2).unwrap();
    assert_eq!(pipe.pop(now + 99 * MS), None);
    assert_eq!(pipe.pop(now + 100 * MS), Some(1));
    assert_eq!(pipe.pop(now + 100 * MS), Some(2));
}

#[test]
fn the_same_seed_drops_the_same_packets() {
    let path = Path {
        loss: 0.2,
        jitter: 3 * MS,
        reorder: 0.05,
        seed: 42,
        ..Path::default()
    };
    let (mut a, mut b) = (Pipe::new(path.clone()), Pipe::new(path.clone()));
    let (a, b) = (run(&mut a, 1000, 500, MS), run(&mut b, 1000, 500, MS));
    let order = |out: &[(u32, Duration)]| out.iter().map(|(index, _)| *index).collect::<Vec<_>>();
    assert_eq!(order(&a), order(&b));
    let mut other = Pipe::new(Path { seed: 43, ..path });
    assert_ne!(order(&run(&mut other, 1000, 500, MS)), order(&a));
}

#[test]
fn the_number_of_packets_under_way_is_bounded() {
    let mut pipe = Pipe::new(Path::with_delay(10_000 * MS));
    let now = Instant::now();
    for index in 0..IN_FLIGHT_MAX {
        pipe.push(now, 1, index).unwrap();
    }
    assert_eq!(pipe.push(now, 1, 0), Err(DropReason::InFlight));
    assert_eq!(pipe.len(), IN_FLIGHT_MAX);
}
