//! One server process: started, waited for, killed, started again.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest wait until a server answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is asked.
const ASK: Duration = Duration::from_millis(10);

/// A server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its program is not on this machine.
    #[error(
        "{program} is not installed: run `scripts/setup test`, or install the Debian package {package}"
    )]
    Missing {
        /// The program.
        program: &'static str,
        /// Debian's name of the package that has it.
        package: &'static str,
    },
    /// A file or process could not be made.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended, or does not answer.
    #[error("{program} does not serve: {reason}\n{log}")]
    Down {
        /// The program.
        program: &'static str,
        /// How it failed.
        reason: String,
        /// The end of what it logged.
        log: String,
    },
}

pub(super) fn failed(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    |source| Error::System { what, source }
}

/// Where a program is: in one of these folders, or on the path.
///
/// # Errors
/// When it is nowhere.
pub(super) fn find(
    program: &'static str,
    package: &'static str,
    folders: &[PathBuf],
) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from);
    let mut places = folders
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path))
        .chain(system)
        .map(|folder| folder.join(program));
    places
        .find(|place| place.is_file())
        .ok_or(Error::Missing { program, package })
}

/// A port of loopback that is free now.
///
/// # Errors
/// When there is none.
pub(super) fn free_port() -> Result<u16, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed("free port"))?;
    let address = listener.local_addr().map_err(failed("free port"))?;
    Ok(address.port())
}

/// A server with its folder.
#[derive(Debug)]
pub(super) struct Server {
    program: &'static str,
    command: Command,
    child: Option<Child>,
    folder: TempDir,
}

impl Server {
    /// Prepares a server; `arguments` come after its program.
    pub(super) fn new(
        program: &'static str,
        path: &Path,
        folder: TempDir,
        arguments: impl IntoIterator<Item = String>,
    ) -> Self {
        // Whoever starts it may be killed: it goes as well.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = unprivileged() {
            command.args([
                format!("--reuid={}", user.uid),
                format!("--regid={}", user.gid),
                "--clear-groups".to_owned(),
            ]);
        }
        command.arg(path).args(arguments).current_dir("/");
        Self {
            program,
            command,
            child: None,
            folder,
        }
    }

    /// Sets these variables of its environment.
    pub(super) fn with(
        mut self,
        variables: impl IntoIterator<Item = (&'static str, &'static str)>,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not serve in time.
    pub(super) fn start(&mut self, mut serves: impl FnMut() -> bool) -> Result<(), Error> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(failed("log of a server"))?;
        let errors = log.try_clone().map_err(failed("log of a server"))?;
        let child = self
            .command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(failed(format!("starting {}", self.program)))?;
        self.child = Some(child);
        let began = Instant::now();
        while !serves() {
            let ended = self.child.as_mut().map(Child::try_wait);
            let reason = match ended {
                Some(Ok(Some(status))) => format!("it ended: {status}"),
                _ if began.elapsed() > START_TIMEOUT => "no answer in time".to_owned(),
                _ => {
                    std::thread::sleep(ASK);
                    continue;
                }
            };
            self.kill();
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let end: Vec<_> = log.lines().rev().take(20).collect();
            return Err(Error::Down {
                program: self.program,
                reason,
                log: end.into_iter().rev().collect::<Vec<_>>().join("\n"),
            });
        }
        Ok(())
    }

    /// Ends it at once, as `kill -9` does.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            child.kill().ok();
            child.wait().ok();
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A temporary folder that the servers' user owns.
///
/// # Errors
/// When it cannot be made.
pub(super) fn folder(name: &str) -> Result<TempDir, Error> {
    let folder = tempfile::Builder::new()
        .prefix(&format!("antipode-{name}-"))
        .tempdir()
        .map_err(failed("temporary folder"))?;
    give(folder.path())?;
    Ok(folder)
}

/// Makes the servers' user the owner of a file.
///
/// # Errors
/// When the system refuses.
pub(super) fn give(path: &Path) -> Result<(), Error> {
    let Some(user) = unprivileged() else {
        return Ok(());
    };
    let (uid, gid) = (Some(user.uid), Some(user.gid));
    std::os::unix::fs::chown(path, uid, gid).map_err(failed(path.display().to_string()))
}

/// Whom servers run as.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The user `nobody` when we are root, since PostgreSQL refuses to run as root; otherwise `None`: as we are.
pub(super) fn unprivileged() -> Option<User> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let found = nix::unistd::User::from_name("nobody").ok().flatten();
    let nobody = |user: nix::unistd::User| User {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    };
    // What Linux takes for nobody where there is no such entry.
    Some(found.map_or(
        User {
            uid: 65_534,
            gid: 65_534,
        },
        nobody,
    ))
}

/// Whether somebody listens on a port of loopback.
#[cfg(test)]
pub(super) fn listens(port: u16) -> bool {
    std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}
