//! Counters of signalling.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Counters of signalling.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Participants connected now.
    pub participants: IntGauge,
    /// Rooms served now.
    pub rooms: IntGauge,
    /// Participants that came in.
    pub joins: IntCounter,
    /// Sessions that went on over a new WebSocket.
    pub resumes: IntCounter,
    /// Connections refused, by reason.
    pub refused: IntCounterVec,
    /// Messages dropped, by reason.
    pub dropped: IntCounterVec,
    /// Connections to the signalling listener.
    pub http_connections: IntGauge,
    /// Signalling connections that are handed on to other edges.
    pub tunnels: IntGauge,
    /// 1 while the edge drains.
    pub draining: IntGauge,
    /// Clients that were told to go elsewhere.
    pub departures: IntCounter,
    /// Connections to it that were refused or cut off, by reason.
    pub http_refused: IntCounterVec,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// When one is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            participants: IntGauge::new(
                "antipode_edge_participants",
                "Participants connected to this edge",
            )?,
            rooms: IntGauge::new("antipode_edge_rooms", "Rooms served by this edge")?,
            joins: IntCounter::new("antipode_edge_joins_total", "Participants that came in")?,
            resumes: IntCounter::new(
                "antipode_edge_resumes_total",
                "Sessions that went on over a new signalling connection",
            )?,
            refused: IntCounterVec::new(
                Opts::new(
                    "antipode_edge_signal_refused_total",
                    "Signalling connections refused, by reason",
                ),
                &["reason"],
            )?,
            dropped: IntCounterVec::new(
                Opts::new(
                    "antipode_edge_signal_dropped_total",
                    "Signalling messages dropped, by reason",
                ),
                &["reason"],
            )?,
            http_connections: IntGauge::new(
                "antipode_edge_http_connections",
                "HTTP connections open; those that became WebSockets are not among them",
            )?,
            tunnels: IntGauge::new(
                "antipode_edge_tunnels",
                "Signalling connections handed on to other edges",
            )?,
            draining: IntGauge::new(
                "antipode_edge_draining",
                "1 while the edge lets its clients go elsewhere, to end then",
            )?,
            departures: IntCounter::new(
                "antipode_edge_departures_total",
                "Clients that were told to go to another edge",
            )?,
            http_refused: runtime::http::refusals("antipode_edge_http_refused_connections_total")?,
        };
        registry.register(Box::new(metrics.participants.clone()))?;
        registry.register(Box::new(metrics.rooms.clone()))?;
        registry.register(Box::new(metrics.joins.clone()))?;
        registry.register(Box::new(metrics.resumes.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.dropped.clone()))?;
        registry.register(Box::new(metrics.http_connections.clone()))?;
        registry.register(Box::new(metrics.tunnels.clone()))?;
        registry.register(Box::new(metrics.draining.clone()))?;
        registry.register(Box::new(metrics.departures.clone()))?;
        registry.register(Box::new(metrics.http_refused.clone()))?;
        Ok(metrics)
    }
}
