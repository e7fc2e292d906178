//! What the control plane is told about a room, and how what other edges are told is numbered.

use media::router::TrackKey;
use proto::control::{ParticipantReport, RoomReport, TrackReport};

use super::{Home, Now, Participant, Room};

impl Room {
    /// The next version of what we say to the other edges, at least the milliseconds since our start: a room that ended here and
    /// began anew must not count from 1 again, for the others would take what it says for old.
    pub(super) fn version_after(&self, last: u64, now: Now) -> u64 {
        let uptime_ms = u64::try_from(now.unix_ms).unwrap_or(0);
        let uptime_ms = uptime_ms.saturating_sub(self.config.incarnation);
        uptime_ms.max(last + 1)
    }

    /// The room as this edge serves it.
    pub fn report(&self) -> RoomReport {
        let ours = self
            .participants
            .values()
            .filter(|p| matches!(p.home, Home::Local(_)));
        RoomReport {
            room: self.config.name.to_string(),
            room_sid: self.config.sid.to_string(),
            epoch: self.epoch,
            participants: ours.map(participant).collect(),
            flows: Vec::new(),
        }
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
    }
}
