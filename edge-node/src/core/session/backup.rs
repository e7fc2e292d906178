//! A track's second codec: published when somebody cannot decode the first.
//!
//! The client says with `add_track` that it could send one (`simulcast_codecs`). It is asked to by `subscribed_quality_update`, and
//! then adds the track again with the first one's `sid`. By its `backup_codec_policy` either both codecs are sent from then on, or
//! everybody takes the backup (a regression), so that the first one pauses by dynacast like anything that nobody wants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::packet::Codec;
use media::router::TrackKey;
use proto::TrackSid;

use super::dynacast::{self, Dynacast};
use super::publish::{Announced, Live, published_response};
use super::{Now, Output, Session};
use crate::core::negotiation::answerer::{Publication, Published};
use crate::core::room::FromSession;
use crate::core::sdp::{MediaKind, OpusOptions};
use crate::core::track::{self, Backup, Track};

/// How long a regression outlasts the last one who needed it: somebody who comes back does not turn everybody round again.
const REGRESSION_HOLD: Duration = Duration::from_secs(10);

/// What a publication's second codec is up to.
#[derive(Debug)]
pub(super) struct SecondCodec {
    codec: Codec,
    /// Somebody in the room needs it.
    wanted: bool,
    /// Everybody takes it until then, or for as long as it is wanted.
    regressed_until: Option<Instant>,
    pub(super) publication: Option<Publication>,
    pub(super) live: Option<Live>,
}

impl SecondCodec {
    pub(super) fn new(codec: Codec) -> Self {
        Self {
            codec,
            wanted: false,
            regressed_until: None,
            publication: None,
            live: None,
        }
    }

    /// Takes what was published back, so that it can be published anew.
    fn withdraw(&mut self) -> Option<TrackKey> {
        self.publication = None;
        self.live.take().map(|live| live.track.key)
    }

    fn shown(&self) -> Backup {
        match &self.live {
            Some(live) => Backup::Live(Arc::clone(&live.track)),
            None => Backup::Announced,
        }
    }
}

impl Announced {
    /// Says of the live track how it is with its second codec; true when that is news.
    pub(super) fn refresh_backup(&mut self, now: Instant) -> bool {
        let policy = self.info.backup_codec_policy();
        let (Some(live), Some(second)) = (&mut self.live, &mut self.second) else {
            return false;
        };
        if second.wanted && policy != lk::BackupCodecPolicy::Simulcast {
            second.regressed_until = Some(now + REGRESSION_HOLD);
        }
        let held = second.regressed_until.is_some_and(|until| now < until);
        let regressed = second.live.is_some() && held;
        let backup = second.shown();
        if live.track.regressed == regressed && live.track.backup == backup {
            return false;
        }
        live.track = Arc::new(Track {
            backup,
            regressed,
            ..Track::clone(&live.track)
        });
        true
    }

    /// What the publisher is asked to send, codec by codec.
    pub(super) fn quality_update(&self) -> Option<Response> {
        let live = self.live.as_ref().filter(|live| live.track.is_video())?;
        let codec = |codec: Codec, qualities| lk::SubscribedCodec {
            codec: codec.name().to_ascii_lowercase(),
            qualities,
        };
        let first = live.dynacast.qualities();
        let mut subscribed_codecs = vec![codec(live.track.codec, first.clone())];
        if let Some(second) = &self.second {
            let qualities = match &second.live {
                Some(live) => live.dynacast.qualities(),
                None => dynacast::all(second.wanted),
            };
            subscribed_codecs.push(codec(second.codec, qualities));
        }
        #[expect(deprecated, reason = "older clients read these alone")]
        let update = lk::SubscribedQualityUpdate {
            track_sid: self.publication.sid.to_string(),
            subscribed_qualities: first,
            subscribed_codecs,
        };
        Some(Response::SubscribedQualityUpdate(update))
    }

    /// What of this has the key.
    fn live_mut(&mut self, key: TrackKey) -> Option<&mut Live> {
        let second = self.second.as_mut().and_then(|second| second.live.as_mut());
        let lives = self.live.as_mut().into_iter().chain(second);
        lives.into_iter().find(|live| live.track.key == key)
    }
}

impl Session {
    /// What subscribers and mesh want of one codec of a track changed.
    pub(super) fn demand(&mut self, now: Now, key: TrackKey, streams: u8) {
        let tracks = self.publishing.tracks.iter_mut();
        for announced in tracks {
            let Some(live) = announced.live_mut(key) else {
                continue;
            };
            let update = if live.dynacast.demand(now.instant, streams) {
                announced.quality_update()
            } else {
                None
            };
            if let Some(update) = update {
                self.signal(update);
            }
            return;
        }
    }

    /// Somebody needs the second codec of a track, or nobody does any more.
    pub(super) fn backup_wanted(&mut self, now: Now, sid: &TrackSid, wanted: bool) {
        let Some(announced) = self.publishing.find(sid.as_str()) else {
            return;
        };
        let Some(second) = &mut announced.second else {
            return;
        };
        if std::mem::replace(&mut second.wanted, wanted) == wanted {
            return;
        }
        let ask = second.live.is_none();
        let update = announced.quality_update().filter(|_| ask);
        let changed = announced.refresh_backup(now.instant);
        let track = announced.live.as_ref().map(|live| Arc::clone(&live.track));
        if let Some(update) = update {
            self.signal(update);
        }
        if let Some(track) = track.filter(|_| changed) {
            self.tell_room(FromSession::Published(track));
        }
    }

