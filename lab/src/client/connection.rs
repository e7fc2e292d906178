//! One peer connection of the `webrtc` crate, set up the way LiveKit clients set theirs up.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use livekit_protocol as livekit;
use rtc::interceptor::{Interceptor, Packet, Slot, StreamInfo, TaggedPacket};
use rtc::peer_connection::configuration::media_engine::{MIME_TYPE_OPUS, MIME_TYPE_VP8};
use rtc::peer_connection::transport::RTCDtlsRole;
use rtc::rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtp_transceiver::rtp_sender::{
    RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RtpCodecKind,
};
use rtc::sansio::Protocol;
use tokio::sync::mpsc;
use webrtc::data_channel::{DataChannel, RTCDataChannelInit};
use webrtc::error::Result;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
    RTCConfigurationBuilder, RTCIceCandidateInit, RTCPeerConnectionIceEvent,
    RTCPeerConnectionState, RTCSessionDescription, Registry, SettingEngineBuilder,
    register_default_interceptors,
};
use webrtc::rtp_transceiver::{RTCRtpTransceiverDirection, RTCRtpTransceiverInit};

use crate::meter::Meter;

/// Payload type that we offer for VP8.
pub(super) const VP8_PAYLOAD_TYPE: u8 = 96;
/// Payload type that we offer for Opus.
pub(super) const OPUS_PAYLOAD_TYPE: u8 = 111;
/// Candidates kept until the remote description is there; more are dropped.
const CANDIDATES_MAX: usize = 32;

/// What a peer connection tells its session.
#[derive(Debug)]
pub(super) enum Event {
    /// A local candidate to trickle, as `candidateInit` JSON.
    Candidate(livekit::SignalTarget, String),
    /// ICE and DTLS are up.
    Connected(livekit::SignalTarget),
    /// It will not come back.
    Failed(livekit::SignalTarget),
}

/// VP8 at 90 kHz with the feedback that LiveKit clients offer.
pub(super) fn vp8() -> RTCRtpCodec {
    let feedback = [
        ("goog-remb", ""),
        ("ccm", "fir"),
        ("nack", ""),
        ("nack", "pli"),
    ];
    RTCRtpCodec {
        mime_type: MIME_TYPE_VP8.to_owned(),
        clock_rate: 90_000,
        channels: 0,
        sdp_fmtp_line: String::new(),
        rtcp_feedback: feedback
            .into_iter()
            .map(|(typ, parameter)| RTCPFeedback {
                typ: typ.to_owned(),
                parameter: parameter.to_owned(),
            })
            .collect(),
    }
}

/// Stereo Opus at 48 kHz with in-band FEC.
pub(super) fn opus() -> RTCRtpCodec {
    RTCRtpCodec {
        mime_type: MIME_TYPE_OPUS.to_owned(),
        clock_rate: 48_000,
        channels: 2,
        sdp_fmtp_line: "minptime=10;useinbandfec=1".to_owned(),
        rtcp_feedback: Vec::new(),
    }
}

/// A peer connection and the state of its negotiation.
pub(super) struct Connection {
    pub(super) pc: Arc<dyn PeerConnection>,
    /// Set when the server asked for a keyframe; whoever sends video takes it.
    pub(super) keyframe_wanted: Arc<AtomicBool>,
    candidates: Vec<RTCIceCandidateInit>,
    remote_set: bool,
    offer_id: u32,
    /// An offer waits for its answer; another one has to wait until then.
    offering: bool,
    offer_again: bool,
}

