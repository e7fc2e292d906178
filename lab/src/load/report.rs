//! What a run found.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

/// A distribution in few numbers, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Quantiles {
    /// Of a histogram of microseconds; zeros when it is empty.
    pub fn of_us(histogram: &Histogram<u64>) -> Self {
        let ms = |us: u64| us as f64 / 1000.0;
        Self {
            p50: ms(histogram.value_at_quantile(0.5)),
            p95: ms(histogram.value_at_quantile(0.95)),
            p99: ms(histogram.value_at_quantile(0.99)),
            max: ms(histogram.max()),
        }
    }
}

/// What a run found. Packets are those sent within the measurement, wherever and whenever they
/// arrived.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Clients that published until the end.
    pub publishers: u32,
    /// Clients that subscribed until the end.
    pub subscribers: u32,
    /// Clients that could not join, or were lost on the way.
    pub failed_clients: u32,
    /// Length of the measurement, seconds.
    pub seconds: f64,
    /// RTP packets that the publishers sent.
    pub sent_packets: u64,
    /// Packets that should have arrived: every subscriber gets every publisher's.
    pub expected_packets: u64,
    /// Packets that arrived, each once per subscriber.
    pub received_packets: u64,
    /// Payload that arrived, bits per second over all subscribers.
    pub received_bps: f64,
    /// Expected and not received, although waited for a second longer.
    pub lost_packets: u64,
    /// Lost of expected, 0..=1.
    pub loss_ratio: f64,
    /// Packets that arrived more than once.
    pub duplicate_packets: u64,
    /// From a publisher's send call to a subscriber's receive, one clock, milliseconds.
    pub delay_ms: Quantiles,
    /// From the start of a subscriber's join to the answer to its first offer, milliseconds (light clients that offer with
    /// their join).
    pub negotiation_ms: Quantiles,
    /// From the start of a subscriber's join to its media connection, milliseconds.
    pub join_ms: Quantiles,
    /// From the start of a subscriber's join to its first whole keyframe, milliseconds (light clients with video only).
    pub keyframe_ms: Quantiles,
    /// The same from its media connection.
    pub keyframe_after_connect_ms: Quantiles,
    /// Subscribers without a whole keyframe until the end.
    pub without_keyframe: u32,
    /// Keyframe requests that reached publishers, joins included.
    pub keyframe_requests: u64,
    /// Most of those that reached one publisher within a second.
    pub keyframe_requests_per_s_max: u64,
    /// CPU of the measured edges, cores; `None` without `--admin`.
    pub edge_cpu_cores: Option<f64>,
    /// CPU of the measured edges per packet that they forwarded, microseconds.
    pub edge_cpu_us_per_packet: Option<f64>,
    /// RTP packets that the measured edges say they forwarded.
    pub edge_forwarded_packets: Option<u64>,
    /// Growth of the measured edges' resident memory per subscriber, bytes. Says something about an
    /// edge that was just started only: later ones reuse what earlier runs freed.
    pub edge_rss_per_subscriber_bytes: Option<f64>,
    /// CPU of this process, cores.
    pub generator_cpu_cores: f64,
    /// CPU of this process per packet sent or received, microseconds.
    pub generator_cpu_us_per_packet: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "clients     {} publishers, {} subscribers, {} failed",
            self.publishers, self.subscribers, self.failed_clients
        )?;
        writeln!(
            f,
            "packets     {} sent, {} expected, {} received, {} lost ({:.4} %), {} twice",
            self.sent_packets,
            self.expected_packets,
            self.received_packets,
            self.lost_packets,
            self.loss_ratio * 100.0,
            self.duplicate_packets
        )?;
        writeln!(f, "received    {:.1} Mbit/s", self.received_bps / 1e6)?;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, quantiles: &Quantiles| {
            let Quantiles { p50, p95, p99, max } = quantiles;
            writeln!(
                f,
                "{name:<12}{p50:.2} p50, {p95:.2} p95, {p99:.2} p99, {max:.2} max ms"
            )
        };
        line(f, "delay", &self.delay_ms)?;
        line(f, "negotiation", &self.negotiation_ms)?;
        line(f, "join", &self.join_ms)?;
        line(f, "keyframe", &self.keyframe_ms)?;
        writeln!(
            f,
            "requests    {} keyframes, {} within a second, {} subscribers have none",
            self.keyframe_requests, self.keyframe_requests_per_s_max, self.without_keyframe
        )?;
        if let Some(cores) = self.edge_cpu_cores {
            write!(f, "edge        {cores:.2} cores")?;
            if let Some(us) = self.edge_cpu_us_per_packet {
                write!(f, ", {us:.2} µs per forwarded packet")?;
            }
            if let Some(bytes) = self.edge_rss_per_subscriber_bytes {
                write!(f, ", {:.0} KiB per subscriber", bytes / 1024.0)?;
            }
            writeln!(f)?;
        }
        write!(
            f,
            "generator   {:.2} cores, {:.2} µs per packet",
            self.generator_cpu_cores, self.generator_cpu_us_per_packet
        )
    }
}
