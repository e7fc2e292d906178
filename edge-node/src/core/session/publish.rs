//! What the client publishes.

use std::sync::Arc;

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::packet::Codec;
use media::router::{Source, TrackConfig, TrackKey};
use proto::TrackSid;

use super::{Now, Output, Session};
use crate::core::negotiation::answerer::{Publication, Published};
use crate::core::room::FromSession;
use crate::core::sdp::{MediaKind, OpusOptions};
use crate::core::signal;
use crate::core::track::Track;

/// A client may announce this many tracks at a time.
const PUBLICATIONS_MAX: usize = 64;

/// The session's publications.
#[derive(Debug)]
pub(super) struct Publishing {
    tracks: Vec<Announced>,
    /// Keys that the shell reserved for coming tracks.
    keys: Vec<TrackKey>,
    next_id: u64,
}

#[derive(Debug)]
struct Announced {
    publication: Publication,
    info: lk::TrackInfo,
    /// Known to the media plane and the room.
    live: Option<Arc<Track>>,
}

impl Publishing {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            tracks: Vec::new(),
            keys: Vec::new(),
            next_id: seed,
        }
    }

    pub(super) fn publications(&self) -> Vec<Publication> {
        self.tracks.iter().map(|t| t.publication.clone()).collect()
    }

    pub(super) fn announced(&self, stream: &str, track: &str) -> bool {
        self.tracks.iter().any(|t| {
            t.publication
                .cids
                .iter()
                .any(|cid| cid == track || cid == stream)
        })
    }

    fn find(&mut self, sid: &str) -> Option<&mut Announced> {
        self.tracks
            .iter_mut()
            .find(|t| t.publication.sid.as_str() == sid)
    }

    /// A new id; a multiplicative step over 2^64 never repeats and does not count up visibly.
    fn sid(&mut self, kind: &str) -> TrackSid {
        self.next_id = self
            .next_id
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        TrackSid::from(format!("TR_{kind}{:012x}", self.next_id >> 16))
    }
}

impl Session {
    /// Gives the session a key for one further track; announcing a track uses one up.
    pub fn reserve_key(&mut self, key: TrackKey) {
        self.publishing.keys.push(key);
    }

    /// Keys of the tracks that the plane knows.
    pub fn published_keys(&self) -> Vec<TrackKey> {
        self.publishing
            .tracks
            .iter()
            .filter_map(|t| t.live.as_ref())
            .map(|t| t.key)
            .collect()
    }

    /// Whether [`Session::reserve_key`] is due.
    pub fn needs_key(&self) -> bool {
        self.publishing.keys.is_empty()
    }

    pub(super) fn add_track(&mut self, now: Now, request: &lk::AddTrackRequest) {
        if let Some(text) = self.refusal(request) {
            let reason = lk::request_response::Reason::NotAllowed;
            let refused = lk::request_response::Request::AddTrack(request.clone());
            self.signal(signal::request_response(0, reason, text, Some(refused)));
            return;
        }
        let known = self
            .publishing
            .tracks
            .iter()
            .find(|t| t.publication.cids.first() == Some(&request.cid));
        if let Some(known) = known {
            let answer = published_response(&request.cid, &known.info);
            self.signal(answer);
            return;
        }
        let Some(key) = self.publishing.keys.pop() else {
            return;
        };
        let kind = if request.r#type() == lk::TrackType::Audio {
            MediaKind::Audio
        } else {
            MediaKind::Video
        };
        let sid = self
            .publishing
            .sid(if kind == MediaKind::Audio { "AM" } else { "VC" });
        let announced = announce(request, kind, sid, key);
        self.signal(published_response(&request.cid, &announced.info));
        self.publishing.tracks.push(announced);
        self.release_held_offer(now);
    }

    /// Why a track may not be published; `None` when it may.
    fn refusal(&self, request: &lk::AddTrackRequest) -> Option<&'static str> {
        let permissions = &self.config.permissions;
        if !permissions.can_publish {
            Some("the token does not grant canPublish")
        } else if !permissions.allows_source(request.source()) {
            Some("the token's canPublishSources does not list this source")
        } else if !request.sid.is_empty() {
            Some("a second codec for a track is not supported")
        } else if request.r#type() == lk::TrackType::Data {
            Some("data is published on data channels")
        } else if self.publishing.tracks.len() >= PUBLICATIONS_MAX {
            Some("too many tracks are announced")
        } else {
            None
        }
    }

    /// A negotiation placed a publication: the first time, the plane and the room learn of it.
    pub(super) fn publish(&mut self, published: Published) {
        let owner = self.config.sid.clone();
        let Some(announced) = self.publishing.find(published.sid.as_str()) else {
            return;
        };
        if announced.live.is_some() {
            return;
        }
        announced.info.mid.clone_from(&published.mid);
        set_mime(&mut announced.info, published.codec);
        let track = Arc::new(Track {
            sid: published.sid.clone(),
            key: announced.publication.key,
            owner,
            info: announced.info.clone(),
            codec: published.codec,
            fmtp: published.fmtp,
            streams: published.streams,
        });
        announced.live = Some(Arc::clone(&track));
        let config = TrackConfig::new(track.codec, Source::Remote, track.streams);
        self.outputs.push_back(Output::Publish {
            track: track.key,
            sid: track.sid.clone(),
            config,
        });
        if track.info.muted {
            self.outputs.push_back(Output::SetMuted(track.key, true));
        }
        self.tell_room(FromSession::Published(track));
    }

    /// The client took a track back.
    pub(super) fn unpublish(&mut self, sid: &TrackSid) {
        let tracks = &mut self.publishing.tracks;
        let Some(index) = tracks.iter().position(|t| t.publication.sid == *sid) else {
            return;
        };
        let ended = tracks.swap_remove(index);
        if let Some(track) = ended.live {
            self.outputs.push_back(Output::Unpublish(track.key));
            self.tell_room(FromSession::Unpublished(sid.clone()));
        }
        let response = lk::TrackUnpublishedResponse {
            track_sid: sid.to_string(),
        };
        self.signal(Response::TrackUnpublished(response));
    }

    pub(super) fn mute(&mut self, mute: &lk::MuteTrackRequest) {
        let muted = mute.muted;
        self.change(&mute.sid, |info| info.muted = muted);
        let live = self
            .publishing
            .find(&mute.sid)
            .and_then(|t| t.live.as_ref());
        if let Some(key) = live.map(|track| track.key) {
            self.outputs.push_back(Output::SetMuted(key, muted));
        }
    }

    pub(super) fn update_audio_track(&mut self, update: &lk::UpdateLocalAudioTrack) {
        self.change(&update.track_sid, |info| {
            info.audio_features.clone_from(&update.features)
        });
    }

    pub(super) fn update_video_track(&mut self, update: &lk::UpdateLocalVideoTrack) {
        self.change(&update.track_sid, |info| {
            info.width = update.width;
            info.height = update.height;
        });
    }

    /// Changes what is said about a track, and tells the room if it knows the track.
    fn change(&mut self, sid: &str, change: impl FnOnce(&mut lk::TrackInfo)) {
        let Some(announced) = self.publishing.find(sid) else {
            return;
        };
        change(&mut announced.info);
        let Some(live) = &announced.live else { return };
        let track = Arc::new(Track {
            info: announced.info.clone(),
            ..Track::clone(live)
        });
        announced.live = Some(Arc::clone(&track));
        self.tell_room(FromSession::Published(track));
    }
}

