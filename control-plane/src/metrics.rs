//! What the control plane counts.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    Result,
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
    /// Commands that were not sent to a node since too many waited.
    pub commands_refused: IntCounter,
    /// Events for webhooks by result: `delivered`, `retried` (a try that failed), `dropped`.
    pub webhooks: IntCounterVec,
    /// gRPC connections that were refused or cut off, by reason.
    pub grpc_refused: IntCounterVec,
    /// Control replicas that live, as this one sees it, itself included.
    pub replicas: IntGauge,
    /// Of the HTTP gateway.
    pub gateway: Gateway,
    /// Of the stores and the registry of processes.
    pub stores: Stores,
}

/// Metrics of the HTTP gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Requests to the gateway by status class.
    pub requests: IntCounterVec,
    /// Connections that the gateway serves now.
    pub connections: IntGauge,
    /// Connections to it that were refused or cut off, by reason.
    pub refused: IntCounterVec,
    /// Signalling connections that go through the gateway now.
    pub tunnels: IntGauge,
    /// Requests turned away because their address made too many.
    pub rate_limited: IntCounter,
    /// Requests to the server API by method and result: `ok` or the error's code.
    pub api_requests: IntCounterVec,
}

/// Metrics of the stores and the registry of processes.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Transactions of the durable store by result.
    pub saves: IntCounterVec,
    /// Rooms whose save was refused because another replica planned them meanwhile.
    pub fenced: IntCounter,
    /// Whether Redis is there: 1 or 0; 0 as well without one.
    pub redis_up: IntGauge,
    /// Operations on Redis that failed, by operation.
    pub redis_failures: IntCounterVec,
    /// Changes not written to Redis because it was gone or slow; they are written anew when it is back.
    pub redis_dropped: IntCounter,
    /// Whether the registry answers: 1 or 0.
    pub registry_up: IntGauge,
    /// Processes in the registry, by role and health.
    pub registered: IntGaugeVec,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When the registry has one of the names already.
    pub fn register(registry: &Registry) -> Result<Self> {
        let make = Maker(registry);
        Ok(Self {
            nodes: make.gauges("antipode_control_nodes", "Nodes by state.", &["state"])?,
            rooms: make.gauge("antipode_control_rooms", "Rooms that live.")?,
            assign_seconds: make.assign_seconds()?,
            plans_sent: make.counter(
                "antipode_control_plans_sent_total",
                "Plans handed to nodes' sessions.",
            )?,
            plans_dropped: make.counters(
                "antipode_control_plans_dropped_total",
                "Plans not sent, by reason.",
                &["reason"],
            )?,
            commands_refused: make.counter(
                "antipode_control_commands_refused_total",
                "Commands not sent to a node since too many waited.",
            )?,
            webhooks: make.counters(
                "antipode_control_webhooks_total",
                "Events for webhooks, by result.",
                &["result"],
            )?,
            grpc_refused: make.registered(runtime::http::refusals(
                "antipode_control_grpc_refused_connections_total",
            ))?,
            replicas: make.gauge(
                "antipode_control_replicas",
                "Control replicas that live, this one included.",
            )?,
            gateway: Gateway::made(&make)?,
            stores: Stores::made(&make)?,
        })
    }
}

impl Gateway {
    fn made(make: &Maker<'_>) -> Result<Self> {
        Ok(Self {
            requests: make.counters(
                "antipode_control_http_requests_total",
                "Requests to the gateway, by class of status.",
                &["status"],
            )?,
            connections: make.gauge(
                "antipode_control_http_connections",
                "Connections that the gateway serves now.",
            )?,
            refused: make.registered(runtime::http::refusals(
                "antipode_control_http_refused_connections_total",
            ))?,
            tunnels: make.gauge(
                "antipode_control_tunnels",
                "Signalling connections that go through the gateway now.",
            )?,
            rate_limited: make.counter(
                "antipode_control_rate_limited_total",
                "Requests turned away because their address made too many.",
            )?,
            api_requests: make.counters(
                "antipode_control_api_requests_total",
                "Requests to the server API, by method and result.",
                &["method", "result"],
            )?,
        })
    }
}

impl Stores {
    fn made(make: &Maker<'_>) -> Result<Self> {
        Ok(Self {
            saves: make.counters(
                "antipode_control_saves_total",
                "Transactions of the durable store, by result.",
                &["result"],
            )?,
            fenced: make.counter(
                "antipode_control_fenced_total",
                "Rooms whose save was refused because another replica planned them meanwhile.",
            )?,
            redis_up: make.gauge(
                "antipode_control_redis_up",
                "Whether Redis is there: 1 or 0.",
            )?,
            redis_failures: make.counters(
                "antipode_control_redis_failures_total",
                "Operations on Redis that failed, by operation.",
                &["operation"],
            )?,
            redis_dropped: make.counter(
                "antipode_control_redis_dropped_updates_total",
                "Changes not written to Redis because it was gone or slow.",
            )?,
            registry_up: make.gauge(
                "antipode_control_registry_up",
                "Whether the registry (Consul, or the built-in one) answers: 1 or 0.",
            )?,
            registered: make.gauges(
                "antipode_control_registered",
                "Processes in the registry, by role and health.",
                &["role", "health"],
            )?,
        })
    }
}

/// Makes and registers metrics.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn registered<M: Collector + Clone + 'static>(&self, metric: Result<M>) -> Result<M> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.registered(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.registered(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.registered(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.registered(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn assign_seconds(&self) -> Result<Histogram> {
        let options = HistogramOpts::new(
            "antipode_control_assign_seconds",
            "Time from an Assign call's arrival to its answer.",
        );
        // Around the goals of 1 ms (p50) and 5 ms (p99).
        let buckets = vec![
            0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0,
        ];
        self.registered(Histogram::with_opts(options.buckets(buckets)))
    }
}
