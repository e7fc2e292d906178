//! One packet to all who want it.

use std::time::Instant;

use super::downtrack::{Downtrack, Verdict};
use super::egress::{Held, Moment, Outgoing, Stamped};
use super::pacing::OVERHEAD;
use super::timers::Timers;
use super::transport::Transport;

use super::{DropReason, Event, Output, Router, StreamIndex, Timer, TrackKey};
use crate::layer::{Vp8, primary_block};
use crate::pacer::Class;
use crate::packet::{Codec, Packet, PacketRef};
use crate::rtp::{Header, low16};

/// One packet on its way to its subscribers.
#[derive(Debug, Clone, Copy)]
struct Passing<'a> {
    moment: Moment,
    class: Class,
    stream: StreamIndex,
    /// The stream's extended sequence number.
    number: u64,
    packet: &'a PacketRef,
    /// Value of the playout delay extension.
    playout_delay: Option<[u8; 3]>,
    vp8: Option<Vp8>,
    /// The newest block of a RED payload.
    primary: Option<&'a [u8]>,
}

impl Router {
    /// Caches, exports and forwards a packet of a stream.
    pub(super) fn deliver(
        &mut self,
        now: Instant,
        at: (usize, StreamIndex),
        numbered: (u64, &PacketRef),
        out: &mut Output,
    ) {
        let (slot, stream) = at;
        let (number, packet) = numbered;
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let layer = track.layer_of(stream, packet.layer);
        let revived = track.note_packet(now, layer);
        track.meter.count(now, layer, packet);
        let (key, muted) = (track.key, track.muted);
        let exported = track.exports(stream);
        let Some(entry) = track.stream_mut(stream) else {
            return;
        };
        entry.last_packet = Some(now);
        if !packet.codec.is_audio() {
            let in_order = entry.is_newest(number);
            entry
                .lateness
                .note(now, packet.timestamp, packet.codec.clock_rate(), in_order);
        }
        let playout_delay = entry
            .lateness
            .playout_delay(now)
            .or(packet.ext.playout_delay);
        entry.cache.insert(packet);
        if packet.layer.key && packet.layer.frame_start {
            entry.keyframes.answered();
        }
        if muted {
            self.pause_all(slot);
            return self.stats.drop_packet(DropReason::Muted);
        }
        if exported {
            self.stats.exported_packets += 1;
            out.export(key, stream, packet);
        }
        if packet.payload().is_empty() {
            self.stats.drop_packet(DropReason::Padding);
        }
        let passing = Passing {
            playout_delay,
            ..self.passing(now, stream, number, packet)
        };
        let switched = self.fan_out(&passing, slot, out);
        if revived {
            self.hasten_allocations(now, slot);
        }
        if switched || revived {
            self.refresh_track(now, slot, out);
        }
    }

