//! The durable store of a control plane that is one process: a SQLite file.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use proto::control::Hello;
use proto::{NodeId, RoomName, RoomSid};
use sqlx::Row;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};

use super::{Change, Durable, Error, RoomRecord, Saved};
use crate::config::Secret;

/// How long ended rooms stay on record: 30 days, in milliseconds.
const ENDED_KEPT_MS: i64 = 30 * 24 * 3_600 * 1_000;

/// A SQLite file with write-ahead log.
///
/// `synchronous = NORMAL`: what was saved survives the end of the process at any moment. A power cut may lose the last
/// transactions, but never damages the file; epochs then catch up with those that nodes report.
#[derive(Clone, Debug)]
pub struct Sqlite {
    pool: SqlitePool,
}

impl Sqlite {
    /// Opens `control.db` in a folder; makes both when they are missing, readable by the owner only.
    ///
    /// # Errors
    /// When the folder or the file cannot be made or read, or the schema cannot be brought up to date.
    pub async fn open(folder: &Path, now_ms: u64) -> Result<Self, Error> {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| Error::Folder {
                path: folder.display().to_string(),
                source,
            })?;
        let options = SqliteConnectOptions::new()
            .filename(folder.join("control.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        // One connection: there is one writer, and it batches.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await?;
        sqlx::migrate!("./migrations").run(&pool).await?;
        let store = Self { pool };
        store
            .prune(number(now_ms).saturating_sub(ENDED_KEPT_MS))
            .await?;
        Ok(store)
    }

    /// Drops rooms that ended before `before_ms`; their highest epoch is kept.
    async fn prune(&self, before_ms: i64) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "UPDATE epochs SET epoch = MAX(epoch, (SELECT COALESCE(MAX(r.epoch), 0) FROM rooms r \
             WHERE r.ended_at_ms < $1)) WHERE name = 'pruned'",
        )
        .bind(before_ms)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM rooms WHERE ended_at_ms < $1")
            .bind(before_ms)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    async fn read_saved(&self) -> Result<Saved, Error> {
        let rooms = sqlx::query(
            "SELECT room, room_sid, epoch, members, created_at_ms FROM rooms WHERE ended_at_ms IS NULL",
        )
        .fetch_all(&self.pool)
        .await?;
        let nodes = sqlx::query("SELECT * FROM nodes")
            .fetch_all(&self.pool)
            .await?;
        let epoch_max: i64 = sqlx::query_scalar(
            "SELECT MAX(COALESCE((SELECT MAX(epoch) FROM rooms), 0), (SELECT MAX(epoch) FROM epochs))",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Saved {
            rooms: rooms.iter().map(room_of).collect::<Result<_, _>>()?,
            nodes: nodes.iter().map(hello_of).collect::<Result<_, _>>()?,
            epoch_max: count(epoch_max),
        })
    }

    async fn write(&self, changes: &[Change]) -> Result<(), Error> {
        let mut transaction = self.pool.begin().await?;
        for change in changes {
            match change {
                Change::Room(room) => save_room(&mut transaction, room).await?,
                Change::RoomEnded { sid, epoch, at_ms } => {
                    sqlx::query(
                        "UPDATE rooms SET ended_at_ms = $2, epoch = $3, members = '[]' WHERE room_sid = $1",
                    )
                    .bind(sid.as_str())
                    .bind(number(*at_ms))
                    .bind(number(*epoch))
                    .execute(&mut *transaction)
                    .await?;
                }
                Change::Node(hello) => save_node(&mut transaction, hello).await?,
                Change::NodeForgotten(node) => {
                    sqlx::query("DELETE FROM nodes WHERE node_id = $1")
                        .bind(node.as_str())
                        .execute(&mut *transaction)
                        .await?;
                }
            }
        }
        Ok(transaction.commit().await?)
    }

