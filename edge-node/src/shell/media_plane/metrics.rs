//! The media plane's metrics.

mod quality;

use crate::core::ice;
use media::router::Stats;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use quality::Quality;
use std::time::Duration;

/// From 25 µs, below what a wake-up costs, to 100 ms, which is a stall.
const DELAY_BUCKETS: &[f64] = &[
    0.000_025, 0.000_05, 0.000_1, 0.000_2, 0.000_4, 0.000_7, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
    0.1,
];

/// All of them; shared by shards, transports and listener.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    received: IntCounter,
    forwarded: IntCounter,
    dropped: IntCounterVec,
    delay: Histogram,
    nacks: IntCounterVec,
    plis: IntCounterVec,
    rtx: IntCounterVec,
    checks: IntCounterVec,
    queue_dropped: IntCounterVec,
    tcp_refused: IntCounterVec,
    audio_selected: IntGauge,
    audio_suppressed: IntCounter,
    audio_changes: IntCounter,
    /// Transports that are open.
    pub(super) transports: IntGauge,
    /// How calls are.
    pub(super) quality: Quality,
}

impl Metrics {
    /// Registers them.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let delay = HistogramOpts::new(
            "antipode_edge_forward_delay_seconds",
            "Time from the arrival of a batch's oldest packet to its sending, once per batch.",
        )
        .buckets(DELAY_BUCKETS.to_vec());
        let metrics = Self {
            received: IntCounter::new(
                "antipode_edge_rtp_received_packets_total",
                "RTP packets received from publishers.",
            )?,
            forwarded: IntCounter::new(
                "antipode_edge_rtp_forwarded_packets_total",
                "RTP packets sent to subscribers, without retransmissions.",
            )?,
            dropped: vector("rtp_dropped_packets", "Media packets dropped.", "reason")?,
            delay: Histogram::with_opts(delay)?,
            nacks: vector("nacks", "Packets asked for again.", "direction")?,
            plis: vector("plis", "Keyframe requests.", "direction")?,
            rtx: vector("rtx_packets", "Retransmissions to subscribers.", "result")?,
            checks: vector("ice_checks", "STUN messages received.", "result")?,
            queue_dropped: vector(
                "shard_queue_dropped",
                "Items dropped by a full queue.",
                "queue",
            )?,
            tcp_refused: vector("tcp_refused", "ICE-TCP connections refused.", "reason")?,
            transports: IntGauge::new("antipode_edge_transports", "Transports that are open.")?,
            audio_selected: IntGauge::new(
                "antipode_edge_audio_selected",
                "Audio tracks forwarded now, of rooms with a limit, summed over shards.",
            )?,
            audio_suppressed: IntCounter::new(
                "antipode_edge_audio_suppressed_packets_total",
                "Audio packets that nobody was sent because others spoke.",
            )?,
            audio_changes: IntCounter::new(
                "antipode_edge_audio_changes_total",
                "Audio tracks that began to be forwarded because their owner spoke.",
            )?,
            quality: Quality::new(registry)?,
        };
        metrics.register(registry)?;
        Ok(metrics)
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.received.clone()))?;
        registry.register(Box::new(self.forwarded.clone()))?;
        registry.register(Box::new(self.delay.clone()))?;
        registry.register(Box::new(self.transports.clone()))?;
        registry.register(Box::new(self.audio_selected.clone()))?;
        registry.register(Box::new(self.audio_suppressed.clone()))?;
        registry.register(Box::new(self.audio_changes.clone()))?;
        for vector in [
            &self.dropped,
            &self.nacks,
            &self.plis,
            &self.rtx,
            &self.checks,
            &self.queue_dropped,
            &self.tcp_refused,
        ] {
            registry.register(Box::new(vector.clone()))?;
        }
        Ok(())
    }

    /// A batch went out this long after its oldest packet arrived.
    pub(super) fn forwarded_after(&self, delay: Duration) {
        self.delay.observe(delay.as_secs_f64());
    }

    /// Media packets dropped outside the routers.
    pub(super) fn dropped(&self, reason: &'static str, packets: u64) {
        add(&self.dropped, reason, packets);
    }

    /// Items that a full queue dropped.
    pub(super) fn queue_dropped(&self, queue: &'static str, items: u64) {
        add(&self.queue_dropped, queue, items);
    }

    /// An ICE-TCP connection was refused or ended.
    pub(super) fn tcp_refused(&self, reason: &'static str) {
        add(&self.tcp_refused, reason, 1);
    }

    /// Adds what a router counted since `before`.
    pub(super) fn add_router(&self, before: &Stats, after: &Stats) {
        self.received
            .inc_by(after.received_packets - before.received_packets);
        self.forwarded
            .inc_by(after.forwarded_packets - before.forwarded_packets);
        let selected = after.audio_selected.cast_signed() - before.audio_selected.cast_signed();
        self.audio_selected.add(selected);
        self.audio_suppressed
            .inc_by(after.audio_suppressed_packets - before.audio_suppressed_packets);
        self.audio_changes
            .inc_by(after.audio_changes - before.audio_changes);
        for ((reason, after), (_, before)) in after.drops().zip(before.drops()) {
            add(&self.dropped, reason.name(), after - before);
        }
        add(
            &self.nacks,
            "to_publisher",
            after.nacks_sent - before.nacks_sent,
        );
        add(
            &self.nacks,
            "from_subscriber",
            after.nacks_received - before.nacks_received,
        );
        add(
            &self.plis,
            "to_publisher",
            after.plis_sent - before.plis_sent,
        );
        add(
            &self.plis,
            "from_subscriber",
            after.plis_received - before.plis_received,
        );
        self.quality.add_router(before, after);
        add(&self.rtx, "sent", after.rtx_sent - before.rtx_sent);
        add(&self.rtx, "refused", after.rtx_refused - before.rtx_refused);
    }

    /// Adds what an ICE agent counted since `before`.
    pub(super) fn add_ice(&self, before: ice::Stats, after: ice::Stats) {
        add(&self.checks, "answered", after.answered - before.answered);
        add(
            &self.checks,
            "malformed",
            after.malformed - before.malformed,
        );
        add(
            &self.checks,
            "unknown_user",
            after.unknown_user - before.unknown_user,
        );
        add(
            &self.checks,
            "unauthenticated",
            after.unauthenticated - before.unauthenticated,
        );
        add(&self.checks, "refused", after.refused - before.refused);
    }
}

fn vector(name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(
        Opts::new(format!("antipode_edge_{name}_total"), help),
        &[label],
    )
}

fn add(vector: &IntCounterVec, label: &str, count: u64) {
    if count > 0 {
        vector.with_label_values(&[label]).inc_by(count);
    }
}