    fn passing<'a>(
        &self,
        now: Instant,
        stream: StreamIndex,
        number: u64,
        packet: &'a PacketRef,
    ) -> Passing<'a> {
        Passing {
            moment: self.moment(now),
            class: if packet.codec.is_audio() {
                Class::Audio
            } else {
                Class::Media
            },
            stream,
            number,
            packet,
            playout_delay: packet.ext.playout_delay,
            vp8: if packet.codec == Codec::Vp8 {
                Vp8::parse(packet.payload())
            } else {
                None
            },
            primary: primary_of(packet),
        }
    }

    /// The time as packets need it.
    pub(super) fn moment(&self, now: Instant) -> Moment {
        Moment::new(now, self.config.origin.0)
    }

    /// Returns whether some subscription changed its stream.
    fn fan_out(&mut self, passing: &Passing<'_>, slot: usize, out: &mut Output) -> bool {
        if !self.is_selected(passing.moment.now, slot, passing.packet) {
            self.leave_out(passing, slot);
            return false;
        }
        let Self {
            tracks,
            transports,
            downtracks,
            stats,
            timers,
            scratch,
            ..
        } = self;
        let Some(track) = tracks.get(slot) else {
            return false;
        };
        if passing.vp8.is_some() {
            scratch.clear();
            scratch.extend_from_slice(passing.packet.payload());
        }
        let mut switched = false;
        for &position in &track.downtracks {
            let Some(downtrack) = downtracks.get_mut(position) else {
                continue;
            };
            let Some(transport) = transports.get_mut(downtrack.transport) else {
                continue;
            };
            let tight = passing.begins_frame() && transport.egress.is_tight(passing.moment.now);
            let verdict = downtrack.admit(track, passing.stream, passing.packet, tight);
            match verdict {
                Verdict::Ignore => continue,
                Verdict::Skip => {
                    downtrack.skip_left_out(passing.number, passing.packet.left_out);
                    downtrack
                        .rewriter
                        .skip(passing.number, passing.vp8.as_ref());
                    continue;
                }
                Verdict::Forward | Verdict::Switch
                    if tight && passing.is_refused_by(downtrack, transport) =>
                {
                    stats.drop_packet(DropReason::PacerFull);
                    if verdict == Verdict::Forward {
                        downtrack.pause();
                        switched = true;
                    }
                    continue;
                }
                Verdict::Switch => {
                    let at = (passing.number, &**passing.packet);
                    downtrack.switch(track, passing.stream, at, passing.vp8.as_ref());
                    stats.layer_switches += 1;
                    switched = true;
                }
                Verdict::Forward => {
                    downtrack.skip_left_out(passing.number, passing.packet.left_out);
                }
            }
            let ends = (&mut *downtrack, &mut *transport);
            match forward(passing, (position, track.key), ends, scratch, out) {
                Ok(Some(bytes)) => stats.note_forwarded(bytes),
                Ok(None) => stats.paced_packets += 1,
                Err(reason) => stats.drop_packet(reason),
            }
            arm_after_sending(passing.moment.now, downtrack.transport, transport, timers);
        }
        switched
    }

    /// Nobody gets this packet, and nobody is to miss it.
    fn leave_out(&mut self, passing: &Passing<'_>, slot: usize) {
        let Some(track) = self.tracks.get(slot) else {
            return;
        };
        for &position in &track.downtracks {
            if let Some(downtrack) = self.downtracks.get_mut(position)
                && downtrack.current == Some(passing.stream)
            {
                downtrack.skip_left_out(passing.number, passing.packet.left_out);
                downtrack.rewriter.skip(passing.number, None);
            }
        }
    }

    fn pause_all(&mut self, slot: usize) {
        let Some(track) = self.tracks.get(slot) else {
            return;
        };
        for &position in &track.downtracks {
            if let Some(downtrack) = self.downtracks.get_mut(position) {
                downtrack.pause();
            }
        }
    }
}

impl Passing<'_> {
    #[inline]
    fn begins_frame(&self) -> bool {
        self.class == Class::Media && self.packet.layer.frame_start
    }

    /// Whether the transport's pacer has no room for the frame that begins.
    fn is_refused_by(&self, downtrack: &Downtrack, transport: &mut Transport) -> bool {
        let now = self.moment.now;
        let follows = downtrack.is_after_keyframe(now) && !self.packet.layer.key;
        transport.egress.is_congested(now, follows)
    }
}

/// Wakes the transport for its pacer and for the first sender report.
#[inline]
fn arm_after_sending(now: Instant, slot: usize, transport: &mut Transport, timers: &mut Timers) {
    if std::mem::take(&mut transport.egress.look) {
        timers.arm(&mut transport.armed_pacer, Timer::Pacer(slot), now);
    }
    if transport.sender_report_due.is_none() {
        transport.sender_report_due = Some(now);
        timers.arm(&mut transport.armed, Timer::Transport(slot), now);
    }
}

/// The newest block of a RED packet.
pub(super) fn primary_of(packet: &Packet) -> Option<&[u8]> {
    let is_red = packet.codec == Codec::Red;
    primary_block(packet.payload())
        .filter(|_| is_red)
        .map(|(_, block)| block)
}

/// The payload and payload type that a subscription gets of a packet.
#[inline]
pub(super) fn representation<'a>(
    downtrack: &Downtrack,
    packet: &'a Packet,
    primary: Option<&'a [u8]>,
) -> Option<(&'a [u8], super::SendPayload)> {
    let find = |codec: Codec| {
        downtrack
            .payloads
            .iter()
            .copied()
            .find(|p| p.codec == codec)
    };
    if packet.codec == Codec::Red {
        if let Some(payload) = find(Codec::Red).filter(|_| downtrack.red) {
            return Some((packet.payload(), payload));
        }
        return Some((primary?, find(Codec::Opus)?));
    }
    Some((packet.payload(), find(packet.codec)?))
}

