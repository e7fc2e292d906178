//! What other edges say about the room, and what we say to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::packet::Codec;
use media::router::{LAYERS_MAX, TrackKey};
use prost::Message as _;
use proto::link::{BackupState, RoomState, TrackState};
use proto::{Identity, NodeId, ParticipantSid, TrackSid};

use super::{Home, Now, Output, Participant, Room, subscriptions};
use crate::core::track::{Backup, Track};

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
    qualities: BTreeMap<String, lk::ConnectionQualityInfo>,
    /// Tracks that somebody there needs in their backup codec.
    backup_wanted: BTreeSet<TrackSid>,
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

impl Replicas {
    /// Tracks that somebody elsewhere needs in their backup codec.
    pub(super) fn backups_wanted(&self) -> BTreeSet<TrackSid> {
        let all = self.origins.values().flat_map(|o| &o.backup_wanted);
        all.cloned().collect()
    }

    /// How other edges' participants are connected.
    pub(super) fn qualities(&self) -> impl Iterator<Item = lk::ConnectionQualityInfo> + '_ {
        let all = self.origins.values().flat_map(|o| o.qualities.values());
        all.cloned()
    }

    /// Takes what an edge says, and returns what of it is new.
    pub(super) fn take_qualities(
        &mut self,
        origin: &NodeId,
        infos: Vec<lk::ConnectionQualityInfo>,
    ) -> Vec<lk::ConnectionQualityInfo> {
        let Some(known) = self.origins.get_mut(origin) else {
            return Vec::new();
        };
        let fresh = |info: &&lk::ConnectionQualityInfo| {
            known.qualities.get(&info.participant_sid) != Some(*info)
        };
        let news = infos.iter().filter(fresh).cloned().collect();
        let by_sid = |info: lk::ConnectionQualityInfo| (info.participant_sid.clone(), info);
        known.qualities = infos.into_iter().map(by_sid).collect();
        news
    }

    fn take_backups_wanted(&mut self, origin: &NodeId, sids: &[String]) -> bool {
        let Some(known) = self.origins.get_mut(origin) else {
            return false;
        };
        let wanted = sids.iter().map(|sid| TrackSid::from(sid.as_str()));
        let wanted: BTreeSet<TrackSid> = wanted.collect();
        std::mem::replace(&mut known.backup_wanted, wanted.clone()) != wanted
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
        self.apply_qualities(&origin, &state.qualities);
        let wanted = &state.backup_wanted;
        self.backups_stale |= self.replicas.take_backups_wanted(&origin, wanted);
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
        let Some(participant) = self.participants.get_mut(owner) else {
            return;
        };
        let Home::Remote { allowed, .. } = &mut participant.home else {
            return;
        };
        allowed.clear();
        let before = std::mem::take(&mut participant.tracks);
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        for track_info in &info.tracks {
            let Some(state) = states.iter().find(|s| s.track_sid == track_info.sid) else {
                continue;
            };
            let sid = TrackSid::from(state.track_sid.as_str());
            if state.restricted {
                let list = state.allowed_identities.iter().cloned();
                allowed.insert(sid.clone(), list.collect());
            }
            let known = before.get(&sid);
            let next_key = &self.config.next_key;
            let Some(track) = remote_track((owner, track_info), state, known, next_key) else {
                continue;
            };
            let track = Arc::new(track);
            match known {
                None => added.push(Arc::clone(&track)),
                Some(known) if *known != track => changed.push(Arc::clone(&track)),
                Some(_) => {}
            }
            participant.tracks.insert(sid, track);
        }
        let after = participant.tracks.clone();
        for track in before.values().filter(|t| !after.contains_key(&t.sid)) {
            self.end_track(&track.sid);
        }
        self.update_plane(origin, &before, &after);
        for track in changed {
            self.track_changed(&track);
        }
        for track in added {
            self.offer_to_all(owner, &track);
        }
        self.enforce_permissions(owner);
    }

    /// Has the media plane know the codecs of another edge's tracks, each of which is a track to it.
    fn update_plane(
        &mut self,
        origin: &NodeId,
        before: &BTreeMap<TrackSid, Arc<Track>>,
        after: &BTreeMap<TrackSid, Arc<Track>>,
    ) {
        let keys = |tracks: &BTreeMap<TrackSid, Arc<Track>>| {
            let all = tracks.values().flat_map(|track| track.choices());
            all.map(|track| (track.key, Arc::clone(track)))
                .collect::<BTreeMap<TrackKey, Arc<Track>>>()
        };
        let (before, after) = (keys(before), keys(after));
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            self.outputs.push_back(Output::RemoveRemoteTrack(*key));
        }
        for (key, track) in after {
            if !before.contains_key(&key) {
                let origin = origin.clone();
                self.outputs
                    .push_back(Output::AddRemoteTrack { track, origin });
            }
        }
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
            known.qualities.clear();
            known.backup_wanted.clear();
        }
        self.backups_stale = true;
        self.outputs.push_back(Output::Changed);
    }

    fn remove_remote(&mut self, sid: &ParticipantSid) {
        let Some(mut participant) = self.participants.remove(sid) else {
            return;
        };
        for track in participant.tracks.values() {
            self.end_track(&track.sid);
            for choice in track.choices() {
                self.outputs
                    .push_back(Output::RemoveRemoteTrack(choice.key));
            }
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
        self.version = self.version_after(self.version, now);
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
            qualities: self
                .local_qualities()
                .iter()
                .map(lk::ConnectionQualityInfo::encode_to_vec)
                .collect(),
            backup_wanted: self.backups_told.clone(),
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
        spatial: u32::from(track.spatial),
        bitrates_bps: track.bitrates_bps.to_vec(),
        backup_announced: track.backup != Backup::None,
        backup: track.live_backup().map(|backup| backup_state(backup)),
        regressed: track.regressed,
    }
}

