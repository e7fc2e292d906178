//! What a server does to a participant: mutes it, changes what it may do, takes it to another room.

use std::sync::Arc;

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::router::TrackKey;
use proto::{ParticipantSid, TrackSid};

use super::{Now, Session};
use crate::core::room::FromSession;
use crate::core::token::Permissions;
use crate::core::track::Track;

impl Session {
    /// A server muted a track, or unmuted it: the client is to do the same.
    pub(super) fn mute_by_server(&mut self, sid: &TrackSid, muted: bool) {
        let request = lk::MuteTrackRequest {
            sid: sid.to_string(),
            muted,
        };
        self.mute(&request);
        self.signal(Response::Mute(request));
    }

    /// The participant may do other things than before; what it may not publish any more ends.
    pub(super) fn permit(&mut self, now: Now, permissions: Permissions) {
        let forbidden = self
            .publishing
            .tracks
            .iter()
            .filter(|track| !permissions.allows_source(track.info.source()));
        let forbidden: Vec<TrackSid> = forbidden.map(|t| t.publication.sid.clone()).collect();
        self.config.permissions = permissions;
        for sid in forbidden {
            self.unpublish(now, &sid);
        }
    }

    /// The participant is in another room from now on, under a new session id. What it published is published there; what it
    /// received has ended already. To be followed by the join's mail to the new room, before any output is taken.
    pub fn relocate(&mut self, now: Now, sid: &ParticipantSid) {
        self.config.sid = sid.clone();
        let mut tracks = Vec::new();
        for announced in &mut self.publishing.tracks {
            let owned = |track: &Track| {
                Arc::new(Track {
                    owner: sid.clone(),
                    ..track.clone()
                })
            };
            if let Some(second) = announced.second.as_mut().and_then(|s| s.live.as_mut()) {
                second.track = owned(&second.track);
                tracks.push((Arc::clone(&second.track), false));
            }
            if let Some(live) = &mut announced.live {
                live.track = owned(&live.track);
            }
            announced.refresh_backup(now.instant);
            if let Some(live) = &announced.live {
                tracks.push((Arc::clone(&live.track), true));
            }
        }
        for (track, first) in tracks {
            // Nobody there wants any of it yet.
            let key: TrackKey = track.key;
            self.demand(now, key, 0);
            self.start(&track);
            if first {
                self.tell_room(FromSession::Published(track));
            }
        }
        if self.active {
            self.tell_room(FromSession::Active);
        }
    }
}
