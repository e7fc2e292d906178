//! The queue of events in the database.

use futures_util::future::BoxFuture;
use proto::RoomId;

use super::Sql;
use super::database::{Row, Run, sql};
use crate::store::Error;
use crate::store::webhooks::{Again, Claim, Delivery, Outbox, Webhook};

/// The oldest event of each room for each target, if it is due and nobody has it. Workers that ask at once get different ones: PostgreSQL
/// skips what another one is about to claim.
macro_rules! due {
    ($lock:literal) => {
        concat!(
            "SELECT w.target, w.room, w.seq, w.event_id, w.event, w.payload, w.created_at_ms, \
             w.attempts, w.last_error FROM webhooks w WHERE w.due_at_ms <= $1 AND w.leased_until_ms <= $1 \
             AND NOT EXISTS (SELECT 1 FROM webhooks o WHERE o.target = w.target \
             AND o.room = w.room AND o.seq < w.seq) ORDER BY w.created_at_ms, w.event_id, w.target LIMIT $2",
            $lock
        )
    };
}

pub(super) async fn enqueue(run: &mut impl Run, webhook: &Webhook) -> Result<(), Error> {
    let fresh = run
        .execute(
            sql(
                "INSERT INTO webhook_ids (event_id, target, created_at_ms) VALUES ($1, $2, $3) \
                 ON CONFLICT DO NOTHING",
            )
            .with(webhook.id.as_str())
            .with(webhook.target.as_str())
            .with(webhook.created_at_ms),
        )
        .await?;
    if fresh == 0 {
        return Ok(());
    }
    run.execute(
        sql(
            "INSERT INTO webhooks (target, room, seq, event_id, event, payload, created_at_ms, \
             due_at_ms, attempts, leased_by, leased_until_ms, last_error) \
             SELECT $1, $2, COALESCE(MAX(seq), 0) + 1, $3, $4, $5, $6, $6, 0, '', 0, '' \
             FROM webhooks WHERE target = $1 AND room = $2",
        )
        .with(webhook.target.as_str())
        .with(webhook.room.as_str())
        .with(webhook.id.as_str())
        .with(webhook.event.as_str())
        .with(webhook.payload.as_str())
        .with(webhook.created_at_ms),
    )
    .await?;
    Ok(())
}

pub(super) async fn prune(run: &mut impl Run, before_ms: u64) -> Result<(), Error> {
    run.execute(
        sql(
            "DELETE FROM webhook_ids WHERE created_at_ms < $1 AND NOT EXISTS \
             (SELECT 1 FROM webhooks WHERE webhooks.event_id = webhook_ids.event_id \
             AND webhooks.target = webhook_ids.target)",
        )
        .with(before_ms),
    )
    .await?;
    Ok(())
}

impl Outbox for Sql {
    fn claim<'a>(&'a self, claim: Claim<'a>) -> BoxFuture<'a, Result<Vec<Delivery>, Error>> {
        Box::pin(async move {
            let mut tx = self.database.begin().await?;
            let due = if tx.locks_rows() {
                sql(due!(" FOR UPDATE OF w SKIP LOCKED"))
            } else {
                sql(due!(""))
            };
            let rows = tx.all(due.with(claim.now_ms).with(claim.limit)).await?;
            let mut claimed = Vec::with_capacity(rows.len());
            for row in &rows {
                // Seen before another worker claimed it, locked after: its lease is looked at again.
                let taken = tx
                    .execute(
                        sql("UPDATE webhooks SET leased_by = $2, leased_until_ms = $3, \
                             attempts = attempts + 1 WHERE event_id = $1 AND target = $5 \
                             AND leased_until_ms <= $4")
                        .with(row.text("event_id")?)
                        .with(claim.worker)
                        .with(claim.now_ms.saturating_add(claim.lease_ms))
                        .with(claim.now_ms)
                        .with(row.text("target")?),
                    )
                    .await?;
                if taken > 0 {
                    claimed.push(delivery(row)?);
                }
            }
            tx.commit().await?;
            Ok(claimed)
        })
    }

    fn delivered<'a>(
        &'a self,
        webhook: &'a Webhook,
        worker: &'a str,
    ) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let done = connection
                .execute(
                    sql("DELETE FROM webhooks WHERE event_id = $1 AND target = $2 AND leased_by = $3")
                        .with(webhook.id.as_str())
                        .with(webhook.target.as_str())
                        .with(worker),
                )
                .await?;
            Ok(done > 0)
        })
    }

    fn reschedule<'a>(
        &'a self,
        webhook: &'a Webhook,
        worker: &'a str,
        again: Again<'a>,
    ) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let done = connection
                .execute(
                    sql(
                        "UPDATE webhooks SET due_at_ms = $3, last_error = $4, leased_by = '', \
                         leased_until_ms = 0 WHERE event_id = $1 AND target = $5 AND leased_by = $2",
                    )
                    .with(webhook.id.as_str())
                    .with(worker)
                    .with(again.due_at_ms)
                    .with(again.error)
                    .with(webhook.target.as_str()),
                )
                .await?;
            Ok(done > 0)
        })
    }

    fn backlog(&self) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let row = connection
                .one(sql("SELECT COUNT(*) AS waiting FROM webhooks"))
                .await?;
            row.map_or(Ok(0), |row| row.number("waiting"))
        })
    }
}

fn delivery(row: &Row) -> Result<Delivery, Error> {
    let webhook = Webhook {
        id: row.text("event_id")?,
        target: row.text("target")?,
        room: RoomId::from(row.text("room")?),
        event: row.text("event")?,
        payload: row.text("payload")?,
        created_at_ms: row.number("created_at_ms")?,
    };
    Ok(Delivery {
        webhook,
        attempts: u32::try_from(row.number("attempts")?)
            .unwrap_or(u32::MAX)
            .saturating_add(1),
        last_error: row.text("last_error")?,
    })
}
