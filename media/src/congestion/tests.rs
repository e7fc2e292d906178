mod network;

use proptest::prelude::*;

use super::*;
use network::{App, Network, Path, Second};

const SEEDS: std::ops::Range<u64> = 1..6;

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
fn start() -> Instant {
    Instant::now()
}

/// Runs one flow and prints its seconds.
fn run(name: &str, path: &Path, app: App, seed: u64, seconds: u64) -> Vec<Second> {
    let run = Network::new(path.clone(), &[app], seed).run(seconds);
    let flow = run.into_iter().next().unwrap();
    show(name, seed, &flow);
    flow
}

fn show(name: &str, seed: u64, flow: &[Second]) {
    println!("{name}, seed {seed}");
    for (i, second) in flow.iter().enumerate() {
        println!(
            "{i:3} s  target {:8.0}  least {:8.0}  delivered {:8.0}  queue {:4.0} ms  lost {:5.1} %  probes {}",
            second.target_bps / 1e3,
            second.target_min_bps / 1e3,
            second.delivered_bps / 1e3,
            second.queue_ms,
            second.lost() * 100.0,
            second.probes,
        );
    }
}

fn delivered(flow: &[Second]) -> f64 {
    flow.iter().map(|second| second.delivered_bps).sum::<f64>() / flow.len() as f64
}

fn target(flow: &[Second]) -> f64 {
    flow.iter().map(|second| second.target_bps).sum::<f64>() / flow.len() as f64
}

fn queue_ms(flow: &[Second]) -> f64 {
    flow.iter()
        .map(|second| second.queue_ms)
        .fold(0.0, f64::max)
}

#[test]
fn follows_steps_of_the_capacity() {
    for seed in SEEDS {
        let path = Path {
            capacity: vec![(0, 3e6), (20, 0.6e6), (40, 0.2e6), (60, 3e6)],
            ..Path::default()
        };
        let flow = run("steps", &path, App::Elastic(6e6), seed, 80);
        for (from, to, capacity) in [
            (8, 20, 3e6),
            (22, 40, 0.6e6),
            (42, 60, 0.2e6),
            (70, 80, 3e6),
        ] {
            let share = delivered(&flow[from..to]) / capacity;
            let queue = queue_ms(&flow[from..to]);
            println!("seed {seed}: {from}-{to} s: {share:.2} of {capacity}, queue {queue:.0} ms");
            assert!(
                (0.75..1.05).contains(&share),
                "seed {seed}: {from}-{to} s: {share}"
            );
            assert!(queue <= 250.0, "seed {seed}: {from}-{to} s: {queue} ms");
        }
        let recovered = flow[60..70]
            .iter()
            .position(|second| second.target_bps >= 0.9 * 3e6);
        println!("seed {seed}: recovered after {recovered:?} s");
        assert!(recovered.is_some(), "seed {seed}");
    }
}

#[test]
fn random_loss_does_not_collapse_the_estimate() {
    for loss in [0.02, 0.05, 0.1] {
        for seed in SEEDS {
            let path = Path {
                capacity: vec![(0, 5e6)],
                loss,
                ..Path::default()
            };
            let flow = run("loss", &path, App::Elastic(10e6), seed, 60);
            let share = delivered(&flow[10..]) / (1.0 - loss) / 5e6;
            println!(
                "loss {loss}, seed {seed}: {share:.2}, queue {:.0}",
                queue_ms(&flow[10..])
            );
            assert!(share >= 0.8, "loss {loss}, seed {seed}: {share}");
        }
    }
}

#[test]
fn a_policer_brings_the_estimate_down() {
    for seed in SEEDS {
        let path = Path {
            capacity: vec![(0, 2e6)],
            queue_us: 0,
            ..Path::default()
        };
        let flow = run("policer", &path, App::Elastic(6e6), seed, 60);
        let late = &flow[10..];
        let lost = late.iter().map(Second::lost).sum::<f64>() / late.len() as f64;
        let share = delivered(late) / 2e6;
        println!("policer, seed {seed}: {share:.2}, lost {lost:.3}");
        assert!(share >= 0.75 && lost <= 0.08, "seed {seed}: {share} {lost}");
    }
}

