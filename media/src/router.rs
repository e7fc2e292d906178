//! The forwarding core of one shard: publishers' packets in, subscribers' packets out.
//!
//! One router is owned by one thread. Its tables change by [`Command`]; packets come in by
//! [`Router::handle_datagram`] and [`Router::handle_packet`] and go out, sealed, through the
//! caller's [`Output`]. Nothing is allocated per forwarded packet once caches have filled.

use std::collections::HashMap;
use std::time::Instant;

use slab::Slab;

use crate::allocation::Table;
use crate::packet::{PacketRef, Pool, SLOT_LEN};
use crate::rtp;

mod allocate;
mod arena;
mod audio;
mod commands;
mod config;
mod demux;
mod downtrack;
mod egress;
mod feedback;
mod forward;
mod ingress;
mod lateness;
mod meter;
mod output;
mod pacing;
mod reception;
mod repair;
mod report;
mod reports;
mod selection;
mod stats;
mod timers;
mod track;
mod transport;

pub use arena::SendArena;
pub use config::{
    Config, ExtensionIds, LAYERS_MAX, ReceiveConfig, ReceiveMedia, ReceivePayload, ReceiveSsrc,
    SendPayload, Source, SubscriptionConfig, Target, TrackConfig,
};
pub use output::{Command, Event, ExportedPacket, Output, SenderClock};
pub use report::{SubscriptionReport, TransportReport, UplinkReport};
pub use stats::{DropReason, Stats};

use downtrack::Downtrack;
use timers::{Timer, Timers};
use track::{Numbered, Track};
use transport::Transport;

/// One peer connection of one participant, unique in the edge process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransportKey(pub u32);

/// One track, local or remote, unique in the edge process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackKey(pub u32);

/// Simulcast stream: 0 (lowest) to 2; always 0 without simulcast.
pub type StreamIndex = u8;

/// The forwarding core.
#[derive(Debug)]
pub struct Router {
    config: Config,
    pool: Pool,
    stats: Stats,
    timers: Timers,
    transports: Slab<Transport>,
    tracks: Slab<Track>,
    downtracks: Slab<Downtrack>,
    /// Audio tracks by room.
    groups: Slab<audio::Group>,
    transport_slots: HashMap<TransportKey, usize>,
    track_slots: HashMap<TrackKey, usize>,
    /// The payload as the receiver at hand gets it, where that is not as it came.
    scratch: Vec<u8>,
    /// What the allocator works on, reused.
    table: Table,
    /// Positions of the subscriptions in the table.
    positions: Vec<usize>,
    /// State of the generator of initial sequence numbers.
    random: u64,
}

