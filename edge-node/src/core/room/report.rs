//! What the control plane is told about a room, and how what other edges are told is numbered.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use livekit_protocol as lk;
use media::router::TrackKey;
use prost::Message as _;
use proto::ParticipantSid;
use proto::control::{Departure, ParticipantReport, RoomReport, TrackReport};

use super::{Home, Now, Participant, Room};

/// How long a departure is repeated in full reports.
const REPEATED: Duration = Duration::from_secs(60);
/// Departures kept.
const DEPARTURES_MAX: usize = 4_096;

/// What the control plane was told of the room.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Versions of what is said about participants of ours.
    versions: BTreeMap<ParticipantSid, u32>,
    epoch: u64,
    /// Who left lately, and whether that was told.
    departures: VecDeque<(Instant, Departure, bool)>,
}

impl Told {
    /// A participant of ours left.
    pub(super) fn departed(
        &mut self,
        now: Instant,
        info: &lk::ParticipantInfo,
        reason: lk::DisconnectReason,
    ) {
        let last = lk::ParticipantInfo {
            disconnect_reason: reason as i32,
            ..info.clone()
        };
        let departure = Departure {
            sid: info.sid.clone(),
            info: last.encode_to_vec().into(),
        };
        self.departures.push_back((now, departure, false));
        if self.departures.len() > DEPARTURES_MAX {
            self.departures.pop_front();
        }
    }

    /// Those that were not told yet, or all for a full report; and whether one is new.
    fn departures(&mut self, now: Instant, full: bool) -> (Vec<Departure>, bool) {
        let old = |at: Instant| now.saturating_duration_since(at) > REPEATED;
        self.departures.retain(|(at, _, told)| !(*told && old(*at)));
        let mut wanted = Vec::new();
        let mut news = false;
        for (_, departure, told) in &mut self.departures {
            news |= !*told;
            if full || !*told {
                wanted.push(departure.clone());
            }
            *told = true;
        }
        (wanted, news)
    }
}

impl Room {
    /// The next version of what we say to the other edges, at least the milliseconds since our start: a room that ended here and
    /// began anew must not count from 1 again, for the others would take what it says for old.
    pub(super) fn version_after(&self, last: u64, now: Now) -> u64 {
        let uptime_ms = u64::try_from(now.unix_ms).unwrap_or(0);
        let uptime_ms = uptime_ms.saturating_sub(self.config.incarnation);
        uptime_ms.max(last + 1)
    }

    /// The room as this edge serves it: in full, or what the control plane was not told yet; and whether anything is new.
    pub fn report(&mut self, now: Now, full: bool) -> (RoomReport, bool) {
        let (departures, mut news) = self.told.departures(now.instant, full);
        let mut participants = Vec::new();
        let mut versions = BTreeMap::new();
        for (sid, p) in &self.participants {
            if !matches!(p.home, Home::Local(_)) {
                continue;
            }
            versions.insert(sid.clone(), p.info.version);
            if full || self.told.versions.get(sid) != Some(&p.info.version) {
                participants.push(participant(p));
            }
        }
        self.told.versions = versions;
        news |= !participants.is_empty();
        news |= self.told.epoch != self.epoch;
        self.told.epoch = self.epoch;
        let report = RoomReport {
            room: self.config.name.to_string(),
            room_sid: self.config.sid.to_string(),
            epoch: self.epoch,
            participants,
            flows: Vec::new(),
            partial: !full,
            departures,
            settings: full.then(|| self.settings.clone()),
        };
        (report, news)
    }

    /// Keys of other edges' tracks.
    pub fn remote_tracks(&self) -> Vec<TrackKey> {
        let theirs = self
            .participants
            .values()
            .filter(|p| matches!(p.home, Home::Remote { .. }));
        theirs
            .flat_map(|p| p.tracks.values())
            .flat_map(|track| track.choices().map(|choice| choice.key))
            .collect()
    }
}

fn participant(participant: &Participant) -> ParticipantReport {
    let tracks = participant.tracks.values().map(|track| TrackReport {
        sid: track.sid.to_string(),
        kind: if track.is_video() { "video" } else { "audio" }.to_owned(),
        source: track.info.source().as_str_name().to_ascii_lowercase(),
        codec: track.codec.name().to_owned(),
        muted: track.info.muted,
    });
    ParticipantReport {
        sid: participant.info.sid.clone(),
        identity: participant.identity.to_string(),
        name: participant.info.name.clone(),
        joined_at_ms: u64::try_from(participant.info.joined_at_ms).unwrap_or(0),
        tracks: tracks.collect(),
        info: participant.info.encode_to_vec().into(),
    }
}