#[test]
fn headroom_is_known_to_a_limited_application() {
    for seed in SEEDS {
        let app = App::Layers(vec![0.2e6, 0.5e6, 1.5e6, 4e6]);
        let flow = run("limited", &Path::default(), app, seed, 60);
        let known = target(&flow[10..]) / 3e6;
        let sent = delivered(&flow[10..]);
        println!("limited, seed {seed}: knows {known:.2} of the capacity, sends {sent:.0}");
        assert!((0.7..1.1).contains(&known), "seed {seed}: {known}");
        assert!(sent >= 1.4e6, "seed {seed}: {sent}");
    }
}

#[test]
fn random_loss_does_not_take_a_limited_applications_headroom() {
    for seed in SEEDS {
        let path = Path {
            loss: 0.1,
            jitter_us: 5_000,
            ..Path::default()
        };
        let app = App::Layers(vec![0.2e6, 0.5e6, 1.5e6, 4e6]);
        let flow = run("limited, loss", &path, app, seed, 60);
        let known = target(&flow[10..]) / 3e6;
        let sent = delivered(&flow[10..]) / 0.9;
        println!("limited, loss, seed {seed}: knows {known:.2}, sends {sent:.0}");
        assert!(known >= 0.7, "seed {seed}: {known}");
        assert!(sent >= 1.3e6, "seed {seed}: {sent}");
    }
}

#[test]
fn jitter_of_wifi_does_not_collapse_the_estimate() {
    for seed in SEEDS {
        for (jitter_us, stall_us) in [(2_000, 20_000), (10_000, 0), (20_000, 0)] {
            let path = Path {
                jitter_us,
                stall_us,
                ..Path::default()
            };
            let flow = run("jitter", &path, App::Elastic(6e6), seed, 60);
            let share = delivered(&flow[10..]) / 3e6;
            println!("jitter {jitter_us} {stall_us}, seed {seed}: {share:.2}");
            assert!(
                share >= 0.7,
                "jitter {jitter_us} {stall_us}, seed {seed}: {share}"
            );
        }
    }
}

#[test]
fn two_flows_share() {
    for seed in SEEDS {
        let apps = [App::Elastic(6e6), App::Elastic(6e6)];
        let flows = Network::new(Path::default(), &apps, seed).run(90);
        flows.iter().for_each(|flow| show("shared", seed, flow));
        let shares: Vec<f64> = flows
            .iter()
            .map(|flow| delivered(&flow[30..]) / 3e6)
            .collect();
        println!(
            "shared, seed {seed}: {shares:.2?}, queue {:.0}",
            queue_ms(&flows[0][30..])
        );
        assert!(
            shares.iter().all(|&share| share >= 0.3),
            "seed {seed}: {shares:?}"
        );
    }
}

#[test]
fn a_long_path_is_filled() {
    for seed in SEEDS {
        let path = Path {
            delay_us: 150_000,
            ..Path::default()
        };
        let flow = run("long", &path, App::Elastic(6e6), seed, 60);
        let share = delivered(&flow[15..]) / 3e6;
        let queue = queue_ms(&flow[15..]);
        println!("long, seed {seed}: {share:.2}, queue {queue:.0} ms");
        assert!(
            share >= 0.75 && queue <= 250.0,
            "seed {seed}: {share} {queue}"
        );
    }
}

#[test]
fn other_traffic_is_let_through() {
    for seed in SEEDS {
        let path = Path {
            cross_bps: 1e6,
            ..Path::default()
        };
        let flow = run("cross", &path, App::Elastic(6e6), seed, 60);
        let share = delivered(&flow[10..]) / 2.5e6;
        let queue = queue_ms(&flow[10..]);
        println!("cross, seed {seed}: {share:.2} of what is left, queue {queue:.0} ms");
        assert!(share >= 0.6, "seed {seed}: {share}");
    }
}

#[test]
fn an_outage_backs_off_and_recovers() {
    for seed in SEEDS {
        let path = Path {
            outage: Some((20, 24)),
            ..Path::default()
        };
        let flow = run("outage", &path, App::Elastic(6e6), seed, 40);
        let during = flow[23].target_bps;
        let share = delivered(&flow[32..]) / 3e6;
        println!("outage, seed {seed}: {during:.0} then {share:.2}");
        assert!(during < 0.5e6, "seed {seed}: {during}");
        assert!(share >= 0.75, "seed {seed}: {share}");
    }
}

