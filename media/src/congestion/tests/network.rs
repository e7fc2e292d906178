//! A path with a bottleneck, senders with pacers, and receivers with feedback, in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::congestion::{Config, Controller, Probe, whole_bits};
use crate::rtcp::{Packet, Packets, Writer};
use crate::twcc;

const MTU: usize = 1200;
const FRAME_US: u64 = 33_333;
/// Step of the simulation.
const STEP_US: u64 = 1_000;

/// The forward path.
#[derive(Debug, Clone)]
pub(super) struct Path {
    /// Capacity in bit/s from a second on.
    pub(super) capacity: Vec<(u64, f64)>,
    /// One way, in microseconds; the same back.
    pub(super) delay_us: u64,
    /// Longest queue; what does not fit is dropped. Zero: a policer.
    pub(super) queue_us: u64,
    /// Random loss behind the bottleneck.
    pub(super) loss: f64,
    /// Random delay of up to this, in order.
    pub(super) jitter_us: u64,
    /// Every 100 ms on average nothing arrives for up to this long, then all at once.
    pub(super) stall_us: u64,
    /// Random loss of feedback.
    pub(super) feedback_loss: f64,
    /// Nothing arrives in either direction between these seconds.
    pub(super) outage: Option<(u64, u64)>,
    /// Other traffic: bit/s, on and off for a second each.
    pub(super) cross_bps: f64,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            capacity: vec![(0, 3e6)],
            delay_us: 25_000,
            queue_us: 300_000,
            loss: 0.0,
            jitter_us: 1_000,
            stall_us: 0,
            feedback_loss: 0.0,
            outage: None,
            cross_bps: 0.0,
        }
    }
}

/// What a sender has to send.
#[derive(Debug, Clone)]
pub(super) enum App {
    /// As much as it may, up to a rate.
    Elastic(f64),
    /// The highest of these rates that fits.
    Layers(Vec<f64>),
    /// A rate until a second, nothing until another, then again.
    Pause(f64, u64, u64),
}

impl App {
    fn bps(&self, target: f64, second: u64) -> f64 {
        match self {
            Self::Elastic(max) => max.min(target),
            Self::Layers(layers) => layers
                .iter()
                .copied()
                .filter(|&bps| bps <= target)
                .fold(0.0, f64::max),
            Self::Pause(bps, from, to) => {
                if (*from..*to).contains(&second) {
                    0.0
                } else {
                    bps.min(target)
                }
            }
        }
    }

    fn wanted(&self) -> f64 {
        match self {
            Self::Elastic(max) | Self::Pause(max, ..) => *max,
            Self::Layers(layers) => layers.iter().copied().fold(0.0, f64::max),
        }
    }
}

/// One second of a flow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Second {
    /// Delivered, probes included.
    pub(super) delivered_bps: f64,
    /// Mean estimate.
    pub(super) target_bps: f64,
    /// Least estimate.
    pub(super) target_min_bps: f64,
    /// Highest queueing delay at the bottleneck.
    pub(super) queue_ms: f64,
    pub(super) probes: u64,
    sent: f64,
    dropped: f64,
}

impl Second {
    pub(super) fn lost(&self) -> f64 {
        self.dropped / self.sent.max(1.0)
    }
}

/// A probe on its way.
#[derive(Debug, Clone, Copy)]
struct Probing {
    probe: Probe,
    bytes: usize,
    packets: u32,
    budget: f64,
}

struct Flow {
    controller: Controller,
    app: App,
    seq: u16,
    frame_at: u64,
    media: VecDeque<usize>,
    budget: f64,
    probe: Option<Probing>,
    receiver: twcc::Receiver,
    arriving: BinaryHeap<Reverse<(u64, u16)>>,
    feedback_at: u64,
    feedback_us: u64,
    returning: VecDeque<(u64, Vec<u8>)>,
    seconds: Vec<Second>,
}

/// Flows over one bottleneck.
pub(super) struct Network {
    origin: Instant,
    path: Path,
    rng: StdRng,
    now: u64,
    free_at: u64,
    last_arrival: u64,
    stall: (u64, u64),
    flows: Vec<Flow>,
}

