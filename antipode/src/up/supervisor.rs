//! Keeps the processes of the mesh alive.

use std::time::{Duration, Instant};

use runtime::ready::Ready;
use runtime::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::child::{self, Running};
use super::files::Spec;
use crate::cli::LogFlags;

/// Pause before the first restart; doubles with every death in a row.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A process that lived this long starts anew with the shortest pause.
const SETTLED: Duration = Duration::from_secs(30);

/// What became of a process.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// It serves; said again after every restart.
    Ready(Ready),
    /// It ended or could not be started.
    Failed(String),
}

/// Runs all processes until the shutdown.
#[derive(Debug)]
pub(crate) struct Supervisor {
    tasks: JoinSet<()>,
}

/// One process under supervision.
struct Watched {
    index: usize,
    spec: Spec,
    log: LogFlags,
    restart: bool,
    states: mpsc::Sender<(usize, State)>,
    shutdown: Shutdown,
}

impl Supervisor {
    /// Starts all processes. `states` gets what becomes of them, by their place in `specs`.
    ///
    /// # Errors
    /// When the binary itself cannot be found.
    pub(crate) fn start(
        specs: Vec<Spec>,
        restart: bool,
        log: &LogFlags,
        states: &mpsc::Sender<(usize, State)>,
        shutdown: &Shutdown,
    ) -> std::io::Result<Self> {
        std::env::current_exe()?;
        let mut tasks = JoinSet::new();
        for (index, spec) in specs.into_iter().enumerate() {
            let watched = Watched {
                index,
                spec,
                log: log.clone(),
                restart,
                states: states.clone(),
                shutdown: shutdown.clone(),
            };
            tasks.spawn(watched.run());
        }
        Ok(Self { tasks })
    }

    /// Completes when all processes are gone.
    pub(crate) async fn stopped(self) {
        self.tasks.join_all().await;
    }
}

impl Watched {
    async fn run(self) {
        let mut pause = PAUSE_MIN / 2;
        loop {
            let started = Instant::now();
            let Some((reason, on_purpose)) = self.run_once().await else {
                return;
            };
            tracing::warn!(process = self.spec.label, reason, "process ended");
            self.tell(State::Failed(reason)).await;
            if on_purpose || !self.restart {
                return;
            }
            pause = next_pause(pause, started.elapsed());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.wait() => return,
            }
            tracing::info!(process = self.spec.label, "starting it again");
        }
    }

    /// One life of the process: how it ended and whether it meant to (drained, for one), or `None` after it was stopped.
    async fn run_once(&self) -> Option<(String, bool)> {
        if self.shutdown.is_triggered() {
            return None;
        }
        let (mut running, mut stdout) = match Running::start(&self.spec, &self.log) {
            Ok(started) => started,
            Err(error) => return Some((format!("{error:#}"), false)),
        };
        let serve = async {
            if let Some(ready) = child::ready(&mut stdout).await {
                tracing::debug!(process = self.spec.label, pid = ready.pid, "ready");
                self.tell(State::Ready(ready)).await;
            }
            child::forward(stdout, format!("{:<9} | ", self.spec.label)).await;
            running.ended().await
        };
        let ended = tokio::select! {
            status = serve => Some(match status {
                Ok(status) => (status.to_string(), status.success()),
                Err(error) => (error.to_string(), false),
            }),
            () = self.shutdown.wait() => None,
        };
        if ended.is_none() {
            running.stop().await;
        }
        ended
    }

    async fn tell(&self, state: State) {
        // Nobody listens any more once the mesh is going down.
        drop(self.states.send((self.index, state)).await);
    }
}

/// The pause after a life of `lived`.
fn next_pause(last: Duration, lived: Duration) -> Duration {
    if lived >= SETTLED {
        PAUSE_MIN
    } else {
        (last * 2).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_settle() {
        let mut pause = PAUSE_MIN;
        for _ in 0..10 {
            pause = next_pause(pause, Duration::ZERO);
        }
        assert_eq!(pause, PAUSE_MAX);
        assert_eq!(next_pause(pause, SETTLED), PAUSE_MIN);
    }
}
