//! What the client receives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::router::TrackKey;
use proto::TrackSid;

use super::{Now, Output, Session};
use crate::core::negotiation::{Bound, Wanted};
use crate::core::room::FromSession;
use crate::core::track::{Backup, Track, default_target};

/// How long a subscription waits for a backup codec that its publisher was asked for: the request and the answer across the mesh, a
/// negotiation of the publisher's, and time to spare.
const BACKUP_WAIT: Duration = Duration::from_secs(8);

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
    /// In which of the track's codecs it is sent.
    bound: Option<TrackKey>,
    /// The client cannot decode the track's first codec, which the room knows.
    needs_backup: bool,
    /// It waits until then for a codec that the client can decode.
    waits_until: Option<Instant>,
}

impl Subscription {
    /// Whether another codec of the track should be sent than now.
    fn is_misbound(&self) -> bool {
        let track = &self.wanted.track;
        let Some(bound) = self.bound else {
            return false;
        };
        let best = track
            .choices()
            .map(|t| t.key)
            .find(|&key| !(self.needs_backup && key == track.key));
        match best {
            Some(best) => best != bound,
            None => track.choice(bound).is_none(),
        }
    }
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

    /// Everything that is wanted and could be sent, oldest first.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let ready = self.wanted.iter().filter(|s| s.waits_until.is_none());
        ready.map(|s| s.wanted.clone()).collect()
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
            bound: None,
            needs_backup: false,
            waits_until: None,
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
        if let Some(key) = ended.bound {
            self.outputs.push_back(Output::Unsubscribe(key));
        }
        match &mut self.offerer {
            Some(offerer) => offerer.end_subscription(sid),
            None => self.sections_stale |= self.answerer.end_subscription(sid),
        }
    }

    /// What is known of a subscribed track changed: another of its codecs may be the right one now.
    pub(super) fn track_changed(&mut self, track: Arc<Track>) {
        let sid = track.sid.clone();
        let fresh = (self.subscribing.ssrc(), self.subscribing.ssrc());
        let Some(subscription) = self.subscribing.find(&sid) else {
            return;
        };
        subscription.wanted.track = track;
        let waited = subscription.waits_until.is_some();
        let there = subscription.wanted.track.live_backup().is_some();
        if waited && there {
            subscription.waits_until = None;
            if let Some(offerer) = &mut self.offerer {
                offerer.mark_stale();
            }
        } else if subscription.is_misbound() {
            // Another codec's packets have numbers of their own: they come with an SSRC of their own.
            (subscription.wanted.ssrc, subscription.wanted.rtx_ssrc) = fresh;
            match &mut self.offerer {
                Some(offerer) => {
                    offerer.rebind(&sid);
                }
                None => self.sections_stale |= self.answerer.rebind(&sid),
            }
        }
    }

    /// Subscriptions that a negotiation brought to life.
    pub(super) fn bind(&mut self, bound: Vec<Bound>) {
        for bound in bound {
            let Bound {
                track: sid,
                key,
                needs_backup,
                mut config,
            } = bound;
            let settings = self.subscribing.settings.get(&sid).cloned();
            let Some(subscription) = self.subscribing.find(&sid) else {
                continue;
            };
            let before = subscription.bound.replace(key).filter(|&old| old != key);
            let news =
                std::mem::replace(&mut subscription.needs_backup, needs_backup) != needs_backup;
            let whole = &subscription.wanted.track;
            let track = whole.choice(key).unwrap_or(whole);
            config.target = match &settings {
                Some(settings) => track.target(settings),
                None => Some(default_target(track.layers())),
            };
            self.outputs.extend(before.map(Output::Unsubscribe));
            self.outputs
                .push_back(Output::Subscribe(key, Box::new(config)));
            if let Some(priority) = settings.map(|s| priority(&s)).filter(|&p| p > 0) {
                self.outputs.push_back(Output::SetPriority(key, priority));
            }
            if news {
                self.tell_room(FromSession::NeedsBackup(sid, needs_backup));
            }
        }
    }

    /// Subscriptions the client cannot decode in any codec that is there: with a backup announced they wait for it, otherwise the
    /// client is told, and they are dropped.
    pub(super) fn cannot_decode(&mut self, now: Now, undecodable: Vec<TrackSid>) {
        for sid in undecodable {
            let Some(subscription) = self.subscribing.find(&sid) else {
                continue;
            };
            if subscription.wanted.track.backup != Backup::Announced {
                self.give_up(&sid);
                continue;
            }
            subscription.waits_until = Some(now.instant + BACKUP_WAIT);
            subscription.needs_backup = true;
            if let Some(key) = subscription.bound.take() {
                self.outputs.push_back(Output::Unsubscribe(key));
            }
            if let Some(offerer) = &mut self.offerer {
                offerer.end_subscription(&sid);
            }
            self.tell_room(FromSession::NeedsBackup(sid, true));
        }
    }

    /// Gives up what waited for a backup codec in vain.
    pub(super) fn tick_subscriptions(&mut self, now: Now) {
        let overdue = |s: &&Subscription| s.waits_until.is_some_and(|until| until <= now.instant);
        let overdue = self.subscribing.wanted.iter().filter(overdue);
        let overdue: Vec<TrackSid> = overdue.map(|s| s.wanted.track.sid.clone()).collect();
        for sid in overdue {
            self.tell_room(FromSession::NeedsBackup(sid.clone(), false));
            self.give_up(&sid);
        }
    }

    fn give_up(&mut self, sid: &TrackSid) {
        self.signal(Response::SubscriptionResponse(lk::SubscriptionResponse {
            track_sid: sid.to_string(),
            err: lk::SubscriptionError::SeCodecUnsupported as i32,
        }));
        self.unsubscribe(sid);
    }

    pub(super) fn set_track_settings(&mut self, settings: &lk::UpdateTrackSettings) {
        for sid in &settings.track_sids {
            let sid = TrackSid::from(sid.as_str());
            let Some(subscription) = self.subscribing.find(&sid) else {
                continue;
            };
            let whole = &subscription.wanted.track;
            let bound = subscription.bound.and_then(|key| whole.choice(key));
            let bound = bound.map(|track| (track.key, track.target(settings)));
            let before = self.subscribing.settings.insert(sid, settings.clone());
            let Some((key, target)) = bound else { continue };
            self.outputs.push_back(Output::SetTarget(key, target));
            let wanted = priority(settings);
            if wanted != before.map_or(0, |s| priority(&s)) {
                self.outputs.push_back(Output::SetPriority(key, wanted));
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

/// The client's priority, 1 first; 0 = not said.
fn priority(settings: &lk::UpdateTrackSettings) -> u8 {
    u8::try_from(settings.priority).unwrap_or(u8::MAX)
}
