//! What the client publishes.

use std::sync::Arc;

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::packet::Codec;
use media::router::TrackKey;
use proto::{ParticipantSid, TrackSid};

use super::backup::SecondCodec;
use super::dynacast::Dynacast;
use super::{Now, Output, Session};
use crate::core::negotiation::answerer::{Publication, Published};
use crate::core::room::FromSession;
use crate::core::sdp::{MediaKind, OpusOptions};
use crate::core::signal;
use crate::core::track::{self, Backup, Track};

/// A client may announce this many tracks at a time.
const PUBLICATIONS_MAX: usize = 64;

/// The session's publications.
#[derive(Debug)]
pub(super) struct Publishing {
    pub(super) tracks: Vec<Announced>,
    /// Keys that the shell reserved for coming tracks.
    keys: Vec<TrackKey>,
    next_id: u64,
}

#[derive(Debug)]
pub(super) struct Announced {
    pub(super) publication: Publication,
    pub(super) info: lk::TrackInfo,
    /// Known to the media plane and the room.
    pub(super) live: Option<Live>,
    /// The codec that it could be sent in too, or is.
    pub(super) second: Option<SecondCodec>,
}

/// One codec of a track on the media plane.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) track: Arc<Track>,
    pub(super) dynacast: Dynacast,
}

impl Announced {
    fn publications(&self) -> impl Iterator<Item = &Publication> {
        let second = self.second.as_ref().and_then(|s| s.publication.as_ref());
        std::iter::once(&self.publication).chain(second)
    }