    async fn replace_keys(
        &self,
        configured: &BTreeMap<String, Secret>,
        now_ms: u64,
    ) -> Result<BTreeMap<String, Secret>, Error> {
        let mut transaction = self.pool.begin().await?;
        let rows = sqlx::query("SELECT api_key FROM api_keys WHERE configured")
            .fetch_all(&mut *transaction)
            .await?;
        for row in rows {
            let key: String = row.try_get("api_key")?;
            if !configured.contains_key(&key) {
                sqlx::query("DELETE FROM api_keys WHERE api_key = $1")
                    .bind(key)
                    .execute(&mut *transaction)
                    .await?;
            }
        }
        for (key, secret) in configured {
            sqlx::query(
                "INSERT INTO api_keys (api_key, secret, configured, created_at_ms) \
                 VALUES ($1, $2, TRUE, $3) \
                 ON CONFLICT (api_key) DO UPDATE SET secret = excluded.secret, configured = TRUE",
            )
            .bind(key)
            .bind(secret.expose())
            .bind(number(now_ms))
            .execute(&mut *transaction)
            .await?;
        }
        let rows = sqlx::query("SELECT api_key, secret FROM api_keys")
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        let pair = |row: &SqliteRow| -> Result<(String, Secret), Error> {
            Ok((
                row.try_get("api_key")?,
                Secret::from(row.try_get::<String, _>("secret")?),
            ))
        };
        rows.iter().map(pair).collect()
    }
}

impl Durable for Sqlite {
    fn load(&self) -> BoxFuture<'_, Result<Saved, Error>> {
        Box::pin(self.read_saved())
    }

    fn save<'a>(&'a self, changes: &'a [Change]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.write(changes))
    }

    fn sync_keys<'a>(
        &'a self,
        configured: &'a BTreeMap<String, Secret>,
        now_ms: u64,
    ) -> BoxFuture<'a, Result<BTreeMap<String, Secret>, Error>> {
        Box::pin(self.replace_keys(configured, now_ms))
    }
}

async fn save_room(connection: &mut SqliteConnection, room: &RoomRecord) -> Result<(), Error> {
    let members: Vec<_> = room.members.iter().map(NodeId::as_str).collect();
    sqlx::query(
        "INSERT INTO rooms (room_sid, room, epoch, members, created_at_ms) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (room_sid) DO UPDATE SET epoch = excluded.epoch, members = excluded.members",
    )
    .bind(room.sid.as_str())
    .bind(room.room.as_str())
    .bind(number(room.epoch))
    .bind(json(&members))
    .bind(number(room.created_at_ms))
    .execute(connection)
    .await?;
    Ok(())
}

async fn save_node(connection: &mut SqliteConnection, hello: &Hello) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO nodes (node_id, incarnation, role, region, version, link_addresses, client_url, \
         admin_url, pid, capacity) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (node_id) DO UPDATE SET incarnation = excluded.incarnation, role = excluded.role, \
         region = excluded.region, version = excluded.version, \
         link_addresses = excluded.link_addresses, client_url = excluded.client_url, \
         admin_url = excluded.admin_url, pid = excluded.pid, capacity = excluded.capacity",
    )
    .bind(&hello.node_id)
    .bind(number(hello.incarnation))
    .bind(i64::from(hello.role))
    .bind(&hello.region)
    .bind(&hello.version)
    .bind(json(&hello.link_addresses))
    .bind(&hello.client_url)
    .bind(&hello.admin_url)
    .bind(number(hello.pid))
    .bind(i64::from(hello.capacity))
    .execute(connection)
    .await?;
    Ok(())
}

fn room_of(row: &SqliteRow) -> Result<RoomRecord, Error> {
    let members: Vec<String> = list(row, "rooms", "members")?;
    Ok(RoomRecord {
        room: RoomName::from(row.try_get::<String, _>("room")?),
        sid: RoomSid::from(row.try_get::<String, _>("room_sid")?),
        epoch: count(row.try_get("epoch")?),
        members: members.into_iter().map(NodeId::from).collect(),
        created_at_ms: count(row.try_get("created_at_ms")?),
    })
}

fn hello_of(row: &SqliteRow) -> Result<Hello, Error> {
    let small = |column| -> Result<i64, sqlx::Error> { row.try_get(column) };
    Ok(Hello {
        node_id: row.try_get("node_id")?,
        incarnation: count(row.try_get("incarnation")?),
        role: i32::try_from(small("role")?).unwrap_or_default(),
        region: row.try_get("region")?,
        version: row.try_get("version")?,
        link_addresses: list(row, "nodes", "link_addresses")?,
        client_url: row.try_get("client_url")?,
        admin_url: row.try_get("admin_url")?,
        pid: count(row.try_get("pid")?),
        capacity: u32::try_from(small("capacity")?).unwrap_or_default(),
    })
}

