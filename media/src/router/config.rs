//! What the router is told about transports, tracks and subscriptions.

use std::time::{Duration, Instant};

use super::{TrackKey, TransportKey};
use crate::packet::Codec;
pub use crate::packet::ExtensionIds;

/// Settings of one [`super::Router`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Some instant not later than the first input, and the wall clock there as 32.32 NTP.
    pub origin: (Instant, u64),
    /// Seeds the initial sequence numbers.
    pub seed: u64,
    /// Slots kept for packets, about 1.6 kB each; allocated on first use.
    pub pool_slots: usize,
    /// Packets of a video stream kept for retransmission; rounded up to a power of two.
    pub video_cache_packets: usize,
    /// Packets of an audio stream kept for retransmission; rounded up to a power of two.
    pub audio_cache_packets: usize,
    /// Least time between two keyframe requests to a publisher for one stream.
    pub keyframe_interval_min: Duration,
    /// Time between transport-wide feedback packets to a publisher, 50 ms to 100 ms.
    pub feedback_interval: Duration,
    /// How long a gap may be mere reordering before it is NACKed.
    pub reorder_hold: Duration,
    /// Highest REMB in bit/s offered to publishers without transport-wide feedback.
    pub remb_bps_max: u64,
    /// SSRC of RTCP that belongs to no stream of ours.
    pub feedback_ssrc: u32,
    /// CNAME in SDES (RFC 3550 section 6.5.1); at most 255 bytes count.
    pub cname: String,
}

impl Config {
    /// Defaults for a shard that starts at `now`, where the wall clock is `ntp` (32.32).
    #[must_use]
    pub fn new(now: Instant, ntp: u64) -> Self {
        Self {
            origin: (now, ntp),
            seed: ntp,
            pool_slots: 65_536,
            // Two seconds of 5 Mbit/s at 1200 bytes.
            video_cache_packets: 1024,
            // 2.5 seconds of 20 ms frames.
            audio_cache_packets: 128,
            keyframe_interval_min: Duration::from_millis(500),
            feedback_interval: Duration::from_millis(50),
            reorder_hold: Duration::from_millis(8),
            remb_bps_max: 10_000_000,
            feedback_ssrc: 1,
            cname: String::from("antipode"),
        }
    }
}

/// What a transport sends to us.
#[derive(Debug, Clone, Default)]
pub struct ReceiveConfig {
    /// The sender's extension ids.
    pub extensions: ExtensionIds,
    /// Its m-lines.
    pub media: Vec<ReceiveMedia>,
}

/// One m-line that carries a track to us.
#[derive(Debug, Clone)]
pub struct ReceiveMedia {
    /// `a=mid`.
    pub mid: String,
    /// The track that it carries.
    pub track: TrackKey,
    /// Payload types that the sender uses.
    pub payloads: Vec<ReceivePayload>,
    /// Simulcast rids from low to high; the position is the stream index. Empty without simulcast.
    pub rids: Vec<String>,
    /// Signalled SSRCs; the position is the stream index. Empty when not signalled.
    pub ssrcs: Vec<ReceiveSsrc>,
}

/// One payload type of a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivePayload {
    /// Payload type, 0 to 127.
    pub pt: u8,
    /// What it is.
    pub codec: Codec,
    /// Payload type of its RTX (RFC 4588).
    pub rtx: Option<u8>,
    /// Generic NACK negotiated (RFC 4585).
    pub nack: bool,
    /// PLI negotiated (RFC 4585); FIR is used otherwise (RFC 5104).
    pub pli: bool,
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
}

/// A signalled SSRC with its RTX companion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveSsrc {
    /// SSRC of the media.
    pub ssrc: u32,
    /// SSRC of its retransmissions.
    pub rtx: Option<u32>,
}

/// Where a track's packets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A transport of this router.
    Local(TransportKey),
    /// Another shard or another node: [`super::Router::handle_packet`].
    Remote,
}

/// A track as the router knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackConfig {
    /// Main codec; single packets may differ (RED beside Opus).
    pub codec: Codec,
    /// Where its packets come from.
    pub source: Source,
    /// Simulcast streams, 1 to 3.
    pub streams: u8,
    /// Spatial layers inside the one stream (SVC), 1 to 3; 1 with simulcast.
    pub spatial: u8,
    /// What the publisher announced in bit/s, by layer index; 0 = not known.
    pub bitrates_bps: [u32; LAYERS_MAX],
    /// Shows a screen.
    pub screen: bool,
    /// Its room, unique in the process: audio tracks of one room compete for the places of its speakers.
    pub room: u32,
}

/// Layers of a track: simulcast streams, or spatial layers of one stream.
pub const LAYERS_MAX: usize = 3;

impl TrackConfig {
    /// A track of which nothing more is known: no SVC, no announced bit rates, a camera or a microphone.
    #[must_use]
    pub fn new(codec: Codec, source: Source, streams: u8) -> Self {
        Self {
            codec,
            source,
            streams,
            spatial: 1,
            bitrates_bps: [0; LAYERS_MAX],
            screen: false,
            room: 0,
        }
    }

    /// Layer indices in use, 1 to 3: simulcast streams or spatial layers.
    #[must_use]
    pub fn layers(&self) -> u8 {
        self.streams.max(self.spatial)
    }
}

/// Highest layer wanted by a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Layer index, 0 = lowest: simulcast stream, or spatial layer of the one stream (SVC).
    pub layer: u8,
    /// Temporal layer, 0 to 7.
    pub temporal: u8,
}

/// One payload type of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendPayload {
    /// What it is.
    pub codec: Codec,
    /// Payload type, 0 to 127.
    pub pt: u8,
    /// Payload type of its RTX (RFC 4588).
    pub rtx_pt: Option<u8>,
}

/// How a track goes to one subscriber.
#[derive(Debug, Clone)]
pub struct SubscriptionConfig {
    /// `a=mid` of the m-line.
    pub mid: String,
    /// SSRC that we send with.
    pub ssrc: u32,
    /// SSRC of retransmissions.
    pub rtx_ssrc: Option<u32>,
    /// The receiver's payload types.
    pub payloads: Vec<SendPayload>,
    /// The receiver's extension ids.
    pub extensions: ExtensionIds,
    /// Initial target; `None` = nothing is sent yet.
    pub target: Option<Target>,
    /// The receiver takes RED as it is; otherwise the primary block is extracted.
    pub red: bool,
}
