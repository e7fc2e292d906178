//! What other edges say about the room, and what we say to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::packet::Codec;
use prost::Message as _;
use proto::link::{RoomState, TrackState};
use proto::{Identity, NodeId, ParticipantSid, TrackSid};

use super::{Home, Now, Output, Participant, Room, subscriptions};
use crate::core::track::Track;

/// How long the participants of an edge that cannot be reached, or that the plan no longer has, are kept.
const GRACE: Duration = Duration::from_secs(10);
/// State goes out at most this often; changes in between are sent together.
const STATE_INTERVAL: Duration = Duration::from_millis(50);

/// What is known of the other edges' state.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    origins: BTreeMap<NodeId, Origin>,
}

#[derive(Debug, Default)]
struct Origin {
    incarnation: u64,
    version: u64,
    speakers: BTreeMap<String, f32>,
    /// Of the last message that said only who speaks.
    speakers_version: u64,
    /// Its participants are forgotten then.
    leaves_at: Option<Instant>,
}

impl Replicas {
    /// Whether the state is newer than what is known.
    fn accept(&mut self, origin: &NodeId, state: &RoomState) -> bool {
        let known = self.origins.entry(origin.clone()).or_default();
        if (state.incarnation, state.version) <= (known.incarnation, known.version) {
            return false;
        }
        if state.incarnation != known.incarnation {
            known.speakers_version = 0;
        }
        (known.incarnation, known.version) = (state.incarnation, state.version);
        known.leaves_at = None;
        true
    }

    pub(super) fn link(&mut self, now: Instant, peer: &NodeId, up: bool) {
        if let Some(origin) = self.origins.get_mut(peer) {
            origin.leaves_at = if up { None } else { Some(now + GRACE) };
        }
    }

    pub(super) fn set_members(&mut self, now: Instant, edges: &[NodeId]) {
        for (node, origin) in &mut self.origins {
            if edges.contains(node) {
                continue;
            }
            origin.leaves_at.get_or_insert(now + GRACE);
        }
    }

    /// Edges whose grace is over.
    pub(super) fn overdue(&self, now: Instant) -> Vec<NodeId> {
        let over = |origin: &&Origin| origin.leaves_at.is_some_and(|at| at <= now);
        self.origins
            .iter()
            .filter(|(_, o)| over(o))
            .map(|(node, _)| node.clone())
            .collect()
    }

    pub(super) fn speakers(&self) -> Vec<lk::SpeakerInfo> {
        let all = self.origins.values().flat_map(|o| o.speakers.iter());
        all.map(|(sid, &level)| lk::SpeakerInfo {
            sid: sid.clone(),
            level,
            active: true,
        })
        .collect()
    }
}

impl Room {
    /// Another edge's participants, as it says now.
    pub(super) fn apply_state(&mut self, now: Now, state: &RoomState) {
        let origin = NodeId::from(state.origin.as_str());
        if origin == self.config.node || !self.replicas.accept(&origin, state) {
            return;
        }
        let decoded = state.participants.iter();
        let infos: Vec<lk::ParticipantInfo> = decoded
            .filter_map(|bytes| lk::ParticipantInfo::decode(bytes.as_slice()).ok())
            .collect();
        let named: BTreeSet<&str> = infos.iter().map(|info| info.sid.as_str()).collect();
        let gone: Vec<ParticipantSid> = self
            .participants
            .iter()
            .filter(|(sid, p)| p.is_of(&origin) && !named.contains(sid.as_str()))
            .map(|(sid, _)| sid.clone())
            .collect();
        for sid in gone {
            self.remove_remote(&sid);
        }
        for info in infos {
            self.apply_participant(now, &origin, &info, &state.tracks);
        }
        self.apply_metadata(state);
        self.apply_speakers(&origin, &state.speakers);
        self.outputs.push_back(Output::Changed);
    }

    fn apply_participant(
        &mut self,
        now: Now,
        origin: &NodeId,
        info: &lk::ParticipantInfo,
        tracks: &[TrackState],
    ) {
        if !self.wins(now, info) {
            return;
        }
        let sid = ParticipantSid::from(info.sid.as_str());
        let changed = self.participants.get(&sid).is_none_or(|p| p.info != *info);
        let hidden = info.permission.as_ref().is_some_and(|p| p.hidden);
        let entry = self
            .participants
            .entry(sid.clone())
            .or_insert_with(|| Participant {
                identity: Identity::from(info.identity.as_str()),
                info: lk::ParticipantInfo::default(),
                tracks: BTreeMap::new(),
                permission: None,
                home: Home::Remote {
                    origin: origin.clone(),
                    allowed: BTreeMap::new(),
                },
            });
        entry.info = info.clone();
        if changed && !hidden {
            self.tell_all(&super::signal::update(vec![info.clone()]));
        }
        self.apply_tracks(origin, &sid, info, tracks);
    }

