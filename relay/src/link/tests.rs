//! Two ends of a link over a seeded bad network, in virtual time.

use std::collections::BTreeMap;

use media::packet::LayerMeta;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// One direction of a path.
#[derive(Clone, Copy)]
struct Path {
    delay: Duration,
    /// Probability that a packet is lost outside of bursts.
    loss: f64,
    /// Probability that a burst begins with a packet; all packets of 10 ms are lost then.
    burst: f64,
    /// Probability that a packet is up to 3 ms late.
    reorder: f64,
}

impl Path {
    fn clean(delay_ms: u32) -> Self {
        Self {
            delay: MS * delay_ms,
            loss: 0.0,
            burst: 0.0,
            reorder: 0.0,
        }
    }
}

struct Pair {
    now: Instant,
    path: Path,
    ends: [Link; 2],
    /// By time of arrival and order of sending: destination and datagram.
    network: BTreeMap<(Instant, u64), (usize, Bytes)>,
    carried: u64,
    burst_until: [Option<Instant>; 2],
    cut: bool,
    rng: SmallRng,
    received: Vec<Bytes>,
    /// When the media packet with this payload was first asked to be sent.
    worst_delay: Duration,
}

impl Pair {
    fn new(path: Path) -> Self {
        let now = Instant::now();
        Self {
            now,
            path,
            ends: [
                Link::new(now, Some(path.delay * 2)),
                Link::new(now, Some(path.delay * 2)),
            ],
            network: BTreeMap::new(),
            carried: 0,
            burst_until: [None; 2],
            cut: false,
            rng: SmallRng::seed_from_u64(7),
            received: Vec::new(),
            worst_delay: Duration::ZERO,
        }
    }

    fn carry(&mut self, from: usize, datagram: Bytes) {
        self.carried += 1;
        if self.rng.random_bool(self.path.burst) {
            self.burst_until[from] = Some(self.now + 10 * MS);
        }
        let burst = self.burst_until[from].is_some_and(|until| self.now < until);
        if self.cut || burst || self.rng.random_bool(self.path.loss) {
            return;
        }
        let mut at = self.now + self.path.delay;
        if self.rng.random_bool(self.path.reorder) {
            at += Duration::from_micros(self.rng.random_range(0..3000));
        }
        self.network
            .insert((at, self.carried), (1 - from, datagram));
    }

    /// Runs until `end`.
    fn run(&mut self, end: Instant) {
        loop {
            for from in 0..2 {
                while let Some(datagram) = self.ends[from].poll_transmit(self.now) {
                    self.carry(from, datagram);
                }
            }
            let arrival = self.network.first_key_value().map(|((at, _), _)| *at);
            let timers = self.ends.iter_mut().map(Link::poll_timeout);
            let next = timers.chain(arrival).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            while let Some(entry) = self
                .network
                .first_entry()
                .filter(|entry| entry.key().0 <= self.now)
            {
                let (to, datagram) = entry.remove();
                self.ends[to].handle_datagram(self.now, datagram);
            }
            for end in &mut self.ends {
                end.handle_timeout(self.now);
            }
            while let Some(event) = self.ends[1].poll_event() {
                if let Event::Media { rtp, .. } = event {
                    let sent_us = u64::from_be_bytes(rtp[..8].try_into().unwrap());
                    let age = self.now - self.start() - Duration::from_micros(sent_us);
                    self.worst_delay = self.worst_delay.max(age);
                    self.received.push(rtp);
                }
            }
        }
    }

    fn start(&self) -> Instant {
        self.ends[0].opened()
    }

    /// Sends `count` packets from the first end, one per `spacing`, and lets the tail settle.
    fn stream(&mut self, count: u64, spacing: Duration) {
        for index in 0..count {
            let mut rtp = BytesMut::with_capacity(1000);
            let sent_us = u64::try_from((self.now - self.start()).as_micros()).unwrap();
            rtp.put_u64(sent_us);
            rtp.put_u64(index);
            rtp.resize(1000, 0);
            let layer = LayerMeta {
                frame_start: true,
                frame_end: true,
                ..LayerMeta::default()
            };
            let meta = PacketMeta {
                layer,
                ..PacketMeta::default()
            };
            self.ends[0].send_media(self.now, (1, Class::Base), meta, rtp.freeze());
            self.run(self.now + spacing);
        }
        self.run(self.now + 1000 * MS);
    }
}

