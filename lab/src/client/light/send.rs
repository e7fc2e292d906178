//! Tracks of ours on their way out: packets, pacing, sender reports, answers to feedback. Sans-IO.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rtc::shared::error::Result;

use super::rtcp::{Feedback, SenderReport};
use super::sdp::{AUDIO_LEVEL_ID, Format, MID_ID, REPAIRED_RID_ID, RID_ID, Sending};
use super::source::{Due, Source};
use super::transport::Transport;
use crate::client::Observer;
use crate::client::publish::{BURST, BURST_PAUSE, Counting};
use crate::synthetic::{Payload, Stamp, monotonic_ns};

/// Payloads kept for a NACK: 2 s of a 2 Mbit/s stream. Must be a power of two.
const HISTORY: usize = 512;
/// Distance of sender reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Seconds from 1900 (NTP) to 1970 (Unix).
const NTP_UNIX_OFFSET: u64 = 2_208_988_800;

/// One track of ours.
pub(super) struct SendTrack {
    source: Source,
    format: Format,
    streams: Vec<Stream>,
    stamp: Stamp,
    queue: VecDeque<Due>,
    next_burst: Option<Instant>,
    next_report: Instant,
    counting: Counting,
    observer: Option<Arc<dyn Observer>>,
}

/// One SSRC and the one of its repairs.
struct Stream {
    ssrc: u32,
    repair_ssrc: u32,
    sequence_number: u16,
    repair_sequence_number: u16,
    /// Header extension elements of every packet, and of every repair.
    elements: Vec<u8>,
    repair_elements: Vec<u8>,
    history: Vec<Option<(u16, Payload)>>,
    /// Timestamp of the last payload, and when that was due.
    timestamp: u32,
    timed: Instant,
    packets: u32,
    bytes: u32,
}

impl Stream {
    fn new(now: Instant, sending: &Sending, index: usize, mid: &str) -> Option<Self> {
        let &(ssrc, repair_ssrc) = sending.ssrcs.get(index)?;
        let (mut elements, mut repair_elements) = (Vec::new(), Vec::new());
        if let Some(rid) = sending.rids().get(index) {
            push_element(&mut elements, MID_ID, mid.as_bytes());
            repair_elements.clone_from(&elements);
            push_element(&mut elements, RID_ID, rid.as_bytes());
            push_element(&mut repair_elements, REPAIRED_RID_ID, rid.as_bytes());
        }
        let history = if sending.format.is_video() {
            HISTORY
        } else {
            0
        };
        Some(Self {
            ssrc,
            repair_ssrc,
            sequence_number: rand::random(),
            repair_sequence_number: rand::random(),
            elements,
            repair_elements,
            history: vec![None; history],
            timestamp: 0,
            timed: now,
            packets: 0,
            bytes: 0,
        })
    }

    fn report(&self, now: Instant, clock_rate: u32) -> SenderReport {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let fraction = (u64::from(unix.subsec_nanos()) << 32) / 1_000_000_000;
        let elapsed = now.saturating_duration_since(self.timed).as_micros();
        let ticks = elapsed * u128::from(clock_rate) / 1_000_000;
        #[expect(clippy::cast_possible_truncation, reason = "RTP timestamps wrap")]
        let rtp_timestamp = self.timestamp.wrapping_add(ticks as u32);
        SenderReport {
            ssrc: self.ssrc,
            ntp: (unix.as_secs() + NTP_UNIX_OFFSET) << 32 | fraction,
            rtp_timestamp,
            packets: self.packets,
            bytes: self.bytes,
        }
    }
}

impl SendTrack {
    /// `source` is the stamps' source, `mid` the section's that carries it.
    pub(super) fn new(
        now: Instant,
        source: Source,
        (number, mid): (u32, &str),
        sending: &Sending,
        counting: Counting,
    ) -> Self {
        let streams =
            (0..sending.ssrcs.len()).filter_map(|index| Stream::new(now, sending, index, mid));
        Self {
            source,
            format: sending.format,
            streams: streams.collect(),
            stamp: Stamp {
                source: number,
                counter: 0,
                sent_ns: 0,
            },
            queue: VecDeque::new(),
            next_burst: None,
            next_report: now + REPORT_INTERVAL,
            counting,
            observer: None,
        }
    }

    pub(super) fn observed_by(mut self, observer: Option<Arc<dyn Observer>>) -> Self {
        self.observer = observer;
        self
    }

    /// Somebody watches a layer, or nobody does any more.
    pub(super) fn set_watched(&mut self, stream: usize, watched: bool) {
        self.source.set_watched(stream, watched);
    }

    /// Layers of the track.
    pub(super) fn layers(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let frame = self.source.due();
        let media = self.next_burst.map_or(frame, |burst| burst.min(frame));
        media.min(self.next_report)
    }