#[test]
fn a_pause_keeps_the_estimate_sane() {
    for seed in SEEDS {
        let app = App::Pause(2e6, 20, 60);
        let flow = run("pause", &Path::default(), app, seed, 80);
        let after = delivered(&flow[62..]) / 2e6;
        assert!(after >= 0.9, "seed {seed}: {after}");
    }
}

#[test]
fn lost_feedback_does_not_stop_it() {
    for seed in SEEDS {
        let path = Path {
            feedback_loss: 0.3,
            ..Path::default()
        };
        let flow = run("feedback", &path, App::Elastic(6e6), seed, 60);
        let share = delivered(&flow[10..]) / 3e6;
        println!("feedback, seed {seed}: {share:.2}");
        assert!(share >= 0.75, "seed {seed}: {share}");
    }
}

/// A controller that sent a packet every 10 ms for this long, and the time after it.
fn sending(config: &Config, packets: u16) -> (Controller, Instant) {
    let origin = start();
    let mut controller = Controller::new(config, origin);
    let at = |packets: u16| origin + Duration::from_millis(10 * u64::from(packets));
    for seq in 0..packets {
        controller.packet_sent(at(seq), seq, 1250, None);
    }
    (controller, at(packets))
}

/// Feedback that the first `count` packets arrived as they were sent.
fn arrived(count: u8) -> Vec<u8> {
    let mut body = vec![0, 0, 0, count, 0, 0, 0, 0, 0x20, count];
    body.extend(std::iter::repeat_n(40, usize::from(count)));
    body
}

#[test]
fn a_silent_peer_is_not_limited() {
    let (mut controller, now) = sending(&Config::default(), 100);
    assert_eq!(controller.target_bps(), None);
    assert_eq!(controller.poll_timeout(), None);
    controller.handle_timeout(now + Duration::from_secs(60));
    assert_eq!(controller.target_bps(), None);
    assert_eq!(controller.pacing_bps(), 1_250_000);
}

#[test]
fn probes_go_out_with_the_first_packet_and_no_higher_than_wanted() {
    let (mut controller, _) = sending(&Config::default(), 0);
    assert_eq!(controller.poll_probe(), None);
    let (mut controller, _) = sending(&Config::default(), 1);
    let rates: Vec<_> = std::iter::from_fn(|| controller.poll_probe())
        .map(|probe| probe.bps)
        .collect();
    assert_eq!(rates, [3_000_000, 6_000_000]);
    let origin = start();
    let mut controller = Controller::new(&Config::default(), origin);
    controller.set_wanted(origin, 2_000_000);
    controller.packet_sent(origin, 0, 1250, None);
    let rates: Vec<_> = std::iter::from_fn(|| controller.poll_probe())
        .map(|probe| probe.bps)
        .collect();
    assert_eq!(rates, [2_500_000, 2_500_000]);
}

#[test]
fn a_receivers_own_estimate_is_believed_without_feedback_and_caps_with_it() {
    let (mut controller, now) = sending(&Config::default(), 100);
    controller.remb(now, 2_500_000);
    assert_eq!(controller.target_bps(), Some(2_500_000));
    let body = arrived(100);
    controller.feedback(now, &Feedback::parse(&body).unwrap());
    controller.remb(now, 400_000);
    assert_eq!(controller.target_bps(), Some(400_000));
    controller.remb(now, 20_000_000);
    assert!(
        controller
            .target_bps()
            .is_some_and(|bps| (900_000..3_000_000).contains(&bps))
    );
}

