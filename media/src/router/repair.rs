//! Sending again what a subscriber lost (RFC 4588), and padding made of it.

use std::time::Duration;

use super::downtrack::Downtrack;
use super::egress::{Held, Moment, Outgoing};
use super::forward::{primary_of, representation};
use super::track::Track;
use super::transport::Transport;
use super::{Output, Router};
use crate::layer::Vp8;
use crate::pacer::Class;
use crate::packet::{Codec, Packet, PacketRef};
use crate::retransmit::{RTX_PREFIX_LEN, SentRecord};
use crate::rtp::{Header, extend, low16};

/// How often one packet is sent again. Libwebrtc's receivers ask ten times; by the fifth time they rather need a keyframe.
const RESENDS_MAX: u8 = 5;

/// Packets older than this are not sent again: receivers wait for a lost packet about as long before they ask for a keyframe
/// (libwebrtc's `kMaxWaitForFrame` is 3 s, its `kMaxPacketAge` for NACKs far less in time at usual rates).
const AGE_MAX: Duration = Duration::from_millis(1500);

/// On a long path a repair is late by itself: this many round trips are always allowed.
const AGE_MAX_RTTS: u32 = 4;

/// Shortest and longest interval between two repairs of one packet in milliseconds.
const INTERVAL_MS: (u16, u16) = (10, 1000);

/// How far back padding looks for packets to repeat.
const PADDING_DEPTH: u64 = 32;

/// Longest RTP padding in bytes (RFC 3550 section 5.1: a count of one byte, itself included).
pub(super) const PADDING_MAX: usize = 255;

static PADDING: [u8; PADDING_MAX] = {
    let mut padding = [0; PADDING_MAX];
    padding[PADDING_MAX - 1] = 255;
    padding
};

impl Router {
    /// Answers a NACK: what is asked for goes out at once or waits in the pacer, before media.
    pub(super) fn retransmit(
        &mut self,
        moment: &Moment,
        position: usize,
        lost: impl Iterator<Item = u16>,
        out: &mut Output,
    ) {
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
            let ends = (&mut *downtrack, &mut *transport);
            let Some((record, bytes)) = grant(moment, seq, track, ends) else {
                stats.rtx_refused += 1;
                continue;
            };
            let egress = &mut transport.egress;
            if !egress.pacer.is_open(moment.now, Class::Repair) {
                let repair = Held::Repair { position, record };
                match egress.hold(Class::Repair, bytes, repair) {
                    Ok(()) => {}
                    Err(_full) => stats.rtx_refused += 1,
                }
                continue;
            }
            let ends = (&mut *downtrack, &mut *transport);
            match resend(moment, &record, track, ends, (scratch, out)) {
                Some(_) => stats.rtx_sent += 1,
                None => stats.rtx_refused += 1,
            }
        }
    }
}

/// Whether a packet is sent again: it is known, not too old, was not sent within a round trip, and within the budget. Returns
/// how it was sent, and its size in bytes.
fn grant(
    moment: &Moment,
    seq: u16,
    track: &Track,
    ends: (&mut Downtrack, &mut Transport),
) -> Option<(SentRecord, usize)> {
    let (downtrack, transport) = ends;
    if is_needless(downtrack, seq, transport) {
        return None;
    }
    let rtt = transport.egress.round_trip(downtrack);
    let (shortest, longest) = INTERVAL_MS;
    let interval = u16::try_from(rtt.as_millis())
        .unwrap_or(longest)
        .clamp(shortest, longest);
    let record = downtrack
        .history
        .as_mut()?
        .ask(seq, moment.ms, interval, RESENDS_MAX)?;
    let packet = track.stream(record.stream())?.cache.get(record.in_seq())?;
    let age = moment.now.saturating_duration_since(packet.arrival);
    if age > AGE_MAX.max(rtt * AGE_MAX_RTTS) {
        return None;
    }
    let bytes = packet.payload().len() + RTX_PREFIX_LEN;
    if !transport.egress.spend_repair(moment.now, bytes) {
        return None;
    }
    // What a full queue lost is no reason to wait: it comes again when the queue is gone.
    if !transport.egress.controller.has_backlog() {
        downtrack.lateness.note_late(moment.now, age);
    }
    Some((record, bytes))
}

/// Whether a repair would keep a queue full for nothing: the stream is paused and will begin anew, or a later keyframe is on its way.
fn is_needless(downtrack: &Downtrack, seq: u16, transport: &Transport) -> bool {
    let superseded = extend(downtrack.rewriter.next_seq(), seq) < downtrack.keyframe_at;
    transport.egress.controller.has_backlog() && (superseded || downtrack.granted.is_none())
}

