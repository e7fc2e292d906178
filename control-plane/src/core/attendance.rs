//! Who is in which room, for the history: participants' sessions begin and end with what edges report.

use std::collections::BTreeMap;
use std::time::Instant;

use proto::control::RoomReport;
use proto::{Identity, NodeId, RoomId, RoomSid};

use super::{Core, Output};
use crate::store::Change;
use crate::store::catalogue::Session;

/// Participants of one room, at most: more are not recorded.
const PARTICIPANTS_MAX: usize = 100_000;

/// Everybody who is somewhere, by room and session id, with the edge that reported it last.
#[derive(Debug, Default)]
pub(super) struct Attendance {
    rooms: BTreeMap<RoomId, BTreeMap<String, NodeId>>,
}

impl Attendance {
    /// Takes a report; returns who came and who left.
    pub(super) fn reported(
        &mut self,
        node: &NodeId,
        sid: &RoomSid,
        report: &RoomReport,
        now_ms: u64,
    ) -> Vec<Change> {
        let name = RoomId::from(report.room.as_str());
        let room = self.rooms.entry(name.clone()).or_default();
        let here = |sid: &str| report.participants.iter().any(|p| p.sid == sid);
        let mut changes = Vec::new();
        let gone = room.iter().filter(|(sid, at)| *at == node && !here(sid));
        for sid in gone.map(|(sid, _)| sid.clone()).collect::<Vec<_>>() {
            room.remove(&sid);
            changes.push(left(sid, now_ms));
        }
        for participant in &report.participants {
            if participant.sid.is_empty() || room.get(&participant.sid) == Some(node) {
                continue;
            }
            if room.len() >= PARTICIPANTS_MAX {
                break;
            }
            room.insert(participant.sid.clone(), node.clone());
            changes.push(Change::Joined(Session {
                participant: participant.sid.clone(),
                room_sid: sid.clone(),
                room: name.clone(),
                identity: Identity::from(participant.identity.as_str()),
                name: participant.name.clone(),
                node: node.clone(),
                joined_at_ms: match participant.joined_at_ms {
                    0 => now_ms,
                    joined_at_ms => joined_at_ms,
                },
                left_at_ms: None,
            }));
        }
        if room.is_empty() {
            self.rooms.remove(&name);
        }
        changes
    }

    /// An edge serves a room no more: those whom it reported last have left.
    pub(super) fn gone(&mut self, node: &NodeId, room: &RoomId, now_ms: u64) -> Vec<Change> {
        let report = RoomReport {
            room: room.to_string(),
            ..RoomReport::default()
        };
        // Nobody comes, so the session id is not used.
        self.reported(node, &RoomSid::from(""), &report, now_ms)
    }
}

impl Core {
    /// Keeps the history of who was in a room, from a complete report.
    pub(super) fn attend(&mut self, now: Instant, node: &NodeId, report: &RoomReport) {
        let now_ms = self.wall_ms(now);
        if let Some(room) = self.rooms.get(report.room.as_str()) {
            let changes = self.attendance.reported(node, &room.sid, report, now_ms);
            self.record(&RoomId::from(report.room.as_str()), changes);
        }
    }

    /// An edge serves a room no more.
    pub(super) fn depart(&mut self, now: Instant, node: &NodeId, name: &RoomId) {
        let changes = self.attendance.gone(node, name, self.wall_ms(now));
        self.record(name, changes);
    }

    /// The room's owner keeps its history.
    fn record(&mut self, name: &RoomId, changes: Vec<Change>) {
        if self.owns(name) {
            self.outputs.extend(changes.into_iter().map(Output::Save));
        }
    }
}

fn left(participant: String, at_ms: u64) -> Change {
    Change::Left { participant, at_ms }
}

#[cfg(test)]
mod tests {
    use proto::control::ParticipantReport;

    use super::*;

    fn report(people: &[&str]) -> RoomReport {
        let participant = |sid: &&str| ParticipantReport {
            sid: (*sid).to_owned(),
            ..ParticipantReport::default()
        };
        RoomReport {
            room: "R".to_owned(),
            participants: people.iter().map(participant).collect(),
            ..RoomReport::default()
        }
    }

    /// `+PA_1@edge` and `-PA_1`.
    fn said(changes: Vec<Change>) -> Vec<String> {
        let mut said = Vec::new();
        for change in changes {
            if let Change::Joined(session) = &change {
                said.push(format!("+{}@{}", session.participant, session.node));
            }
            if let Change::Left { participant, .. } = &change {
                said.push(format!("-{participant}"));
            }
        }
        said
    }

    #[test]
    fn sessions_begin_and_end_with_reports() {
        let mut attendance = Attendance::default();
        let (a, b) = (NodeId::from("a"), NodeId::from("b"));
        let sid = RoomSid::from("RM_1");
        let mut hear = |node: &NodeId, people: &[&str]| {
            said(attendance.reported(node, &sid, &report(people), 5))
        };
        assert_eq!(hear(&a, &["PA_1", "PA_2"]), ["+PA_1@a", "+PA_2@a"]);
        assert!(hear(&a, &["PA_1", "PA_2"]).is_empty());
        assert_eq!(hear(&b, &["PA_3"]), ["+PA_3@b"]);
        assert_eq!(hear(&a, &["PA_2", "PA_4"]), ["-PA_1", "+PA_4@a"]);
        // Who moves is where it was reported last, whichever edge tells first.
        assert_eq!(hear(&b, &["PA_3", "PA_2"]), ["+PA_2@b"]);
        assert!(hear(&a, &["PA_4"]).is_empty());
        assert_eq!(
            said(attendance.gone(&b, &"R".into(), 6)),
            ["-PA_2", "-PA_3"]
        );
        assert_eq!(said(attendance.gone(&a, &"R".into(), 6)), ["-PA_4"]);
        assert!(attendance.rooms.is_empty());
    }
}
