//! One packet to all who want it.

use std::time::Instant;

use super::downtrack::{Downtrack, Verdict};
use super::egress::{Outgoing, absolute_send_time};
use super::track::Track;
use super::transport::Transport;
use super::{DropReason, Event, Output, Router, Stats, StreamIndex, Timer, TrackKey};
use crate::layer::{Vp8, primary_block};
use crate::packet::{Codec, Packet, PacketRef};
use crate::rtp::{Header, low16};

/// One packet on its way to its subscribers.
#[derive(Debug, Clone, Copy)]
struct Passing<'a> {
    now: Instant,
    /// Milliseconds since the router's origin.
    now_ms: u64,
    send_time: u32,
    stream: StreamIndex,
    /// The stream's extended sequence number.
    number: u64,
    packet: &'a Packet,
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
        if switched || revived {
            self.refresh_track(now, slot, out);
        }
    }

    fn passing<'a>(
        &self,
        now: Instant,
        stream: StreamIndex,
        number: u64,
        packet: &'a Packet,
    ) -> Passing<'a> {
        let elapsed = now.saturating_duration_since(self.config.origin.0);
        Passing {
            now,
            now_ms: u64::try_from(elapsed.as_millis()).unwrap_or(0),
            send_time: absolute_send_time(elapsed),
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

    /// Returns whether some subscription changed its stream.
    fn fan_out(&mut self, passing: &Passing<'_>, slot: usize, out: &mut Output) -> bool {
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
            match downtrack.admit(track, passing.stream, passing.packet) {
                Verdict::Ignore => continue,
                Verdict::Skip => {
                    downtrack.skip_left_out(passing.number, passing.packet.left_out);
                    downtrack
                        .rewriter
                        .skip(passing.number, passing.vp8.as_ref());
                    continue;
                }
                Verdict::Switch => {
                    let at = (passing.number, passing.packet);
                    downtrack.switch(track, passing.stream, at, passing.vp8.as_ref());
                    stats.layer_switches += 1;
                    switched = true;
                }
                Verdict::Forward => {
                    downtrack.skip_left_out(passing.number, passing.packet.left_out);
                }
            }
            let Some(transport) = transports.get_mut(downtrack.transport) else {
                continue;
            };
            let ends = (&mut *downtrack, &mut *transport);
            match forward(passing, track, ends, scratch, out) {
                Ok(bytes) => note_sent(stats, bytes),
                Err(reason) => stats.drop_packet(reason),
            }
            if transport.sender_report_due.is_none() {
                transport.sender_report_due = Some(passing.now);
                let timer = Timer::Transport(downtrack.transport);
                timers.arm(&mut transport.armed, timer, passing.now);
            }
        }
        switched
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

    /// Sends packets again that a subscriber misses (RFC 4588).
    pub(super) fn retransmit(
        &mut self,
        now: Instant,
        position: usize,
        lost: impl Iterator<Item = u16>,
        out: &mut Output,
    ) {
        let elapsed = now.saturating_duration_since(self.config.origin.0);
        let now_ms = u64::try_from(elapsed.as_millis()).unwrap_or(0);
        let send_time = absolute_send_time(elapsed);
        let Self {
            tracks,
            transports,
            downtracks,
            stats,
            scratch,
            ..
        } = self;
        let Some(downtrack) = downtracks.get_mut(position) else {
            return;
        };
        let Some(track) = tracks.get(downtrack.track) else {
            return;
        };
        let Some(transport) = transports.get_mut(downtrack.transport) else {
            return;
        };
        for seq in lost {
            stats.nacks_received += 1;
            downtrack.meter.nacks += 1;
            let moment = Resend {
                seq,
                now_ms,
                send_time,
            };
            match resend(
                moment,
                track,
                (&mut *downtrack, &mut *transport),
                scratch,
                out,
            ) {
                Some(()) => {
                    stats.rtx_sent += 1;
                    downtrack.meter.rtx_packets += 1;
                }
                None => stats.rtx_refused += 1,
            }
        }
    }
}

#[inline]
fn note_sent(stats: &mut Stats, bytes: usize) {
    stats.forwarded_packets += 1;
    stats.forwarded_bytes += bytes as u64;
}

/// The newest block of a RED packet.
fn primary_of(packet: &Packet) -> Option<&[u8]> {
    let is_red = packet.codec == Codec::Red;
    primary_block(packet.payload())
        .filter(|_| is_red)
        .map(|(_, block)| block)
}

/// The payload and payload type that a subscription gets of a packet.
#[inline]
fn representation<'a>(
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

