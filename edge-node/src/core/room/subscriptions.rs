//! Who receives what.

use std::sync::Arc;

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::router::TrackKey;
use proto::{ParticipantSid, TrackSid};

use super::{Home, Output, Participant, Room, ToSession};
use crate::core::track::Track;

impl Room {
    /// A track of ours appeared or changed.
    pub(super) fn published(&mut self, owner: &ParticipantSid, track: &Arc<Track>) {
        let Some(participant) = self.participants.get_mut(owner) else {
            return;
        };
        let known = participant
            .tracks
            .insert(track.sid.clone(), Arc::clone(track))
            .is_some();
        self.participant_changed(owner);
        if known {
            self.track_changed(track);
        } else {
            self.offer_to_all(owner, track);
        }
    }

    /// A track of ours ended.
    pub(super) fn unpublished(&mut self, owner: &ParticipantSid, sid: &TrackSid) {
        let Some(participant) = self.participants.get_mut(owner) else {
            return;
        };
        if let Some(track) = participant.tracks.remove(sid) {
            self.speakers.forget(track.key);
            self.end_track(sid);
            self.participant_changed(owner);
        }
    }

    /// Subscribers hear that what is said about their track changed.
    pub(super) fn track_changed(&mut self, track: &Arc<Track>) {
        for (sid, participant) in &self.participants {
            let Home::Local(local) = &participant.home else {
                continue;
            };
            if local.subscribed.contains(&track.sid) {
                let changed = ToSession::TrackChanged(Arc::clone(track));
                self.outputs
                    .push_back(Output::Session(sid.clone(), changed));
            }
        }
    }

    /// A new track goes to everybody here that wants and may have it.
    pub(super) fn offer_to_all(&mut self, owner: &ParticipantSid, track: &Arc<Track>) {
        let listeners: Vec<ParticipantSid> = self
            .participants
            .keys()
            .filter(|sid| *sid != owner)
            .cloned()
            .collect();
        for listener in listeners {
            self.subscribe_if_wanted(&listener, owner, track);
        }
    }

    /// A new participant gets everything that it wants and may have.
    pub(super) fn subscribe_to_all(&mut self, sid: &ParticipantSid) {
        let others = self.participants.iter().filter(|(other, _)| *other != sid);
        let tracks: Vec<(ParticipantSid, Arc<Track>)> = others
            .flat_map(|(owner, p)| p.tracks.values().map(|t| (owner.clone(), Arc::clone(t))))
            .collect();
        for (owner, track) in tracks {
            self.subscribe_if_wanted(sid, &owner, &track);
        }
    }

    fn subscribe_if_wanted(
        &mut self,
        listener: &ParticipantSid,
        owner: &ParticipantSid,
        track: &Arc<Track>,
    ) {
        let allowed = self.may_receive(listener, owner, &track.sid);
        let Some(participant) = self.participants.get_mut(listener) else {
            return;
        };
        let Home::Local(local) = &mut participant.home else {
            return;
        };
        let wants = local
            .asked
            .get(&track.sid)
            .copied()
            .unwrap_or(local.auto_subscribe);
        if !wants || !allowed || !local.permissions.can_subscribe {
            return;
        }
        if local.subscribed.insert(track.sid.clone()) {
            let subscribe = ToSession::Subscribe(Arc::clone(track));
            self.outputs
                .push_back(Output::Session(listener.clone(), subscribe));
        }
    }

    /// Whether the owner lets the listener have the track.
    fn may_receive(
        &self,
        listener: &ParticipantSid,
        owner: &ParticipantSid,
        sid: &TrackSid,
    ) -> bool {
        let (Some(listener), Some(owner)) = (
            self.participants.get(listener),
            self.participants.get(owner),
        ) else {
            return false;
        };
        match &owner.home {
            Home::Remote { allowed, .. } => allowed
                .get(sid)
                .is_none_or(|list| list.contains(listener.identity.as_str())),
            Home::Local(_) => owner.permission.as_ref().is_none_or(|permission| {
                permits(
                    permission,
                    sid,
                    listener.identity.as_str(),
                    &listener.info.sid,
                )
            }),
        }
    }

    /// A track ended: nobody here is subscribed to it any more.
    pub(super) fn end_track(&mut self, track: &TrackSid) {
        for (sid, participant) in &mut self.participants {
            let Home::Local(local) = &mut participant.home else {
                continue;
            };
            local.asked.remove(track);
            local.acknowledged.remove(track);
            local.backup_asked.remove(track);
            local.forget(track);
            if local.subscribed.remove(track) {
                let message = ToSession::Unsubscribe(track.clone());
                self.outputs
                    .push_back(Output::Session(sid.clone(), message));
            }
        }
    }

