//! Subscriptions that a receiver's path has no room for.

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::router::TrackKey;
use proto::{ParticipantSid, TrackSid};

use super::{Home, Room};

impl Room {
    /// A subscription is paused, or goes on: its receiver is told.
    pub(super) fn stream_state(&mut self, sid: &ParticipantSid, key: TrackKey, paused: bool) {
        let found = self.participants.iter().find_map(|(owner, p)| {
            let track = p.tracks.values().find(|t| t.choice(key).is_some())?;
            Some((owner.clone(), track.sid.clone()))
        });
        let Some((owner, track)) = found else { return };
        let Some(Home::Local(local)) = self.participants.get_mut(sid).map(|p| &mut p.home) else {
            return;
        };
        let news = if paused {
            local.subscribed.contains(&track) && local.paused.insert(track.clone())
        } else {
            local.paused.remove(&track)
        };
        if news {
            let states = vec![state(&owner, &track, paused)];
            self.tell(sid, update(states));
        }
    }

    /// After a resume: all that is paused.
    pub(super) fn tell_states(&mut self, sid: &ParticipantSid) {
        let Some(Home::Local(local)) = self.participants.get(sid).map(|p| &p.home) else {
            return;
        };
        let owned = self.participants.iter().flat_map(|(owner, p)| {
            let paused = p
                .tracks
                .keys()
                .filter(|track| local.paused.contains(*track));
            paused.map(move |track| state(owner, track, true))
        });
        let states: Vec<lk::StreamStateInfo> = owned.collect();
        if !states.is_empty() {
            self.tell(sid, update(states));
        }
    }
}

fn state(owner: &ParticipantSid, track: &TrackSid, paused: bool) -> lk::StreamStateInfo {
    let state = if paused {
        lk::StreamState::Paused
    } else {
        lk::StreamState::Active
    };
    lk::StreamStateInfo {
        participant_sid: owner.to_string(),
        track_sid: track.to_string(),
        state: state as i32,
    }
}

fn update(stream_states: Vec<lk::StreamStateInfo>) -> Response {
    Response::StreamStateUpdate(lk::StreamStateUpdate { stream_states })
}
