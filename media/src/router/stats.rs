//! Plain counters of a router.

/// Why a packet was not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The transport is not known.
    UnknownTransport,
    /// Not SRTP or SRTCP at all, or broken after decryption.
    Malformed,
    /// The authentication tag does not match.
    Authentication,
    /// Seen before or too old (SRTP replay window).
    Replay,
    /// No m-line, rid or signalled SSRC matches.
    UnknownSsrc,
    /// The payload type is not negotiated.
    UnknownPayloadType,
    /// The track is not known.
    UnknownTrack,
    /// A retransmission or padding repeats what is there.
    Duplicate,
    /// Padding without payload.
    Padding,
    /// The track is muted.
    Muted,
    /// Larger than a slot.
    TooLarge,
    /// The receiver negotiated no payload type for this codec.
    NoPayloadType,
    /// The send arena is full.
    ArenaFull,
    /// Too late to be put in its place.
    TooLate,
    /// Sealing failed.
    Seal,
    /// The receiver's path is too slow for what waits already. Once per video frame; the subscription goes on with a keyframe.
    PacerFull,
}

impl DropReason {
    /// All reasons, in the order of [`Stats::dropped`].
    pub const ALL: [Self; 16] = [
        Self::UnknownTransport,
        Self::Malformed,
        Self::Authentication,
        Self::Replay,
        Self::UnknownSsrc,
        Self::UnknownPayloadType,
        Self::UnknownTrack,
        Self::Duplicate,
        Self::Padding,
        Self::Muted,
        Self::TooLarge,
        Self::NoPayloadType,
        Self::ArenaFull,
        Self::TooLate,
        Self::Seal,
        Self::PacerFull,
    ];

    /// Label value for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownTransport => "unknown_transport",
            Self::Malformed => "malformed",
            Self::Authentication => "authentication",
            Self::Replay => "replay",
            Self::UnknownSsrc => "unknown_ssrc",
            Self::UnknownPayloadType => "unknown_payload_type",
            Self::UnknownTrack => "unknown_track",
            Self::Duplicate => "duplicate",
            Self::Padding => "padding",
            Self::Muted => "muted",
            Self::TooLarge => "too_large",
            Self::NoPayloadType => "no_payload_type",
            Self::ArenaFull => "arena_full",
            Self::TooLate => "too_late",
            Self::Seal => "seal",
            Self::PacerFull => "pacer_full",
        }
    }
}

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// RTP packets received from publishers, including retransmissions and padding.
    pub received_packets: u64,
    /// Their bytes on the wire.
    pub received_bytes: u64,
    /// RTP packets sent to subscribers, without retransmissions.
    pub forwarded_packets: u64,
    /// Their bytes on the wire.
    pub forwarded_bytes: u64,
    /// Packets handed out for links and other shards.
    pub exported_packets: u64,
    /// Sequence numbers that we asked publishers for again.
    pub nacks_sent: u64,
    /// Sequence numbers that subscribers asked us for again.
    pub nacks_received: u64,
    /// Gaps closed by a retransmission from a publisher.
    pub recovered_packets: u64,
    /// Retransmissions to subscribers.
    pub rtx_sent: u64,
    /// Asked for, but not in the cache, too early or over budget.
    pub rtx_refused: u64,
    /// PLI and FIR sent to publishers.
    pub plis_sent: u64,
    /// PLI and FIR received from subscribers.
    pub plis_received: u64,
    /// Transport-wide feedback packets sent to publishers.
    pub twcc_sent: u64,
    /// Transport-wide feedback packets received from subscribers.
    pub twcc_received: u64,
    /// REMB received from subscribers.
    pub remb_received: u64,
    /// Packets to subscribers that waited for the pacer.
    pub paced_packets: u64,
    /// Packets to subscribers that carried nothing new, to fill probes.
    pub padding_packets: u64,
    /// Their bytes on the wire.
    pub padding_bytes: u64,
    /// Probes sent.
    pub probes: u64,
    /// Layer switches done.
    pub layer_switches: u64,
    /// Audio tracks that are forwarded now, of rooms with a limit.
    pub audio_selected: u64,
    /// Audio packets that were not forwarded because others speak.
    pub audio_suppressed_packets: u64,
    /// Audio tracks that began to be forwarded because their owner speaks.
    pub audio_changes: u64,
    /// Packet slots allocated; constant in steady state.
    pub slots_allocated: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Stats {
    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).copied().unwrap_or(0)
    }

    /// All drops as `(reason, packets)`.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.drops)
    }

    /// A packet of `bytes` on the wire went to a subscriber.
    #[inline]
    pub(super) fn note_forwarded(&mut self, bytes: usize) {
        self.forwarded_packets += 1;
        self.forwarded_bytes += bytes as u64;
    }

    #[inline]
    pub(super) fn drop_packet(&mut self, reason: DropReason) {
        if let Some(count) = self.drops.get_mut(reason as usize) {
            *count += 1;
        }
    }
}
