//! A track and its simulcast streams.

use std::time::{Duration, Instant};

use super::audio::Talker;
use super::lateness::Lateness;
use super::meter::Meter;
use super::reception::Reception;
use super::report::UplinkMeter;
use super::timers::Armed;
use super::{Config, LAYERS_MAX, SenderClock, Source, StreamIndex, Target, TrackConfig, TrackKey};
use crate::layer::{Limits, Reader};
use crate::packet::{Codec, LayerMeta};
use crate::retransmit::{NackGenerator, PacketCache};
use crate::rtp::{extend, low16};
use crate::srtp::ReplayWindow;

/// Simulcast streams of a track.
const STREAMS_MAX: u8 = 3;

/// A jump by more than this is a new beginning of the stream, not loss.
const JUMP_MAX: u64 = 1000;

/// Packets from before a long run that was left out which may come late: repairs of one round trip.
const LATE_MAX: u16 = 64;

/// A simulcast stream without packets for this long is taken for stopped by its sender.
pub(super) const STALL: Duration = Duration::from_millis(1000);

/// Keyframe requests that reach a publisher within a second, for all streams of a track together: a keyframe costs about ten
/// frames, on the publisher's uplink and everywhere behind.
const REQUESTS_PER_SECOND: usize = 2;

/// Between two keyframe requests for a stream that sends nothing.
const IDLE_REQUEST_INTERVAL: Duration = Duration::from_secs(2);

/// One track, local or remote.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) key: TrackKey,
    pub(super) config: TrackConfig,
    pub(super) muted: bool,
    /// Its owner speaks now.
    pub(super) speaking: bool,
    /// Bitmask of streams wanted outside this router.
    pub(super) exported: u8,
    pub(super) streams: Vec<Stream>,
    /// Positions of its subscriptions.
    pub(super) downtracks: Vec<usize>,
    /// Bitmask of streams last announced as wanted.
    pub(super) demand: u8,
    /// Bitmask of layers with recent packets.
    pub(super) live: u8,
    /// When each layer last had one.
    seen: [Option<Instant>; LAYERS_MAX],
    /// Since when each layer is in demand.
    asked: [Option<Instant>; LAYERS_MAX],
    pub(super) meter: Meter,
    /// When the last keyframe requests went out, newest last.
    requested: [Option<Instant>; REQUESTS_PER_SECOND],
    pub(super) armed: Armed,
    pub(super) last_level: Option<Instant>,
    /// Its place among the talkers of its room, of audio.
    pub(super) talker: Option<Talker>,
}

impl Track {
    pub(super) fn new(key: TrackKey, track: TrackConfig, config: &Config) -> Self {
        let streams = track.streams.clamp(1, STREAMS_MAX);
        Self {
            key,
            config: TrackConfig {
                streams,
                spatial: track.spatial.clamp(1, STREAMS_MAX),
                ..track
            },
            muted: false,
            speaking: false,
            exported: 0,
            streams: (0..streams)
                .map(|_| Stream::new(track.codec, config))
                .collect(),
            downtracks: Vec::new(),
            demand: 0,
            live: 0,
            seen: [None; LAYERS_MAX],
            asked: [None; LAYERS_MAX],
            meter: Meter::default(),
            requested: [None; REQUESTS_PER_SECOND],
            armed: Armed::default(),
            last_level: None,
            talker: None,
        }
    }

    pub(super) fn stream_mut(&mut self, stream: StreamIndex) -> Option<&mut Stream> {
        self.streams.get_mut(usize::from(stream))
    }

    pub(super) fn stream(&self, stream: StreamIndex) -> Option<&Stream> {
        self.streams.get(usize::from(stream))
    }

    pub(super) fn is_audio(&self) -> bool {
        self.config.codec.is_audio()
    }

    pub(super) fn is_remote(&self) -> bool {
        self.config.source == Source::Remote
    }

    /// Whether anybody takes packets of this track.
    pub(super) fn is_wanted(&self) -> bool {
        !self.downtracks.is_empty() || self.exported != 0
    }

    /// Whether layers are spatial layers of the one stream.
    #[inline]
    pub(super) fn is_svc(&self) -> bool {
        self.config.streams == 1 && self.config.spatial > 1
    }

    /// The highest layer that there is up to `layer`.
    pub(super) fn top(&self, layer: u8) -> u8 {
        layer.min(self.config.layers().saturating_sub(1))
    }

    /// The highest layer up to `layer` that has recent packets.
    pub(super) fn highest_live(&self, layer: u8) -> Option<u8> {
        let mut layers = (0..=self.top(layer)).rev();
        layers.find(|layer| self.live & (1 << layer) != 0)
    }