    /// Sends what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, transport: &mut Transport) -> Result<()> {
        let due = self.source.due();
        if now >= due {
            let waiting = self.queue.len();
            self.source.next(now, &mut self.queue);
            for fresh in self.queue.iter().skip(waiting) {
                if let Some(stream) = self.streams.get_mut(fresh.stream) {
                    (stream.timestamp, stream.timed) = (fresh.payload.timestamp, due);
                }
            }
            self.next_burst = Some(now);
        }
        if self.next_burst.is_some_and(|due| due <= now) {
            for _ in 0..BURST {
                let Some(due) = self.queue.pop_front() else {
                    break;
                };
                self.send(due, transport)?;
            }
            self.next_burst = (!self.queue.is_empty()).then(|| now + BURST_PAUSE);
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            for stream in self.streams.iter().filter(|stream| stream.packets > 0) {
                let report = stream.report(now, self.format.clock_rate());
                transport.send_rtcp(&report.to_bytes())?;
            }
        }
        Ok(())
    }

    /// Answers feedback about this track; other tracks' is ignored.
    pub(super) fn handle_feedback(
        &mut self,
        feedback: &Feedback,
        transport: &mut Transport,
    ) -> Result<()> {
        let (Feedback::Keyframe(ssrc) | Feedback::Nack { ssrc, .. }) = feedback;
        let Some(index) = self.streams.iter().position(|stream| stream.ssrc == *ssrc) else {
            return Ok(());
        };
        match feedback {
            Feedback::Keyframe(_) => {
                self.source.request_keyframe();
                if let Some(observer) = &self.observer {
                    observer.keyframe_requested(monotonic_ns(), self.stamp.source, index);
                }
                Ok(())
            }
            Feedback::Nack {
                sequence_number, ..
            } => self.repair(index, *sequence_number, transport),
        }
    }

    /// Sends a packet again, as RFC 4588 says.
    fn repair(&mut self, index: usize, lost: u16, transport: &mut Transport) -> Result<()> {
        let Some(stream) = self.streams.get_mut(index) else {
            return Ok(());
        };
        let kept = stream.history.get(usize::from(lost) % HISTORY);
        let Some(Some((_, payload))) =
            kept.filter(|kept| kept.as_ref().is_some_and(|(number, _)| *number == lost))
        else {
            return Ok(());
        };
        let header = Header {
            marker: payload.marker,
            payload_type: self.format.payload_type() + 1,
            sequence_number: stream.repair_sequence_number,
            timestamp: payload.timestamp,
            ssrc: stream.repair_ssrc,
        };
        let mut packet = header.to_bytes(&stream.repair_elements, payload.bytes.len() + 2);
        packet.extend_from_slice(&lost.to_be_bytes());
        packet.extend_from_slice(&payload.bytes);
        stream.repair_sequence_number = stream.repair_sequence_number.wrapping_add(1);
        if let Some(observer) = &self.observer {
            observer.sent(self.stamp.source, index, payload.bytes.len(), true);
        }
        transport.send_rtp(&packet)
    }

    fn send(&mut self, due: Due, transport: &mut Transport) -> Result<()> {
        let Due {
            stream: index,
            mut payload,
            level,
        } = due;
        let Some(stream) = self.streams.get_mut(index) else {
            return Ok(());
        };
        if !transport.is_connected() {
            return Ok(());
        }
        self.stamp.sent_ns = monotonic_ns();
        if self.source.is_stamped() {
            self.stamp.write(&mut payload.bytes);
        }
        let header = Header {
            marker: payload.marker,
            payload_type: self.format.payload_type(),
            sequence_number: stream.sequence_number,
            timestamp: payload.timestamp,
            ssrc: stream.ssrc,
        };
        let len = payload.bytes.len();
        let mut packet = match level {
            Some(level) => header.to_bytes(&[AUDIO_LEVEL_ID << 4, level], len),
            None => header.to_bytes(&stream.elements, len),
        };
        packet.extend_from_slice(&payload.bytes);
        transport.send_rtp(&packet)?;
        if self.counting.window.contains(self.stamp.sent_ns) {
            self.counting.sent.count(len);
        }
        if let Some(observer) = &self.observer {
            observer.sent(self.stamp.source, index, len, false);
        }
        let kept = usize::from(stream.sequence_number) % HISTORY;
        if let Some(slot) = stream.history.get_mut(kept) {
            *slot = Some((stream.sequence_number, payload));
        }
        self.stamp.counter += 1;
        stream.sequence_number = stream.sequence_number.wrapping_add(1);
        stream.packets = stream.packets.wrapping_add(1);
        stream.bytes = stream.bytes.wrapping_add(u32::try_from(len).unwrap_or(0));
        Ok(())
    }
}

/// The fixed header (RFC 3550 section 5.1).
struct Header {
    marker: bool,
    payload_type: u8,
    sequence_number: u16,
    timestamp: u32,
    ssrc: u32,
}

impl Header {
    /// With extension elements of the one-byte form, if there are any; room for a payload of `len` bytes.
    fn to_bytes(&self, elements: &[u8], len: usize) -> Vec<u8> {
        let words = elements.len().div_ceil(4);
        let mut out = Vec::with_capacity(16 + words * 4 + len);
        let extension = u8::from(!elements.is_empty()) << 4;
        let second = u8::from(self.marker) << 7 | self.payload_type;
        out.extend_from_slice(&[0x80 | extension, second]);
        out.extend_from_slice(&self.sequence_number.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        if !elements.is_empty() {
            out.extend_from_slice(&[0xbe, 0xde, 0, u8::try_from(words).unwrap_or(0)]);
            out.extend_from_slice(elements);
            out.resize(16 + words * 4, 0);
        }
        out
    }
}

/// An element of the one-byte form (RFC 8285 section 4.2): 1 to 16 bytes.
fn push_element(out: &mut Vec<u8>, id: u8, value: &[u8]) {
    if let Ok(len @ 1..=16) = u8::try_from(value.len()) {
        out.push(id << 4 | (len - 1));
        out.extend_from_slice(value);
    }
}
