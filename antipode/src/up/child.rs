//! One process of the mesh: how it is started, heard and stopped.

use std::io::Write;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::ready::Ready;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::files::Spec;
use crate::cli::{Format, LogFlags};

/// How long a process may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A running role. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Closed with this: the process then takes its parent for dead. Not left in `child`, which closes it to wait.
    _stdin: Option<ChildStdin>,
    label: String,
}

impl Running {
    /// Starts the role's process from this very binary, in a process group of its own: Ctrl-C reaches only `up`, which
    /// stops the others in order. When `up` dies, however, the process sees its standard input closed and stops by itself.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn start(
        spec: &Spec,
        log: &LogFlags,
    ) -> anyhow::Result<(Self, BufReader<ChildStdout>)> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(spec.role)
            .arg("--config")
            .arg(&spec.config)
            .arg("--exit-with-parent");
        let plain = log.format != Some(Format::Json);
        command.args(["--log", if plain { "human" } else { "json" }]);
        if let Some(filter) = &log.filter {
            command.args(["--log-filter", filter]);
        }
        // What is meant for `up` must not reconfigure every role.
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with(runtime::config::ENV_PREFIX))
            {
                command.env_remove(&name);
            }
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().context("standard output was piped")?;
        let stderr = child.stderr.take().context("standard error was piped")?;
        let prefix = if plain {
            format!("{:<9} | ", spec.label)
        } else {
            String::new()
        };
        tokio::spawn(forward(BufReader::new(stderr), prefix));
        let stdin = child.stdin.take();
        Ok((
            Self {
                child,
                _stdin: stdin,
                label: spec.label.clone(),
            },
            BufReader::new(stdout),
        ))
    }

    /// Waits until the process has ended by itself. Cancel safe.
    ///
    /// # Errors
    /// When the system does not tell.
    pub(crate) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the process to stop without ado (SIGTERM would let it drain) and kills it when it does not.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok())
            && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGINT)
        {
            tracing::debug!(process = self.label, %error, "cannot be signalled");
        }
        if tokio::time::timeout(STOP_WITHIN, self.child.wait())
            .await
            .is_err()
        {
            self.kill().await;
        }
    }

    async fn kill(&mut self) {
        tracing::warn!(process = self.label, "does not stop, killing it");
        if let Err(error) = self.child.kill().await {
            tracing::warn!(process = self.label, %error, "cannot be killed");
        }
    }
}

/// Reads up to the ready line; `None` when the process closed its output before.
pub(crate) async fn ready(stdout: &mut BufReader<ChildStdout>) -> Option<Ready> {
    let mut line = String::new();
    while stdout.read_line(&mut line).await.ok()? > 0 {
        if let Some(ready) = Ready::parse(&line) {
            return Some(ready);
        }
        line.clear();
    }
    None
}

/// Copies lines to standard error, each with the prefix and in one write.
pub(crate) async fn forward(mut lines: BufReader<impl AsyncRead + Unpin>, prefix: String) {
    let mut line = prefix.clone().into_bytes();
    while matches!(lines.read_until(b'\n', &mut line).await, Ok(1..)) {
        // Without a terminal there is nobody to tell.
        drop(std::io::stderr().write_all(&line));
        line.truncate(prefix.len());
    }
}
