//! The durable store in a database: PostgreSQL for several replicas, a SQLite file for one process. One schema and the
//! same statements serve both.

mod audit;
mod catalogue;
mod database;
mod keys;
mod rooms;
mod webhooks;

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use proto::{RoomId, RoomSid};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::sealed::Sealer;
use super::{Change, Durable, Error, Fenced, RoomRecord, Saved};
use crate::config::Secret;
use database::{Database, Run, Tx, sql};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Connections to PostgreSQL. The planner's task uses one at a time; the others serve the gateway and workers.
const CONNECTIONS_MAX: u32 = 8;
/// Longest wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Longest wait for a lock, for any statement, and within a transaction, in PostgreSQL's own notation.
const TIMEOUTS: [(&str, &str); 3] = [
    ("lock_timeout", "3s"),
    ("statement_timeout", "5s"),
    // A process that is stopped in the middle of a transaction must not hold its locks.
    ("idle_in_transaction_session_timeout", "5s"),
];

/// A database.
pub struct Sql {
    database: Database,
    sealer: Sealer,
    /// This process, unlike any other that ever wrote.
    writer: String,
    /// Epochs of rooms' rows as this process read or wrote them last.
    known: Mutex<HashMap<RoomSid, u64>>,
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sql")
            .field("engine", &self.database.engine())
            .field("writer", &self.writer)
            .finish_non_exhaustive()
    }
}

impl Sql {
    /// Opens a SQLite file; makes it and its folder when they are missing, readable by the owner only.
    ///
    /// `synchronous = NORMAL`: what was saved survives the end of the process at any moment. A power cut may lose the last
    /// transactions, but never damages the file; epochs then catch up with those that nodes report.
    ///
    /// # Errors
    /// When the folder or the file cannot be made or read, or the schema cannot be brought up to date.
    pub async fn sqlite(file: &Path, sealer: Sealer) -> Result<Self, Error> {
        if let Some(folder) = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            create_folder(folder)?;
        }
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            // What is deleted is overwritten: a secret that was replaced does not stay in the file.
            .pragma("secure_delete", "on")
            .busy_timeout(Duration::from_secs(5));
        // One connection: there is one writer, and it batches.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await?;
        MIGRATIONS.run(&pool).await?;
        Ok(Self::new(Database::Sqlite(pool), sealer))
    }

    /// Connects to a PostgreSQL database by its URL, `postgres://USER:PASSWORD@HOST/DATABASE`. TLS is used as `sslmode`
    /// says.
    ///
    /// # Errors
    /// When the URL is malformed, the server does not answer or refuses, or the schema cannot be brought up to date.
    pub async fn postgres(url: &Secret, sealer: Sealer) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url.expose())?
            .application_name("antipode")
            .options(TIMEOUTS);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options)
            .await?;
        MIGRATIONS.run(&pool).await?;
        Ok(Self::new(Database::Postgres(pool), sealer))
    }

    fn new(database: Database, sealer: Sealer) -> Self {
        Self {
            database,
            sealer,
            writer: format!("{:032x}", rand::random::<u128>()),
            known: Mutex::default(),
        }
    }

    fn known_epoch(&self, sid: &RoomSid) -> Option<u64> {
        // One map entry per change: nothing is half done after a panic.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(sid).copied()
    }

    /// Takes over what is in the database: the epochs of rooms, `None` for those that ended.
    fn note(&self, epochs: impl IntoIterator<Item = (RoomSid, Option<u64>)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (sid, epoch) in epochs {
            match epoch {
                Some(epoch) => known.insert(sid, epoch),
                None => known.remove(&sid),
            };
        }
    }

    async fn read_saved(&self) -> Result<Saved, Error> {
        let mut tx = self.database.begin().await?;
        let saved = Saved {
            rooms: rooms::living(&mut tx).await?,
            nodes: catalogue::living_nodes(&mut tx).await?,
            epoch_max: rooms::epoch_max(&mut tx).await?,
        };
        tx.commit().await?;
        let epochs = saved.rooms.iter();
        self.note(epochs.map(|room| (room.sid.clone(), Some(room.epoch))));
        Ok(saved)
    }

    async fn write(&self, changes: &[Change]) -> Result<Vec<Fenced>, Error> {
        let mut outcome = Outcome::default();
        if let [change] = changes
            && is_one_statement(change)
        {
            // A transaction of its own: three messages less.
            let mut connection = self.database.connect().await?;
            self.write_one(&mut connection, change, &mut outcome)
                .await?;
        } else {
            let mut tx = self.database.begin().await?;
            for change in changes {
                self.write_one(&mut tx, change, &mut outcome).await?;
            }
            tx.commit().await?;
        }
        self.note(outcome.epochs);
        Ok(outcome.fenced)
    }

    async fn write_one(
        &self,
        run: &mut impl Run,
        change: &Change,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        match change {
            Change::Room(room) => {
                let known = self.known_epoch(&room.sid);
                let saved = rooms::save(run, room, known, &self.writer).await?;
                outcome
                    .room(
                        run,
                        room.sid.clone(),
                        &room.room,
                        saved.then_some(room.epoch),
                    )
                    .await
            }
            Change::RoomEnded { sid, epoch, at_ms } => {
                // A room that was never saved has no row to end.
                let Some(known) = self.known_epoch(sid) else {
                    return Ok(());
                };
                let end = rooms::End {
                    sid,
                    epoch: *epoch,
                    at_ms: *at_ms,
                };
                match rooms::end(run, end, known, &self.writer).await? {
                    rooms::Ended::Now => {
                        catalogue::end_sessions(run, sid, *at_ms).await?;
                        outcome.epochs.push((sid.clone(), None));
                    }
                    rooms::Ended::Otherwise(room) => {
                        outcome.room(run, sid.clone(), &room, None).await?;
                    }
                }
                Ok(())
            }
            Change::Node(hello) => catalogue::save_node(run, hello).await,
            Change::NodeForgotten(node) => catalogue::forget_node(run, node).await,
            Change::Joined(session) => catalogue::save_session(run, session).await,
            Change::Left { participant, at_ms } => {
                catalogue::end_session(run, participant, *at_ms).await
            }
            Change::Webhook(webhook) => {
                let mut fenced = outcome.fenced.iter();
                if fenced.any(|fenced| fenced.room == webhook.room && fenced.is_over()) {
                    return Ok(());
                }
                webhooks::enqueue(run, webhook).await
            }
        }
    }
}

