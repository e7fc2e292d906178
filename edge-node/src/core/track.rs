//! A published track as everybody in the room sees it, wherever its publisher is.

use std::sync::Arc;

use livekit_protocol as lk;
use media::packet::Codec;
use media::router::{LAYERS_MAX, Source, StreamIndex, Target, TrackConfig, TrackKey};
use proto::{ParticipantSid, TrackSid};

/// What a subscriber's session needs to know of a track. Shared, replaced as a whole when it changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// The track's id in signalling.
    pub sid: TrackSid,
    /// Its id on the mesh: of its own for a backup codec, otherwise the same.
    pub mesh_sid: TrackSid,
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
    /// Spatial layers inside the one stream (SVC), 1 to 3; 1 with simulcast.
    pub spatial: u8,
    /// What the publisher announced in bit/s, by layer index; 0 = not known.
    pub bitrates_bps: [u32; LAYERS_MAX],
    /// The same in another codec.
    pub backup: Backup,
    /// Whoever can decode the backup codec gets that one: the publisher should not have to send both.
    pub regressed: bool,
}

/// A track's second codec, for those who cannot decode the first.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Backup {
    /// There is none.
    #[default]
    None,
    /// The publisher can send one when it is asked.
    Announced,
    /// It is there: a track of its own on the media plane and the mesh, the same one in signalling.
    Live(Arc<Track>),
}

/// Highest temporal layer index that exists in any codec we forward.
const TEMPORAL_MAX: u8 = 7;

impl Track {
    /// Whether it is video.
    pub fn is_video(&self) -> bool {
        self.info.r#type == lk::TrackType::Video as i32
    }

    /// Layer indices in use, 1 to 3: simulcast streams or spatial layers.
    pub fn layers(&self) -> u8 {
        self.streams.max(self.spatial)
    }

    /// The backup codec's track, when the publisher sends it.
    pub fn live_backup(&self) -> Option<&Arc<Self>> {
        match &self.backup {
            Backup::Live(track) => Some(track),
            Backup::None | Backup::Announced => None,
        }
    }

    /// The track in each of its codecs that is there, the one to prefer first.
    pub fn choices(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        let (first, second) = match self.live_backup() {
            Some(backup) if self.regressed => (backup, Some(self)),
            backup => (self, backup),
        };
        std::iter::once(first).chain(second)
    }

    /// The track in the codec with that key.
    pub fn choice(self: &Arc<Self>, key: TrackKey) -> Option<&Arc<Self>> {
        self.choices().find(|track| track.key == key)
    }

    /// What the media plane is told about it; it knows itself where the packets come from.
    pub fn config(&self) -> TrackConfig {
        TrackConfig {
            spatial: self.spatial,
            bitrates_bps: self.bitrates_bps,
            screen: self.info.source() == lk::TrackSource::ScreenShare,
            ..TrackConfig::new(self.codec, Source::Remote, self.streams)
        }
    }

    /// The `msid` stream id: the owner, and what groups camera with microphone (SDP `a=msid`, RFC 8830).
    pub fn stream_id(&self) -> String {
        format!("{}|{}", self.owner, stream_name(&self.info))
    }

    /// The highest layer worth sending to somebody with these settings; `None` while it is hidden.
    pub fn target(&self, settings: &lk::UpdateTrackSettings) -> Option<Target> {
        if settings.disabled {
            return None;
        }
        let top = self.layers().saturating_sub(1);
        let layer = if settings.width > 0 && settings.height > 0 {
            self.layer_for_size(settings.width, settings.height)
        } else {
            match settings.quality() {
                lk::VideoQuality::Low => 0,
                lk::VideoQuality::Medium => 1,
                lk::VideoQuality::High => top,
                lk::VideoQuality::Off => return None,
            }
        };
        Some(Target {
            layer: layer.min(top),
            temporal: TEMPORAL_MAX,
        })
    }

