//! Metrics of the TURN server.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// All of them.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    /// Allocations now, by what carries them.
    pub(super) allocations: IntGaugeVec,
    /// Allocations ever.
    pub(super) allocated: IntCounterVec,
    refused: IntCounterVec,
    dropped: IntCounterVec,
    /// Payload to and from clients.
    bytes: [IntCounter; 2],
    packets: [IntCounter; 2],
}

/// Which way payload goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    /// From a client to the edge.
    In,
    /// From the edge to a client.
    Out,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, label: &str| {
            let opts = Opts::new(format!("antipode_edge_turn_{name}_total"), help);
            let vector = IntCounterVec::new(opts, &[label])?;
            registry.register(Box::new(vector.clone()))?;
            prometheus::Result::Ok(vector)
        };
        let allocations = IntGaugeVec::new(
            Opts::new(
                "antipode_edge_turn_allocations",
                "TURN allocations that there are.",
            ),
            &["transport"],
        )?;
        registry.register(Box::new(allocations.clone()))?;
        let bytes = counter("relayed_bytes", "Payload relayed by TURN.", "direction")?;
        let packets = counter("relayed_packets", "Datagrams relayed by TURN.", "direction")?;
        let both = |vector: &IntCounterVec| {
            ["in", "out"].map(|direction| vector.with_label_values(&[direction]))
        };
        Ok(Self {
            allocations,
            allocated: counter("allocations", "TURN allocations made.", "transport")?,
            refused: counter(
                "refused",
                "TURN requests, messages and connections refused.",
                "reason",
            )?,
            dropped: counter(
                "dropped_packets",
                "Datagrams that TURN did not relay.",
                "reason",
            )?,
            bytes: both(&bytes),
            packets: both(&packets),
        })
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(super) fn dropped(&self, reason: &'static str, packets: usize) {
        if packets > 0 {
            let packets = u64::try_from(packets).unwrap_or(u64::MAX);
            self.dropped.with_label_values(&[reason]).inc_by(packets);
        }
    }

    pub(super) fn relayed(&self, direction: Direction, bytes: usize) {
        let index = match direction {
            Direction::In => 0,
            Direction::Out => 1,
        };
        if let (Some(packets), Some(total)) = (self.packets.get(index), self.bytes.get(index)) {
            packets.inc();
            total.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }
}