#[test]
fn reports_alone_raise_and_limit_the_estimate() {
    let run = |lost_above: f64, seconds: u64| {
        let origin = start();
        let mut controller = Controller::new(&Config::default(), origin);
        let mut seq = 0u16;
        for second in 1..=seconds {
            let target = controller.target_bps().unwrap_or(1_000_000) as f64;
            for _ in 0..whole_bits(target / 9600.0) {
                let at = origin + Duration::from_secs(second);
                controller.packet_sent(at, seq, 1200, None);
                seq = seq.wrapping_add(1);
            }
            let loss = (1.0 - lost_above / target).max(0.0);
            let fraction = u8::try_from(whole_bits(loss * 256.0)).unwrap();
            let now = origin + Duration::from_secs(second) + Duration::from_millis(900);
            controller.report(now, fraction, Duration::from_millis(80));
            // The second stream's block.
            controller.report(now, fraction, Duration::from_millis(80));
        }
        controller
    };
    let free = run(f64::INFINITY, 20);
    assert!(
        free.target_bps().is_some_and(|bps| bps > 3_000_000),
        "{free:?}"
    );
    assert_eq!(free.rtt(), Duration::from_millis(80));
    let limited = run(600e3, 20);
    let target = limited.target_bps().unwrap();
    assert!((500_000..750_000).contains(&target), "{target}");
    assert!(limited.loss() < 0.15);
}

#[test]
fn missing_feedback_halves_the_estimate_each_time() {
    let (mut controller, now) = sending(&Config::default(), 100);
    let body = arrived(90);
    controller.feedback(now, &Feedback::parse(&body).unwrap());
    let before = controller.target_bps().unwrap();
    let mut at = controller.poll_timeout().unwrap();
    let late = at - now;
    assert_eq!(late, 2 * controller.rtt() + Duration::from_millis(500));
    controller.handle_timeout(at - Duration::from_millis(1));
    assert_eq!(controller.target_bps(), Some(before));
    for times in 1..=3 {
        controller.handle_timeout(at);
        let target = controller.target_bps().unwrap();
        assert!(target.abs_diff(before >> times) <= 1, "{target}");
        at = controller.poll_timeout().unwrap();
    }
    assert_eq!(controller.stats().timeouts, 3);
    // A report tells that the path works.
    controller.report(at, 0, Duration::ZERO);
    assert_eq!(controller.poll_timeout(), Some(at + late));
}

#[test]
fn nothing_in_flight_is_waited_for() {
    let (mut controller, now) = sending(&Config::default(), 50);
    let body = arrived(50);
    controller.feedback(now, &Feedback::parse(&body).unwrap());
    assert_eq!(controller.poll_timeout(), None);
}

proptest! {
    #[test]
    fn no_feedback_breaks_it(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 8..64), 1..60),
        first in any::<u16>(),
    ) {
        let origin = start();
        let config = Config::default();
        let mut controller = Controller::new(&config, origin);
        let mut seq = first;
        for (i, mut body) in bodies.into_iter().enumerate() {
            let now = origin + Duration::from_millis(50 * i as u64);
            for _ in 0..20 {
                controller.packet_sent(now, seq, 1200, seq.is_multiple_of(7).then_some(1));
                seq = seq.wrapping_add(1);
            }
            // About packets that were sent.
            body[..2].copy_from_slice(&seq.wrapping_sub(30).to_be_bytes());
            body[2] = 0;
            if let Some(feedback) = Feedback::parse(&body) {
                controller.feedback(now, &feedback);
            }
            while controller.poll_probe().is_some() {}
            controller.handle_timeout(now);
            let target = controller.target_bps().unwrap_or(config.start_bps);
            prop_assert!((config.min_bps..=config.max_bps).contains(&target));
            prop_assert!((0.0..=1.0).contains(&controller.loss()));
        }
    }
}

#[test]
fn a_narrow_path_is_known_to_who_sends_only_a_voice() {
    for seed in SEEDS {
        let path = Path {
            capacity: vec![(0, 0.4e6), (10, 0.2e6)],
            ..Path::default()
        };
        let app = App::Layers(vec![53e3, 115e3, 150e3, 200e3, 300e3]);
        let flow = run("voice", &path, app, seed, 60);
        let late = &flow[20..];
        let low = late
            .iter()
            .filter(|second| second.target_bps < 0.15e6)
            .count();
        println!(
            "voice, seed {seed}: {:.2} known, {low} seconds low",
            target(late) / 0.2e6
        );
        assert!(target(late) > 0.8 * 0.2e6, "seed {seed}");
    }
}
