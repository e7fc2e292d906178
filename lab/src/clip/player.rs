//! A clip played in a loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::packetize::{Picture, payloads};
use super::{Clip, Layer};
use crate::synthetic::Payload;

/// RTP clock of video, Hz.
const CLOCK_RATE: u64 = 90_000;
/// After a wake-up later than this many intervals, what was missed is left out.
const LATE_MAX: u64 = 5;

/// Instants at equal distances, numbered from 0, that a late wake-up does not shift.
#[derive(Debug, Clone)]
pub struct Schedule {
    start: Instant,
    interval: Duration,
    next: u64,
}

impl Schedule {
    /// The first is at `start`.
    pub fn new(start: Instant, interval: Duration) -> Self {
        Self {
            start,
            interval,
            next: 0,
        }
    }

    /// When the next is due.
    pub fn due(&self) -> Instant {
        self.at(self.next)
    }

    /// Takes the next one's number.
    pub fn take(&mut self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        let current = elapsed.checked_div(self.interval.as_nanos()).unwrap_or(0);
        let current = u64::try_from(current).unwrap_or(u64::MAX);
        if current > self.next.saturating_add(LATE_MAX) {
            self.next = current;
        }
        let number = self.next;
        self.next += 1;
        number
    }

    fn at(&self, number: u64) -> Instant {
        let nanos = self.interval.as_nanos().saturating_mul(u128::from(number));
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[derive(Debug, Clone, Default)]
struct Stream {
    picture_id: u16,
    tl0_index: u8,
    active: bool,
}

/// Plays a clip in a loop. A keyframe that is asked for is the clip's next one, to which all layers jump: VP8 encoders too
/// make one for all simulcast streams.
#[derive(Debug, Clone)]
pub struct Player {
    clip: Arc<Clip>,
    schedule: Schedule,
    /// Frame of the clip that is next.
    position: usize,
    streams: Vec<Stream>,
    keyframe_wanted: bool,
    /// Bit per temporal layer: had a frame since the last one of the base layer.
    begun: u8,
}

impl Player {
    /// Starts with the clip's first frame at `start`, all layers active.
    pub fn new(clip: Arc<Clip>, start: Instant) -> Self {
        let interval = Duration::from_secs(1) / clip.frames_per_second.max(1);
        let stream = Stream {
            active: true,
            ..Stream::default()
        };
        Self {
            schedule: Schedule::new(start, interval),
            streams: vec![stream; clip.layers.len()],
            clip,
            position: 0,
            keyframe_wanted: false,
            begun: 0,
        }
    }

    /// What it plays.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// When the next frame is due.
    pub fn due(&self) -> Instant {
        self.schedule.due()
    }

    /// Makes the next frame a keyframe.
    pub fn request_keyframe(&mut self) {
        self.keyframe_wanted = true;
    }

    /// Sends or pauses a layer; one that comes back starts with a keyframe.
    pub fn set_active(&mut self, layer: usize, active: bool) {
        if let Some(stream) = self.streams.get_mut(layer) {
            self.keyframe_wanted |= active && !stream.active;
            stream.active = active;
        }
    }

    /// Appends the payloads of the next frame of all active layers, with the layer's number.
    pub fn next_frame(&mut self, now: Instant, out: &mut Vec<(usize, Payload)>) {
        let number = self.schedule.take(now);
        let frames = self
            .clip
            .layers
            .first()
            .map_or(0, |layer| layer.frames.len());
        if std::mem::take(&mut self.keyframe_wanted) {
            self.position = self.keyframe_from(self.position);
        }
        let ticks = number * CLOCK_RATE / u64::from(self.clip.frames_per_second.max(1));
        #[expect(clippy::cast_possible_truncation, reason = "RTP timestamps wrap")]
        let timestamp = ticks as u32;
        let temporal = self.clip.temporal_layer(self.position);
        let key = self.clip.is_key(self.position);
        self.begun &= if temporal == 0 { 0 } else { u8::MAX };
        // In these patterns an upper layer's first frame after one of the base layer refers to nothing else. Without the mark,
        // a receiver that misses one frame of an upper layer shows none of that layer until the next keyframe.
        let sync = self.begun & 1 << temporal == 0;
        self.begun |= 1 << temporal;
        for (index, (layer, stream)) in self.clip.layers.iter().zip(&mut self.streams).enumerate() {
            let Some(frame) = layer.frames.get(self.position).filter(|_| stream.active) else {
                continue;
            };
            if temporal == 0 {
                stream.tl0_index = stream.tl0_index.wrapping_add(1);
            }
            let picture = Picture {
                id: stream.picture_id,
                tl0_index: stream.tl0_index,
                temporal,
                key,
                sync,
                width: layer.width,
                height: layer.height,
                layered: !self.clip.temporal.is_empty(),
            };
            stream.picture_id = (stream.picture_id + 1) & 0x7fff;
            let parts = payloads(self.clip.codec, &frame.bytes, picture);
            let last = parts.len();
            out.extend(parts.into_iter().enumerate().map(|(at, bytes)| {
                let marker = at + 1 == last;
                (
                    index,
                    Payload {
                        bytes,
                        timestamp,
                        marker,
                    },
                )
            }));
        }
        self.position = (self.position + 1).checked_rem(frames).unwrap_or(0);
    }

    /// The next keyframe's place at or after `from`.
    fn keyframe_from(&self, from: usize) -> usize {
        let frames = self
            .clip
            .layers
            .first()
            .map(|layer: &Layer| layer.frames.as_slice());
        let after = frames.unwrap_or_default().iter().skip(from);
        // The clip's first frame is a keyframe.
        after
            .clone()
            .position(|frame| frame.key)
            .map_or(0, |ahead| from + ahead)
    }
}
