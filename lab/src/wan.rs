//! A wide-area network on one machine.
//!
//! [`Pipe`] is one direction of a path in virtual time (no I/O, no clock); [`Proxy`] is the UDP
//! proxy around two of them, [`Tunnel`] the link to a network namespace around two of them. Kernels
//! without `tc netem` are no obstacle, and the same numbers hold in a unit test, in a mesh that runs
//! on loopback and for a browser behind the tunnel.

mod change;
mod namespace;
mod pipe;
mod proxy;
mod tunnel;

use std::time::Duration;

pub use change::{Change, ParseError};
pub use namespace::Namespace;
pub use pipe::{DropReason, Pipe, PipeStats};
pub use proxy::{Proxy, ProxyStats};
pub use tunnel::{Direction, Tunnel, TunnelStats};

/// Drop-tail queue depth of a bottleneck unless said otherwise, in milliseconds at its rate.
pub const QUEUE_MS_DEFAULT: u32 = 300;

/// Two-state burst loss (Gilbert–Elliott): the path is either good or bad, and the state may
/// change with every packet. The mean burst is `1 / leave` packets long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BurstLoss {
    /// Probability per packet to go from good to bad, 0..=1.
    pub enter: f64,
    /// Probability per packet to go from bad to good, 0..=1.
    pub leave: f64,
    /// Probability that a packet is lost while the path is bad, 0..=1.
    pub loss: f64,
}

/// What one direction of a path does to packets. The default is a perfect wire.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// Propagation delay of every packet, one way.
    pub delay: Duration,
    /// Extra delay, uniform in `0..=jitter`. It never reorders: a packet waits for those before it.
    pub jitter: Duration,
    /// Probability that a packet is lost on its own, 0..=1.
    pub loss: f64,
    /// Loss in bursts, on top of `loss`.
    pub burst_loss: Option<BurstLoss>,
    /// Probability that a packet is held back by [`Path::REORDER_HOLD`] while later ones pass, 0..=1.
    pub reorder: f64,
    /// Bottleneck rate in bits per second, of UDP payload at a proxy and of IP packets in a
    /// tunnel; `None` = no bottleneck.
    pub rate_bps: Option<u64>,
    /// Depth of the bottleneck's drop-tail queue in milliseconds at `rate_bps`.
    pub queue_ms: u32,
    /// Seed of every random decision: the same seed and input give the same output.
    pub seed: u64,
}

impl Path {
    /// How long a reordered packet is held back. Some milliseconds are what parallel links and
    /// radio retransmissions do.
    pub const REORDER_HOLD: Duration = Duration::from_millis(5);

    /// A path with nothing but propagation delay, one way.
    pub fn with_delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }
}

impl Default for Path {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst_loss: None,
            reorder: 0.0,
            rate_bps: None,
            queue_ms: QUEUE_MS_DEFAULT,
            seed: 1,
        }
    }
}