    /// Keys on the media plane.
    fn keys(&self) -> impl Iterator<Item = TrackKey> {
        let second = self.second.as_ref().and_then(|s| s.live.as_ref());
        let lives = self.live.iter().chain(second);
        lives.map(|live| live.track.key)
    }
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
        let tracks = self.tracks.iter();
        tracks.flat_map(Announced::publications).cloned().collect()
    }

    pub(super) fn announced(&self, stream: &str, track: &str) -> bool {
        let mut cids = self
            .tracks
            .iter()
            .flat_map(Announced::publications)
            .flat_map(|p| &p.cids);
        cids.any(|cid| cid == track || cid == stream)
    }

    pub(super) fn find(&mut self, sid: &str) -> Option<&mut Announced> {
        self.tracks
            .iter_mut()
            .find(|t| t.publication.sid.as_str() == sid)
    }

    /// Id and key for one further track; none when the shell reserved no key.
    pub(super) fn next_track(&mut self, kind: &str) -> Option<(TrackSid, TrackKey)> {
        let key = self.keys.pop()?;
        Some((self.sid(kind), key))
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
            .flat_map(Announced::keys)
            .collect()
    }

    /// Whether [`Session::reserve_key`] is due.
    pub fn needs_key(&self) -> bool {
        self.publishing.keys.is_empty()
    }

    pub(super) fn add_track(&mut self, now: Now, request: &lk::AddTrackRequest) {
        if let Some(reason) = self.refusal(request) {
            return self.refuse_track(request, reason);
        }
        if !request.sid.is_empty() {
            return self.add_codec(now, request);
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
        let kind = if request.r#type() == lk::TrackType::Audio {
            MediaKind::Audio
        } else {
            MediaKind::Video
        };
        let prefix = if kind == MediaKind::Audio { "AM" } else { "VC" };
        let Some((sid, key)) = self.publishing.next_track(prefix) else {
            return;
        };
        let announced = announce(request, kind, sid, key);
        self.signal(published_response(&request.cid, &announced.info));
        self.publishing.tracks.push(announced);
        self.release_held_offer(now);
    }

    /// Why a track may not be published; `None` when it may.
    fn refusal(&self, request: &lk::AddTrackRequest) -> Option<lk::request_response::Reason> {
        use lk::request_response::Reason;
        let permissions = &self.config.permissions;
        if !permissions.can_publish || !permissions.allows_source(request.source()) {
            Some(Reason::NotAllowed)
        } else if request.r#type() == lk::TrackType::Data {
            Some(Reason::UnsupportedType)
        } else if self.publishing.tracks.len() >= PUBLICATIONS_MAX {
            Some(Reason::LimitExceeded)
        } else {
            None
        }
    }

    pub(super) fn refuse_track(
        &mut self,
        request: &lk::AddTrackRequest,
        reason: lk::request_response::Reason,
    ) {
        use lk::request_response::Reason;
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "only some reasons apply here"
        )]
        let text = match reason {
            Reason::NotAllowed if self.config.permissions.can_publish => {
                "the token's canPublishSources does not list this source"
            }
            Reason::NotAllowed => "the token does not grant canPublish",
            Reason::UnsupportedType => "data is published on data channels",
            Reason::LimitExceeded => "too many tracks are announced",
            Reason::NotFound => "there is no track of that sid, or no such codec",
            _ => "a second codec is for a video track and differs from the first",
        };
        let refused = lk::request_response::Request::AddTrack(request.clone());
        self.signal(signal::request_response(0, reason, text, Some(refused)));
    }

    /// A negotiation placed a publication: the first time, the plane and the room learn of it.
    pub(super) fn publish(&mut self, now: Now, published: &Published) {
        let owner = self.config.sid.clone();
        let Some(announced) = self.publishing.find(published.sid.as_str()) else {
            return self.publish_second(now, published);
        };
        if announced.live.is_some() {
            return;
        }
        announced.info.mid.clone_from(&published.mid);
        set_mime(&mut announced.info, published.codec);
        let key = announced.publication.key;
        let track = Arc::new(live_track(owner, &announced.info, (key, published)));
        let layers = track.layers();
        announced.live = Some(Live {
            track,
            dynacast: Dynacast::new(now.instant, layers, &published.rids),
        });
        announced.refresh_backup(now.instant);
        let Some(track) = announced.live.as_ref().map(|live| Arc::clone(&live.track)) else {
            return;
        };
        self.start(&track);
        self.tell_room(FromSession::Published(track));
    }

    /// Hands a track to the media plane.
    pub(super) fn start(&mut self, track: &Track) {
        self.outputs.push_back(Output::Publish {
            track: track.key,
            sid: track.mesh_sid.clone(),
            config: track.config(),
        });
        if track.info.muted {
            self.outputs.push_back(Output::SetMuted(track.key, true));
        }
    }

    /// The client took a track back.
    pub(super) fn unpublish(&mut self, now: Now, sid: &TrackSid) {
        let tracks = &mut self.publishing.tracks;
        let Some(index) = tracks.iter().position(|t| t.publication.sid == *sid) else {
            return self.unpublish_second(now, sid);
        };
        let ended = tracks.swap_remove(index);
        for key in ended.keys() {
            self.outputs.push_back(Output::Unpublish(key));
        }
        if ended.live.is_some() {
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
        let found = self.publishing.find(&mute.sid);
        let keys: Vec<TrackKey> = found.iter().flat_map(|t| t.keys()).collect();
        for key in keys {
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
        let Some(live) = &mut announced.live else {
            return;
        };
        let track = Arc::new(Track {
            info: announced.info.clone(),
            ..Track::clone(&live.track)
        });
        live.track = Arc::clone(&track);
        self.tell_room(FromSession::Published(track));
    }
}

/// A codec of a track as a negotiation placed it.
pub(super) fn live_track(
    owner: ParticipantSid,
    info: &lk::TrackInfo,
    (key, published): (TrackKey, &Published),
) -> Track {
    let spatial = track::spatial_layers(info, published.codec, published.streams);
    Track {
        sid: published.sid.clone(),
        mesh_sid: published.sid.clone(),
        key,
        owner,
        info: info.clone(),
        codec: published.codec,
        fmtp: published.fmtp.clone(),
        streams: published.streams,
        spatial,
        bitrates_bps: track::announced_bitrates(info, published.codec),
        backup: Backup::None,
        regressed: false,
    }
}

pub(super) fn published_response(cid: &str, info: &lk::TrackInfo) -> Response {
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
    let second = request.simulcast_codecs.get(1);
    let second = second.and_then(|c| Codec::from_name(&c.codec));
    let second = second.filter(|&second| kind == MediaKind::Video && Some(second) != codec);
    Announced {
        publication,
        info,
        live: None,
        second: second.map(SecondCodec::new),
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
    info.mime_type = track::mime(codec);
    if let Some(first) = info.codecs.first_mut() {
        first.mime_type.clone_from(&info.mime_type);
        first.mid.clone_from(&info.mid);
    }
}