    /// Pauses layers that nobody wants any more, and ends regressions.
    pub(super) fn tick_publications(&mut self, now: Now) {
        let (mut updates, mut changed) = (Vec::new(), Vec::new());
        for announced in &mut self.publishing.tracks {
            let second = announced.second.as_mut().and_then(|s| s.live.as_mut());
            let lives = announced.live.as_mut().into_iter().chain(second);
            let paused = lives.fold(false, |any, live| live.dynacast.tick(now.instant) | any);
            updates.extend(announced.quality_update().filter(|_| paused));
            if announced.refresh_backup(now.instant) {
                changed.extend(announced.live.as_ref().map(|live| Arc::clone(&live.track)));
            }
        }
        for update in updates {
            self.signal(update);
        }
        for track in changed {
            self.tell_room(FromSession::Published(track));
        }
    }

    /// After a resume the client hears again what it should send.
    pub(super) fn repeat_qualities(&mut self) {
        let tracks = self.publishing.tracks.iter();
        let updates: Vec<Response> = tracks.filter_map(Announced::quality_update).collect();
        for update in updates {
            self.signal(update);
        }
    }

    /// The client adds a track again, in its second codec.
    pub(super) fn add_codec(&mut self, now: Now, request: &lk::AddTrackRequest) {
        let Some(offered) = request.simulcast_codecs.first() else {
            return self.refuse_track(request, lk::request_response::Reason::InvalidRequest);
        };
        let codec = Codec::from_name(&offered.codec).filter(|codec| !codec.is_audio());
        let known = self.publishing.find(&request.sid);
        let (Some(codec), Some(announced)) = (codec, known) else {
            return self.refuse_track(request, lk::request_response::Reason::NotFound);
        };
        if announced.info.r#type() != lk::TrackType::Video
            || announced.publication.codec == Some(codec)
        {
            return self.refuse_track(request, lk::request_response::Reason::InvalidRequest);
        }
        let second = announced
            .second
            .get_or_insert_with(|| SecondCodec::new(codec));
        let cid = |p: &Publication| p.cids.first() == Some(&request.cid);
        if second.publication.as_ref().is_some_and(cid) {
            let answer = published_response(&request.cid, &announced.info);
            return self.signal(answer);
        }
        second.codec = codec;
        let replaced = second.withdraw();
        let Some((sid, key)) = self.publishing.next_track("VC") else {
            return;
        };
        let Some(announced) = self.publishing.find(&request.sid) else {
            return;
        };
        describe(&mut announced.info, request, codec);
        let answer = published_response(&request.cid, &announced.info);
        if let Some(second) = &mut announced.second {
            let mut cids = vec![request.cid.clone()];
            cids.extend((!offered.cid.is_empty()).then(|| offered.cid.clone()));
            second.publication = Some(Publication {
                sid,
                key,
                cids,
                kind: MediaKind::Video,
                codec: Some(codec),
                red: false,
                opus: OpusOptions::default(),
            });
        }
        if let Some(key) = replaced {
            self.outputs.push_back(Output::Unpublish(key));
        }
        self.signal(answer);
        self.release_held_offer(now);
    }

    /// A negotiation placed a second codec.
    pub(super) fn publish_second(&mut self, now: Now, published: &Published) {
        let owner = self.config.sid.clone();
        let found = self.publishing.tracks.iter_mut().find(|announced| {
            let publication = announced
                .second
                .as_ref()
                .and_then(|s| s.publication.as_ref());
            publication.is_some_and(|p| p.sid == published.sid)
        });
        let Some(announced) = found else { return };
        let Some(second) = announced.second.as_mut().filter(|s| s.live.is_none()) else {
            return;
        };
        let Some(publication) = &second.publication else {
            return;
        };
        let track = Arc::new(Track {
            sid: announced.publication.sid.clone(),
            mesh_sid: publication.sid.clone(),
            ..super::publish::live_track(owner, &announced.info, (publication.key, published))
        });
        let layers = track.layers();
        second.live = Some(Live {
            track: Arc::clone(&track),
            dynacast: Dynacast::new(now.instant, layers, &published.rids),
        });
        announced.refresh_backup(now.instant);
        let whole = announced.live.as_ref().map(|live| Arc::clone(&live.track));
        self.start(&track);
        if let Some(whole) = whole {
            self.tell_room(FromSession::Published(whole));
        }
    }

    /// The client took a second codec back.
    pub(super) fn unpublish_second(&mut self, now: Now, sid: &TrackSid) {
        for announced in &mut self.publishing.tracks {
            let Some(second) = &mut announced.second else {
                continue;
            };
            if second.publication.as_ref().is_none_or(|p| p.sid != *sid) {
                continue;
            }
            let key = second.withdraw();
            announced.refresh_backup(now.instant);
            let whole = announced.live.as_ref().map(|live| Arc::clone(&live.track));
            if let Some(key) = key {
                self.outputs.push_back(Output::Unpublish(key));
                if let Some(whole) = whole {
                    self.tell_room(FromSession::Published(whole));
                }
            }
            return;
        }
    }
}

/// Says in a track's description what its second codec is.
fn describe(info: &mut lk::TrackInfo, request: &lk::AddTrackRequest, codec: Codec) {
    let offered = request.simulcast_codecs.first();
    let layers = offered
        .map(|c| c.layers.clone())
        .filter(|l| !l.is_empty())
        .unwrap_or_else(|| request.layers.clone());
    let described = lk::SimulcastCodecInfo {
        mime_type: track::mime(codec),
        cid: request.cid.clone(),
        layers,
        ..Default::default()
    };
    info.codecs.truncate(1);
    info.codecs.push(described);
}