fn list(row: &SqliteRow, table: &'static str, column: &str) -> Result<Vec<String>, Error> {
    serde_json::from_str(&row.try_get::<String, _>(column)?).map_err(|error| Error::Damaged {
        table,
        reason: format!("{column}: {error}"),
    })
}

/// A list of texts as JSON, which cannot fail for texts.
fn json(texts: &[impl serde::Serialize]) -> String {
    serde_json::to_string(texts).unwrap_or_else(|_| "[]".to_owned())
}

/// SQL has no unsigned numbers; ours stay far below the sign bit.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str, sid: &str, epoch: u64) -> RoomRecord {
        RoomRecord {
            room: name.into(),
            sid: sid.into(),
            epoch,
            members: ["a".into(), "b".into()].into(),
            created_at_ms: 7,
        }
    }

    #[tokio::test]
    async fn what_is_saved_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let hello = Hello {
            node_id: "a".to_owned(),
            incarnation: 3,
            role: 1,
            link_addresses: vec!["127.0.0.1:9".to_owned()],
            ..Hello::default()
        };
        let store = Sqlite::open(folder.path(), 0).await.expect("opens");
        let saved = [
            Change::Room(room("R", "RM_1", 4)),
            Change::Room(room("R", "RM_1", 5)),
            Change::Room(room("S", "RM_2", 9)),
            Change::RoomEnded {
                sid: "RM_2".into(),
                epoch: 10,
                at_ms: 8,
            },
            Change::Node(hello.clone()),
            Change::Node(Hello {
                node_id: "b".to_owned(),
                ..hello.clone()
            }),
            Change::NodeForgotten("b".into()),
        ];
        store.save(&saved).await.expect("saves");
        drop(store);
        let store = Sqlite::open(folder.path(), 0).await.expect("opens again");
        let expected = Saved {
            rooms: vec![room("R", "RM_1", 5)],
            nodes: vec![hello],
            epoch_max: 10,
        };
        assert_eq!(store.load().await.expect("loads"), expected);
    }

    #[tokio::test]
    async fn old_rooms_go_and_their_epoch_stays() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Sqlite::open(folder.path(), 0).await.expect("opens");
        let ended = Change::RoomEnded {
            sid: "RM_1".into(),
            epoch: 41,
            at_ms: 1,
        };
        store
            .save(&[Change::Room(room("R", "RM_1", 40)), ended])
            .await
            .expect("saves");
        store.prune(2).await.expect("prunes");
        let rows: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM rooms")
            .fetch_one(&store.pool)
            .await
            .expect("counts");
        assert_eq!(
            (rows, store.load().await.expect("loads").epoch_max),
            (0, 41)
        );
    }

    #[tokio::test]
    async fn a_transaction_is_all_or_nothing() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Sqlite::open(folder.path(), 0).await.expect("opens");
        // Two living rooms of one name break the index.
        let twice = [
            Change::Room(room("R", "RM_1", 1)),
            Change::Room(room("R", "RM_2", 2)),
        ];
        assert!(store.save(&twice).await.is_err());
        assert_eq!(store.load().await.expect("loads"), Saved::default());
    }

    #[tokio::test]
    async fn configured_keys_come_and_go() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Sqlite::open(folder.path(), 0).await.expect("opens");
        let keys = |pairs: &[(&str, &str)]| -> BTreeMap<String, Secret> {
            pairs
                .iter()
                .map(|(key, secret)| ((*key).to_owned(), Secret::from(*secret)))
                .collect()
        };
        let first = keys(&[("a", "1"), ("b", "2")]);
        assert_eq!(store.sync_keys(&first, 1).await.expect("syncs"), first);
        let second = keys(&[("b", "3")]);
        assert_eq!(store.sync_keys(&second, 2).await.expect("syncs"), second);
    }
}
