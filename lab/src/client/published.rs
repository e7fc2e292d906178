//! What a client may publish.

use std::sync::Arc;

use livekit_protocol as livekit;

use crate::clip::Clip;
use crate::speech::{Script, Voice};
use crate::synthetic::VideoConfig;

/// Pictures to publish.
#[derive(Debug, Clone)]
pub enum Camera {
    /// Packets that look like an encoder's to an SFU.
    Synthetic(VideoConfig),
    /// Real pictures from files, in a loop (light clients only).
    Clip {
        /// What is played.
        clip: Arc<Clip>,
        /// Pause layers that the server says nobody watches.
        dynacast: bool,
    },
}

/// Sound to publish.
#[derive(Debug, Clone)]
pub enum Microphone {
    /// Packets that look like Opus to an SFU, without levels.
    Synthetic,
    /// A talker of a script (light clients only).
    Talker {
        /// Who speaks when.
        script: Arc<Script>,
        /// What it sounds like.
        voice: Arc<Voice>,
        /// Which talker of the script; also the source of its stamps.
        number: u32,
        /// Send next to nothing in pauses.
        dtx: bool,
    },
}

impl Camera {
    /// Codec's name in signalling.
    fn codec(&self) -> &'static str {
        match self {
            Self::Synthetic(_) => "vp8",
            Self::Clip { clip, .. } => clip.codec.name(),
        }
    }

    /// Width, height and bits per second of the layers, smallest first.
    fn layers(&self) -> Vec<(u32, u32, u64)> {
        match self {
            Self::Synthetic(video) => {
                vec![(video.width.into(), video.height.into(), video.bitrate_bps)]
            }
            Self::Clip { clip, .. } => {
                let layers = clip.layers.iter().enumerate();
                layers
                    .map(|(index, layer)| {
                        (
                            layer.width.into(),
                            layer.height.into(),
                            clip.bitrate_bps(index),
                        )
                    })
                    .collect()
            }
        }
    }
}

/// Qualities of the layers of a track that has `count` of them.
pub(super) fn qualities(count: usize) -> &'static [livekit::VideoQuality] {
    use livekit::VideoQuality::{High, Low, Medium};
    match count {
        0 | 1 => &[High],
        2 => &[Low, High],
        _ => &[Low, Medium, High],
    }
}

/// `add_track` of a camera.
pub(super) fn add_camera(cid: &str, camera: &Camera) -> livekit::AddTrackRequest {
    let sizes = camera.layers();
    let layers: Vec<_> = sizes
        .iter()
        .zip(qualities(sizes.len()))
        .map(
            |(&(width, height, bitrate_bps), &quality)| livekit::VideoLayer {
                quality: quality.into(),
                width,
                height,
                bitrate: u32::try_from(bitrate_bps).unwrap_or(u32::MAX),
                ..Default::default()
            },
        )
        .collect();
    let (width, height, _) = sizes.last().copied().unwrap_or_default();
    livekit::AddTrackRequest {
        cid: cid.to_owned(),
        name: "camera".to_owned(),
        r#type: livekit::TrackType::Video.into(),
        source: livekit::TrackSource::Camera.into(),
        width,
        height,
        simulcast_codecs: vec![livekit::SimulcastCodec {
            codec: camera.codec().to_owned(),
            cid: cid.to_owned(),
            layers: layers.clone(),
            ..Default::default()
        }],
        layers,
        ..Default::default()
    }
}

/// `add_track` of a microphone.
pub(super) fn add_microphone(cid: &str, microphone: &Microphone) -> livekit::AddTrackRequest {
    let mut request = livekit::AddTrackRequest {
        cid: cid.to_owned(),
        name: "microphone".to_owned(),
        r#type: livekit::TrackType::Audio.into(),
        source: livekit::TrackSource::Microphone.into(),
        disable_red: true,
        ..Default::default()
    };
    if let Microphone::Talker { dtx: false, .. } = microphone {
        request
            .audio_features
            .push(livekit::AudioTrackFeature::TfNoDtx.into());
    }
    request
}
