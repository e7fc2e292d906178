//! What the router is asked and what it answers.

use std::time::Instant;

use super::{
    ReceiveConfig, SendArena, StreamIndex, SubscriptionConfig, Target, TrackConfig, TrackKey,
    TransportKey,
};
use crate::packet::PacketRef;
use crate::srtp::SessionKeys;

/// Exported packets or events kept between two drains; the newest beyond that are dropped.
const PENDING_MAX: usize = 65_536;

/// A change of the router's tables.
#[derive(Debug)]
pub enum Command {
    /// A peer connection whose DTLS handshake is done.
    AddTransport {
        /// Its key, unique in the process.
        transport: TransportKey,
        /// What the handshake yielded.
        keys: SessionKeys,
    },
    /// The peer connection is gone, and its subscriptions with it.
    RemoveTransport {
        /// Its key.
        transport: TransportKey,
    },
    /// Replaces what this transport sends to us.
    SetReceive {
        /// Its key.
        transport: TransportKey,
        /// All its m-lines.
        receive: Box<ReceiveConfig>,
    },
    /// A track appears, local or remote.
    AddTrack {
        /// Its key, unique in the process.
        track: TrackKey,
        /// What it is.
        config: TrackConfig,
    },
    /// A track is gone, and its subscriptions with it.
    RemoveTrack {
        /// Its key.
        track: TrackKey,
    },
    /// A transport receives a track from now on.
    Subscribe {
        /// The receiver.
        transport: TransportKey,
        /// What it receives.
        track: TrackKey,
        /// How.
        config: Box<SubscriptionConfig>,
    },
    /// A transport receives a track no more.
    Unsubscribe {
        /// The receiver.
        transport: TransportKey,
        /// What it received.
        track: TrackKey,
    },
    /// Highest layer wanted; `None` = nothing is sent.
    SetTarget {
        /// The receiver.
        transport: TransportKey,
        /// What it receives.
        track: TrackKey,
        /// Highest layer wanted.
        target: Option<Target>,
    },
    /// The receiver's own order of what it receives, for when not everything fits.
    SetPriority {
        /// The receiver.
        transport: TransportKey,
        /// What it receives.
        track: TrackKey,
        /// 1 is the most important; 0 = not said.
        priority: u8,
    },
    /// The owner of a track speaks now, or no more.
    SetSpeaking {
        /// The track.
        track: TrackKey,
        /// Whether its owner speaks.
        speaking: bool,
    },
    /// How many audio tracks of a room are forwarded at a time: those that speak. Comes before the room's first track; a room
    /// without a limit is forwarded as it is.
    SetAudioLimit {
        /// [`TrackConfig::room`].
        room: u32,
        /// Most tracks at a time; 0 = all.
        streams: u16,
    },
    /// Bit n: somebody outside this router wants layer n: it is emitted in [`Output::packets`].
    Export {
        /// The track.
        track: TrackKey,
        /// Bitmask of layer indices.
        streams: u8,
    },
    /// A muted track is forwarded to nobody.
    SetMuted {
        /// The track.
        track: TrackKey,
        /// Whether it is muted.
        muted: bool,
    },
    /// A link or another shard needs a keyframe of a track.
    RequestKeyframe {
        /// The track.
        track: TrackKey,
        /// Its stream.
        stream: StreamIndex,
    },
}

/// A publisher's clock as its last sender report tells it (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderClock {
    /// The publisher's wall clock, 32.32 NTP.
    pub ntp: u64,
    /// RTP timestamp at that time.
    pub rtp_timestamp: u32,
    /// When this node received the report.
    pub received: Instant,
}

/// A packet that somebody outside this router wants.
#[derive(Debug, Clone)]
pub struct ExportedPacket {
    /// The track.
    pub track: TrackKey,
    /// Its stream.
    pub stream: StreamIndex,
    /// The packet, shared.
    pub packet: PacketRef,
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A keyframe of a track that this router does not receive itself is needed.
    KeyframeNeeded {
        /// The track.
        track: TrackKey,
        /// Its stream.
        stream: StreamIndex,
    },
    /// The streams of a track that subscriptions of this router want changed.
    Demand {
        /// The track.
        track: TrackKey,
        /// Bitmask of layer indices.
        streams: u8,
    },
    /// A subscription is paused because it does not fit the receiver's path, or goes on.
    StreamState {
        /// The receiver.
        transport: TransportKey,
        /// What it receives.
        track: TrackKey,
        /// Whether nothing of it is sent.
        paused: bool,
    },
    /// A local publisher's clock.
    SenderReport {
        /// The track.
        track: TrackKey,
        /// Its stream.
        stream: StreamIndex,
        /// The mapping.
        clock: SenderClock,
    },
    /// How loud a local audio track is (RFC 6464).
    AudioLevel {
        /// The track.
        track: TrackKey,
        /// 0 (loud) to 127 (silent), in -dBov.
        level_dbov: u8,
        /// The publisher takes it for voice.
        voice: bool,
    },
    /// First media of a stream arrived.
    StreamStarted {
        /// The track.
        track: TrackKey,
        /// Its stream.
        stream: StreamIndex,
    },
    /// First packet of a subscription was forwarded.
    SubscriptionStarted {
        /// The receiver.
        transport: TransportKey,
        /// What it receives.
        track: TrackKey,
    },
    /// A publisher says that an SSRC is over (RFC 3550 section 6.6).
    ByeReceived {
        /// The sender.
        transport: TransportKey,
        /// Its SSRC.
        ssrc: u32,
    },
}

/// What a call produced; owned by the caller, who drains and clears it after each call and reuses
/// it, so that nothing is allocated per packet.
#[derive(Debug, Default)]
pub struct Output {
    /// Sealed datagrams.
    pub arena: SendArena,
    /// Packets of exported streams.
    pub packets: Vec<ExportedPacket>,
    /// What happened.
    pub events: Vec<Event>,
    /// Exported packets and events dropped because the caller did not drain, since the start.
    pub dropped: u64,
}

impl Output {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.packets.clear();
        self.events.clear();
    }

    /// Whether there is nothing to drain.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.arena.is_empty() && self.packets.is_empty() && self.events.is_empty()
    }

    pub(super) fn event(&mut self, event: Event) {
        if self.events.len() < PENDING_MAX {
            self.events.push(event);
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn export(&mut self, track: TrackKey, stream: StreamIndex, packet: &PacketRef) {
        if self.packets.len() < PENDING_MAX {
            self.packets.push(ExportedPacket {
                track,
                stream,
                packet: PacketRef::clone(packet),
            });
        } else {
            self.dropped += 1;
        }
    }
}
