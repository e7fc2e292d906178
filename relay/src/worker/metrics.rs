//! Links as Prometheus sees them. The label is the peer's node id: nodes are few and known.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};
use proto::NodeId;

use super::handle::HandleCounters;
use crate::mesh::Refusals;
use crate::mesh::stats::LinkStats;

/// All metrics of a worker.
#[derive(Debug)]
pub(super) struct Metrics {
    counters: Vec<(IntCounterVec, Value)>,
    rtt: GaugeVec,
    jitter: GaugeVec,
    loss: GaugeVec,
    up: IntGaugeVec,
    flows: IntGaugeVec,
    audio: IntGaugeVec,
    refused: IntCounterVec,
    dropped_media: IntCounter,
    dropped_commands: IntCounter,
    last: BTreeMap<NodeId, LinkStats>,
    last_refused: Refusals,
}

/// Picks one counter of a link.
type Value = fn(&LinkStats) -> u64;

/// Name, help text, value.
type Counter = (&'static str, &'static str, Value);

const COUNTERS: [Counter; 9] = [
    (
        "antipode_link_packets_sent_total",
        "Media packets sent, repairs included.",
        |s| s.packets_sent,
    ),
    (
        "antipode_link_packets_received_total",
        "Media packets received.",
        |s| s.packets_received,
    ),
    (
        "antipode_link_bytes_sent_total",
        "RTP bytes sent, repairs included.",
        |s| s.bytes_sent,
    ),
    (
        "antipode_link_bytes_received_total",
        "RTP bytes received.",
        |s| s.bytes_received,
    ),
    (
        "antipode_link_packets_lost_total",
        "Packets missing before repair.",
        |s| s.packets_lost,
    ),
    (
        "antipode_link_packets_repaired_total",
        "Missing packets repaired.",
        |s| s.packets_repaired,
    ),
    (
        "antipode_link_queue_dropped_total",
        "Packets dropped by age or overflow.",
        |s| s.queue_dropped,
    ),
    (
        "antipode_link_audio_suppressed_packets_total",
        "Audio packets not sent because others spoke.",
        |s| s.audio_suppressed,
    ),
    (
        "antipode_link_audio_changes_total",
        "Audio tracks that began to be sent because their owner spoke.",
        |s| s.audio_changes,
    ),
];

impl Metrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let mut counters = Vec::new();
        for (name, help, value) in COUNTERS {
            let counter = IntCounterVec::new(Opts::new(name, help), &["peer"])?;
            registry.register(Box::new(counter.clone()))?;
            counters.push((counter, value));
        }
        let gauge = |name: &str, help: &str| -> prometheus::Result<GaugeVec> {
            let gauge = GaugeVec::new(Opts::new(name, help), &["peer"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let int_gauge =
            |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntGaugeVec> {
                let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
                registry.register(Box::new(gauge.clone()))?;
                Ok(gauge)
            };
        let dropped = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let refused = Opts::new(
            "antipode_mesh_refused_total",
            "What the mesh refused or dropped.",
        );
        let refused = IntCounterVec::new(refused, &["reason"])?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self {
            counters,
            rtt: gauge("antipode_link_rtt_seconds", "Smoothed round-trip time.")?,
            jitter: gauge(
                "antipode_link_jitter_seconds",
                "Smoothed deviation of one-way delay.",
            )?,
            loss: gauge(
                "antipode_link_loss_ratio",
                "Loss before repair over the last 10 s.",
            )?,
            up: int_gauge("antipode_link_up", "1 while the link is usable.", &["peer"])?,
            flows: int_gauge(
                "antipode_link_flows",
                "Flows bound on the link.",
                &["peer", "direction"],
            )?,
            audio: int_gauge(
                "antipode_link_audio_selected",
                "Audio tracks sent now, of rooms with a limit.",
                &["peer"],
            )?,
            refused,
            dropped_media: dropped(
                "antipode_mesh_ring_dropped_total",
                "Packets that the worker was too busy to take from a shard.",
            )?,
            dropped_commands: dropped(
                "antipode_mesh_commands_dropped_total",
                "Orders that the worker was too busy to take.",
            )?,
            last: BTreeMap::new(),
            last_refused: Refusals::default(),
        })
    }

    /// Somebody was refused before it was known who that is.
    pub(super) fn refuse(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// Adds what happened since the call before.
    pub(super) fn update(
        &mut self,
        stats: &[LinkStats],
        refused: Refusals,
        handle: &HandleCounters,
    ) {
        for link in stats {
            let peer = [link.peer.as_str()];
            for (counter, value) in &self.counters {
                let before = self.last.get(&link.peer).map_or(0, value);
                counter
                    .with_label_values(&peer)
                    .inc_by(value(link).saturating_sub(before));
            }
            self.rtt
                .with_label_values(&peer)
                .set(link.rtt.as_secs_f64());
            self.jitter
                .with_label_values(&peer)
                .set(link.jitter.as_secs_f64());
            self.loss.with_label_values(&peer).set(link.loss);
            self.up.with_label_values(&peer).set(i64::from(link.up));
            self.audio
                .with_label_values(&peer)
                .set(i64::from(link.audio_selected));
            let flows = |direction| {
                self.flows
                    .with_label_values(&[link.peer.as_str(), direction])
            };
            flows("out").set(i64::from(link.flows_out));
            flows("in").set(i64::from(link.flows_in));
            self.last.insert(link.peer.clone(), link.clone());
        }
        let before = std::mem::replace(&mut self.last_refused, refused);
        let refused = [
            ("stale_plan", refused.stale_plans - before.stale_plans),
            ("subscription", refused.subscriptions - before.subscriptions),
            (
                "unbound_packet",
                refused.unbound_packets - before.unbound_packets,
            ),
            ("malformed", refused.malformed - before.malformed),
        ];
        for (reason, count) in refused {
            self.refused.with_label_values(&[reason]).inc_by(count);
        }
        self.dropped_media
            .inc_by(handle.media_dropped.swap(0, Ordering::Relaxed));
        self.dropped_commands
            .inc_by(handle.commands_dropped.swap(0, Ordering::Relaxed));
    }
}
