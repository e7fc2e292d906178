//! What the client receives.

use std::collections::BTreeMap;
use std::sync::Arc;

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use proto::TrackSid;

use super::{Output, Session};
use crate::core::negotiation::{Bound, Wanted};
use crate::core::room::FromSession;
use crate::core::track::{Track, default_target};

/// The session's subscriptions.
#[derive(Debug)]
pub(super) struct Subscribing {
    wanted: Vec<Subscription>,
    /// What the client asked of tracks, kept also while a subscription does not exist.
    settings: BTreeMap<TrackSid, lk::UpdateTrackSettings>,
    next_ssrc: u32,
}

#[derive(Debug)]
struct Subscription {
    wanted: Wanted,
    bound: bool,
}

impl Subscribing {
    pub(super) fn new(seed: u64) -> Self {
        // Any start will do, as long as it is not zero and does not wrap soon (RFC 3550 section 8).
        let low = u32::try_from(seed & 0x7fff_ffff).unwrap_or(0);
        Self {
            wanted: Vec::new(),
            settings: BTreeMap::new(),
            next_ssrc: low | 0x1000,
        }
    }

    /// Everything that is wanted, oldest first.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        self.wanted.iter().map(|s| s.wanted.clone()).collect()
    }

    pub(super) fn replace(&mut self, track: Arc<Track>) {
        if let Some(s) = self
            .wanted
            .iter_mut()
            .find(|s| s.wanted.track.sid == track.sid)
        {
            s.wanted.track = track;
        }
    }

    fn ssrc(&mut self) -> u32 {
        self.next_ssrc = self.next_ssrc.wrapping_add(1).max(1);
        self.next_ssrc
    }

    fn find(&mut self, sid: &TrackSid) -> Option<&mut Subscription> {
        self.wanted.iter_mut().find(|s| s.wanted.track.sid == *sid)
    }
}

impl Session {
    pub(super) fn subscribe(&mut self, track: Arc<Track>) {
        if self.subscribing.find(&track.sid).is_some() {
            return;
        }
        let (ssrc, rtx_ssrc) = (self.subscribing.ssrc(), self.subscribing.ssrc());
        self.subscribing.wanted.push(Subscription {
            wanted: Wanted {
                track,
                ssrc,
                rtx_ssrc,
            },
            bound: false,
        });
        if let Some(offerer) = &mut self.offerer {
            offerer.mark_stale();
        }
    }

    pub(super) fn unsubscribe(&mut self, sid: &TrackSid) {
        let Some(index) = self
            .subscribing
            .wanted
            .iter()
            .position(|s| s.wanted.track.sid == *sid)
        else {
            return;
        };
        let ended = self.subscribing.wanted.remove(index);
        self.subscribing.settings.remove(sid);
        if ended.bound {
            self.outputs
                .push_back(Output::Unsubscribe(ended.wanted.track.key));
        }
        match &mut self.offerer {
            Some(offerer) => offerer.end_subscription(sid),
            None => self.sections_stale |= self.answerer.end_subscription(sid),
        }
    }

    /// Subscriptions that a negotiation brought to life.
    pub(super) fn bind(&mut self, bound: Vec<Bound>) {
        for Bound { track, mut config } in bound {
            let settings = self.subscribing.settings.get(&track).cloned();
            let Some(subscription) = self.subscribing.find(&track) else {
                continue;
            };
            subscription.bound = true;
            let track = &subscription.wanted.track;
            config.target = match settings {
                Some(settings) => track.target(&settings),
                None => Some(default_target(track.streams)),
            };
            self.outputs
                .push_back(Output::Subscribe(track.key, Box::new(config)));
        }
    }

    /// Subscriptions the client cannot decode: it is told, and they are dropped.
    pub(super) fn give_up(&mut self, undecodable: Vec<TrackSid>) {
        for sid in undecodable {
            self.signal(Response::SubscriptionResponse(lk::SubscriptionResponse {
                track_sid: sid.to_string(),
                err: lk::SubscriptionError::SeCodecUnsupported as i32,
            }));
            self.unsubscribe(&sid);
        }
    }

    pub(super) fn set_track_settings(&mut self, settings: &lk::UpdateTrackSettings) {
        for sid in &settings.track_sids {
            let sid = TrackSid::from(sid.as_str());
            let Some(subscription) = self.subscribing.find(&sid) else {
                continue;
            };
            let track = &subscription.wanted.track;
            let (key, target, bound) = (track.key, track.target(settings), subscription.bound);
            self.subscribing.settings.insert(sid, settings.clone());
            if bound {
                self.outputs.push_back(Output::SetTarget(key, target));
            }
        }
    }

    /// After a resume the client repeats what it wants.
    pub(super) fn sync_state(&mut self, state: &lk::SyncState) {
        if let Some(subscription) = &state.subscription {
            self.tell_room(FromSession::Subscription(subscription.clone()));
        }
        if !state.track_sids_disabled.is_empty() {
            self.set_track_settings(&lk::UpdateTrackSettings {
                track_sids: state.track_sids_disabled.clone(),
                disabled: true,
                ..Default::default()
            });
        }
    }
}