    /// What a target allows of the stream at hand. Without SVC a stream is not filtered by spatial layers.
    #[inline]
    pub(super) fn limits(&self, target: Target) -> Limits {
        Limits {
            spatial: if self.is_svc() { target.layer } else { 7 },
            temporal: target.temporal,
        }
    }

    /// The layer index of a packet: its stream, or its spatial layer with SVC.
    #[inline]
    pub(super) fn layer_of(&self, stream: StreamIndex, meta: LayerMeta) -> u8 {
        if self.is_svc() {
            self.top(meta.spatial)
        } else {
            stream
        }
    }

    /// Whether somebody outside wants packets of a stream.
    pub(super) fn exports(&self, stream: StreamIndex) -> bool {
        if self.is_svc() {
            self.exported != 0
        } else {
            self.exported & (1 << stream) != 0
        }
    }

    /// A packet of a layer came; returns whether that layer is live again.
    #[inline]
    pub(super) fn note_packet(&mut self, now: Instant, layer: u8) -> bool {
        if let Some(seen) = self.seen.get_mut(usize::from(layer)) {
            *seen = Some(now);
        }
        let before = self.live;
        self.live |= 1 << layer;
        self.live != before
    }

    /// Since when a layer is in demand.
    pub(super) fn asked_since(&self, layer: u8) -> Option<Instant> {
        self.asked.get(usize::from(layer)).copied().flatten()
    }

    /// Sets which layers are in demand.
    pub(super) fn set_demand(&mut self, now: Instant, layers: u8) {
        self.demand = layers;
        for (bit, asked) in self.asked.iter_mut().enumerate() {
            let wanted = layers & (1 << bit) != 0;
            *asked = wanted.then(|| asked.unwrap_or(now));
        }
    }

    /// When the next keyframe request may go out, whichever stream it is for.
    fn request_due(&self) -> Option<Instant> {
        let [oldest, ..] = self.requested;
        oldest.map(|at| at + Duration::from_secs(1))
    }

    /// The stream whose keyframe is to be asked for now, if any may: one that somebody waits for before others, then whichever
    /// has waited the longest. Counts the request.
    pub(super) fn next_request(
        &mut self,
        now: Instant,
        waited_for: u8,
        interval: Duration,
    ) -> Option<StreamIndex> {
        if self.request_due().is_some_and(|due| now < due) {
            return None;
        }
        let live = |stream: u8| self.is_svc() && self.live != 0 || self.live & (1 << stream) != 0;
        let due = (0u8..)
            .zip(&self.streams)
            .filter_map(|(stream, entry)| {
                let due = entry.keyframes.due(live(stream), interval)?;
                (due <= now).then_some((
                    waited_for & (1 << stream) == 0,
                    entry.keyframes.since?,
                    stream,
                ))
            })
            .min();
        let (_, _, stream) = due?;
        self.stream_mut(stream)?.keyframes.asked(now);
        self.requested.rotate_left(1);
        if let Some(newest) = self.requested.last_mut() {
            *newest = Some(now);
        }
        Some(stream)
    }

    /// When a request that waits may go out.
    pub(super) fn next_request_at(&self, now: Instant, interval: Duration) -> Option<Instant> {
        let live = |stream: u8| self.is_svc() && self.live != 0 || self.live & (1 << stream) != 0;
        let due = (0u8..)
            .zip(&self.streams)
            .filter_map(|(stream, entry)| entry.keyframes.due(live(stream), interval))
            .min()?;
        Some(due.max(self.request_due().unwrap_or(now)).max(now))
    }

    /// What the publisher announced for a layer, those below included with SVC, in bit/s.
    pub(super) fn announced_bps(&self, layer: u8) -> Option<u64> {
        let bps = self.config.bitrates_bps.get(usize::from(layer)).copied();
        bps.filter(|bps| *bps > 0).map(u64::from)
    }

    /// Updates which layers are live; returns whether that changed.
    pub(super) fn refresh_live(&mut self, now: Instant) -> bool {
        let before = self.live;
        for (bit, seen) in self.seen.iter().enumerate() {
            if seen.is_none_or(|last| now >= last + STALL) {
                self.live &= !(1 << bit);
            }
        }
        before != self.live
    }
}

/// One stream of a track.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) cache: PacketCache,
    pub(super) clock: Option<SenderClock>,
    pub(super) keyframes: KeyframeRequests,
    pub(super) last_packet: Option<Instant>,
    pub(super) lateness: Lateness,
    /// Present when the publisher is on this router.
    pub(super) uplink: Option<Uplink>,
    highest: Option<u64>,
    seen: ReplayWindow,
    anew: bool,
    /// Highest number before the last run that was left out, and how many packets from there may still come.
    before: Option<(u64, u16)>,
}

/// Outcome of numbering a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbered {
    /// The stream goes on.
    Continues(u64),
    /// The stream began anew: what follows has nothing to do with what was before.
    Restarts(u64),
    /// The packet was there before.
    Duplicate,
}