fn published_response(cid: &str, info: &lk::TrackInfo) -> Response {
    let track = Some(info.clone());
    Response::TrackPublished(lk::TrackPublishedResponse {
        cid: cid.to_owned(),
        track,
    })
}

/// A new track from its announcement.
fn announce(
    request: &lk::AddTrackRequest,
    kind: MediaKind,
    sid: TrackSid,
    key: TrackKey,
) -> Announced {
    let first = request.simulcast_codecs.first();
    let codec = first.and_then(|c| Codec::from_name(&c.codec));
    let mut cids = vec![request.cid.clone()];
    cids.extend(
        first
            .map(|c| c.cid.clone())
            .filter(|cid| !cid.is_empty() && *cid != request.cid),
    );
    let mut info = track_info(request, &sid);
    set_mime(
        &mut info,
        codec.unwrap_or(if kind == MediaKind::Audio {
            Codec::Opus
        } else {
            Codec::Vp8
        }),
    );
    let has = |feature: lk::AudioTrackFeature| request.audio_features.contains(&(feature as i32));
    #[expect(
        deprecated,
        reason = "older clients use these instead of audio_features"
    )]
    let (stereo, no_dtx) = (request.stereo, request.disable_dtx);
    let opus = OpusOptions {
        stereo: stereo || has(lk::AudioTrackFeature::TfStereo),
        sends_stereo: false,
        dtx: !no_dtx && !has(lk::AudioTrackFeature::TfNoDtx),
    };
    let publication = Publication {
        sid,
        key,
        cids,
        kind,
        codec,
        red: !request.disable_red,
        opus,
    };
    Announced {
        publication,
        info,
        live: None,
    }
}

#[expect(
    deprecated,
    reason = "older clients read the fields that the codec list replaced"
)]
fn track_info(request: &lk::AddTrackRequest, sid: &TrackSid) -> lk::TrackInfo {
    let codecs = request
        .simulcast_codecs
        .iter()
        .take(1)
        .map(|codec| lk::SimulcastCodecInfo {
            cid: request.cid.clone(),
            layers: if codec.layers.is_empty() {
                request.layers.clone()
            } else {
                codec.layers.clone()
            },
            video_layer_mode: codec.video_layer_mode,
            ..Default::default()
        });
    let mut codecs: Vec<_> = codecs.collect();
    if codecs.is_empty() {
        codecs.push(lk::SimulcastCodecInfo {
            cid: request.cid.clone(),
            layers: request.layers.clone(),
            ..Default::default()
        });
    }
    lk::TrackInfo {
        sid: sid.to_string(),
        r#type: request.r#type,
        name: request.name.clone(),
        muted: request.muted,
        width: request.width,
        height: request.height,
        simulcast: request.layers.len() > 1,
        disable_dtx: request.disable_dtx,
        source: request.source,
        layers: request.layers.clone(),
        codecs,
        stereo: request.stereo,
        disable_red: request.disable_red,
        encryption: request.encryption,
        stream: request.stream.clone(),
        audio_features: request.audio_features.clone(),
        backup_codec_policy: request.backup_codec_policy,
        packet_trailer_features: request.packet_trailer_features.clone(),
        ..Default::default()
    }
}

fn set_mime(info: &mut lk::TrackInfo, codec: Codec) {
    let kind = if codec.is_audio() { "audio" } else { "video" };
    info.mime_type = format!("{kind}/{}", codec.name());
    if let Some(first) = info.codecs.first_mut() {
        first.mime_type.clone_from(&info.mime_type);
        first.mid.clone_from(&info.mid);
    }
}
