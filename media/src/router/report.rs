//! How the transports of a router are doing, for metrics and for what people are told about their connection.

use std::time::Duration;

use super::{StreamIndex, Target, TrackKey, TransportKey};

/// One transport since the report before.
#[derive(Debug, Clone)]
pub struct TransportReport {
    /// Which.
    pub transport: TransportKey,
    /// What its path carries from us to the peer in bit/s; `None` while nothing is known.
    pub estimate_bps: Option<u64>,
    /// Sent on the wire, everything included, in bit/s.
    pub sent_bps: u64,
    /// Of that padding, in bit/s.
    pub padding_bps: u64,
    /// How long the newest packet in the pacer will wait.
    pub queue: Duration,
    /// Round trip.
    pub rtt: Duration,
    /// Lost on the way to the peer before repair, 0 to 1.
    pub loss: f32,
    /// What it receives.
    pub subscriptions: Vec<SubscriptionReport>,
    /// What it publishes.
    pub uplinks: Vec<UplinkReport>,
}

/// One subscription since the report before.
#[derive(Debug, Clone)]
pub struct SubscriptionReport {
    /// Which track.
    pub track: TrackKey,
    /// What the client wants; `None` when it hides the track.
    pub wanted: Option<Target>,
    /// What it is sent; `None` when nothing.
    pub sent: Option<Target>,
    /// Nothing is sent because it does not fit.
    pub paused: bool,
    /// Sent in bit/s.
    pub bps: u64,
    /// Lost before repair, 0 to 1, as the receiver reports it.
    pub loss: f32,
    /// Packets sent again.
    pub rtx_packets: u64,
    /// Packets that the receiver asked for again.
    pub nacks: u64,
    /// Keyframes that the receiver asked for.
    pub plis: u64,
    /// How long it has been paused.
    pub paused_for: Duration,
}

/// One stream of a publisher since the report before.
#[derive(Debug, Clone)]
pub struct UplinkReport {
    /// Which track.
    pub track: TrackKey,
    /// Its simulcast stream.
    pub stream: StreamIndex,
    /// Received in bit/s.
    pub bps: u64,
    /// Lost before repair, 0 to 1.
    pub loss: f32,
    /// Packets that came after they were asked for again.
    pub repaired: u64,
    /// Packets that we asked for again.
    pub nacks: u64,
    /// Keyframes that we asked for.
    pub plis: u64,
    /// Interarrival jitter (RFC 3550 section 6.4.1).
    pub jitter: Duration,
    /// Frames per second.
    pub fps: f32,
}
