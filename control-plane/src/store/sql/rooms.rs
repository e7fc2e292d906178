//! Rooms and the epochs of their plans.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use proto::control::RoomSettings;
use proto::{NodeId, RoomId, RoomSid};

use super::database::{Row, Run, sql};
use crate::store::{Error, RoomRecord};

pub(super) async fn living(run: &mut impl Run) -> Result<Vec<RoomRecord>, Error> {
    let rows = run
        .all(sql(
            "SELECT room, room_sid, epoch, members, created_at_ms, settings FROM rooms \
             WHERE ended_at_ms IS NULL ORDER BY room",
        ))
        .await?;
    rows.iter().map(record).collect()
}

pub(super) async fn living_of(
    run: &mut impl Run,
    room: &RoomId,
) -> Result<Option<RoomRecord>, Error> {
    let row = run
        .one(
            sql(
                "SELECT room, room_sid, epoch, members, created_at_ms, settings FROM rooms \
                 WHERE room = $1 AND ended_at_ms IS NULL",
            )
            .with(room.as_str()),
        )
        .await?;
    row.as_ref().map(record).transpose()
}

fn record(row: &Row) -> Result<RoomRecord, Error> {
    let members: Vec<String> = row.json("rooms", "members")?;
    Ok(RoomRecord {
        room: RoomId::from(row.text("room")?),
        sid: RoomSid::from(row.text("room_sid")?),
        epoch: row.number("epoch")?,
        members: members.into_iter().map(NodeId::from).collect(),
        created_at_ms: row.number("created_at_ms")?,
        settings: settings(&row.text("settings")?),
    })
}

/// What cannot be read is of a later version, or nothing.
fn settings(text: &str) -> RoomSettings {
    let bytes = STANDARD.decode(text).unwrap_or_default();
    RoomSettings::decode(bytes.as_slice()).unwrap_or_default()
}

/// The highest epoch that any plan had.
pub(super) async fn epoch_max(run: &mut impl Run) -> Result<u64, Error> {
    let row = run
        .one(sql("SELECT MAX(epoch) AS epoch FROM \
             (SELECT epoch FROM rooms UNION ALL SELECT epoch FROM epochs) AS every"))
        .await?;
    row.map_or(Ok(0), |row| row.number("epoch"))
}

/// The highest epoch that a plan of rooms of this name had.
pub(super) async fn epoch_max_of(run: &mut impl Run, room: &RoomId) -> Result<u64, Error> {
    let row = run
        .one(
            sql(
                "SELECT MAX(epoch) AS epoch FROM (SELECT epoch FROM rooms WHERE room = $1 \
                 UNION ALL SELECT epoch FROM epochs) AS every",
            )
            .with(room.as_str()),
        )
        .await?;
    row.map_or(Ok(0), |row| row.number("epoch"))
}

/// Saves a room's plan. `known` is the epoch of its row as this process read or wrote it last; `None` when there was no
/// row. False when the row is another one by now: somebody else planned.
pub(super) async fn save(
    run: &mut impl Run,
    room: &RoomRecord,
    known: Option<u64>,
    writer: &str,
) -> Result<bool, Error> {
    let members: Vec<_> = room.members.iter().map(NodeId::as_str).collect();
    let members = serde_json::Value::from(members).to_string();
    let settings = STANDARD.encode(room.settings.encode_to_vec());
    if known.is_none() {
        // No row where one of that name lives, or where an earlier room of that name had this epoch.
        let begun = run
            .execute(
                sql(
                    "INSERT INTO rooms (room_sid, room, epoch, members, created_at_ms, writer, settings) \
                     SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS \
                     (SELECT 1 FROM rooms WHERE room = $2 AND epoch >= $3) \
                     ON CONFLICT DO NOTHING",
                )
                .with(room.sid.as_str())
                .with(room.room.as_str())
                .with(room.epoch)
                .with(members.clone())
                .with(room.created_at_ms)
                .with(writer)
                .with(settings.clone()),
            )
            .await?;
        if begun > 0 {
            return Ok(true);
        }
    }
    // A row that this very process wrote may be ahead of what it knows: an answer was lost.
    let changed = run
        .execute(
            sql(
                "UPDATE rooms SET epoch = $2, members = $3, writer = $4, settings = $6 \
                 WHERE room_sid = $1 AND ended_at_ms IS NULL AND epoch < $2 \
                 AND (epoch = $5 OR writer = $4)",
            )
            .with(room.sid.as_str())
            .with(room.epoch)
            .with(members)
            .with(writer)
            .with(known)
            .with(settings),
        )
        .await?;
    Ok(changed > 0)
}

/// The end of a room.
pub(super) struct End<'a> {
    pub(super) sid: &'a RoomSid,
    pub(super) epoch: u64,
    pub(super) at_ms: u64,
}

/// What came of it.
pub(super) enum Ended {
    /// It ended, now or when it was tried before.
    Now,
    /// Somebody else planned the room meanwhile: its name.
    Otherwise(RoomId),
}

/// Ends a room, under the condition of [`save`].
pub(super) async fn end(
    run: &mut impl Run,
    end: End<'_>,
    known: u64,
    writer: &str,
) -> Result<Ended, Error> {
    let ended = run
        .execute(
            sql(
                "UPDATE rooms SET ended_at_ms = $2, epoch = $3, members = '[]', writer = $4 \
                 WHERE room_sid = $1 AND ended_at_ms IS NULL AND (epoch = $5 OR writer = $4)",
            )
            .with(end.sid.as_str())
            .with(end.at_ms)
            .with(end.epoch)
            .with(writer)
            .with(known),
        )
        .await?;
    if ended > 0 {
        return Ok(Ended::Now);
    }
    let row = run
        .one(sql("SELECT room, ended_at_ms FROM rooms WHERE room_sid = $1").with(end.sid.as_str()))
        .await?;
    Ok(match row {
        Some(row) if row.maybe_number("ended_at_ms")?.is_none() => {
            Ended::Otherwise(RoomId::from(row.text("room")?))
        }
        _ => Ended::Now,
    })
}

/// Drops rooms that ended before `before_ms`; their highest epoch is kept.
pub(super) async fn prune(run: &mut impl Run, before_ms: u64) -> Result<(), Error> {
    run.execute(
        sql("UPDATE epochs SET epoch = (SELECT MAX(epoch) FROM \
             (SELECT epoch FROM rooms WHERE ended_at_ms < $1 UNION ALL SELECT epoch FROM epochs) AS every) \
             WHERE name = 'pruned'")
        .with(before_ms),
    )
    .await?;
    run.execute(sql("DELETE FROM rooms WHERE ended_at_ms < $1").with(before_ms))
        .await?;
    Ok(())
}
