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
        let (commands_refused, webhooks, api_requests) = of_the_api()?;
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
            commands_refused,
            webhooks,
            api_requests,
        };
        registry.register(Box::new(metrics.nodes.clone()))?;
        registry.register(Box::new(metrics.rooms.clone()))?;
        registry.register(Box::new(metrics.assign_seconds.clone()))?;
        registry.register(Box::new(metrics.plans_sent.clone()))?;
        registry.register(Box::new(metrics.plans_dropped.clone()))?;
        registry.register(Box::new(metrics.saves.clone()))?;
        registry.register(Box::new(metrics.http_requests.clone()))?;
        registry.register(Box::new(metrics.http_connections.clone()))?;
        registry.register(Box::new(metrics.commands_refused.clone()))?;
        registry.register(Box::new(metrics.webhooks.clone()))?;
        registry.register(Box::new(metrics.api_requests.clone()))?;
        Ok(metrics)
    }
}

/// What is counted of the server API: commands that were refused, webhooks, requests.
fn of_the_api() -> prometheus::Result<(IntCounter, IntCounterVec, IntCounterVec)> {
    let commands_refused = IntCounter::new(
        "antipode_control_commands_refused_total",
        "Commands not sent to a node since too many waited.",
    )?;
    let webhooks = IntCounterVec::new(
        Opts::new(
            "antipode_control_webhooks_total",
            "Events for webhooks, by result.",
        ),
        &["result"],
    )?;
    let api_requests = IntCounterVec::new(
        Opts::new(
            "antipode_control_api_requests_total",
            "Requests to the server API, by method and result.",
        ),
        &["method", "result"],
    )?;
    Ok((commands_refused, webhooks, api_requests))
}