impl Router {
    /// A router without transports or tracks.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            pool: Pool::new(config.pool_slots),
            stats: Stats::default(),
            timers: Timers::default(),
            transports: Slab::new(),
            tracks: Slab::new(),
            downtracks: Slab::new(),
            groups: Slab::new(),
            transport_slots: HashMap::new(),
            track_slots: HashMap::new(),
            scratch: Vec::with_capacity(2 * SLOT_LEN),
            table: Table::default(),
            positions: Vec::new(),
            random: config.seed,
            config,
        }
    }

    /// Changes the tables. Unknown keys are ignored: their owner is gone already.
    pub fn handle_command(&mut self, now: Instant, command: Command, out: &mut Output) {
        match command {
            Command::AddTransport { transport, keys } => self.add_transport(now, transport, &keys),
            Command::RemoveTransport { transport } => self.remove_transport(now, transport, out),
            Command::SetReceive { transport, receive } => self.set_receive(transport, *receive),
            Command::AddTrack { track, config } => self.add_track(now, track, config, out),
            Command::RemoveTrack { track } => self.remove_track(track),
            Command::Subscribe {
                transport,
                track,
                config,
            } => {
                self.subscribe(now, (transport, track), &config, out);
            }
            Command::Unsubscribe { transport, track } => {
                self.unsubscribe(now, transport, track, out);
            }
            Command::SetTarget {
                transport,
                track,
                target,
            } => {
                self.set_target(now, (transport, track), target, out);
            }
            Command::SetPriority {
                transport,
                track,
                priority,
            } => self.set_priority(now, (transport, track), priority, out),
            Command::SetSpeaking { track, speaking } => self.set_speaking(now, track, speaking),
            Command::SetAudioLimit { room, streams } => self.set_audio_limit(room, streams),
            Command::Export { track, streams } => self.export(now, track, streams, out),
            Command::SetMuted { track, muted } => self.set_muted(now, track, muted, out),
            Command::RequestKeyframe { track, stream } => {
                if let Some(&slot) = self.track_slots.get(&track) {
                    self.request_keyframe(now, slot, stream, out);
                }
            }
        }
    }

    /// Takes one SRTP or SRTCP datagram of a transport; it is decrypted in place.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: TransportKey,
        datagram: &mut [u8],
        out: &mut Output,
    ) {
        let Some(&slot) = self.transport_slots.get(&from) else {
            self.stats.drop_packet(DropReason::UnknownTransport);
            return;
        };
        if rtp::is_rtcp(datagram) {
            self.handle_rtcp(now, slot, datagram, out);
        } else {
            self.handle_rtp(now, slot, datagram, out);
        }
    }

    /// Takes a packet of a track whose publisher is elsewhere: another shard or another node.
    #[expect(
        clippy::too_many_arguments,
        reason = "called per packet from rings and links as it is"
    )]
    pub fn handle_packet(
        &mut self,
        now: Instant,
        track: TrackKey,
        stream: StreamIndex,
        packet: &PacketRef,
        out: &mut Output,
    ) {
        let slot = self.track_slots.get(&track).copied();
        let Some((slot, entry)) =
            slot.and_then(|slot| Some((slot, self.tracks.get_mut(slot)?.stream_mut(stream)?)))
        else {
            self.stats.drop_packet(DropReason::UnknownTrack);
            return;
        };
        match entry.number(packet.seq, packet.left_out) {
            Numbered::Duplicate => self.stats.drop_packet(DropReason::Duplicate),
            Numbered::Continues(number) => {
                self.deliver(now, (slot, stream), (number, packet), out);
            }
            Numbered::Restarts(number) => {
                self.restart_stream(slot, stream);
                self.deliver(now, (slot, stream), (number, packet), out);
            }
        }
    }

    /// Takes the publisher's clock of a track whose publisher is elsewhere.
    pub fn handle_sender_report(
        &mut self,
        _now: Instant,
        track: TrackKey,
        stream: StreamIndex,
        report: SenderClock,
    ) {
        let slot = self.track_slots.get(&track).copied();
        let track = slot.and_then(|slot| self.tracks.get_mut(slot));
        if let Some(stream) = track.and_then(|track| track.stream_mut(stream)) {
            stream.clock = Some(report);
        }
    }

    /// When [`Self::handle_timeout`] has something to do; `None` while everything is idle.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Sends what is due: feedback, reports, repeated requests.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Output) {
        // What is armed meanwhile waits for the next call, so that packets get their turn.
        for _ in 0..self.timers.len() {
            let Some((at, timer)) = self.timers.pop(now) else {
                break;
            };
            match timer {
                Timer::Transport(slot) => {
                    let current = self
                        .transports
                        .get_mut(slot)
                        .is_some_and(|t| t.armed.take(at));
                    if current {
                        self.serve_transport(now, slot, out);
                    }
                }
                Timer::Pacer(slot) => {
                    let current = self
                        .transports
                        .get_mut(slot)
                        .is_some_and(|t| t.armed_pacer.take(at));
                    if current {
                        self.serve_pacer(now, slot, out);
                    }
                }
                Timer::Track(slot) => {
                    let current = self.tracks.get_mut(slot).is_some_and(|t| t.armed.take(at));
                    if current {
                        self.serve_track(now, slot, out);
                    }
                }
            }
        }
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What the path to a subscriber carries in bit/s, once anything is known.
    #[must_use]
    pub fn estimate_bps(&self, transport: TransportKey) -> Option<u64> {
        let slot = self.transport_slots.get(&transport)?;
        self.transports.get(*slot)?.egress.budget_bps()
    }

    /// A random number (SplitMix64), good enough to start sequence numbers from.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests;
