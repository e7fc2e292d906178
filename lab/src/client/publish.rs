//! Tracks that a client publishes, and the tasks that feed them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use livekit_protocol as livekit;
use rtc::media_stream::MediaStreamTrack;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use webrtc::error::Result;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};

use super::connection::{Connection, OPUS_PAYLOAD_TYPE, VP8_PAYLOAD_TYPE, opus, vp8};
use super::published::{Camera, Microphone, add_camera, add_microphone};
use crate::meter::{Sent, Window};
use crate::synthetic::{AUDIO_INTERVAL, Audio, Payload, Stamp, Video, VideoConfig, monotonic_ns};

/// Packets sent back to back before a pause, as a pacer at 2.5 times the rate does.
pub(super) const BURST: usize = 10;
/// Pause between bursts of one frame.
pub(super) const BURST_PAUSE: Duration = Duration::from_millis(5);

/// A track to publish.
pub(super) struct Track {
    /// Client's id of the track: what `add_track` and the msid carry.
    pub(super) cid: String,
    local: Arc<TrackLocalStaticRTP>,
    ssrc: u32,
    source: u32,
    video: Option<VideoConfig>,
}

/// Where a sending task counts.
#[derive(Clone)]
pub(super) struct Counting {
    pub(super) sent: Arc<Sent>,
    pub(super) window: Arc<Window>,
}

impl Track {
    pub(super) fn new(source: u32, video: Option<VideoConfig>) -> Self {
        let ssrc = rand::random::<u32>();
        let cid = format!("lab-{source}-{ssrc:08x}");
        let (kind, codec) = match video {
            Some(_) => (RtpCodecKind::Video, vp8()),
            None => (RtpCodecKind::Audio, opus()),
        };
        let encoding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters {
                ssrc: Some(ssrc),
                ..Default::default()
            },
            codec,
            ..Default::default()
        };
        let stream = format!("lab-{source}");
        let track = MediaStreamTrack::new(stream, cid.clone(), cid.clone(), kind, vec![encoding]);
        Self {
            cid,
            local: Arc::new(TrackLocalStaticRTP::new(track)),
            ssrc,
            source,
            video,
        }
    }

    /// The request that announces it.
    pub(super) fn request(&self) -> livekit::AddTrackRequest {
        match self.video {
            Some(video) => add_camera(&self.cid, &Camera::Synthetic(video)),
            None => add_microphone(&self.cid, &Microphone::Synthetic),
        }
    }

    /// Adds a section to send on.
    pub(super) async fn add_to(&self, connection: &Connection) -> Result<()> {
        let init = RTCRtpTransceiverInit {
            direction: RTCRtpTransceiverDirection::Sendonly,
            streams: Vec::new(),
            send_encodings: Vec::new(),
        };
        let track = Arc::clone(&self.local) as Arc<dyn TrackLocal>;
        connection
            .pc
            .add_transceiver_from_track(track, Some(init))
            .await?;
        Ok(())
    }

    /// Starts to send.
    pub(super) fn start(
        &self,
        keyframe_wanted: Arc<AtomicBool>,
        counting: Counting,
    ) -> JoinHandle<()> {
        let writer = Writer {
            track: Arc::clone(&self.local),
            ssrc: self.ssrc,
            payload_type: if self.video.is_some() {
                VP8_PAYLOAD_TYPE
            } else {
                OPUS_PAYLOAD_TYPE
            },
            stamp: Stamp {
                source: self.source,
                counter: 0,
                sent_ns: 0,
            },
            sequence_number: rand::random(),
            counting,
        };
        match self.video {
            Some(config) => tokio::spawn(send_video(writer, config, keyframe_wanted)),
            None => tokio::spawn(send_audio(writer)),
        }
    }
}

struct Writer {
    track: Arc<TrackLocalStaticRTP>,
    ssrc: u32,
    payload_type: u8,
    stamp: Stamp,
    sequence_number: u16,
    counting: Counting,
}

impl Writer {
    async fn write(&mut self, payload: Payload) -> Result<()> {
        let Payload {
            mut bytes,
            timestamp,
            marker,
        } = payload;
        self.stamp.sent_ns = monotonic_ns();
        self.stamp.write(&mut bytes);
        if self.counting.window.contains(self.stamp.sent_ns) {
            self.counting.sent.count(bytes.len());
        }
        let header = rtc::rtp::Header {
            version: 2,
            marker,
            payload_type: self.payload_type,
            sequence_number: self.sequence_number,
            timestamp,
            ssrc: self.ssrc,
            ..Default::default()
        };
        self.stamp.counter += 1;
        self.sequence_number = self.sequence_number.wrapping_add(1);
        self.track
            .write_rtp(rtc::rtp::Packet {
                header,
                payload: bytes.into(),
            })
            .await
    }
}

async fn send_video(mut writer: Writer, config: VideoConfig, keyframe_wanted: Arc<AtomicBool>) {
    let mut video = Video::new(config);
    let mut frame = Vec::new();
    let mut ticks = tokio::time::interval(video.frame_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        if keyframe_wanted.swap(false, Ordering::Relaxed) {
            video.request_keyframe();
        }
        video.next_frame(&mut frame);
        for (index, payload) in frame.drain(..).enumerate() {
            if index > 0 && index % BURST == 0 {
                tokio::time::sleep(BURST_PAUSE).await;
            }
            if writer.write(payload).await.is_err() {
                return;
            }
        }
    }
}

async fn send_audio(mut writer: Writer) {
    let mut audio = Audio::default();
    let mut ticks = tokio::time::interval(AUDIO_INTERVAL);
    loop {
        ticks.tick().await;
        if writer.write(audio.next_packet()).await.is_err() {
            return;
        }
    }
}