impl Network {
    pub(super) fn new(path: Path, apps: &[App], seed: u64) -> Self {
        let origin = super::start();
        let mut rng = StdRng::seed_from_u64(seed);
        let flows = apps
            .iter()
            .map(|app| {
                let mut controller = Controller::new(&Config::default(), origin);
                controller.set_wanted(origin, whole_bits(app.wanted()));
                Flow {
                    controller,
                    app: app.clone(),
                    seq: rng.random(),
                    frame_at: rng.random_range(0..FRAME_US),
                    media: VecDeque::new(),
                    budget: 0.0,
                    probe: None,
                    receiver: twcc::Receiver::new(origin),
                    arriving: BinaryHeap::new(),
                    feedback_at: rng.random_range(0..100_000),
                    feedback_us: rng.random_range(50_000..100_000),
                    returning: VecDeque::new(),
                    seconds: Vec::new(),
                }
            })
            .collect();
        Self {
            origin,
            path,
            rng,
            now: 0,
            free_at: 0,
            last_arrival: 0,
            stall: (0, 0),
            flows,
        }
    }

    /// The seconds of each flow.
    pub(super) fn run(mut self, seconds: u64) -> Vec<Vec<Second>> {
        while self.now < seconds * 1_000_000 {
            if self.now.is_multiple_of(1_000_000) {
                let second = Second {
                    target_min_bps: f64::INFINITY,
                    ..Second::default()
                };
                self.flows
                    .iter_mut()
                    .for_each(|flow| flow.seconds.push(second));
            }
            self.step();
            self.now += STEP_US;
        }
        self.flows.into_iter().map(|flow| flow.seconds).collect()
    }

    fn step(&mut self) {
        self.cross();
        for index in 0..self.flows.len() {
            self.receive(index);
            self.send(index);
            let queue_ms = self.free_at.saturating_sub(self.now) as f64 / 1e3;
            let flow = &mut self.flows[index];
            let target = flow.controller.target_bps().unwrap_or(1_000_000) as f64;
            let second = flow.seconds.last_mut().unwrap();
            second.target_bps += target / 1e3;
            second.target_min_bps = second.target_min_bps.min(target);
            second.queue_ms = second.queue_ms.max(queue_ms);
        }
    }

    fn instant(&self) -> Instant {
        self.origin + Duration::from_micros(self.now)
    }

    fn second(&self) -> u64 {
        self.now / 1_000_000
    }

    fn is_out(&self) -> bool {
        self.path
            .outage
            .is_some_and(|(from, to)| (from..to).contains(&self.second()))
    }

    fn capacity(&self) -> f64 {
        let from = |&&(from, _): &&(u64, f64)| from <= self.second();
        self.path
            .capacity
            .iter()
            .take_while(from)
            .last()
            .map_or(1e6, |&(_, bps)| bps)
    }

    fn cross(&mut self) {
        let per_packet = MTU as f64 * 8e6 / self.path.cross_bps.max(1.0);
        let on = self.second() % 2 == 1 && self.path.cross_bps > 0.0;
        if on && self.rng.random_bool((STEP_US as f64 / per_packet).min(1.0)) {
            self.enqueue(MTU);
        }
    }

    /// When a packet leaves the bottleneck; `None` when it is dropped.
    fn enqueue(&mut self, bytes: usize) -> Option<u64> {
        let start = self.free_at.max(self.now);
        // A policer has a bucket of 20 ms.
        if start - self.now > self.path.queue_us.max(20_000) {
            return None;
        }
        self.free_at = start + whole_bits(bytes as f64 * 8e6 / self.capacity());
        Some(if self.path.queue_us == 0 {
            self.now
        } else {
            self.free_at
        })
    }

    fn transmit(&mut self, index: usize, bytes: usize, probe: Option<u32>) {
        let now = self.instant();
        let left_at = self.enqueue(bytes);
        let lost = self.rng.random_bool(self.path.loss) || self.is_out();
        let arrival = left_at.filter(|_| !lost).map(|at| self.arrival(at));
        let flow = &mut self.flows[index];
        let second = flow.seconds.last_mut().unwrap();
        second.sent += 1.0;
        match arrival {
            Some(arrival) => {
                second.delivered_bps += bytes as f64 * 8.0;
                flow.arriving.push(Reverse((arrival, flow.seq)));
            }
            None => second.dropped += 1.0,
        }
        flow.controller.packet_sent(now, flow.seq, bytes, probe);
        flow.seq = flow.seq.wrapping_add(1);
    }