impl Connection {
    pub(super) async fn new(
        target: livekit::SignalTarget,
        local: IpAddr,
        meter: Arc<Meter>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self> {
        let settings = SettingEngineBuilder::new()
            .with_include_loopback_candidate(true)
            // As browsers answer. On its own the crate becomes the DTLS server of an ICE-lite peer.
            .with_answering_dtls_role(RTCDtlsRole::Client);
        Box::pin(Self::with_settings(settings, target, local, meter, events)).await
    }

    /// With settings of the stack that clients do not use, but servers do.
    pub(super) async fn with_settings(
        settings: SettingEngineBuilder,
        target: livekit::SignalTarget,
        local: IpAddr,
        meter: Arc<Meter>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self> {
        let keyframe_wanted = Arc::new(AtomicBool::new(false));
        let mut media = MediaEngine::default();
        media.register_codec(
            RTCRtpCodecParameters {
                rtp_codec: vp8(),
                payload_type: VP8_PAYLOAD_TYPE,
            },
            RtpCodecKind::Video,
        )?;
        media.register_codec(
            RTCRtpCodecParameters {
                rtp_codec: opus(),
                payload_type: OPUS_PAYLOAD_TYPE,
            },
            RtpCodecKind::Audio,
        )?;
        let watch = KeyframeWatch {
            wanted: Arc::clone(&keyframe_wanted),
            ..Default::default()
        };
        // Next to the application: everything that reads RTCP has seen it before.
        let registry = register_default_interceptors(Registry::new(), &mut media)?
            .with(Slot::from(14_000), watch);
        let pc = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().build())
            .with_media_engine(media)
            .with_setting_engine(settings.build())
            .with_interceptor_registry(registry)
            .with_handler(Arc::new(Handler {
                target,
                meter,
                events,
            }))
            .with_udp_addrs(vec![SocketAddr::new(local, 0)]);
        // The stack's set-up state is some 20 KB.
        let pc = Box::pin(pc.build()).await?;
        Ok(Self {
            pc: Arc::new(pc),
            keyframe_wanted,
            candidates: Vec::new(),
            remote_set: false,
            offer_id: 0,
            offering: false,
            offer_again: false,
        })
    }

    /// The channels that every LiveKit client opens on its publishing connection.
    pub(super) async fn create_data_channels(&self) -> Result<()> {
        let lossy = || RTCDataChannelInit {
            ordered: false,
            max_retransmits: Some(0),
            ..Default::default()
        };
        for (label, init) in [
            ("_reliable", None),
            ("_lossy", Some(lossy())),
            ("_data_track", Some(lossy())),
        ] {
            drain(self.pc.create_data_channel(label, init).await?);
        }
        Ok(())
    }

    /// Adds `count` sections to receive on.
    pub(super) async fn add_receivers(&self, kind: RtpCodecKind, count: u32) -> Result<()> {
        for _ in 0..count {
            let init = RTCRtpTransceiverInit {
                direction: RTCRtpTransceiverDirection::Recvonly,
                streams: Vec::new(),
                send_encodings: Vec::new(),
            };
            self.pc.add_transceiver_from_kind(kind, Some(init)).await?;
        }
        Ok(())
    }

    /// A new offer, or `None` while the last one waits for its answer: then it comes with that.
    pub(super) async fn offer(&mut self) -> Result<Option<livekit::SessionDescription>> {
        if self.offering {
            self.offer_again = true;
            return Ok(None);
        }
        let offer = self.pc.create_offer(None).await?;
        let sdp = offer.sdp.clone();
        self.pc.set_local_description(offer).await?;
        self.offering = true;
        self.offer_id += 1;
        Ok(Some(description("offer", sdp, self.offer_id)))
    }

    /// Takes an answer; returns the next offer when one has been waiting.
    pub(super) async fn answered(
        &mut self,
        answer: livekit::SessionDescription,
    ) -> Result<Option<livekit::SessionDescription>> {
        // 0 is what servers that do not number their answers send.
        if answer.id != 0 && answer.id != self.offer_id {
            return Ok(None);
        }
        let candidates = candidates_of(&answer.sdp);
        self.pc
            .set_remote_description(RTCSessionDescription::answer(answer.sdp)?)
            .await?;
        self.offering = false;
        self.flush_candidates(candidates).await?;
        if std::mem::take(&mut self.offer_again) {
            self.offer().await
        } else {
            Ok(None)
        }
    }

    /// Answers the server's offer.
    pub(super) async fn answer(
        &mut self,
        offer: livekit::SessionDescription,
    ) -> Result<livekit::SessionDescription> {
        let candidates = candidates_of(&offer.sdp);
        self.pc
            .set_remote_description(RTCSessionDescription::offer(offer.sdp)?)
            .await?;
        self.flush_candidates(candidates).await?;
        let answer = self.pc.create_answer(None).await?;
        let sdp = answer.sdp.clone();
        self.pc.set_local_description(answer).await?;
        Ok(description("answer", sdp, offer.id))
    }

    /// Takes a candidate of the server, as `candidateInit` JSON. A bad one is only logged.
    pub(super) async fn add_candidate(&mut self, json: &str) -> Result<()> {
        let candidate: RTCIceCandidateInit = match serde_json::from_str(json) {
            Ok(candidate) => candidate,
            Err(error) => {
                tracing::warn!(%error, "bad candidate from the server");
                return Ok(());
            }
        };
        if self.remote_set {
            self.pc.add_ice_candidate(candidate).await?;
        } else if self.candidates.len() < CANDIDATES_MAX {
            self.candidates.push(candidate);
        }
        Ok(())
    }

    async fn flush_candidates(&mut self, described: Vec<RTCIceCandidateInit>) -> Result<()> {
        self.remote_set = true;
        for candidate in described.into_iter().chain(self.candidates.drain(..)) {
            self.pc.add_ice_candidate(candidate).await?;
        }
        Ok(())
    }
}

/// Candidates in a description. The crate skips those of inactive sections, which is where a bundle
/// may well have them; browsers do not. Those it knows already it ignores.
fn candidates_of(sdp: &str) -> Vec<RTCIceCandidateInit> {
    sdp.lines()
        .filter_map(|line| line.trim_end().strip_prefix("a=candidate:"))
        .take(CANDIDATES_MAX)
        .map(|value| RTCIceCandidateInit {
            candidate: format!("candidate:{value}"),
            sdp_mline_index: Some(0),
            ..Default::default()
        })
        .collect()
}

fn description(kind: &str, sdp: String, id: u32) -> livekit::SessionDescription {
    livekit::SessionDescription {
        r#type: kind.to_owned(),
        sdp,
        id,
        ..Default::default()
    }
}

/// Reads a channel to its end, so that the connection never waits for us.
fn drain(channel: Arc<dyn DataChannel>) {
    tokio::spawn(async move { while channel.poll().await.is_some() {} });
}

struct Handler {
    target: livekit::SignalTarget,
    meter: Arc<Meter>,
    events: mpsc::Sender<Event>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        let json = event
            .candidate
            .to_json()
            .ok()
            .and_then(|init| serde_json::to_string(&init).ok());
        if let Some(json) = json {
            // A session that is gone needs no candidates.
            let _sent = self
                .events
                .send(Event::Candidate(self.target, json))
                .await
                .is_ok();
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        tracing::debug!(target_connection = ?self.target, %state, "connection state");
        let event = if state == RTCPeerConnectionState::Connected {
            Event::Connected(self.target)
        } else if state == RTCPeerConnectionState::Failed {
            Event::Failed(self.target)
        } else {
            return;
        };
        let _sent = self.events.send(event).await.is_ok();
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        drain(channel);
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let meter = Arc::clone(&self.meter);
        tokio::spawn(async move {
            while let Some(event) = track.poll().await {
                if let TrackRemoteEvent::OnRtpPacket(packet) = event
                    && !packet.payload.is_empty()
                {
                    meter.receive(&packet.payload);
                }
            }
        });
    }
}

/// Sees the server's keyframe requests go by (PLI, RFC 4585 6.3.1; FIR, RFC 5104 4.3.1).
#[derive(Default)]
struct KeyframeWatch {
    wanted: Arc<AtomicBool>,
    read: VecDeque<TaggedPacket>,
    write: VecDeque<TaggedPacket>,
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for KeyframeWatch {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = webrtc::error::Error;
    type Time = Instant;

    fn handle_read(&mut self, message: TaggedPacket) -> Result<()> {
        if let Packet::Rtcp(packets) = &message.message.packet {
            let requested = packets.iter().map(|packet| packet.as_any()).any(|packet| {
                packet.is::<PictureLossIndication>() || packet.is::<FullIntraRequest>()
            });
            if requested {
                self.wanted.store(true, Ordering::Relaxed);
            }
        }
        self.read.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.read.pop_front()
    }

    fn handle_write(&mut self, message: TaggedPacket) -> Result<()> {
        self.write.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.write.pop_front()
    }
}

impl Interceptor for KeyframeWatch {
    fn bind_local_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _info: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _info: &StreamInfo) {}
}

#[cfg(test)]
mod tests;
