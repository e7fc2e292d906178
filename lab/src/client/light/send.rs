//! Synthetic tracks on their way out: packets, pacing, sender reports, answers to feedback. Sans-IO.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use rtc::shared::error::Result;

use super::rtcp::{Feedback, SenderReport};
use super::transport::Transport;
use crate::client::connection::{OPUS_PAYLOAD_TYPE, VP8_PAYLOAD_TYPE};
use crate::client::publish::{BURST, BURST_PAUSE, Counting};
use crate::synthetic::{AUDIO_INTERVAL, Audio, Payload, Stamp, Video, VideoConfig, monotonic_ns};

/// Sealed packets kept for a NACK: 2 s of a 2 Mbit/s stream. Must be a power of two.
const HISTORY: usize = 512;
/// Distance of sender reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Seconds from 1900 (NTP) to 1970 (Unix).
const NTP_UNIX_OFFSET: u64 = 2_208_988_800;

enum Source {
    Video(Box<Video>),
    Audio(Audio),
}

/// One track of ours.
pub(super) struct SendStream {
    source: Source,
    ssrc: u32,
    stamp: Stamp,
    sequence_number: u16,
    timestamp: u32,
    queue: VecDeque<Payload>,
    history: Vec<(u16, BytesMut)>,
    next_frame: Instant,
    next_burst: Option<Instant>,
    next_report: Instant,
    packets: u32,
    bytes: u32,
    counting: Counting,
}

impl SendStream {
    pub(super) fn new(
        now: Instant,
        (source, ssrc): (u32, u32),
        video: Option<VideoConfig>,
        counting: Counting,
    ) -> Self {
        Self {
            source: match video {
                Some(config) => Source::Video(Box::new(Video::new(config))),
                None => Source::Audio(Audio::default()),
            },
            ssrc,
            stamp: Stamp {
                source,
                counter: 0,
                sent_ns: 0,
            },
            sequence_number: rand::random(),
            timestamp: 0,
            queue: VecDeque::new(),
            history: vec![(0, BytesMut::new()); HISTORY],
            next_frame: now,
            next_burst: None,
            next_report: now + REPORT_INTERVAL,
            packets: 0,
            bytes: 0,
            counting,
        }
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        let media = self
            .next_burst
            .unwrap_or(self.next_frame)
            .min(self.next_frame);
        media.min(self.next_report)
    }

    /// Sends what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, transport: &mut Transport) -> Result<()> {
        if now >= self.next_frame {
            self.next_frame(now);
        }
        if self.next_burst.is_some_and(|due| due <= now) {
            for _ in 0..BURST {
                let Some(payload) = self.queue.pop_front() else {
                    break;
                };
                self.send(payload, transport)?;
            }
            self.next_burst = (!self.queue.is_empty()).then(|| now + BURST_PAUSE);
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
            transport.send_rtcp(&self.report().to_bytes())?;
        }
        Ok(())
    }

    /// Answers feedback about this stream; other streams' is ignored.
    pub(super) fn handle_feedback(&mut self, feedback: &Feedback, transport: &mut Transport) {
        match (feedback, &mut self.source) {
            (Feedback::Keyframe(ssrc), Source::Video(video)) if *ssrc == self.ssrc => {
                video.request_keyframe();
            }
            (
                Feedback::Nack {
                    ssrc,
                    sequence_number,
                },
                _,
            ) if *ssrc == self.ssrc => {
                let slot = self.history.get(usize::from(*sequence_number) % HISTORY);
                if let Some((kept, sealed)) = slot
                    && kept == sequence_number
                    && !sealed.is_empty()
                {
                    transport.transmit(sealed.clone());
                }
            }
            _ => {}
        }
    }

    fn next_frame(&mut self, now: Instant) {
        let interval = match &mut self.source {
            Source::Video(video) => {
                let mut frame = Vec::new();
                video.next_frame(&mut frame);
                self.queue.extend(frame);
                video.frame_interval()
            }
            Source::Audio(audio) => {
                self.queue.push_back(audio.next_packet());
                AUDIO_INTERVAL
            }
        };
        self.next_burst = Some(now);
        // Keep the rate after a late wake-up, but do not catch up more than a few frames.
        self.next_frame = (self.next_frame + interval).max(now - interval * 5);
    }

    fn send(&mut self, payload: Payload, transport: &mut Transport) -> Result<()> {
        let Payload {
            mut bytes,
            timestamp,
            marker,
        } = payload;
        self.stamp.sent_ns = monotonic_ns();
        self.stamp.write(&mut bytes);
        let payload_type = match self.source {
            Source::Video(_) => VP8_PAYLOAD_TYPE,
            Source::Audio(_) => OPUS_PAYLOAD_TYPE,
        };
        let mut packet = Vec::with_capacity(12 + bytes.len());
        packet.extend_from_slice(&[0x80, u8::from(marker) << 7 | payload_type]);
        packet.extend_from_slice(&self.sequence_number.to_be_bytes());
        packet.extend_from_slice(&timestamp.to_be_bytes());
        packet.extend_from_slice(&self.ssrc.to_be_bytes());
        packet.extend_from_slice(&bytes);
        let Some(sealed) = transport.send_rtp(&packet)? else {
            return Ok(());
        };
        if self.counting.window.contains(self.stamp.sent_ns) {
            self.counting.sent.count(bytes.len());
        }
        if let Some(slot) = self
            .history
            .get_mut(usize::from(self.sequence_number) % HISTORY)
        {
            *slot = (self.sequence_number, sealed);
        }
        self.stamp.counter += 1;
        self.sequence_number = self.sequence_number.wrapping_add(1);
        self.timestamp = timestamp;
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self
            .bytes
            .wrapping_add(u32::try_from(bytes.len()).unwrap_or(0));
        Ok(())
    }

    fn report(&self) -> SenderReport {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
        SenderReport {
            ssrc: self.ssrc,
            ntp: (now.as_secs() + NTP_UNIX_OFFSET) << 32 | fraction,
            rtp_timestamp: self.timestamp,
            packets: self.packets,
            bytes: self.bytes,
        }
    }
}