    fn arrival(&mut self, left_at: u64) -> u64 {
        let jitter = self.rng.random_range(0..=self.path.jitter_us);
        let at = left_at + self.path.delay_us + jitter;
        if self.path.stall_us > 0 && at > self.stall.1 {
            let from = self.stall.1 + self.rng.random_range(0..200_000);
            let stall = self
                .rng
                .random_range(self.path.stall_us / 2..=self.path.stall_us);
            self.stall = (from, from + stall);
        }
        let (from, to) = self.stall;
        let at = if (from..to).contains(&at) { to } else { at };
        // In order, and not faster than 100 Mbit/s.
        self.last_arrival = at.max(self.last_arrival + 100);
        self.last_arrival
    }

    fn send(&mut self, index: usize) {
        let now = self.instant();
        let second = self.second();
        let flow = &mut self.flows[index];
        let target = flow.controller.target_bps().unwrap_or(1_000_000) as f64;
        if self.now >= flow.frame_at {
            flow.frame_at += FRAME_US;
            let bps = flow.app.bps(target, second);
            let size = self.rng.random_range(0.8..1.2) * bps / 8e6 * FRAME_US as f64;
            let size = usize::try_from(whole_bits(size)).unwrap();
            flow.media.extend(
                (0..size / MTU)
                    .map(|_| MTU)
                    .chain((!size.is_multiple_of(MTU)).then_some(size % MTU)),
            );
        }
        if flow.controller.poll_timeout().is_some_and(|at| at <= now) {
            flow.controller.handle_timeout(now);
        }
        if flow.probe.is_none() && !flow.seconds.is_empty() {
            flow.probe = flow.controller.poll_probe().map(|probe| Probing {
                probe,
                bytes: 0,
                packets: 0,
                budget: 0.0,
            });
            flow.seconds.last_mut().unwrap().probes += u64::from(flow.probe.is_some());
        }
        if let Some(probing) = flow.probe.take() {
            self.send_probe(index, probing);
            return;
        }
        let per_step = flow.controller.pacing_bps() as f64 / 8e6 * STEP_US as f64;
        flow.budget = (flow.budget + per_step).min(5.0 * per_step);
        while self.flows[index].budget > 0.0 {
            let Some(bytes) = self.flows[index].media.pop_front() else {
                break;
            };
            self.flows[index].budget -= bytes as f64;
            self.transmit(index, bytes, None);
        }
    }

    fn send_probe(&mut self, index: usize, mut probing: Probing) {
        let Probe { id, bps, bytes, .. } = probing.probe;
        let is_over = |probing: &Probing| probing.bytes >= bytes && probing.packets >= 5;
        probing.budget += bps as f64 / 8e6 * STEP_US as f64;
        while probing.budget > 0.0 && !is_over(&probing) {
            let padding = (bytes / 5).clamp(100, MTU);
            let size = self.flows[index].media.pop_front().unwrap_or(padding);
            probing.bytes += size;
            probing.packets += 1;
            probing.budget -= size as f64;
            self.transmit(index, size, Some(id));
        }
        self.flows[index].probe = (!is_over(&probing)).then_some(probing);
    }

    fn receive(&mut self, index: usize) {
        let now = self.instant();
        let origin = self.origin;
        let deaf = self.is_out() || self.rng.random_bool(self.path.feedback_loss);
        let flow = &mut self.flows[index];
        while let Some(&Reverse((at, seq))) = flow.arriving.peek()
            && at <= self.now
        {
            flow.arriving.pop();
            flow.receiver
                .record(seq, origin + Duration::from_micros(at));
        }
        if self.now >= flow.feedback_at {
            flow.feedback_at += flow.feedback_us;
            while flow.receiver.is_due() {
                let mut out = [0; 1500];
                let mut writer = Writer::new(&mut out);
                flow.receiver.write(&mut writer, (1, 2));
                let len = writer.len();
                if !deaf {
                    let bytes = out[..len].to_vec();
                    flow.returning
                        .push_back((self.now + self.path.delay_us, bytes));
                }
            }
        }
        while flow
            .returning
            .front()
            .is_some_and(|&(at, _)| at <= self.now)
        {
            let (_, bytes) = flow.returning.pop_front().unwrap();
            for packet in Packets::new(&bytes) {
                let Packet::TransportFeedback { body } = packet else {
                    panic!("{packet:?}")
                };
                let feedback = twcc::Feedback::parse(body).unwrap();
                flow.controller.feedback(now, &feedback);
            }
        }
    }
}
