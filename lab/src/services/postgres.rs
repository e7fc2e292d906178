//! PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{Error, Server, failed, find, folder, free_port, unprivileged};

/// A private PostgreSQL, as safe as in production: `fsync` and `synchronous_commit` are on.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    port: u16,
    programs: PathBuf,
}

impl Postgres {
    /// Starts one with an empty cluster.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start() -> Result<Self, Error> {
        let postgres = find("postgres", "postgresql", &installed())?;
        let programs = postgres.parent().unwrap_or(Path::new("/")).to_owned();
        let folder = folder("postgres")?;
        let data = folder.path().join("data");
        let port = free_port()?;
        initialise(&programs, &data)?;
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", folder.path().display()),
            "fsync=on".to_owned(),
            "synchronous_commit=on".to_owned(),
            "shared_buffers=32MB".to_owned(),
            "max_connections=100".to_owned(),
        ];
        let settings = settings
            .into_iter()
            .flat_map(|text| ["-c".to_owned(), text]);
        let arguments = ["-D".to_owned(), data.display().to_string()];
        let arguments: Vec<_> = arguments.into_iter().chain(settings).collect();
        let server = Server::new("postgres", &postgres, folder, arguments);
        let mut postgres = Self {
            server,
            port,
            programs,
        };
        postgres.restart()?;
        Ok(postgres)
    }

    /// URL of a database. `postgres` is there from the start.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://antipode@127.0.0.1:{}/{database}", self.port)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the server while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Runs a statement in a database and returns what `psql` prints: one line per row, columns separated by `|`.
    ///
    /// # Errors
    /// When the server or the statement fails.
    pub fn sql(&self, database: &str, statement: &str) -> Result<String, Error> {
        let url = self.url(database);
        let output = Command::new(self.programs.join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                &url,
                "-c",
                statement,
            ])
            .output()
            .map_err(failed("psql"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(Error::Down {
            program: "psql",
            reason: format!("{statement:?} failed"),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Makes a database and returns its URL.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self, database: &str) -> Result<String, Error> {
        self.sql("postgres", &format!("CREATE DATABASE \"{database}\""))?;
        Ok(self.url(database))
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again, with the data it had.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.server.kill();
        let (programs, port) = (self.programs.clone(), self.port.to_string());
        self.server.start(|| {
            let asked = Command::new(programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port])
                .status();
            asked.is_ok_and(|status| status.success())
        })
    }
}

/// Folders of Debian's versions, the newest first.
fn installed() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql");
    let mut folders: Vec<_> = versions
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    folders.sort_by_key(|folder| {
        let version = folder.file_name().and_then(|name| name.to_str());
        std::cmp::Reverse(version.and_then(|version| version.parse::<u32>().ok()))
    });
    folders
        .into_iter()
        .map(|folder| folder.join("bin"))
        .collect()
}

fn initialise(programs: &Path, data: &Path) -> Result<(), Error> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(programs.join("initdb"));
    // The new cluster is thrown away after a crash of this machine: only its use is to be safe.
    command
        .args([
            "--no-sync",
            "--no-instructions",
            "-A",
            "trust",
            "-U",
            "antipode",
        ])
        .args(["-E", "UTF8", "--locale=C", "-D"])
        .arg(data)
        .current_dir("/");
    if let Some(user) = unprivileged() {
        command.uid(user.uid).gid(user.gid);
    }
    let output = command.output().map_err(failed("initdb"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Down {
        program: "initdb",
        reason: output.status.to_string(),
        log: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::process::listens;

    #[test]
    fn what_is_committed_survives_a_crash() {
        let mut postgres = Postgres::start().unwrap();
        assert_eq!(postgres.sql("postgres", "SHOW fsync").unwrap(), "on");
        assert_eq!(
            postgres.sql("postgres", "SHOW synchronous_commit").unwrap(),
            "on"
        );
        postgres.create("kept").unwrap();
        postgres
            .sql("kept", "CREATE TABLE t (n INT); INSERT INTO t VALUES (7)")
            .unwrap();
        postgres.kill();
        assert!(!listens(postgres.port()));
        assert!(postgres.sql("kept", "SELECT 1").is_err());
        postgres.restart().unwrap();
        assert_eq!(postgres.sql("kept", "SELECT n FROM t").unwrap(), "7");
    }
}
