//! How calls are, over all transports: what `antipode_media_*` says.

use media::router::{Stats, SubscriptionReport, TransportReport, UplinkReport};
use prometheus::{Counter, Histogram, HistogramOpts, HistogramVec, IntCounter, Opts, Registry};
use std::time::Duration;

/// From what audio alone takes to what three cameras in full take, in bit/s.
const RATE_BUCKETS: &[f64] = &[
    100e3, 200e3, 400e3, 700e3, 1e6, 1.5e6, 2e6, 3e6, 5e6, 8e6, 12e6, 20e6,
];
/// From a clean path to one that no repair helps.
const LOSS_BUCKETS: &[f64] = &[0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4];
/// From one city to the other side of the Earth and a full buffer, in seconds.
const RTT_BUCKETS: &[f64] = &[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0];
/// From one burst of the pacer to what it drops at, in seconds.
const QUEUE_BUCKETS: &[f64] = &[0.0, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8];

/// Once a second and transport each.
#[derive(Clone, Debug)]
pub(in super::super) struct Quality {
    estimate: Histogram,
    sent: Histogram,
    rtt: Histogram,
    loss: HistogramVec,
    queue: Histogram,
    paused: Counter,
    watched: Counter,
    paced: IntCounter,
    padding: IntCounter,
    probes: IntCounter,
}

impl Quality {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let quality = Self {
            estimate: histogram(
                "estimate_bits_per_second",
                "What the paths to receivers carry by congestion control, once a second each.",
                RATE_BUCKETS,
            )?,
            sent: histogram(
                "sent_bits_per_second",
                "What receivers are sent, everything included, once a second each.",
                RATE_BUCKETS,
            )?,
            rtt: histogram(
                "rtt_seconds",
                "Round trip to receivers, once a second each.",
                RTT_BUCKETS,
            )?,
            loss: HistogramVec::new(
                options(
                    "loss_ratio",
                    "Loss before repair, once a second for each receiver and each publisher's stream.",
                )
                .buckets(LOSS_BUCKETS.to_vec()),
                &["direction"],
            )?,
            queue: histogram(
                "pacer_queue_seconds",
                "How long a packet put into the pacer would wait, once a second each.",
                QUEUE_BUCKETS,
            )?,
            paused: counter(
                "paused_seconds_total",
                "Time that subscriptions were paused because they did not fit.",
            )?,
            watched: counter(
                "subscribed_seconds_total",
                "Time that subscriptions wanted something.",
            )?,
            paced: whole(
                "paced_packets_total",
                "Packets to subscribers that waited in the pacer.",
            )?,
            padding: whole(
                "padding_bytes_total",
                "Sent to subscribers to fill probes, carrying nothing new.",
            )?,
            probes: whole("probes_total", "Probes sent to subscribers.")?,
        };
        for metric in [
            &quality.estimate,
            &quality.sent,
            &quality.rtt,
            &quality.queue,
        ] {
            registry.register(Box::new(metric.clone()))?;
        }
        for metric in [&quality.paced, &quality.padding, &quality.probes] {
            registry.register(Box::new(metric.clone()))?;
        }
        registry.register(Box::new(quality.loss.clone()))?;
        registry.register(Box::new(quality.paused.clone()))?;
        registry.register(Box::new(quality.watched.clone()))?;
        Ok(quality)
    }

    /// Adds what a router counted since `before`.
    pub(super) fn add_router(&self, before: &Stats, after: &Stats) {
        self.paced
            .inc_by(after.paced_packets - before.paced_packets);
        self.padding
            .inc_by(after.padding_bytes - before.padding_bytes);
        self.probes.inc_by(after.probes - before.probes);
    }

    /// Takes the reports of one shard, `interval` after those before.
    pub(in super::super) fn observe(&self, reports: &[TransportReport], interval: Duration) {
        for report in reports {
            if !report.subscriptions.is_empty() {
                self.observe_receiver(report, interval);
            }
            for UplinkReport { loss, .. } in report.uplinks.iter().filter(|uplink| uplink.bps > 0) {
                let uplink = self.loss.with_label_values(&["from_publisher"]);
                uplink.observe(f64::from(*loss));
            }
        }
    }

    fn observe_receiver(&self, report: &TransportReport, interval: Duration) {
        if let Some(estimate) = report.estimate_bps {
            self.estimate.observe(approximate(estimate));
        }
        self.sent.observe(approximate(report.sent_bps));
        if !report.rtt.is_zero() {
            self.rtt.observe(report.rtt.as_secs_f64());
        }
        let downlink = self.loss.with_label_values(&["to_subscriber"]);
        downlink.observe(f64::from(report.loss));
        self.queue.observe(report.queue.as_secs_f64());
        let wanted = |subscription: &&SubscriptionReport| subscription.wanted.is_some();
        for subscription in report.subscriptions.iter().filter(wanted) {
            self.watched.inc_by(interval.as_secs_f64());
            if subscription.paused {
                self.paused
                    .inc_by(subscription.paused_for.min(interval).as_secs_f64());
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "52 bits of bit/s are plenty")]
fn approximate(bps: u64) -> f64 {
    bps as f64
}

fn options(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(format!("antipode_media_{name}"), help)
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
    Histogram::with_opts(options(name, help).buckets(buckets.to_vec()))
}

fn whole(name: &str, help: &str) -> prometheus::Result<IntCounter> {
    IntCounter::with_opts(Opts::new(format!("antipode_media_{name}"), help))
}

fn counter(name: &str, help: &str) -> prometheus::Result<Counter> {
    Counter::with_opts(Opts::new(format!("antipode_media_{name}"), help))
}