/// Whether a change that goes well is one statement.
fn is_one_statement(change: &Change) -> bool {
    match change {
        Change::Room(_)
        | Change::Node(_)
        | Change::NodeForgotten(_)
        | Change::Joined(_)
        | Change::Left { .. } => true,
        Change::RoomEnded { .. } | Change::Webhook(_) => false,
    }
}

/// What a transaction found, true once it is committed.
#[derive(Default)]
struct Outcome {
    epochs: Vec<(RoomSid, Option<u64>)>,
    fenced: Vec<Fenced>,
}

impl Outcome {
    /// A room that was saved with an epoch, or was fenced.
    async fn room(
        &mut self,
        run: &mut impl Run,
        sid: RoomSid,
        room: &RoomId,
        saved: Option<u64>,
    ) -> Result<(), Error> {
        if saved.is_some() {
            self.epochs.push((sid, saved));
            return Ok(());
        }
        let current = rooms::living_of(run, room).await?;
        let epoch_max = rooms::epoch_max_of(run, room).await?;
        self.epochs.push((sid.clone(), None));
        let now = current.iter();
        self.epochs
            .extend(now.map(|room| (room.sid.clone(), Some(room.epoch))));
        self.fenced.push(Fenced {
            sid,
            room: room.clone(),
            current,
            epoch_max,
        });
        Ok(())
    }
}

/// Makes a folder for its owner only, unless it is there.
///
/// # Errors
/// When it cannot be made.
pub fn create_folder(folder: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| Error::File {
            path: folder.display().to_string(),
            source,
        })
}

impl Durable for Sql {
    fn load(&self) -> BoxFuture<'_, Result<Saved, Error>> {
        Box::pin(self.read_saved())
    }

    fn save<'a>(&'a self, changes: &'a [Change]) -> BoxFuture<'a, Result<Vec<Fenced>, Error>> {
        Box::pin(self.write(changes))
    }

    fn room<'a>(&'a self, room: &'a RoomId) -> BoxFuture<'a, Result<Option<RoomRecord>, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let found = rooms::living_of(&mut connection, room).await?;
            let epoch = found.iter();
            self.note(epoch.map(|room| (room.sid.clone(), Some(room.epoch))));
            Ok(found)
        })
    }

    fn prune(&self, before_ms: u64) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let mut tx: Tx = self.database.begin().await?;
            rooms::prune(&mut tx, before_ms).await?;
            catalogue::prune(&mut tx, before_ms).await?;
            webhooks::prune(&mut tx, before_ms).await?;
            tx.commit().await
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            connection.all(sql("SELECT 1")).await.map(drop)
        })
    }
}