fn backup_state(track: &Track) -> BackupState {
    BackupState {
        track_sid: track.mesh_sid.to_string(),
        codec: track.codec.name().to_ascii_lowercase(),
        clock_rate: track.codec.clock_rate(),
        fmtp: track.fmtp.clone(),
        streams: u32::from(track.streams),
        spatial: u32::from(track.spatial),
        bitrates_bps: track.bitrates_bps.to_vec(),
    }
}

/// A track as its edge describes it. What the media plane knows by a key keeps it.
fn remote_track(
    (owner, info): (&ParticipantSid, &lk::TrackInfo),
    state: &TrackState,
    known: Option<&Arc<Track>>,
    next_key: &dyn Fn() -> TrackKey,
) -> Option<Track> {
    let layers = |count: u32| u8::try_from(count.clamp(1, 3)).unwrap_or(1);
    let key_of = |mesh_sid: &TrackSid| {
        let known = known.and_then(|track| track.choices().find(|t| t.mesh_sid == *mesh_sid));
        known.map_or_else(next_key, |track| track.key)
    };
    let sid = TrackSid::from(state.track_sid.as_str());
    let first = Track {
        sid: sid.clone(),
        mesh_sid: sid.clone(),
        key: key_of(&sid),
        owner: owner.clone(),
        info: info.clone(),
        codec: Codec::from_name(&state.codec)?,
        fmtp: state.fmtp.clone(),
        streams: layers(state.streams),
        spatial: layers(state.spatial),
        bitrates_bps: bitrates(&state.bitrates_bps),
        backup: Backup::None,
        regressed: state.regressed,
    };
    let backup = state.backup.as_ref().and_then(|backup| {
        let mesh_sid = TrackSid::from(backup.track_sid.as_str());
        let track = Track {
            key: key_of(&mesh_sid),
            mesh_sid,
            codec: Codec::from_name(&backup.codec)?,
            fmtp: backup.fmtp.clone(),
            streams: layers(backup.streams),
            spatial: layers(backup.spatial),
            bitrates_bps: bitrates(&backup.bitrates_bps),
            regressed: false,
            ..first.clone()
        };
        Some(Backup::Live(Arc::new(track)))
    });
    let announced = state.backup_announced.then_some(Backup::Announced);
    Some(Track {
        backup: backup.or(announced).unwrap_or_default(),
        ..first
    })
}

fn bitrates(listed: &[u32]) -> [u32; LAYERS_MAX] {
    let mut bitrates = [0; LAYERS_MAX];
    for (slot, &bps) in bitrates.iter_mut().zip(listed) {
        *slot = bps;
    }
    bitrates
}