#[test]
fn five_percent_loss_is_repaired_hop_by_hop() {
    for (delay_ms, loss) in [(10, 0.05), (40, 0.05), (80, 0.03)] {
        let mut pair = Pair::new(Path {
            loss,
            ..Path::clean(delay_ms)
        });
        let count = 100_000;
        pair.stream(count, Duration::from_micros(400));
        let residual = count - pair.received.len() as u64;
        let counters = pair.ends[1].counters();
        assert!(residual < 10, "{residual} of {count} lost at {delay_ms} ms");
        let share = counters.packets_lost as f64 / count as f64;
        assert!((share - loss).abs() < 0.005, "{share}");
        assert_eq!(counters.packets_lost - counters.packets_repaired, residual);
        let sent = pair.ends[0].counters();
        let repairs = sent.repairs_sent as f64 / sent.packets_sent as f64;
        assert!(repairs < 0.12, "{repairs} of the packets were repairs");
        let rtt = pair.ends[0].rtt();
        assert!(
            rtt >= MS * delay_ms * 2 && rtt < MS * delay_ms * 2 + 2 * MS,
            "{rtt:?}"
        );
    }
}

#[test]
fn bursts_are_repaired_and_reordering_is_no_loss() {
    let mut pair = Pair::new(Path {
        burst: 0.001,
        loss: 0.005,
        ..Path::clean(20)
    });
    let count = 50_000;
    pair.stream(count, Duration::from_micros(400));
    let residual = count - pair.received.len() as u64;
    assert!(residual < 5, "{residual} of {count} lost");

    let mut pair = Pair::new(Path {
        reorder: 0.3,
        ..Path::clean(20)
    });
    pair.stream(5_000, Duration::from_micros(400));
    assert_eq!(pair.received.len(), 5_000);
    assert_eq!(pair.ends[0].counters().repairs_sent, 0);
}

#[test]
fn a_repair_takes_one_round_trip_more_and_a_lost_tail_is_noticed() {
    let mut pair = Pair::new(Path::clean(10));
    pair.stream(10, 5 * MS);
    pair.cut = true;
    let meta = PacketMeta::default();
    let sent_us = u64::try_from((pair.now - pair.start()).as_micros()).unwrap();
    let rtp = Bytes::copy_from_slice(&sent_us.to_be_bytes());
    pair.ends[0].send_media(pair.now, (1, Class::Audio), meta, rtp);
    pair.run(pair.now + MS);
    pair.cut = false;
    pair.run(pair.now + 200 * MS);
    assert_eq!(pair.received.len(), 11);
    // A heartbeat within 60 ms tells, the hold is 4 ms, request and answer take a round trip.
    assert!(pair.worst_delay <= 96 * MS, "{:?}", pair.worst_delay);
}

#[test]
fn death_is_noticed_within_a_quarter_of_a_second_of_silence() {
    let mut pair = Pair::new(Path::clean(150));
    pair.run(pair.now + 2000 * MS);
    pair.cut = true;
    let cut = pair.now;
    while !pair.ends[1].is_dead(pair.now) {
        pair.run(pair.now + 5 * MS);
        assert!(pair.now < cut + 1000 * MS);
    }
    // What was under way for 150 ms still arrives; then 250 ms of silence.
    let took = pair.now - cut;
    assert!(took <= 410 * MS && took >= 250 * MS, "{took:?}");
}

#[test]
fn any_datagram_is_survived() {
    let now = Instant::now();
    let mut link = Link::new(now, None);
    let mut rng = SmallRng::seed_from_u64(1);
    for _ in 0..20_000 {
        let mut bytes = vec![0; rng.random_range(0..40)];
        rng.fill(bytes.as_mut_slice());
        link.handle_datagram(now, Bytes::from(bytes));
        while link.poll_event().is_some() {}
        link.handle_timeout(now);
        while link.poll_transmit(now).is_some() {}
    }
    assert!(link.counters().malformed > 0);
}
