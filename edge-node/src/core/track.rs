//! A published track as everybody in the room sees it, wherever its publisher is.

use livekit_protocol as lk;
use media::packet::Codec;
use media::router::{StreamIndex, Target, TrackKey};
use proto::{ParticipantSid, TrackSid};

/// What a subscriber's session needs to know of a track. Shared, replaced as a whole when it changes.
#[derive(Debug, Clone)]
pub struct Track {
    /// The track's id in signalling.
    pub sid: TrackSid,
    /// The track's key on this edge's media plane.
    pub key: TrackKey,
    /// Who publishes it.
    pub owner: ParticipantSid,
    /// What signalling says about it.
    pub info: lk::TrackInfo,
    /// What its packets carry. `Codec::Red` when the publisher sends Opus with redundancy.
    pub codec: Codec,
    /// Format parameters of the publisher's codec, `k=v;k=v`.
    pub fmtp: String,
    /// Number of simulcast streams, 1 to 3.
    pub streams: u8,
}

/// Highest temporal layer index that exists in any codec we forward.
const TEMPORAL_MAX: u8 = 7;

impl Track {
    /// Whether it is video.
    pub fn is_video(&self) -> bool {
        self.info.r#type == lk::TrackType::Video as i32
    }

    /// The `msid` stream id: the owner, and what groups camera with microphone (SDP `a=msid`, RFC 8830).
    pub fn stream_id(&self) -> String {
        format!("{}|{}", self.owner, stream_name(&self.info))
    }

    /// The highest stream worth sending to somebody with these settings; `None` while it is hidden.
    pub fn target(&self, settings: &lk::UpdateTrackSettings) -> Option<Target> {
        if settings.disabled {
            return None;
        }
        let top = self.streams.saturating_sub(1);
        let stream = if settings.width > 0 && settings.height > 0 {
            self.stream_for_size(settings.width, settings.height)
        } else {
            match settings.quality() {
                lk::VideoQuality::Low => 0,
                lk::VideoQuality::Medium => 1,
                lk::VideoQuality::High => top,
                lk::VideoQuality::Off => return None,
            }
        };
        Some(Target {
            layer: stream.min(top),
            temporal: TEMPORAL_MAX,
        })
    }

    /// The lowest stream that still fills the size; the highest when none does.
    fn stream_for_size(&self, width: u32, height: u32) -> StreamIndex {
        let asked = width.max(height);
        let mut sizes: Vec<u32> = self
            .layers()
            .iter()
            .map(|l| l.width.max(l.height))
            .collect();
        sizes.sort_unstable();
        let index = sizes.iter().position(|&size| size >= asked);
        index
            .and_then(|i| StreamIndex::try_from(i).ok())
            .unwrap_or_else(|| self.streams.saturating_sub(1))
    }

    /// The layers the publisher announced; the per-codec list where the client uses it.
    fn layers(&self) -> &[lk::VideoLayer] {
        #[expect(deprecated, reason = "older clients announce layers here only")]
        let plain = &self.info.layers;
        match self.info.codecs.first() {
            Some(codec) if !codec.layers.is_empty() => &codec.layers,
            _ => plain,
        }
    }
}

/// The stream a track belongs to when its publisher did not say: a camera goes with its microphone, a screen with its sound.
pub fn stream_name(info: &lk::TrackInfo) -> &str {
    if !info.stream.is_empty() {
        return &info.stream;
    }
    match info.source() {
        lk::TrackSource::ScreenShare | lk::TrackSource::ScreenShareAudio => "screen",
        lk::TrackSource::Unknown | lk::TrackSource::Camera | lk::TrackSource::Microphone => {
            "camera"
        }
    }
}

/// The target before a client said what it wants: everything, so that a client that never asks gets full quality.
pub fn default_target(streams: u8) -> Target {
    Target {
        layer: streams.saturating_sub(1),
        temporal: TEMPORAL_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(streams: u8) -> Track {
        let sizes = [(320, 180), (640, 360), (1280, 720)];
        let layers = sizes
            .iter()
            .take(usize::from(streams))
            .map(|&(width, height)| lk::VideoLayer {
                width,
                height,
                ..Default::default()
            })
            .collect();
        let codecs = vec![lk::SimulcastCodecInfo {
            layers,
            ..Default::default()
        }];
        Track {
            sid: "TR_1".into(),
            key: TrackKey(1),
            owner: "PA_1".into(),
            info: lk::TrackInfo {
                r#type: lk::TrackType::Video as i32,
                codecs,
                ..Default::default()
            },
            codec: Codec::Vp8,
            fmtp: String::new(),
            streams,
        }
    }

    fn sized(width: u32, height: u32) -> lk::UpdateTrackSettings {
        lk::UpdateTrackSettings {
            width,
            height,
            ..Default::default()
        }
    }

    #[test]
    fn picks_the_smallest_stream_that_fills_the_size() {
        let track = track(3);
        assert_eq!(track.target(&sized(200, 100)).unwrap().layer, 0);
        assert_eq!(track.target(&sized(320, 180)).unwrap().layer, 0);
        assert_eq!(track.target(&sized(321, 180)).unwrap().layer, 1);
        assert_eq!(track.target(&sized(4000, 2000)).unwrap().layer, 2);
    }

    #[test]
    fn quality_never_exceeds_what_is_published() {
        let medium = lk::UpdateTrackSettings {
            quality: lk::VideoQuality::Medium as i32,
            ..Default::default()
        };
        assert_eq!(track(1).target(&medium).unwrap().layer, 0);
        assert_eq!(track(3).target(&medium).unwrap().layer, 1);
    }

    #[test]
    fn hidden_means_no_target() {
        let hidden = lk::UpdateTrackSettings {
            disabled: true,
            ..Default::default()
        };
        assert!(track(3).target(&hidden).is_none());
    }
}
