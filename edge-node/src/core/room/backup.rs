//! Who needs a track in its backup codec, here and at other edges: the publisher's edge gathers it and asks the publisher.

use std::collections::BTreeSet;

use proto::{ParticipantSid, TrackSid};

use super::{Home, Local, Output, Room, ToSession};

impl Local {
    /// A subscription is over.
    pub(super) fn forget(&mut self, track: &TrackSid) {
        self.needs_backup.remove(track);
        self.paused.remove(track);
    }
}

impl Room {
    /// A participant of ours cannot decode a track's first codec, or needs the track no more.
    pub(super) fn needs_backup(&mut self, sid: &ParticipantSid, track: TrackSid, needed: bool) {
        let Some(Home::Local(local)) = self.participants.get_mut(sid).map(|p| &mut p.home) else {
            return;
        };
        if needed {
            local.needs_backup.insert(track);
        } else {
            local.needs_backup.remove(&track);
        }
        self.backups_stale = true;
    }

    /// Tells publishers whose backup codec is wanted from now on, or no more, and has the other edges told.
    pub(super) fn settle_backups(&mut self) {
        if !std::mem::take(&mut self.backups_stale) {
            return;
        }
        let needed = self.needed_here();
        let elsewhere = self.replicas.backups_wanted();
        for (sid, participant) in &mut self.participants {
            let Home::Local(local) = &mut participant.home else {
                continue;
            };
            for track in participant.tracks.keys() {
                let wanted = needed.contains(track) || elsewhere.contains(track);
                if wanted == local.backup_asked.contains(track) {
                    continue;
                }
                if wanted {
                    local.backup_asked.insert(track.clone());
                } else {
                    local.backup_asked.remove(track);
                }
                let message = ToSession::BackupWanted(track.clone(), wanted);
                self.outputs
                    .push_back(Output::Session(sid.clone(), message));
            }
        }
        let wanted = self.backups_wanted_of_others(&needed);
        if wanted != self.backups_told {
            self.backups_told = wanted;
            self.dirty = true;
        }
    }

    /// Tracks that somebody here needs in their backup codec.
    fn needed_here(&self) -> BTreeSet<TrackSid> {
        let homes = self.participants.values().map(|p| &p.home);
        let locals = homes.filter_map(|home| match home {
            Home::Local(local) => Some(local),
            Home::Remote { .. } => None,
        });
        locals
            .flat_map(|l| l.needs_backup.iter().cloned())
            .collect()
    }

    /// Those of them that other edges' participants publish.
    fn backups_wanted_of_others(&self, needed: &BTreeSet<TrackSid>) -> Vec<String> {
        let remote = self
            .participants
            .values()
            .filter(|p| matches!(p.home, Home::Remote { .. }));
        let theirs = remote.flat_map(|p| p.tracks.keys());
        let wanted = theirs.filter(|track| needed.contains(*track));
        wanted.map(TrackSid::to_string).collect()
    }
}