/// Numbers a packet for one subscription and sends it, or has it wait for the pacer (`None`). `at` is the position of the
/// subscription and the key of its track.
#[inline]
fn forward(
    passing: &Passing<'_>,
    at: (usize, TrackKey),
    ends: (&mut Downtrack, &mut Transport),
    scratch: &mut [u8],
    out: &mut Output,
) -> Result<Option<usize>, DropReason> {
    let (downtrack, transport) = ends;
    let (position, track) = at;
    let packet = passing.packet;
    let (payload, payload_type) =
        representation(downtrack, packet, passing.primary).ok_or(DropReason::NoPayloadType)?;
    let mut sent = downtrack
        .rewriter
        .forward(passing.number, packet.timestamp, passing.vp8.as_ref())
        .ok_or(DropReason::TooLate)?;
    sent.marker = downtrack.marker(packet);
    if packet.layer.key && packet.layer.frame_start {
        downtrack.keyframe_at = downtrack.keyframe_at.max(sent.seq);
        downtrack.keyframe_sent = Some(passing.moment.now);
    }
    downtrack.last_sent = Some(passing.moment.now);
    let stamped = Stamped {
        stream: passing.stream,
        sent,
        playout_delay: passing
            .playout_delay
            .max(downtrack.lateness.playout_delay(passing.moment.now)),
        payload_type: payload_type.pt,
    };
    let egress = &mut transport.egress;
    if !egress.pacer.is_open(passing.moment.now, passing.class) {
        let held = Held::Media {
            position,
            stamped,
            packet: PacketRef::clone(packet),
        };
        return match egress.hold(passing.class, payload.len() + OVERHEAD, held) {
            Ok(()) => Ok(None),
            Err(_full) => Err(DropReason::PacerFull),
        };
    }
    let payload = match &passing.vp8 {
        Some(vp8) => {
            // Each receiver's ids overwrite those of the one before.
            sent.picture.apply(vp8, scratch);
            &*scratch
        }
        None => payload,
    };
    let ends = (downtrack, transport);
    emit(
        &passing.moment,
        &stamped,
        (packet, payload),
        ends,
        (track, out),
    )
    .map(Some)
}

/// Sends a packet that waited; returns its bytes on the wire.
pub(super) fn emit_held(
    moment: &Moment,
    held: (&Stamped, &Packet),
    track: TrackKey,
    ends: (&mut Downtrack, &mut Transport),
    buffers: (&mut Vec<u8>, &mut Output),
) -> Result<usize, DropReason> {
    let (stamped, packet) = held;
    let (scratch, out) = buffers;
    scratch.clear();
    scratch.extend_from_slice(packet.payload());
    if packet.codec == Codec::Vp8
        && let Some(vp8) = Vp8::parse(packet.payload())
    {
        stamped.sent.picture.apply(&vp8, scratch);
    }
    emit(moment, stamped, (packet, scratch), ends, (track, out))
}

/// Writes, seals and records one packet; returns its bytes on the wire.
#[inline]
fn emit(
    moment: &Moment,
    stamped: &Stamped,
    contents: (&Packet, &[u8]),
    ends: (&mut Downtrack, &mut Transport),
    news: (TrackKey, &mut Output),
) -> Result<usize, DropReason> {
    let (packet, payload) = contents;
    let (downtrack, transport) = ends;
    let (track, out) = news;
    let sent = &stamped.sent;
    let outgoing = Outgoing {
        header: Header {
            marker: sent.marker,
            payload_type: stamped.payload_type,
            seq: low16(sent.seq),
            timestamp: sent.timestamp,
            ssrc: downtrack.line.ssrc,
        },
        index: sent.seq,
        packet: Some(packet),
        playout_delay: stamped.playout_delay,
        payload,
        moment,
    };
    let bytes = transport
        .egress
        .send(&downtrack.line, &outgoing, &mut out.arena)?;
    transport.egress.earn(bytes);
    downtrack.meter.bytes += bytes as u64;
    if let Some(history) = &mut downtrack.history {
        history.record(sent, stamped.stream, packet.seq, moment.ms);
    }
    downtrack.packets = downtrack.packets.wrapping_add(1);
    let octets = u32::try_from(payload.len()).unwrap_or(0);
    downtrack.octets = downtrack.octets.wrapping_add(octets);
    if !downtrack.started {
        downtrack.started = true;
        out.event(Event::SubscriptionStarted {
            transport: transport.egress.key,
            track,
        });
    }
    Ok(bytes)
}