    /// The client names tracks that it wants, or no longer wants.
    pub(super) fn update_subscription(
        &mut self,
        sid: &ParticipantSid,
        update: &lk::UpdateSubscription,
    ) {
        let nested = update
            .participant_tracks
            .iter()
            .flat_map(|p| p.track_sids.iter());
        let named: Vec<TrackSid> = update
            .track_sids
            .iter()
            .chain(nested)
            .map(|s| TrackSid::from(s.as_str()))
            .collect();
        for track in named {
            let found = self.find_track(&track);
            let Some(Home::Local(local)) = self.participants.get_mut(sid).map(|p| &mut p.home)
            else {
                return;
            };
            let Some((owner, found)) = found else {
                continue;
            };
            local.asked.insert(track.clone(), update.subscribe);
            if update.subscribe {
                self.subscribe_if_wanted(sid, &owner, &found);
            } else if local.subscribed.remove(&track) {
                local.forget(&track);
                self.backups_stale = true;
                let message = ToSession::Unsubscribe(track);
                self.outputs
                    .push_back(Output::Session(sid.clone(), message));
            }
        }
    }

    fn find_track(&self, sid: &TrackSid) -> Option<(ParticipantSid, Arc<Track>)> {
        self.participants
            .iter()
            .find_map(|(owner, p)| Some((owner.clone(), Arc::clone(p.tracks.get(sid)?))))
    }

    /// A publisher says who may have its tracks.
    pub(super) fn set_permission(
        &mut self,
        owner: &ParticipantSid,
        permission: lk::SubscriptionPermission,
    ) {
        let Some(participant) = self.participants.get_mut(owner) else {
            return;
        };
        participant.permission = Some(permission);
        self.dirty = true;
        self.enforce_permissions(owner);
    }

    /// Ends subscriptions that are no longer allowed, starts those that are now, and tells those concerned.
    pub(super) fn enforce_permissions(&mut self, owner: &ParticipantSid) {
        let Some(participant) = self.participants.get(owner) else {
            return;
        };
        let tracks: Vec<Arc<Track>> = participant.tracks.values().cloned().collect();
        let locals = self
            .participants
            .iter()
            .filter(|(_, p)| matches!(p.home, Home::Local(_)));
        let listeners: Vec<ParticipantSid> = locals
            .map(|(sid, _)| sid.clone())
            .filter(|sid| sid != owner)
            .collect();
        for listener in &listeners {
            for track in &tracks {
                let allowed = self.may_receive(listener, owner, &track.sid);
                let had = self.is_subscribed(listener, &track.sid);
                if allowed {
                    self.subscribe_if_wanted(listener, owner, track);
                } else if had {
                    self.drop_subscription(listener, &track.sid);
                }
                if had != self.is_subscribed(listener, &track.sid) {
                    let update = lk::SubscriptionPermissionUpdate {
                        participant_sid: owner.to_string(),
                        track_sid: track.sid.to_string(),
                        allowed,
                    };
                    self.tell(listener, Response::SubscriptionPermissionUpdate(update));
                }
            }
        }
    }

    fn is_subscribed(&self, listener: &ParticipantSid, track: &TrackSid) -> bool {
        self.participants.get(listener).is_some_and(|p: &Participant| {
            matches!(&p.home, Home::Local(local) if local.subscribed.contains(track))
        })
    }

    pub(super) fn drop_subscription(&mut self, listener: &ParticipantSid, track: &TrackSid) {
        let Some(participant) = self.participants.get_mut(listener) else {
            return;
        };
        if let Home::Local(local) = &mut participant.home {
            local.subscribed.remove(track);
            local.forget(track);
            self.backups_stale = true;
            let message = ToSession::Unsubscribe(track.clone());
            self.outputs
                .push_back(Output::Session(listener.clone(), message));
        }
    }

    /// What is wanted of a track of ours: its publisher is to send that much, and hears of the first one who receives it.
    pub(super) fn demand(&mut self, key: TrackKey, streams: u8) {
        let found = self.participants.iter_mut().find_map(|(sid, p)| {
            let track = p.tracks.values().find(|t| t.choice(key).is_some())?;
            let Home::Local(local) = &mut p.home else {
                return None;
            };
            let first = streams != 0 && local.acknowledged.insert(track.sid.clone());
            Some((sid.clone(), track.sid.clone(), first))
        });
        let Some((owner, track, first)) = found else {
            return;
        };
        let demand = ToSession::Demand(key, streams);
        self.outputs
            .push_back(Output::Session(owner.clone(), demand));
        if first {
            let subscribed = lk::TrackSubscribed {
                track_sid: track.to_string(),
            };
            self.tell(&owner, Response::TrackSubscribed(subscribed));
        }
    }
}

/// Whether a publisher's rules let somebody have a track.
pub(super) fn permits(
    permission: &lk::SubscriptionPermission,
    track: &TrackSid,
    identity: &str,
    sid: &str,
) -> bool {
    permission.all_participants
        || permission.track_permissions.iter().any(|rule| {
            let concerns = (!rule.participant_identity.is_empty()
                && rule.participant_identity == identity)
                || (!rule.participant_sid.is_empty() && rule.participant_sid == sid);
            concerns && (rule.all_tracks || rule.track_sids.iter().any(|t| t == track.as_str()))
        })
}
