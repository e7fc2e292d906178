//! The audit log in the database.

use futures_util::future::BoxFuture;

use super::Sql;
use super::database::{Row, Run, sql};
use crate::store::Error;
use crate::store::audit::{Act, Audit, By, Entry, Verdict};
use crate::store::sealed::Sealer;

/// Entries read at once by a check.
const PAGE: u32 = 1_000;

/// Appends an entry within a transaction: it is there if and only if what it tells of is.
pub(super) async fn record(
    run: &mut impl Run,
    sealer: &Sealer,
    act: &Act,
    by: By<'_>,
) -> Result<Entry, Error> {
    // Holds the row until the transaction ends, so that entries follow each other.
    let head = run
        .one(sql(
            "UPDATE audit_head SET seq = seq + 1 WHERE name = 'head' RETURNING seq, hash",
        ))
        .await?
        .ok_or_else(no_head)?;
    let mut entry = Entry {
        seq: head.number("seq")?,
        at_ms: by.at_ms,
        who: by.who.to_owned(),
        act: act.clone(),
        hash: String::new(),
    };
    let detail = act.detail.to_string();
    entry.hash = hash(sealer, &head.text("hash")?, &entry, &detail);
    run.execute(
        sql(
            "INSERT INTO audit_log (seq, at_ms, who, action, target, detail, hash) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .with(entry.seq)
        .with(entry.at_ms)
        .with(entry.who.as_str())
        .with(act.action.as_str())
        .with(act.target.as_str())
        .with(detail)
        .with(entry.hash.as_str()),
    )
    .await?;
    run.execute(
        sql("UPDATE audit_head SET hash = $1 WHERE name = 'head'").with(entry.hash.as_str()),
    )
    .await?;
    Ok(entry)
}

fn no_head() -> Error {
    Error::Damaged {
        table: "audit_head",
        reason: "the row is missing".to_owned(),
    }
}

fn hash(sealer: &Sealer, before: &str, entry: &Entry, detail: &str) -> String {
    let (seq, at_ms) = (entry.seq.to_string(), entry.at_ms.to_string());
    let Act { action, target, .. } = &entry.act;
    sealer.link(before, &[&seq, &at_ms, &entry.who, action, target, detail])
}

impl Audit for Sql {
    fn append<'a>(&'a self, act: &'a Act, by: By<'a>) -> BoxFuture<'a, Result<Entry, Error>> {
        Box::pin(async move {
            let mut tx = self.database.begin().await?;
            let entry = record(&mut tx, &self.sealer, act, by).await?;
            tx.commit().await?;
            Ok(entry)
        })
    }

    fn entries(&self, after_seq: u64, limit: u32) -> BoxFuture<'_, Result<Vec<Entry>, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let rows = page(&mut connection, after_seq, limit).await?;
            rows.iter().map(entry).collect()
        })
    }

    fn verify(&self) -> BoxFuture<'_, Result<Verdict, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            // Entries that are appended meanwhile are not looked at.
            let head = connection
                .one(sql("SELECT seq, hash FROM audit_head WHERE name = 'head'"))
                .await?
                .ok_or_else(no_head)?;
            let (end, expected) = (head.number("seq")?, head.text("hash")?);
            let (mut seq, mut before) = (0, String::new());
            while seq < end {
                let rows = page(&mut connection, seq, PAGE).await?;
                if rows.is_empty() {
                    return Ok(broken(seq + 1, "the entry is missing"));
                }
                for row in &rows {
                    let (entry, detail) = (entry(row)?, row.text("detail")?);
                    if entry.seq > end && seq == end {
                        break;
                    }
                    seq += 1;
                    if entry.seq != seq {
                        return Ok(broken(seq, "the entry is missing"));
                    }
                    let computed = hash(&self.sealer, &before, &entry, &detail);
                    if computed != entry.hash {
                        return Ok(broken(seq, "the hash is not that of the entry"));
                    }
                    before = computed;
                }
            }
            if before != expected {
                return Ok(broken(end, "the log does not end with its last hash"));
            }
            Ok(Verdict::Sound {
                entries: end,
                head: expected,
            })
        })
    }
}

fn broken(seq: u64, reason: &'static str) -> Verdict {
    Verdict::Broken { seq, reason }
}

async fn page(run: &mut impl Run, after_seq: u64, limit: u32) -> Result<Vec<Row>, Error> {
    run.all(
        sql(
            "SELECT seq, at_ms, who, action, target, detail, hash FROM audit_log \
             WHERE seq > $1 ORDER BY seq LIMIT $2",
        )
        .with(after_seq)
        .with(limit),
    )
    .await
}

fn entry(row: &Row) -> Result<Entry, Error> {
    Ok(Entry {
        seq: row.number("seq")?,
        at_ms: row.number("at_ms")?,
        who: row.text("who")?,
        act: Act {
            action: row.text("action")?,
            target: row.text("target")?,
            detail: row.json("audit_log", "detail")?,
        },
        hash: row.text("hash")?,
    })
}
