//! What the control plane counts.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Handles of all metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Nodes by state.
    pub nodes: IntGaugeVec,
    /// Rooms that live.
    pub rooms: IntGauge,
    /// Time from an `Assign` call's arrival to its answer, in seconds.
    pub assign_seconds: Histogram,
    /// Plans handed to nodes' sessions.
    pub plans_sent: IntCounter,
    /// Plans not sent by reason: `replaced` by a later one before the node took it, `unsaved`, `disconnected`.
    pub plans_dropped: IntCounterVec,
    /// Transactions of the durable store by result.
    pub saves: IntCounterVec,
    /// Requests to the gateway by status class.
    pub http_requests: IntCounterVec,
    /// Connections that the gateway serves now.
    pub http_connections: IntGauge,
    /// Whether Redis is there: 1 or 0; 0 as well without one.
    pub redis_up: IntGauge,
    /// Operations on Redis that failed, by operation.
    pub redis_failures: IntCounterVec,
    /// Changes not written to Redis because it was gone or slow; they are written anew when it is back.
    pub redis_dropped: IntCounter,
    /// Rooms whose save was refused because another replica planned them meanwhile.
    pub fenced: IntCounter,
    /// Whether the registry answers: 1 or 0.
    pub registry_up: IntGauge,
    /// Processes in the registry, by role and health.
    pub registered: IntGaugeVec,
    /// Signalling connections that go through the gateway now.
    pub tunnels: IntGauge,
    /// Requests turned away because their address made too many.
    pub rate_limited: IntCounter,
    /// Commands that were not sent to a node since too many waited.
    pub commands_refused: IntCounter,
    /// Events for webhooks by result: `delivered`, `retried` (a try that failed), `dropped`.
    pub webhooks: IntCounterVec,
    /// Requests to the server API by method and result: `ok` or the error's code.
    pub api_requests: IntCounterVec,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When the registry has one of the names already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            nodes: IntGaugeVec::new(
                Opts::new("antipode_control_nodes", "Nodes by state."),
                &["state"],
            )?,
            rooms: IntGauge::new("antipode_control_rooms", "Rooms that live.")?,
            assign_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "antipode_control_assign_seconds",
                    "Time from an Assign call's arrival to its answer.",
                )
                // Around the goals of 1 ms (p50) and 5 ms (p99).
                .buckets(vec![
                    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0,
                ]),
            )?,
            plans_sent: IntCounter::new(
                "antipode_control_plans_sent_total",
                "Plans handed to nodes' sessions.",
            )?,
            plans_dropped: IntCounterVec::new(
                Opts::new(
                    "antipode_control_plans_dropped_total",
                    "Plans not sent, by reason.",
                ),
                &["reason"],
            )?,
            saves: IntCounterVec::new(
                Opts::new(
                    "antipode_control_saves_total",
                    "Transactions of the durable store, by result.",
                ),
                &["result"],
            )?,
            http_requests: IntCounterVec::new(
                Opts::new(
                    "antipode_control_http_requests_total",
                    "Requests to the gateway, by class of status.",
                ),
                &["status"],
            )?,
            http_connections: IntGauge::new(
                "antipode_control_http_connections",
                "Connections that the gateway serves now.",
            )?,
            redis_up: IntGauge::new(
                "antipode_control_redis_up",
                "Whether Redis is there: 1 or 0.",
            )?,
            redis_failures: IntCounterVec::new(
                Opts::new(
                    "antipode_control_redis_failures_total",
                    "Operations on Redis that failed, by operation.",
                ),
                &["operation"],
            )?,
            redis_dropped: IntCounter::new(
                "antipode_control_redis_dropped_updates_total",
                "Changes not written to Redis because it was gone or slow.",
            )?,
            fenced: IntCounter::new(
                "antipode_control_fenced_total",
                "Rooms whose save was refused because another replica planned them meanwhile.",
            )?,
            registry_up: IntGauge::new(
                "antipode_control_registry_up",
                "Whether the registry (Consul, or the built-in one) answers: 1 or 0.",
            )?,
            registered: IntGaugeVec::new(
                Opts::new(
                    "antipode_control_registered",
                    "Processes in the registry, by role and health.",
                ),
                &["role", "health"],
            )?,
            tunnels: IntGauge::new(
                "antipode_control_tunnels",
                "Signalling connections that go through the gateway now.",
            )?,
            rate_limited: IntCounter::new(
                "antipode_control_rate_limited_total",
                "Requests turned away because their address made too many.",
            )?,
            commands_refused: IntCounter::new(
                "antipode_control_commands_refused_total",
                "Commands not sent to a node since too many waited.",
            )?,
            webhooks: IntCounterVec::new(
                Opts::new(
                    "antipode_control_webhooks_total",
                    "Events for webhooks, by result.",
                ),
                &["result"],
            )?,
            api_requests: IntCounterVec::new(
                Opts::new(
                    "antipode_control_api_requests_total",
                    "Requests to the server API, by method and result.",
                ),
                &["method", "result"],
            )?,
        };
        registry.register(Box::new(metrics.nodes.clone()))?;
        registry.register(Box::new(metrics.rooms.clone()))?;
        registry.register(Box::new(metrics.assign_seconds.clone()))?;
        registry.register(Box::new(metrics.plans_sent.clone()))?;
        registry.register(Box::new(metrics.plans_dropped.clone()))?;
        registry.register(Box::new(metrics.saves.clone()))?;
        registry.register(Box::new(metrics.http_requests.clone()))?;
        registry.register(Box::new(metrics.http_connections.clone()))?;
        registry.register(Box::new(metrics.redis_up.clone()))?;
        registry.register(Box::new(metrics.redis_failures.clone()))?;
        registry.register(Box::new(metrics.redis_dropped.clone()))?;
        registry.register(Box::new(metrics.fenced.clone()))?;
        registry.register(Box::new(metrics.registry_up.clone()))?;
        registry.register(Box::new(metrics.registered.clone()))?;
        registry.register(Box::new(metrics.tunnels.clone()))?;
        registry.register(Box::new(metrics.rate_limited.clone()))?;
        registry.register(Box::new(metrics.commands_refused.clone()))?;
        registry.register(Box::new(metrics.webhooks.clone()))?;
        registry.register(Box::new(metrics.api_requests.clone()))?;
        Ok(metrics)
    }
}
