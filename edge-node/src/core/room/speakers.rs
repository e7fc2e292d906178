//! Who speaks: RFC 6464 levels, smoothed (Volfin & Cohen 2013 is the finer method; a thresholded average serves calls).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use media::router::TrackKey;
use proto::ParticipantSid;

use super::{Home, Now, Room};

/// A level at or above this is speech, −dBov: quieter is background (the value in use across LiveKit servers).
const SPEECH_DBOV_MAX: u8 = 35;
/// Levels are judged over windows of this length.
const WINDOW: Duration = Duration::from_millis(300);
/// Part of a window that must be speech, in percent.
const SPEECH_PERCENT: u32 = 40;
/// Weight of the newest window in the smoothed level.
const SMOOTHING: f32 = 0.5;
/// A smaller change of a speaker's level is not told.
const LEVEL_STEP: f32 = 0.08;

/// The windows of all audio tracks of ours, and what was last told.
#[derive(Debug, Default)]
pub(super) struct Speakers {
    windows: BTreeMap<TrackKey, Window>,
    told: BTreeMap<ParticipantSid, f32>,
    next: Option<Instant>,
}

#[derive(Debug, Default)]
struct Window {
    packets: u32,
    speech: u32,
    loudest: u8,
    smoothed: f32,
}

impl Window {
    /// Ends the window; the smoothed level, 0 to 1.
    fn close(&mut self) -> f32 {
        let speaking = self.packets > 0 && self.speech * 100 >= self.packets * SPEECH_PERCENT;
        let level = if speaking { linear(self.loudest) } else { 0.0 };
        self.smoothed += (level - self.smoothed) * SMOOTHING;
        if self.smoothed < linear(SPEECH_DBOV_MAX) / 2.0 {
            self.smoothed = 0.0;
        }
        (self.packets, self.speech, self.loudest) = (0, 0, 127);
        self.smoothed
    }
}

/// −dBov to a linear amplitude.
fn linear(dbov: u8) -> f32 {
    10_f32.powf(-f32::from(dbov) / 20.0)
}

impl Speakers {
    /// One packet's level.
    pub(super) fn observe(&mut self, now: Instant, track: TrackKey, level_dbov: u8) {
        self.next.get_or_insert(now + WINDOW);
        let fresh = || Window {
            loudest: 127,
            ..Window::default()
        };
        let window = self.windows.entry(track).or_insert_with(fresh);
        window.packets += 1;
        if level_dbov <= SPEECH_DBOV_MAX {
            window.speech += 1;
            window.loudest = window.loudest.min(level_dbov);
        }
    }

    pub(super) fn forget(&mut self, track: TrackKey) {
        self.windows.remove(&track);
    }

    /// Levels per track when a window ended.
    fn poll(&mut self, now: Instant) -> Option<BTreeMap<TrackKey, f32>> {
        if self.next.is_none_or(|next| now < next) {
            return None;
        }
        self.next = Some(now + WINDOW);
        Some(
            self.windows
                .iter_mut()
                .map(|(&track, window)| (track, window.close()))
                .collect(),
        )
    }
}

impl Room {
    /// Tells everybody which of our participants began, changed or stopped speaking.
    pub(super) fn tick_speakers(&mut self, now: Now) {
        let Some(levels) = self.speakers.poll(now.instant) else {
            return;
        };
        let mut changes = Vec::new();
        for (sid, participant) in &self.participants {
            if !matches!(participant.home, Home::Local(_)) {
                continue;
            }
            let tracks = participant.tracks.values().filter(|t| !t.info.muted);
            let level = tracks
                .filter_map(|t| levels.get(&t.key))
                .fold(0.0_f32, |a, &b| a.max(b));
            let before = self.speakers.told.get(sid).copied().unwrap_or(0.0);
            let same = (level > 0.0) == (before > 0.0) && (level - before).abs() < LEVEL_STEP;
            if same {
                continue;
            }
            changes.push(speaker(sid, level));
        }
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            let sid = ParticipantSid::from(change.sid.as_str());
            if change.active {
                self.speakers.told.insert(sid, change.level);
            } else {
                self.speakers.told.remove(&sid);
            }
        }
        self.dirty = true;
        self.tell_all(&Response::SpeakersChanged(lk::SpeakersChanged {
            speakers: changes,
        }));
    }

    /// Our participants that speak now, for the other edges.
    pub(super) fn local_speakers(&self) -> Vec<lk::SpeakerInfo> {
        self.speakers
            .told
            .iter()
            .filter(|(sid, _)| self.participants.contains_key(*sid))
            .map(|(sid, &level)| speaker(sid, level))
            .collect()
    }

    /// Somebody who came in late hears who speaks.
    pub(super) fn tell_speakers(&mut self, sid: &ParticipantSid) {
        let mut speakers = self.local_speakers();
        speakers.extend(self.replicas.speakers());
        if !speakers.is_empty() {
            self.tell(
                sid,
                Response::SpeakersChanged(lk::SpeakersChanged { speakers }),
            );
        }
    }
}

fn speaker(sid: &ParticipantSid, level: f32) -> lk::SpeakerInfo {
    lk::SpeakerInfo {
        sid: sid.to_string(),
        level,
        active: level > 0.0,
    }
}