#[inline]
fn forward(
    passing: &Passing<'_>,
    track: &Track,
    ends: (&mut Downtrack, &mut Transport),
    scratch: &mut [u8],
    out: &mut Output,
) -> Result<usize, DropReason> {
    let (downtrack, transport) = ends;
    let packet = passing.packet;
    let (payload, payload_type) =
        representation(downtrack, packet, passing.primary).ok_or(DropReason::NoPayloadType)?;
    let mut sent = downtrack
        .rewriter
        .forward(passing.number, packet.timestamp, passing.vp8.as_ref())
        .ok_or(DropReason::TooLate)?;
    sent.marker = downtrack.marker(packet);
    let payload = match &passing.vp8 {
        Some(vp8) => {
            // Each receiver's ids overwrite those of the one before.
            sent.picture.apply(vp8, scratch);
            &*scratch
        }
        None => payload,
    };
    let outgoing = Outgoing {
        header: Header {
            marker: sent.marker,
            payload_type: payload_type.pt,
            seq: low16(sent.seq),
            timestamp: sent.timestamp,
            ssrc: downtrack.line.ssrc,
        },
        index: sent.seq,
        packet,
        playout_delay: passing.playout_delay,
        payload,
        send_time: passing.send_time,
    };
    let bytes = transport
        .egress
        .send(&downtrack.line, &outgoing, &mut out.arena)?;
    transport.egress.earn(bytes);
    downtrack.meter.bytes += bytes as u64;
    if let Some(history) = &mut downtrack.history {
        history.record(&sent, passing.stream, packet.seq, passing.now_ms);
    }
    downtrack.packets = downtrack.packets.wrapping_add(1);
    let octets = u32::try_from(payload.len()).unwrap_or(0);
    downtrack.octets = downtrack.octets.wrapping_add(octets);
    downtrack.last_sent = Some(passing.now);
    if !downtrack.started {
        downtrack.started = true;
        announce(transport, track.key, out);
    }
    Ok(bytes)
}

fn announce(transport: &Transport, track: TrackKey, out: &mut Output) {
    out.event(Event::SubscriptionStarted {
        transport: transport.egress.key,
        track,
    });
}

#[derive(Debug, Clone, Copy)]
struct Resend {
    seq: u16,
    now_ms: u64,
    send_time: u32,
}

/// How often one packet is sent again.
const RESENDS_MAX: u8 = 5;

fn resend(
    moment: Resend,
    track: &Track,
    ends: (&mut Downtrack, &mut Transport),
    scratch: &mut Vec<u8>,
    out: &mut Output,
) -> Option<()> {
    let (downtrack, transport) = ends;
    let seq = moment.seq;
    let interval = u16::try_from(downtrack.rtt.as_millis())
        .unwrap_or(1000)
        .clamp(10, 1000)
        / 2;
    let record = downtrack
        .history
        .as_mut()?
        .ask(seq, moment.now_ms, interval, RESENDS_MAX)?;
    let packet: &Packet = track.stream(record.stream())?.cache.get(record.in_seq())?;
    let primary = primary_of(packet);
    let (payload, payload_type) = representation(downtrack, packet, primary)?;
    let vp8 = if packet.codec == Codec::Vp8 {
        Vp8::parse(packet.payload())
    } else {
        None
    };
    let mut header = Header {
        marker: record.marker(),
        payload_type: payload_type.pt,
        seq,
        timestamp: record.timestamp(),
        ssrc: downtrack.line.ssrc,
    };
    let uses_rtx = downtrack.rtx_ssrc.is_some() && payload_type.rtx_pt.is_some();
    scratch.clear();
    // Without RTX the packet goes out under its own index again, which GCM forbids.
    let mut index = crate::rtp::extend(downtrack.rewriter.next_seq(), seq);
    if let (Some(ssrc), Some(rtx_type)) = (downtrack.rtx_ssrc, payload_type.rtx_pt) {
        index = downtrack.next_rtx;
        header.payload_type = rtx_type;
        header.ssrc = ssrc;
        header.seq = low16(index);
        scratch.extend_from_slice(&seq.to_be_bytes());
    } else if !transport.egress.outbound.may_repeat_index() {
        return None;
    }
    if !transport.egress.spend(payload.len()) {
        return None;
    }
    let prefix = scratch.len();
    scratch.extend_from_slice(payload);
    if let (Some(vp8), Some(payload)) = (vp8, scratch.get_mut(prefix..)) {
        record.picture().apply(&vp8, payload);
    }
    let payload = scratch.as_slice();
    let send_time = moment.send_time;
    let outgoing = Outgoing {
        header,
        index,
        packet,
        playout_delay: packet.ext.playout_delay,
        payload,
        send_time,
    };
    let bytes = transport
        .egress
        .send(&downtrack.line, &outgoing, &mut out.arena)
        .ok()?;
    downtrack.meter.bytes += bytes as u64;
    if uses_rtx {
        downtrack.next_rtx += 1;
    }
    Some(())
}
