//! Who speaks: RFC 6464 levels of every packet, smoothed. Somebody is a speaker after 80 ms of speech and none after 200 ms
//! without, which a tick every 100 ms notices: a change is told within 300 ms. (Volfin & Cohen 2013 is the finer method; a
//! threshold with both delays serves calls.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::router::TrackKey;
use prost::Message as _;
use proto::ParticipantSid;

use super::{Home, Now, Output, Room};

/// A level at or above this is speech, −dBov: quieter is background (the value in use across LiveKit servers).
const SPEECH_DBOV_MAX: u8 = 35;
/// Speech of this length makes a speaker: longer than a click.
const BEGIN: Duration = Duration::from_millis(80);
/// Speech goes on over gaps up to this: Opus packets carry up to 120 ms.
const RUN_GAP: Duration = Duration::from_millis(150);
/// Without speech for this long somebody is no speaker any more.
const END: Duration = Duration::from_millis(200);
/// Changes of how loud a speaker is are told at most this often.
const LEVEL_INTERVAL: Duration = Duration::from_millis(300);
/// A smaller change of a speaker's level is not told.
const LEVEL_STEP: f32 = 0.08;
/// Time constant of the smoothed level.
const SMOOTHING_S: f32 = 0.15;
/// Media of somebody who spoke within this time comes first when not everything fits: longer than the pauses of a conversation.
const FOCUS: Duration = Duration::from_secs(2);

/// The voices of all audio tracks of ours, and what was last told.
#[derive(Debug, Default)]
pub(super) struct Speakers {
    voices: BTreeMap<TrackKey, Voice>,
    told: BTreeMap<ParticipantSid, f32>,
    /// When levels of those who go on speaking are told again.
    levels_due: Option<Instant>,
    /// When somebody, here or elsewhere, was last a speaker.
    focus: BTreeMap<ParticipantSid, Instant>,
    /// Of what was last told to the other edges.
    version: u64,
}

#[derive(Debug, Default)]
struct Voice {
    began: Option<Instant>,
    spoke: Option<Instant>,
    active: bool,
    /// Smoothed while it speaks, dB above −127 dBov.
    loudness: f32,
}

impl Voice {
    /// One packet's level; whether it makes a speaker.
    fn hear(&mut self, now: Instant, level_dbov: u8) -> bool {
        if level_dbov > SPEECH_DBOV_MAX {
            return false;
        }
        let loudness = 127.0 - f32::from(level_dbov.min(127));
        let gap = self.spoke.map(|spoke| now.saturating_duration_since(spoke));
        match gap.filter(|gap| *gap <= RUN_GAP || self.active) {
            Some(gap) => {
                let elapsed = gap.as_secs_f32();
                self.loudness += (loudness - self.loudness) * elapsed / (elapsed + SMOOTHING_S);
            }
            None => {
                self.began = Some(now);
                self.loudness = loudness;
            }
        }
        self.spoke = Some(now);
        let long = self.began.is_some_and(|began| now >= began + BEGIN);
        long && !std::mem::replace(&mut self.active, true)
    }

    /// Lets time pass; whether that ends a speaker.
    fn rest(&mut self, now: Instant) -> bool {
        let over = self.active && self.spoke.is_none_or(|spoke| now >= spoke + END);
        if over {
            self.active = false;
        }
        over
    }

    /// 0 to 1, linear; 0 for one that is no speaker.
    fn level(&self) -> f32 {
        if self.active {
            10_f32.powf((self.loudness - 127.0) / 20.0)
        } else {
            0.0
        }
    }
}

impl Speakers {
    pub(super) fn forget(&mut self, track: TrackKey) {
        self.voices.remove(&track);
    }
}

impl Room {
    /// One packet's level.
    pub(super) fn hear(&mut self, now: Now, track: TrackKey, level_dbov: u8) {
        let voice = self.speakers.voices.entry(track).or_default();
        if voice.hear(now.instant, level_dbov) {
            self.tell_changes(now, false);
        }
    }

    /// Tells everybody which of our participants stopped speaking, or speak louder or lower than was told.
    pub(super) fn tick_speakers(&mut self, now: Now) {
        let voices = self.speakers.voices.values_mut();
        // All of them, so that each is asked.
        let ended = voices.filter_map(|voice| voice.rest(now.instant).then_some(()));
        let ended = ended.count() > 0;
        let due = self.speakers.levels_due;
        let levels = due.is_none_or(|due| now.instant >= due);
        if levels {
            self.speakers.levels_due = Some(now.instant + LEVEL_INTERVAL);
        }
        let gone = |sid: &ParticipantSid| !self.participants.contains_key(sid);
        let gone = self.speakers.told.keys().any(gone);
        if ended || levels || gone {
            self.tell_changes(now, levels);
        }
        self.refresh_focus(now);
    }

