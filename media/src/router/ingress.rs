//! Publishers' packets: from the datagram to the slot.

use std::time::Instant;

use super::demux::{Binding, Hints, find_payload};
use super::reception::Reception;
use super::report::UplinkMeter;
use super::track::{Numbered, Track, Uplink};
use super::{DropReason, Event, Output, ReceivePayload, Router, StreamIndex, Timer};
use crate::layer::{Context, Reader};
use crate::packet::{self, Extensions, Head, LayerMeta};
use crate::retransmit::{NackGenerator, Receipt, split_rtx};
use crate::rtp::View;
use crate::{srtp, twcc};

/// Least time between two level events of a track in milliseconds: packets carry 10 ms to 120 ms.
const LEVEL_INTERVAL_MS: u64 = 15;

/// What the header extensions of one packet say.
#[derive(Debug, Clone, Copy, Default)]
struct Elements<'a> {
    mid: Option<&'a [u8]>,
    rid: Option<&'a [u8]>,
    repaired_rid: Option<&'a [u8]>,
    transport_seq: Option<u16>,
    descriptor: &'a [u8],
    ext: Extensions,
}

/// A packet of a known track, after a retransmission was taken apart.
#[derive(Debug, Clone, Copy)]
struct Incoming<'a> {
    track: usize,
    stream: StreamIndex,
    transport: usize,
    payload_type: ReceivePayload,
    /// The sequence number of the original.
    seq: u16,
    repaired: bool,
    payload: &'a [u8],
    /// On the wire.
    bytes: usize,
    view: View<'a>,
    elements: Elements<'a>,
}

impl Router {
    pub(super) fn handle_rtp(
        &mut self,
        now: Instant,
        slot: usize,
        datagram: &mut [u8],
        out: &mut Output,
    ) {
        let len = datagram.len();
        let Some(transport) = self.transports.get_mut(slot) else {
            return;
        };
        let plain: &[u8] = match transport.inbound.open_rtp(datagram) {
            Ok(plain) => plain,
            Err(error) => return self.stats.drop_packet(refusal(error)),
        };
        self.stats.received_packets += 1;
        self.stats.received_bytes += len as u64;
        transport.rate.bytes += len as u64;
        let Ok(view) = View::parse(plain) else {
            return self.stats.drop_packet(DropReason::Malformed);
        };
        let elements = read_elements(&view, &transport.demux.receive.extensions);
        if let Some(seq) = elements.transport_seq {
            self.record_arrival(now, slot, seq, view.header.ssrc);
        }
        match self.classify(slot, &view, elements) {
            Ok(incoming) => self.handle_media(now, &incoming, out),
            Err(reason) => self.stats.drop_packet(reason),
        }
    }

    fn record_arrival(&mut self, now: Instant, slot: usize, seq: u16, ssrc: u32) {
        let origin = self.config.origin.0;
        let Some(transport) = self.transports.get_mut(slot) else {
            return;
        };
        transport
            .twcc
            .get_or_insert_with(|| Box::new(twcc::Receiver::new(origin)))
            .record(seq, now);
        transport.media_ssrc = ssrc;
        let due = *transport
            .feedback_due
            .get_or_insert(now + self.config.feedback_interval);
        self.timers
            .arm(&mut transport.armed, Timer::Transport(slot), due);
    }