    /// Whether a participant of another edge may exist beside ours: the same identity twice leaves the one that joined later.
    fn wins(&mut self, now: Now, info: &lk::ParticipantInfo) -> bool {
        let rival = self
            .participants
            .iter()
            .find(|(sid, p)| p.identity.as_str() == info.identity && sid.as_str() != info.sid);
        let Some((sid, rival)) = rival else {
            return true;
        };
        let sid = sid.clone();
        let theirs = (info.joined_at_ms, info.sid.as_str());
        if theirs < (rival.info.joined_at_ms, sid.as_str()) {
            return false;
        }
        match rival.home {
            Home::Local(_) => self.evict(now, &sid),
            Home::Remote { .. } => self.remove_remote(&sid),
        }
        true
    }

    fn apply_tracks(
        &mut self,
        origin: &NodeId,
        owner: &ParticipantSid,
        info: &lk::ParticipantInfo,
        states: &[TrackState],
    ) {
        let (mut added, mut changed, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        let Some(participant) = self.participants.get_mut(owner) else {
            return;
        };
        let Home::Remote { allowed, .. } = &mut participant.home else {
            return;
        };
        allowed.clear();
        for track_info in &info.tracks {
            let Some(state) = states.iter().find(|s| s.track_sid == track_info.sid) else {
                continue;
            };
            let sid = TrackSid::from(state.track_sid.as_str());
            if state.restricted {
                allowed.insert(
                    sid.clone(),
                    state.allowed_identities.iter().cloned().collect(),
                );
            }
            let known = participant.tracks.get(&sid);
            if known.is_some_and(|track| track.info == *track_info) {
                continue;
            }
            let key = known.map(|track| track.key);
            let make_key = || key.unwrap_or_else(|| (self.config.next_key)());
            let Some(track) = remote_track(owner, track_info, state, make_key) else {
                continue;
            };
            if key.is_some() {
                &mut changed
            } else {
                &mut added
            }
            .push(Arc::clone(&track));
            participant.tracks.insert(sid, track);
        }
        participant.tracks.retain(|sid, track| {
            let stays = info.tracks.iter().any(|t| t.sid == sid.as_str());
            if !stays {
                ended.push(Arc::clone(track));
            }
            stays
        });
        for track in ended {
            self.end_track(&track.sid);
            self.outputs.push_back(Output::RemoveRemoteTrack(track.key));
        }
        for track in changed {
            self.track_changed(&track);
        }
        for track in added {
            let origin = origin.clone();
            self.outputs.push_back(Output::AddRemoteTrack {
                track: Arc::clone(&track),
                origin,
            });
            self.offer_to_all(owner, &track);
        }
        self.enforce_permissions(owner);
    }

    fn apply_metadata(&mut self, state: &RoomState) {
        if state.metadata_version > self.metadata_version {
            self.metadata_version = state.metadata_version;
            self.metadata.clone_from(&state.metadata);
            let room = Some(self.info());
            self.tell_all(&Response::RoomUpdate(lk::RoomUpdate { room }));
        }
    }

    /// Who of another edge speaks, said apart from the rest of its state.
    pub(super) fn apply_speakers_of(&mut self, speakers: &proto::link::Speakers) {
        let origin = NodeId::from(speakers.origin.as_str());
        // Its state comes first: nobody of it is known before.
        let Some(known) = self.replicas.origins.get_mut(&origin) else {
            return;
        };
        let newer = speakers.version > known.speakers_version;
        if speakers.incarnation != known.incarnation || !newer {
            return;
        }
        known.speakers_version = speakers.version;
        self.apply_speakers(&origin, &speakers.speakers);
    }

    /// Tells ours who of the other edge began, changed or stopped speaking.
    fn apply_speakers(&mut self, origin: &NodeId, encoded: &[Vec<u8>]) {
        let Some(known) = self.replicas.origins.get_mut(origin) else {
            return;
        };
        let decoded = encoded
            .iter()
            .filter_map(|b| lk::SpeakerInfo::decode(b.as_slice()).ok());
        let now: BTreeMap<String, f32> = decoded.map(|s| (s.sid, s.level)).collect();
        if now == known.speakers {
            return;
        }
        let stopped = known.speakers.keys().filter(|sid| !now.contains_key(*sid));
        let stopped = stopped.map(|sid| lk::SpeakerInfo {
            sid: sid.clone(),
            ..Default::default()
        });
        let news = |(sid, level): &(&String, &f32)| known.speakers.get(*sid) != Some(level);
        let speaking = now
            .iter()
            .filter(news)
            .map(|(sid, &level)| lk::SpeakerInfo {
                sid: sid.clone(),
                level,
                active: true,
            });
        let changes: Vec<lk::SpeakerInfo> = speaking.chain(stopped).collect();
        known.speakers = now;
        self.tell_speaker_changes(changes);
    }

    /// An edge left the room, or was away too long.
    pub(super) fn forget_origin(&mut self, origin: &NodeId) {
        let theirs = self.participants.iter().filter(|(_, p)| p.is_of(origin));
        let theirs: Vec<ParticipantSid> = theirs.map(|(sid, _)| sid.clone()).collect();
        for sid in theirs {
            self.remove_remote(&sid);
        }
        if let Some(known) = self.replicas.origins.get_mut(origin) {
            // The incarnation and version stay, so that state which was under way does not bring them back.
            known.leaves_at = None;
            known.speakers.clear();
        }
        self.outputs.push_back(Output::Changed);
    }

    fn remove_remote(&mut self, sid: &ParticipantSid) {
        let Some(mut participant) = self.participants.remove(sid) else {
            return;
        };
        for track in participant.tracks.values() {
            self.end_track(&track.sid);
            self.outputs.push_back(Output::RemoveRemoteTrack(track.key));
        }
        participant.info.state = lk::participant_info::State::Disconnected as i32;
        participant.info.version += 1;
        participant.info.tracks.clear();
        self.tell_all(&super::signal::update(vec![participant.info]));
    }

    /// Sends our state to the other edges when it changed and the last one is not too recent.
    pub(super) fn flush_state(&mut self, now: Now) {
        let recent = |last: Instant| now.instant.duration_since(last) < STATE_INTERVAL;
        if !self.dirty || self.last_state.is_some_and(recent) {
            return;
        }
        self.dirty = false;
        self.last_state = Some(now.instant);
        self.version += 1;
        let state = self.state();
        self.outputs.push_back(Output::State(state));
        self.outputs.push_back(Output::Changed);
    }

    /// What we say about our participants.
    fn state(&self) -> RoomState {
        let ours: Vec<&Participant> = self
            .participants
            .values()
            .filter(|p| matches!(p.home, Home::Local(_)))
            .collect();
        let identities: Vec<(&str, &str)> = self
            .participants
            .values()
            .filter(|p| matches!(p.home, Home::Remote { .. }))
            .map(|p| (p.identity.as_str(), p.info.sid.as_str()))
            .collect();
        RoomState {
            room: self.config.name.to_string(),
            origin: self.config.node.to_string(),
            incarnation: self.config.incarnation,
            version: self.version,
            destinations: Vec::new(),
            participants: ours.iter().map(|p| p.info.encode_to_vec()).collect(),
            speakers: self
                .local_speakers()
                .iter()
                .map(lk::SpeakerInfo::encode_to_vec)
                .collect(),
            metadata: self.metadata.clone(),
            metadata_version: self.metadata_version,
            tracks: ours
                .iter()
                .flat_map(|p| {
                    p.tracks
                        .values()
                        .map(|track| track_state(p, track, &identities))
                })
                .collect(),
        }
    }
}

impl Participant {
    fn is_of(&self, node: &NodeId) -> bool {
        matches!(&self.home, Home::Remote { origin, .. } if origin == node)
    }
}

fn track_state(owner: &Participant, track: &Track, others: &[(&str, &str)]) -> TrackState {
    let permission = owner.permission.as_ref().filter(|p| !p.all_participants);
    let allowed = permission.map(|permission| {
        let may = |(identity, sid): &&(&str, &str)| {
            subscriptions::permits(permission, &track.sid, identity, sid)
        };
        // Identities that rules name are listed too: their bearers may come in later at another edge.
        let named = permission.track_permissions.iter().filter(|rule| {
            rule.all_tracks || rule.track_sids.iter().any(|sid| sid == track.sid.as_str())
        });
        let named = named
            .map(|rule| rule.participant_identity.clone())
            .filter(|i| !i.is_empty());
        let present = others
            .iter()
            .filter(may)
            .map(|(identity, _)| (*identity).to_owned());
        present.chain(named).collect::<BTreeSet<String>>()
    });
    TrackState {
        track_sid: track.sid.to_string(),
        participant_sid: track.owner.to_string(),
        codec: track.codec.name().to_ascii_lowercase(),
        clock_rate: track.codec.clock_rate(),
        fmtp: track.fmtp.clone(),
        streams: u32::from(track.streams),
        restricted: allowed.is_some(),
        allowed_identities: allowed.unwrap_or_default().into_iter().collect(),
    }
}

fn remote_track(
    owner: &ParticipantSid,
    info: &lk::TrackInfo,
    state: &TrackState,
    key: impl FnOnce() -> media::router::TrackKey,
) -> Option<Arc<Track>> {
    Some(Arc::new(Track {
        sid: TrackSid::from(state.track_sid.as_str()),
        codec: Codec::from_name(&state.codec)?,
        key: key(),
        owner: owner.clone(),
        info: info.clone(),
        fmtp: state.fmtp.clone(),
        streams: u8::try_from(state.streams).ok()?.clamp(1, 3),
    }))
}
