//! Rooms and participants as applications see them, in the protocol's types.

use livekit_protocol as lk;
use proto::RoomId;
use proto::control::{GetRoomResponse, RoomSummary};

pub(crate) use crate::core::participant_info;

/// A room; `counts` are its participants and those of them who publish.
pub(crate) fn room(summary: &RoomSummary, counts: (u32, u32)) -> lk::Room {
    let settings = summary.settings.clone().unwrap_or_default();
    let created_at_ms = i64::try_from(summary.created_at_ms).unwrap_or(i64::MAX);
    lk::Room {
        sid: summary.room_sid.clone(),
        name: RoomId::from(summary.room.as_str()).name().to_owned(),
        empty_timeout: settings.empty_timeout_s,
        departure_timeout: settings.departure_timeout_s,
        max_participants: settings.max_participants,
        creation_time: created_at_ms / 1_000,
        creation_time_ms: created_at_ms,
        metadata: settings.metadata,
        num_participants: counts.0,
        num_publishers: counts.1,
        ..lk::Room::default()
    }
}

/// A participant with the edge it is connected to.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Located {
    /// The edge's id.
    pub(crate) node: String,
    /// Everything that is said about it.
    pub(crate) info: lk::ParticipantInfo,
}

/// Everybody in a room by join. Of an identity that two edges report (its second session ends the first) only the later one.
pub(crate) fn participants(room: &GetRoomResponse) -> Vec<Located> {
    let reports = room
        .nodes
        .iter()
        .filter_map(|node| Some((node.node_id.as_str(), node.report.as_ref()?)));
    let everybody = reports.flat_map(|(node, report)| {
        report.participants.iter().map(move |p| Located {
            node: node.to_owned(),
            info: participant_info(p),
        })
    });
    let mut everybody: Vec<Located> = everybody.collect();
    everybody.sort_by(|a, b| b.joined().cmp(&a.joined()));
    let mut seen = std::collections::BTreeSet::new();
    everybody.retain(|p| seen.insert(p.info.identity.clone()));
    everybody.reverse();
    everybody
}

impl Located {
    fn joined(&self) -> (i64, &str) {
        (self.info.joined_at_ms, self.info.sid.as_str())
    }
}
