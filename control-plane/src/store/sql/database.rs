//! The two databases behind one face: statements with values go in, rows come out.

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Encode, Postgres, Row as _, Sqlite, Transaction, Type};

use crate::store::Error;

/// A pool of connections.
#[derive(Debug)]
pub(super) enum Database {
    /// A file.
    Sqlite(SqlitePool),
    /// A server.
    Postgres(PgPool),
}

/// A value of a statement.
#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Number(Option<i64>),
    Flag(bool),
}

/// PostgreSQL takes no NUL in a text. A name that has one must not keep others from being saved.
impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(if text.contains('\0') {
            text.replace('\0', "\u{fffd}")
        } else {
            text
        })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

/// SQL has no unsigned numbers; ours stay far below the sign bit.
impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(Some(i64::try_from(number).unwrap_or(i64::MAX)))
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(Some(i64::from(number)))
    }
}

impl From<Option<u64>> for Value {
    fn from(number: Option<u64>) -> Self {
        Self::Number(number.map(|number| i64::try_from(number).unwrap_or(i64::MAX)))
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// A statement with its values.
#[derive(Debug)]
pub(super) struct Statement {
    text: &'static str,
    values: Vec<Value>,
}

/// A statement without values yet.
pub(super) fn sql(text: &'static str) -> Statement {
    Statement {
        text,
        values: Vec::new(),
    }
}

impl Statement {
    /// The value of the next `$n`.
    pub(super) fn with(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    fn query<D>(self) -> Query<'static, D, D::Arguments>
    where
        D: sqlx::Database,
        String: Encode<'static, D> + Type<D>,
        Option<i64>: Encode<'static, D> + Type<D>,
        bool: Encode<'static, D> + Type<D>,
    {
        let query = sqlx::query(self.text);
        self.values
            .into_iter()
            .fold(query, |query, value| match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
                Value::Flag(flag) => query.bind(flag),
            })
    }
}

/// One row of an answer.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(super) fn text(&self, column: &str) -> Result<String, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(super) fn number(&self, column: &str) -> Result<u64, Error> {
        Ok(self.maybe_number(column)?.unwrap_or_default())
    }

    pub(super) fn maybe_number(&self, column: &str) -> Result<Option<u64>, Error> {
        let number: Option<i64> = match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        };
        Ok(number.map(|number| u64::try_from(number).unwrap_or_default()))
    }

    pub(super) fn flag(&self, column: &str) -> Result<bool, Error> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    /// A JSON value in a text column.
    pub(super) fn json<T: serde::de::DeserializeOwned>(
        &self,
        table: &'static str,
        column: &str,
    ) -> Result<T, Error> {
        serde_json::from_str(&self.text(column)?).map_err(|error| Error::Damaged {
            table,
            reason: format!("{column}: {error}"),
        })
    }
}

/// Something that runs statements: a connection or a transaction.
pub(super) trait Run: Send {
    /// Runs a statement; returns how many rows it changed.
    fn execute(&mut self, statement: Statement) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Runs a statement; returns its rows.
    fn all(&mut self, statement: Statement)
    -> impl Future<Output = Result<Vec<Row>, Error>> + Send;

    /// Runs a statement; returns its first row.
    fn one(
        &mut self,
        statement: Statement,
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send {
        async { Ok(self.all(statement).await?.into_iter().next()) }
    }

    /// Whether rows can be locked, and locked ones skipped. Otherwise a transaction has the whole database for itself.
    fn locks_rows(&self) -> bool;
}

/// A connection; each statement is a transaction.
#[derive(Debug)]
pub(super) enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// A transaction; rolled back unless committed.
pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Tx {
    pub(super) async fn commit(self) -> Result<(), Error> {
        match self {
            Self::Sqlite(tx) => tx.commit().await?,
            Self::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }
}

impl Database {
    /// For people.
    pub(super) fn engine(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        }
    }

    pub(super) async fn connect(&self) -> Result<Connection, Error> {
        Ok(match self {
            Self::Sqlite(pool) => Connection::Sqlite(pool.acquire().await?),
            Self::Postgres(pool) => Connection::Postgres(pool.acquire().await?),
        })
    }

    /// Begins a transaction, in a task of its own: sqlx 0.9 forgets one whose beginning is cancelled, and whoever has the connection next
    /// writes into it without knowing, and never commits. Here a late one is rolled back as any that is dropped.
    pub(super) async fn begin(&self) -> Result<Tx, Error> {
        let begun = match self {
            // Takes the write lock at once: a transaction that read first could not get it any more once another process
            // has written.
            Self::Sqlite(pool) => {
                let pool = pool.clone();
                tokio::spawn(
                    async move { pool.begin_with("BEGIN IMMEDIATE").await.map(Tx::Sqlite) },
                )
            }
            Self::Postgres(pool) => {
                let pool = pool.clone();
                tokio::spawn(async move { pool.begin().await.map(Tx::Postgres) })
            }
        };
        let begun = begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?;
        Ok(begun?)
    }
}

macro_rules! runs {
    ($type:ty) => {
        impl Run for $type {
            async fn execute(&mut self, statement: Statement) -> Result<u64, Error> {
                Ok(match self {
                    Self::Sqlite(on) => statement
                        .query::<Sqlite>()
                        .execute(&mut **on)
                        .await?
                        .rows_affected(),
                    Self::Postgres(on) => statement
                        .query::<Postgres>()
                        .execute(&mut **on)
                        .await?
                        .rows_affected(),
                })
            }

            async fn all(&mut self, statement: Statement) -> Result<Vec<Row>, Error> {
                Ok(match self {
                    Self::Sqlite(on) => {
                        let rows = statement.query::<Sqlite>().fetch_all(&mut **on).await?;
                        rows.into_iter().map(Row::Sqlite).collect()
                    }
                    Self::Postgres(on) => {
                        let rows = statement.query::<Postgres>().fetch_all(&mut **on).await?;
                        rows.into_iter().map(Row::Postgres).collect()
                    }
                })
            }

            fn locks_rows(&self) -> bool {
                matches!(self, Self::Postgres(_))
            }
        }
    };
}

runs!(Connection);
runs!(Tx);