    /// The lowest layer that still fills the size; the highest when none does.
    fn layer_for_size(&self, width: u32, height: u32) -> StreamIndex {
        let asked = width.max(height);
        let mut sizes: Vec<u32> = announced_layers(&self.info, self.codec)
            .iter()
            .map(|l| l.width.max(l.height))
            .collect();
        sizes.sort_unstable();
        let index = sizes.iter().position(|&size| size >= asked);
        index
            .and_then(|i| StreamIndex::try_from(i).ok())
            .unwrap_or_else(|| self.layers().saturating_sub(1))
    }
}

/// The layers the publisher announced for a codec; the per-codec list where the client uses it.
pub fn announced_layers(info: &lk::TrackInfo, codec: Codec) -> &[lk::VideoLayer] {
    #[expect(deprecated, reason = "older clients announce layers here only")]
    let plain = &info.layers;
    let mime = mime(codec);
    let named = |c: &&lk::SimulcastCodecInfo| c.mime_type.eq_ignore_ascii_case(&mime);
    match info
        .codecs
        .iter()
        .find(named)
        .or_else(|| info.codecs.first())
    {
        Some(codec) if !codec.layers.is_empty() => &codec.layers,
        _ => plain,
    }
}

/// Spatial layers inside one stream: of VP9 and AV1 without simulcast as many as were announced.
pub fn spatial_layers(info: &lk::TrackInfo, codec: Codec, streams: u8) -> u8 {
    if streams > 1 || !matches!(codec, Codec::Vp9 | Codec::Av1) {
        return 1;
    }
    let announced = announced_layers(info, codec).len().clamp(1, LAYERS_MAX);
    u8::try_from(announced).unwrap_or(1)
}

/// Announced bit rates by layer index, lowest first.
pub fn announced_bitrates(info: &lk::TrackInfo, codec: Codec) -> [u32; LAYERS_MAX] {
    let mut layers: Vec<&lk::VideoLayer> = announced_layers(info, codec).iter().collect();
    layers.sort_by_key(|layer| (layer.quality, layer.bitrate));
    let mut bitrates = [0; LAYERS_MAX];
    for (slot, layer) in bitrates.iter_mut().zip(layers) {
        *slot = layer.bitrate;
    }
    bitrates
}

/// A codec as signalling names it, `video/VP8`.
pub fn mime(codec: Codec) -> String {
    let kind = if codec.is_audio() { "audio" } else { "video" };
    format!("{kind}/{}", codec.name())
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
pub fn default_target(layers: u8) -> Target {
    Target {
        layer: layers.saturating_sub(1),
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
            mesh_sid: "TR_1".into(),
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
            spatial: 1,
            bitrates_bps: [0; LAYERS_MAX],
            backup: Backup::None,
            regressed: false,
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

    #[test]
    fn one_stream_of_a_scalable_codec_has_the_announced_layers() {
        let info = track(3).info;
        assert_eq!(spatial_layers(&info, Codec::Vp9, 1), 3);
        assert_eq!(spatial_layers(&info, Codec::Vp9, 3), 1);
        assert_eq!(spatial_layers(&info, Codec::Vp8, 1), 1);
        let svc = Track {
            streams: 1,
            spatial: 3,
            ..track(3)
        };
        assert_eq!(svc.target(&sized(500, 300)).unwrap().layer, 1);
        assert_eq!(svc.config().layers(), 3);
    }

    #[test]
    fn the_backup_comes_first_only_after_a_regression() {
        let backup = Arc::new(Track {
            key: TrackKey(2),
            ..track(1)
        });
        let keys = |regressed| {
            let track = Arc::new(Track {
                backup: Backup::Live(Arc::clone(&backup)),
                regressed,
                ..track(1)
            });
            track.choices().map(|t| t.key.0).collect::<Vec<_>>()
        };
        assert_eq!(keys(false), [1, 2]);
        assert_eq!(keys(true), [2, 1]);
    }
}