    /// Finds the track and undoes RTX.
    fn classify<'a>(
        &mut self,
        slot: usize,
        view: &View<'a>,
        elements: Elements<'a>,
    ) -> Result<Incoming<'a>, DropReason> {
        let transport = self
            .transports
            .get_mut(slot)
            .ok_or(DropReason::UnknownTransport)?;
        let hints = Hints {
            ssrc: view.header.ssrc,
            payload_type: view.header.payload_type,
            mid: elements.mid,
            rid: elements.rid,
            repaired_rid: elements.repaired_rid,
        };
        let binding = transport
            .demux
            .resolve(&hints)
            .ok_or(DropReason::UnknownSsrc)?;
        let media = transport
            .demux
            .media(binding)
            .ok_or(DropReason::UnknownSsrc)?;
        let (payload_type, repaired) =
            find_payload(media, view.header.payload_type).ok_or(DropReason::UnknownPayloadType)?;
        let payload_type = *payload_type;
        let track = self
            .track_slots
            .get(&media.track)
            .ok_or(DropReason::UnknownTrack)?;
        let (seq, payload) = if repaired {
            // Probing padding on an RTX stream has no original at all.
            split_rtx(view.payload()).ok_or(DropReason::Padding)?
        } else {
            (view.header.seq, view.payload())
        };
        if repaired && payload.is_empty() {
            return Err(DropReason::Padding);
        }
        let Binding { stream, .. } = binding;
        let (track, transport) = (*track, slot);
        let bytes = view.header_len() + view.payload().len() + usize::from(view.padding());
        let (view, elements) = (*view, elements);
        Ok(Incoming {
            track,
            stream,
            transport,
            payload_type,
            seq,
            repaired,
            payload,
            bytes,
            view,
            elements,
        })
    }

    fn handle_media(&mut self, now: Instant, incoming: &Incoming<'_>, out: &mut Output) {
        let &Incoming {
            track: slot,
            stream,
            ..
        } = incoming;
        let started = match self.attach(incoming) {
            Ok(started) => started,
            Err(reason) => return self.stats.drop_packet(reason),
        };
        let Some(track) = self.tracks.get_mut(slot) else {
            return;
        };
        let key = track.key;
        let Some(entry) = track.stream_mut(stream) else {
            return;
        };
        let number = match entry.number(incoming.seq, 0) {
            Numbered::Duplicate => return self.stats.drop_packet(DropReason::Duplicate),
            Numbered::Continues(number) => number,
            // A retransmission from another life of the stream is of no use.
            Numbered::Restarts(_) if incoming.repaired => {
                return self.stats.drop_packet(DropReason::TooLate);
            }
            Numbered::Restarts(number) => {
                self.restart_stream(slot, stream);
                number
            }
        };
        if started {
            out.event(Event::StreamStarted { track: key, stream });
        }
        let Some(layer) = self.account(now, incoming, number) else {
            return;
        };
        self.report_level(now, slot, &incoming.elements.ext, out);
        let head = Head {
            arrival: now,
            codec: incoming.payload_type.codec,
            marker: incoming.view.header.marker,
            seq: incoming.seq,
            left_out: 0,
            timestamp: incoming.view.header.timestamp,
            layer,
            ext: incoming.elements.ext,
        };
        match self
            .pool
            .build(head, incoming.payload, incoming.elements.descriptor)
        {
            Ok(packet) => {
                self.stats.slots_allocated = self.pool.allocated();
                self.deliver(now, (slot, stream), (number, &packet), out);
            }
            Err(packet::Error::TooLarge { .. }) => self.stats.drop_packet(DropReason::TooLarge),
            Err(_) => self.stats.drop_packet(DropReason::Malformed),
        }
    }

    /// Makes sure that the stream's uplink is this SSRC's; returns whether it is a new one.
    fn attach(&mut self, incoming: &Incoming<'_>) -> Result<bool, DropReason> {
        let &Incoming {
            track: slot,
            stream,
            transport,
            payload_type,
            ..
        } = incoming;
        let ssrc = incoming.view.header.ssrc;
        let track = self.tracks.get_mut(slot).ok_or(DropReason::UnknownTrack)?;
        let entry = track.stream_mut(stream).ok_or(DropReason::UnknownSsrc)?;
        let before = entry
            .uplink
            .as_ref()
            .map(|uplink| (uplink.ssrc, uplink.transport));
        if before == Some((ssrc, transport)) {
            return Ok(false);
        }
        if incoming.repaired {
            let known = before.is_some_and(|(_, owner)| owner == transport);
            return if known {
                Ok(false)
            } else {
                Err(DropReason::UnknownSsrc)
            };
        }
        let hold = self.config.reorder_hold;
        entry.uplink = Some(Uplink {
            ssrc,
            transport,
            nack: payload_type.nack.then(|| NackGenerator::new(hold)),
            pli: payload_type.pli,
            fir_seq: 0,
            reception: Reception::new(payload_type.clock_rate),
            reader: Reader::default(),
            meter: UplinkMeter::default(),
        });
        if let Some(transport) = self.transports.get_mut(transport)
            && !transport.uplinks.contains(&(slot, stream))
        {
            transport.uplinks.push((slot, stream));
        }
        if before.is_some() {
            // The publisher gave the stream another SSRC: sequence numbers begin anew.
            self.forget_numbers(slot, stream);
            self.restart_stream(slot, stream);
        }
        Ok(true)
    }

    /// Statistics, gaps and layers of one packet; `None` when it was there before.
    fn account(&mut self, now: Instant, incoming: &Incoming<'_>, number: u64) -> Option<LayerMeta> {
        let elapsed = now
            .saturating_duration_since(self.config.origin.0)
            .as_micros();
        let track = self.tracks.get_mut(incoming.track)?;
        let wanted = track.is_wanted() && !track.muted;
        let uplink = track.stream_mut(incoming.stream)?.uplink.as_mut()?;
        let timestamp = incoming.view.header.timestamp;
        if !incoming.repaired {
            let elapsed_us = u64::try_from(elapsed).unwrap_or(0);
            uplink.reception.receive(number, timestamp, elapsed_us);
        }
        let mut due = None;
        if let Some(nack) = &mut uplink.nack {
            match nack.receive(number, now) {
                Receipt::Duplicate => {
                    self.stats.drop_packet(DropReason::Duplicate);
                    return None;
                }
                Receipt::Late { asked: true } => {
                    self.stats.recovered_packets += 1;
                    uplink.meter.repaired += 1;
                }
                Receipt::Late { asked: false } | Receipt::New => {}
            }
            due = nack.poll_timeout().filter(|_| wanted);
        }
        uplink.meter.receive(incoming.bytes, timestamp);
        let context = Context {
            timestamp,
            marker: incoming.view.header.marker,
            descriptor: incoming.elements.descriptor,
        };
        let layer = uplink
            .reader
            .read(incoming.payload_type.codec, incoming.payload, context);
        let transport = self.transports.get_mut(incoming.transport)?;
        let report = *transport
            .report_due
            .get_or_insert(now + super::reports::INTERVAL);
        let due = due.map_or(report, |due| due.min(report));
        self.timers.arm(
            &mut transport.armed,
            Timer::Transport(incoming.transport),
            due,
        );
        Some(layer)
    }

    fn report_level(&mut self, now: Instant, slot: usize, ext: &Extensions, out: &mut Output) {
        let (Some(raw), Some(track)) = (ext.audio_level, self.tracks.get_mut(slot)) else {
            return;
        };
        let interval = std::time::Duration::from_millis(LEVEL_INTERVAL_MS);
        if track.muted || track.last_level.is_some_and(|last| now < last + interval) {
            return;
        }
        track.last_level = Some(now);
        let (level_dbov, voice) = (raw & 0x7f, raw & 0x80 != 0);
        out.event(Event::AudioLevel {
            track: track.key,
            level_dbov,
            voice,
        });
    }

    fn forget_numbers(&mut self, slot: usize, stream: StreamIndex) {
        if let Some(entry) = self
            .tracks
            .get_mut(slot)
            .and_then(|t: &mut Track| t.stream_mut(stream))
        {
            entry.forget();
        }
    }

    /// The stream's numbering has nothing to do with what was before: subscriptions need a
    /// keyframe and close the gap.
    pub(super) fn restart_stream(&mut self, slot: usize, stream: StreamIndex) {
        let Some(track) = self.tracks.get(slot) else {
            return;
        };
        for &position in &track.downtracks {
            if let Some(downtrack) = self.downtracks.get_mut(position) {
                downtrack.restart(stream);
            }
        }
    }
}

fn refusal(error: srtp::Error) -> DropReason {
    match error {
        srtp::Error::Authentication => DropReason::Authentication,
        srtp::Error::Replay { .. } => DropReason::Replay,
        srtp::Error::TooManySsrcs => DropReason::UnknownSsrc,
        srtp::Error::Malformed { .. }
        | srtp::Error::NoRoom { .. }
        | srtp::Error::KeyLength { .. } => DropReason::Malformed,
    }
}

fn read_elements<'a>(view: &View<'a>, ids: &super::ExtensionIds) -> Elements<'a> {
    let mut elements = Elements::default();
    for (id, value) in view.extensions() {
        let id_some = Some(id);
        if id_some == ids.transport_cc {
            elements.transport_seq = value.first_chunk().copied().map(u16::from_be_bytes);
        } else if id_some == ids.mid {
            elements.mid = Some(value);
        } else if id_some == ids.rid {
            elements.rid = Some(value);
        } else if id_some == ids.repaired_rid {
            elements.repaired_rid = Some(value);
        } else if id_some == ids.dependency_descriptor {
            elements.descriptor = value;
        } else {
            elements.ext.absorb(ids, id, value);
        }
    }
    elements
}
