//! How links are doing.

use std::time::Duration;

use proto::{NodeId, RoomId, TrackSid};

/// Counters and estimates of the link to one peer. Counters go on over reconnects.
#[derive(Clone, Debug)]
pub struct LinkStats {
    /// The peer.
    pub peer: NodeId,
    /// Whether the link is usable.
    pub up: bool,
    /// Smoothed round-trip time; zero until measured.
    pub rtt: Duration,
    /// Smoothed deviation of one-way delay.
    pub jitter: Duration,
    /// Share of media packets lost before repair over the last 10 s, 0.0 to 1.0.
    pub loss: f64,
    /// Media packets sent, repairs included.
    pub packets_sent: u64,
    /// Their RTP bytes.
    pub bytes_sent: u64,
    /// Media packets received, without duplicates.
    pub packets_received: u64,
    /// Their RTP bytes.
    pub bytes_received: u64,
    /// Packets found missing, before repair.
    pub packets_lost: u64,
    /// Missing packets that a repair brought.
    pub packets_repaired: u64,
    /// Packets dropped from the send queue by age or overflow.
    pub queue_dropped: u64,
    /// Flows bound towards the peer.
    pub flows_out: u32,
    /// Flows the peer has bound towards us.
    pub flows_in: u32,
    /// Audio tracks sent to the peer now, of those whose room has a limit.
    pub audio_selected: u32,
    /// Audio packets not sent because others spoke.
    pub audio_suppressed: u64,
    /// Audio tracks that began to be sent because their owner speaks.
    pub audio_changes: u64,
    /// What is sent to the peer, one entry per track.
    pub flows: Vec<FlowStats>,
}

/// A track that is sent over a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowStats {
    /// Its room.
    pub room: RoomId,
    /// Its id.
    pub track: TrackSid,
    /// Bit n: simulcast stream n is sent.
    pub streams: u8,
}