    /// Tells everybody, here and at the other edges, what changed: who began or stopped, with `levels` also how loud.
    fn tell_changes(&mut self, now: Now, levels: bool) {
        let Speakers { voices, told, .. } = &mut self.speakers;
        let mut changes = Vec::new();
        for (sid, participant) in &self.participants {
            if !matches!(participant.home, Home::Local(_)) {
                continue;
            }
            let tracks = participant.tracks.values().filter(|t| !t.info.muted);
            let level = tracks
                .filter_map(|t| voices.get(&t.key))
                .fold(0.0_f32, |a, voice| a.max(voice.level()));
            let before = told.get(sid).copied().unwrap_or(0.0);
            let turned = (level > 0.0) != (before > 0.0);
            let moved = levels && (level - before).abs() >= LEVEL_STEP;
            if !turned && !moved {
                continue;
            }
            if level > 0.0 {
                told.insert(sid.clone(), level);
            } else {
                told.remove(sid);
            }
            changes.push(speaker(sid.as_str(), level));
        }
        let known = told.len();
        told.retain(|sid, _| self.participants.contains_key(sid));
        if changes.is_empty() && told.len() == known {
            return;
        }
        self.speakers.version = self.version_after(self.speakers.version, now);
        let state = self.speakers_state();
        self.outputs.push_back(Output::Speakers(state));
        self.tell_speaker_changes(changes);
        self.refresh_focus(now);
    }

    /// Tells ours, the loudest first.
    pub(super) fn tell_speaker_changes(&mut self, mut changes: Vec<lk::SpeakerInfo>) {
        if changes.is_empty() {
            return;
        }
        changes.sort_by(|a, b| b.level.total_cmp(&a.level));
        let speakers = lk::SpeakersChanged { speakers: changes };
        self.tell_all(&Response::SpeakersChanged(speakers));
    }

    fn speakers_state(&self) -> proto::link::Speakers {
        let speakers = self.local_speakers();
        proto::link::Speakers {
            room: self.config.name.to_string(),
            origin: self.config.node.to_string(),
            incarnation: self.config.incarnation,
            version: self.speakers.version,
            destinations: Vec::new(),
            speakers: speakers
                .iter()
                .map(lk::SpeakerInfo::encode_to_vec)
                .collect(),
        }
    }

    /// Our participants that speak now, for the other edges.
    pub(super) fn local_speakers(&self) -> Vec<lk::SpeakerInfo> {
        let told = self.speakers.told.iter();
        told.filter(|(sid, _)| self.participants.contains_key(*sid))
            .map(|(sid, &level)| speaker(sid.as_str(), level))
            .collect()
    }

    /// Somebody who came in late hears who speaks.
    pub(super) fn tell_speakers(&mut self, sid: &ParticipantSid) {
        let mut speakers = self.local_speakers();
        speakers.extend(self.replicas.speakers());
        speakers.sort_by(|a, b| b.level.total_cmp(&a.level));
        if !speakers.is_empty() {
            let speakers = lk::SpeakersChanged { speakers };
            self.tell(sid, Response::SpeakersChanged(speakers));
        }
    }

    /// Says whose tracks come first when not everything fits a receiver's path, and whose no more.
    fn refresh_focus(&mut self, now: Now) {
        let local = self.speakers.told.keys().cloned();
        let remote = self.replicas.speakers().into_iter();
        let remote = remote.map(|info| ParticipantSid::from(info.sid));
        let speaking: BTreeSet<ParticipantSid> = local.chain(remote).collect();
        let mut turned = Vec::new();
        for sid in speaking {
            if self
                .speakers
                .focus
                .insert(sid.clone(), now.instant)
                .is_none()
            {
                turned.push((sid, true));
            }
        }
        self.speakers.focus.retain(|sid, at| {
            let stays = now.instant < *at + FOCUS;
            if !stays {
                turned.push((sid.clone(), false));
            }
            stays
        });
        for (sid, speaking) in turned {
            let tracks = self.participants.get(&sid).map(|p| p.tracks.values());
            for track in tracks.into_iter().flatten() {
                let track = track.key;
                self.outputs.push_back(Output::Speaking { track, speaking });
            }
        }
    }
}

fn speaker(sid: &str, level: f32) -> lk::SpeakerInfo {
    lk::SpeakerInfo {
        sid: sid.to_owned(),
        level,
        active: level > 0.0,
    }
}
