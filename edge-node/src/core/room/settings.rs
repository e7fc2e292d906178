//! What applications set the room to, as the control plane says with every plan.

use std::time::Duration;

use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use proto::ParticipantSid;
use proto::control::RoomSettings;

use super::{Home, Join, Now, Room};

/// Two edges may each let in the last one that the room takes, before they hear of each other. Within this time the later one of
/// them has to go again.
const RACE: Duration = Duration::from_secs(10);

impl Room {
    /// The room is set to something, perhaps something new.
    pub(super) fn set(&mut self, settings: RoomSettings) {
        if settings.version < self.settings.version {
            return;
        }
        let told = self.metadata == settings.metadata;
        self.metadata.clone_from(&settings.metadata);
        self.metadata_version = settings.version;
        let changed = self.settings != settings;
        self.settings = settings;
        if !told || changed {
            let room = Some(self.info());
            self.tell_all(&Response::RoomUpdate(lk::RoomUpdate { room }));
        }
    }

    /// Whether the room takes nobody more.
    pub(super) fn is_full(&self) -> bool {
        let limit = usize::try_from(self.settings.max_participants).unwrap_or(usize::MAX);
        limit > 0 && self.participants.len() >= limit
    }

    /// Whether the token is older than those that may still let its bearer in. Who is moved here has been let in before.
    pub(super) fn is_revoked(&self, join: &Join) -> bool {
        let before_s = self.settings.revoked.get(join.grants.identity.as_str());
        let issued_s = join.grants.claims.nbf.unwrap_or(0);
        let issued_s = i64::try_from(issued_s).unwrap_or(i64::MAX);
        join.moved.is_none() && before_s.is_some_and(|&before_s| issued_s < before_s)
    }

    /// Of those that came in at different edges at the same time the later ones go again when they are too many.
    pub(super) fn enforce_limit(&mut self, now: Now) {
        let limit = usize::try_from(self.settings.max_participants).unwrap_or(usize::MAX);
        if limit == 0 || self.participants.len() <= limit {
            return;
        }
        let mut order: Vec<(i64, ParticipantSid)> = self
            .participants
            .iter()
            .map(|(sid, p)| (p.info.joined_at_ms, sid.clone()))
            .collect();
        order.sort_unstable();
        let race_ms = i64::try_from(RACE.as_millis()).unwrap_or(i64::MAX);
        for (joined_at_ms, sid) in order.into_iter().skip(limit) {
            let ours = self
                .participants
                .get(&sid)
                .is_some_and(|p| matches!(p.home, Home::Local(_)));
            if ours && joined_at_ms + race_ms > now.unix_ms {
                self.dismiss(now, &sid, lk::DisconnectReason::JoinFailure);
            }
        }
    }
}
