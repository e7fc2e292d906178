//! Databases that may be opened several times, as replicas do.

use std::sync::atomic::{AtomicU32, Ordering};

use control_plane::config::Secret;
use control_plane::store::sealed::{Sealer, generate};
use control_plane::store::sql::Sql;
use lab::services::Postgres;
use sqlx::ConnectOptions as _;
use tempfile::TempDir;

/// An empty database of either kind.
pub(crate) struct Twin<'a> {
    place: Place<'a>,
    master: Secret,
}

enum Place<'a> {
    File(TempDir),
    Server(&'a Postgres, String),
}

impl<'a> Twin<'a> {
    pub(crate) fn sqlite() -> Self {
        Self {
            place: Place::File(tempfile::tempdir().expect("temporary folder")),
            master: generate().expect("random"),
        }
    }

    pub(crate) fn postgres(server: &'a Postgres) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("case{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.create(&name).expect("a database");
        Self {
            place: Place::Server(server, name),
            master: generate().expect("random"),
        }
    }

    /// One more replica on it.
    pub(crate) async fn open(&self) -> Sql {
        self.open_with(&self.master).await
    }

    /// One more replica, with another master key.
    pub(crate) async fn open_with(&self, master: &Secret) -> Sql {
        let sealer = Sealer::new(master).expect("a key");
        let opened = match &self.place {
            Place::File(folder) => Sql::sqlite(&folder.path().join("control.db"), sealer).await,
            Place::Server(server, name) => {
                Sql::postgres(&Secret::from(server.url(name)), sealer).await
            }
        };
        opened.expect("opens")
    }

    /// What somebody with access to the database could do.
    pub(crate) async fn meddle(&self, statement: &'static str) {
        match &self.place {
            Place::File(folder) => {
                let options = sqlx::sqlite::SqliteConnectOptions::new()
                    .filename(folder.path().join("control.db"));
                let mut connection = options.connect().await.expect("connects");
                let done = sqlx::query(statement).execute(&mut connection).await;
                done.expect("the statement works");
            }
            Place::Server(server, name) => {
                server.sql(name, statement).expect("the statement works");
            }
        }
    }

    /// Everything that can be read without the program, as bytes.
    pub(crate) fn raw(&self) -> Vec<u8> {
        match &self.place {
            Place::File(folder) => {
                let files = std::fs::read_dir(folder.path()).expect("a folder");
                let read = |file: std::io::Result<std::fs::DirEntry>| {
                    std::fs::read(file.expect("a file").path()).expect("readable")
                };
                files.flat_map(read).collect()
            }
            Place::Server(server, name) => {
                let rows = server.sql(name, "SELECT api_keys::text FROM api_keys");
                let log = server.sql(name, "SELECT audit_log::text FROM audit_log");
                [rows.expect("rows"), log.expect("rows")]
                    .concat()
                    .into_bytes()
            }
        }
    }
}

/// Runs cases one after another, each on a database of its own.
#[macro_export]
macro_rules! suite {
    ($($case:path),+ $(,)?) => {
        #[tokio::test]
        async fn sqlite() {
            $(
                println!("{}", stringify!($case));
                $case(&$crate::twin::Twin::sqlite()).await;
            )+
        }

        #[tokio::test]
        async fn postgres() {
            let server = lab::services::Postgres::start().expect("PostgreSQL starts");
            $(
                println!("{}", stringify!($case));
                $case(&$crate::twin::Twin::postgres(&server)).await;
            )+
        }
    };
}
