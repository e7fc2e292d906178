//! Participants that are shown in further rooms of this edge: there they are without a session, and do what they do here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use livekit_protocol as lk;
use lk::participant_info::KindDetail;
use media::router::TrackKey;
use prost::Message as _;
use proto::control::command_error::Code;
use proto::{Identity, ParticipantSid, RoomId};

use super::commands::{Answer, error};
use super::quality::Quality;
use super::{Home, Local, Now, Output, Participant, Room};
use crate::core::token::Permissions;
use crate::core::track::Track;

/// Rooms that one participant may be forwarded to.
const FORWARDS_MAX: usize = 32;
/// Forwardings that ended lately: news of them may still be under way.
const ENDED_MAX: usize = 256;

/// A participant of one room as it is to be shown in another.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Its session id there.
    pub sid: ParticipantSid,
    /// The room that it is in.
    pub source: RoomId,
    /// What is said about it there.
    pub info: lk::ParticipantInfo,
    /// What it publishes, with the keys of this edge's media plane.
    pub tracks: Vec<Arc<Track>>,
    /// It left, or is forwarded no more.
    pub gone: Option<lk::DisconnectReason>,
}

impl Room {
    /// Shows a participant of ours in another room from now on.
    pub(super) fn forward(
        &mut self,
        identity: &str,
        destination: RoomId,
        sid: ParticipantSid,
    ) -> Answer {
        let ours = self.with_session(identity)?;
        let participant = self.participants.get_mut(&ours);
        if let Some(Home::Local(local)) = participant.map(|p| &mut p.home) {
            if !local.forwards.contains_key(&destination) && local.forwards.len() >= FORWARDS_MAX {
                let text = "the participant is forwarded to as many rooms as it can be";
                return Err(error(Code::ResourceExhausted, text));
            }
            local.forwards.entry(destination).or_insert(sid);
        }
        self.mirror(&ours, None);
        Ok(lk::ForwardParticipantResponse {}.encode_to_vec())
    }

    /// Tells the rooms that a participant is forwarded to how it is now, or that it is `gone`.
    pub(super) fn mirror(&mut self, sid: &ParticipantSid, gone: Option<lk::DisconnectReason>) {
        let Some(participant) = self.participants.get(sid) else {
            return;
        };
        let Home::Local(local) = &participant.home else {
            return;
        };
        let mirrors = local.forwards.iter().map(|(room, there)| {
            let mirror = Mirror {
                sid: there.clone(),
                source: self.config.name.clone(),
                info: shown(&participant.info, there),
                tracks: participant
                    .tracks
                    .values()
                    .map(|track| owned(track, there))
                    .collect(),
                gone,
            };
            Output::Forward(room.clone(), Box::new(mirror))
        });
        let mirrors: Vec<Output> = mirrors.collect();
        self.outputs.extend(mirrors);
    }

    /// Another room shows a participant of ours no more.
    pub(super) fn forward_ended(&mut self, there: &ParticipantSid) {
        for participant in self.participants.values_mut() {
            if let Home::Local(local) = &mut participant.home {
                local.forwards.retain(|_, sid| sid != there);
            }
        }
    }

    /// A participant of another room is shown here.
    pub(super) fn apply_mirror(&mut self, now: Now, mirror: Mirror) {
        let Mirror {
            sid,
            source,
            info,
            tracks,
            gone,
        } = mirror;
        if self.forwards_ended.contains(&sid) {
            return;
        }
        if let Some(reason) = gone {
            return self.leave(now, &sid, reason);
        }
        if !self.participants.contains_key(&sid) {
            let taken = |p: &Participant| p.identity.as_str() == info.identity;
            if self.is_full() || self.participants.values().any(taken) {
                // Who is here in person stays.
                return self.end_forward(&source, sid);
            }
            let joined = lk::ParticipantInfo {
                joined_at: now.unix_ms / 1000,
                joined_at_ms: now.unix_ms,
                ..info.clone()
            };
            self.participants
                .insert(sid.clone(), forwarded(joined, source));
        }
        let Some(participant) = self.participants.get_mut(&sid) else {
            return;
        };
        let known = &participant.info;
        participant.info = lk::ParticipantInfo {
            joined_at: known.joined_at,
            joined_at_ms: known.joined_at_ms,
            version: known.version,
            region: known.region.clone(),
            ..info
        };
        let before = participant.tracks.clone();
        let after: BTreeSet<_> = tracks.iter().map(|track| track.sid.clone()).collect();
        self.participant_changed(&sid);
        for track in before.keys().filter(|track| !after.contains(*track)) {
            self.unpublished(&sid, track);
        }
        // The mesh has to know a track before anybody there hears of it.
        self.forward_media(&keys(before.values()), &keys(&tracks));
        for track in &tracks {
            if before.get(&track.sid) != Some(track) {
                self.published(&sid, track);
            }
        }
    }