/// Sends a packet again; returns its bytes on the wire.
pub(super) fn resend(
    moment: &Moment,
    record: &SentRecord,
    track: &Track,
    ends: (&mut Downtrack, &mut Transport),
    buffers: (&mut Vec<u8>, &mut Output),
) -> Option<usize> {
    let (downtrack, transport) = ends;
    let (scratch, out) = buffers;
    let packet: &Packet = track.stream(record.stream())?.cache.get(record.in_seq())?;
    let (payload, payload_type) = representation(downtrack, packet, primary_of(packet))?;
    let seq = record.out_seq();
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
    let mut index = extend(downtrack.rewriter.next_seq(), seq);
    if let (Some(ssrc), Some(rtx_type)) = (downtrack.rtx_ssrc, payload_type.rtx_pt) {
        index = downtrack.next_rtx;
        header.payload_type = rtx_type;
        header.ssrc = ssrc;
        header.seq = low16(index);
        scratch.extend_from_slice(&seq.to_be_bytes());
    } else if !transport.egress.outbound.may_repeat_index() {
        return None;
    }
    let prefix = scratch.len();
    scratch.extend_from_slice(payload);
    if packet.codec == Codec::Vp8
        && let Some(vp8) = Vp8::parse(packet.payload())
        && let Some(payload) = scratch.get_mut(prefix..)
    {
        record.picture().apply(&vp8, payload);
    }
    let outgoing = Outgoing {
        header,
        index,
        packet: Some(packet),
        playout_delay: packet.ext.playout_delay,
        payload: scratch.as_slice(),
        moment,
    };
    let bytes = transport
        .egress
        .send(&downtrack.line, &outgoing, &mut out.arena)
        .ok()?;
    downtrack.meter.bytes += bytes as u64;
    downtrack.meter.rtx_packets += 1;
    if uses_rtx {
        downtrack.next_rtx += 1;
    }
    Some(bytes)
}

/// Sends a packet that carries nothing new, of about `room` bytes on the wire: a recent packet again, which may repair something,
/// or bare padding. Returns its bytes on the wire; `None` without RTX.
pub(super) fn pad(
    moment: &Moment,
    room: usize,
    track: &Track,
    ends: (&mut Downtrack, &mut Transport),
    buffers: (&mut Vec<u8>, &mut Output),
) -> Option<usize> {
    let (downtrack, transport) = ends;
    let rtx_ssrc = downtrack.rtx_ssrc?;
    if let Some(record) = repeatable(downtrack, track, room) {
        let ends = (&mut *downtrack, &mut *transport);
        return resend(moment, &record, track, ends, buffers);
    }
    let codec = track.config.codec;
    let of_codec = downtrack.payloads.iter().find(|p| p.codec == codec);
    let outgoing = Outgoing {
        header: Header {
            marker: false,
            payload_type: of_codec?.rtx_pt?,
            seq: low16(downtrack.next_rtx),
            timestamp: downtrack.rewriter.last_timestamp().unwrap_or(0),
            ssrc: rtx_ssrc,
        },
        index: downtrack.next_rtx,
        packet: None,
        playout_delay: None,
        payload: &PADDING,
        moment,
    };
    let (_, out) = buffers;
    let bytes = transport
        .egress
        .send(&downtrack.line, &outgoing, &mut out.arena)
        .ok()?;
    downtrack.next_rtx += 1;
    Some(bytes)
}

/// The largest recent packet that fits `room`, unless bare padding fills it as well.
fn repeatable(downtrack: &Downtrack, track: &Track, room: usize) -> Option<SentRecord> {
    let history = downtrack.history.as_ref()?;
    let next = downtrack.rewriter.next_seq();
    let size = |record: &SentRecord| -> usize {
        let cached: Option<&PacketRef> = track
            .stream(record.stream())
            .and_then(|stream| stream.cache.get(record.in_seq()));
        cached.map_or(0, |packet| packet.payload().len())
    };
    (next.saturating_sub(PADDING_DEPTH)..next)
        .rev()
        .filter_map(|number| history.find(low16(number)))
        .map(|record| (size(&record), record))
        .filter(|(bytes, _)| (PADDING_MAX + 1..=room).contains(bytes))
        .max_by_key(|(bytes, _)| *bytes)
        .map(|(_, record)| record)
}