impl Stream {
    fn new(codec: Codec, config: &Config) -> Self {
        let packets = if codec.is_audio() {
            config.audio_cache_packets
        } else {
            config.video_cache_packets
        };
        Self {
            cache: PacketCache::new(packets),
            clock: None,
            keyframes: KeyframeRequests::default(),
            last_packet: None,
            lateness: Lateness::default(),
            uplink: None,
            highest: None,
            seen: ReplayWindow::default(),
            anew: false,
            before: None,
        }
    }

    /// Whether no packet with a higher number was there before.
    pub(super) fn is_newest(&self, number: u64) -> bool {
        self.highest.is_none_or(|highest| number >= highest)
    }

    /// Extends a sequence number and finds repeats and restarts. What a hop before left out is no jump, however much it is.
    pub(super) fn number(&mut self, seq: u16, left_out: u16) -> Numbered {
        let Some(highest) = self.highest else {
            // Room below for reordering at the start.
            let first = 0x1_0000 + u64::from(seq);
            self.highest = Some(first);
            self.seen.accept(first);
            return Numbered::Continues(first);
        };
        let number = extend_over(highest, seq, left_out);
        let left_out = u64::from(left_out).min(number.saturating_sub(highest));
        if std::mem::take(&mut self.anew) {
            return Numbered::Restarts(self.restart(seq));
        }
        if number.abs_diff(highest + left_out) > JUMP_MAX {
            if left_out == 0 && self.is_from_before(seq) {
                return Numbered::Duplicate;
            }
            return Numbered::Restarts(self.restart(seq));
        }
        if !self.seen.is_fresh(number) {
            return Numbered::Duplicate;
        }
        if left_out > 0 {
            self.before = Some((highest, LATE_MAX));
        }
        self.seen.accept(number);
        self.highest = Some(highest.max(number));
        Numbered::Continues(number)
    }

    /// Whether a packet that fits nowhere is a late one of before the last run that was left out.
    fn is_from_before(&mut self, seq: u16) -> bool {
        let Some((highest, left)) = self.before else {
            return false;
        };
        self.before = left.checked_sub(1).map(|left| (highest, left));
        extend(highest, seq).abs_diff(highest) <= u64::from(LATE_MAX)
    }

    /// Begins anew two cycles on, so that no old number comes back.
    fn restart(&mut self, seq: u16) -> u64 {
        let cycles = self
            .highest
            .map_or(0x1_0000, |highest| (highest & !0xffff) + 0x2_0000);
        let first = cycles + u64::from(seq);
        self.highest = Some(first);
        self.seen.accept(first);
        self.before = None;
        self.cache.clear();
        self.clock = None;
        first
    }

    /// The publisher gave the stream another SSRC: whatever comes next is a restart.
    pub(super) fn forget(&mut self) {
        self.anew = true;
    }
}

/// Extends a sequence number before which `left_out` numbers were left out: the nearest one, unless the run explains one further
/// ahead.
fn extend_over(highest: u64, seq: u16, left_out: u16) -> u64 {
    let nearest = extend(highest, seq);
    let late = nearest <= highest && highest - nearest <= JUMP_MAX;
    let ahead = u64::from(seq.wrapping_sub(low16(highest)));
    let run = u64::from(left_out);
    // The packet right after a run of nearly all numbers looks late.
    let follows = run > 0 && ahead == run + 1;
    if follows || !late && ahead <= run + JUMP_MAX {
        highest + ahead
    } else {
        nearest
    }
}

/// The receiving side of a stream whose publisher is on this router.
#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) ssrc: u32,
    pub(super) transport: usize,
    pub(super) nack: Option<NackGenerator>,
    pub(super) pli: bool,
    pub(super) fir_seq: u8,
    pub(super) reception: Reception,
    pub(super) reader: Reader,
    pub(super) meter: UplinkMeter,
}

/// Keyframe requests for one stream: the first at once, then at most one per interval.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeyframeRequests {
    last: Option<Instant>,
    /// Since when somebody needs a keyframe that was not asked for yet.
    since: Option<Instant>,
}

impl KeyframeRequests {
    /// Somebody needs a keyframe.
    pub(super) fn want(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// A keyframe began, or nobody is there to ask.
    pub(super) fn answered(&mut self) {
        self.since = None;
    }

    fn asked(&mut self, now: Instant) {
        self.last = Some(now);
        self.since = None;
    }

    /// When the stream's own interval allows the request that waits.
    fn due(&self, live: bool, interval: Duration) -> Option<Instant> {
        let since = self.since?;
        let interval = if live {
            interval
        } else {
            interval.max(IDLE_REQUEST_INTERVAL)
        };
        Some(self.last.map_or(since, |last| last + interval))
    }
}