    /// A participant that is shown here leaves: its media does too, and its own room is told.
    pub(super) fn stop_forwarding(&mut self, sid: &ParticipantSid, participant: &Participant) {
        let Home::Local(local) = &participant.home else {
            return;
        };
        if let Some(source) = local.forwarded_from.clone() {
            self.forward_media(&keys(participant.tracks.values()), &BTreeMap::new());
            self.end_forward(&source, sid.clone());
        }
    }

    fn end_forward(&mut self, source: &RoomId, sid: ParticipantSid) {
        self.forwards_ended.push_back(sid.clone());
        if self.forwards_ended.len() > ENDED_MAX {
            self.forwards_ended.pop_front();
        }
        self.outputs
            .push_back(Output::ForwardEnded(source.clone(), sid));
        if self.is_empty() {
            self.outputs.push_back(Output::Empty);
        }
    }

    fn forward_media(
        &mut self,
        before: &BTreeMap<TrackKey, Arc<Track>>,
        after: &BTreeMap<TrackKey, Arc<Track>>,
    ) {
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            self.outputs.push_back(Output::WithdrawTrack(*key));
        }
        for (key, track) in after {
            if !before.contains_key(key) {
                let track = Arc::clone(track);
                self.outputs.push_back(Output::OfferTrack(track));
            }
        }
    }
}

/// The codecs of tracks, each of which is a track to the media plane.
fn keys<'a>(tracks: impl IntoIterator<Item = &'a Arc<Track>>) -> BTreeMap<TrackKey, Arc<Track>> {
    let choices = tracks.into_iter().flat_map(Track::choices);
    choices
        .map(|track| (track.key, Arc::clone(track)))
        .collect()
}

/// What is said about a participant in a room that it is forwarded to.
fn shown(info: &lk::ParticipantInfo, sid: &ParticipantSid) -> lk::ParticipantInfo {
    let mut info = lk::ParticipantInfo {
        sid: sid.to_string(),
        ..info.clone()
    };
    let forwarded = KindDetail::Forwarded as i32;
    if !info.kind_details.contains(&forwarded) {
        info.kind_details.push(forwarded);
    }
    info
}

/// The track as somebody else's.
fn owned(track: &Arc<Track>, owner: &ParticipantSid) -> Arc<Track> {
    let mut track = Track::clone(track);
    track.owner = owner.clone();
    if let crate::core::track::Backup::Live(backup) = &track.backup {
        track.backup = crate::core::track::Backup::Live(owned(backup, owner));
    }
    Arc::new(track)
}

fn forwarded(info: lk::ParticipantInfo, source: RoomId) -> Participant {
    let nothing = lk::ParticipantPermission {
        can_publish: true,
        ..lk::ParticipantPermission::default()
    };
    Participant {
        identity: Identity::from(info.identity.as_str()),
        info,
        tracks: BTreeMap::new(),
        permission: None,
        home: Home::Local(Box::new(Local {
            permissions: Permissions::from_proto(&nothing),
            auto_subscribe: false,
            asked: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            needs_backup: BTreeSet::new(),
            backup_asked: BTreeSet::new(),
            paused: BTreeSet::new(),
            quality: Quality::default(),
            signals: false,
            forwarded_from: Some(source),
            forwards: BTreeMap::new(),
        })),
    }
}
