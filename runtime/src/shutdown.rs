//! When and why a process stops: one token that signals, a closed parent and failing tasks all trigger.

use std::io::Read;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The process's wish to stop. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    drain: CancellationToken,
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::trigger`] starts.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that SIGINT (Ctrl-C) and SIGTERM start as well. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When a signal handler cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let triggered = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                () = triggered.wait() => return,
            };
            tracing::info!(signal = name, "stopping");
            triggered.trigger();
        });
        Ok(shutdown)
    }

    /// Like [`Shutdown::on_signals`], but the first SIGTERM only asks to drain ([`Shutdown::drain_wanted`]): whoever is asked lets
    /// its clients go elsewhere and then triggers. A second SIGTERM, or SIGINT, stops at once.
    ///
    /// # Errors
    /// When a signal handler cannot be installed.
    pub fn on_signals_after_drain() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let asked = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                    () = asked.wait() => return,
                };
                if name == "SIGTERM" && !asked.drain.is_cancelled() {
                    tracing::info!(
                        "draining before the end; another SIGTERM or SIGINT ends at once"
                    );
                    asked.drain.cancel();
                    continue;
                }
                tracing::info!(signal = name, "stopping");
                asked.trigger();
            }
        });
        Ok(shutdown)
    }

    /// Completes once the process is asked to drain.
    pub async fn drain_wanted(&self) {
        self.drain.cancelled().await;
    }

    /// Triggers when standard input reaches its end: a parent that holds the other end of the pipe has then died, however
    /// it died. Needs no `unsafe`, unlike a parent-death signal. Reads on a thread of its own, which nothing waits for:
    /// a read by the runtime would hold up the process's end.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn on_stdin_closed(&self) -> std::io::Result<()> {
        let shutdown = self.clone();
        std::thread::Builder::new()
            .name("parent-watch".to_owned())
            .spawn(move || {
                let mut bytes = [0; 64];
                while matches!(std::io::stdin().read(&mut bytes), Ok(1..)) {}
                if !shutdown.is_triggered() {
                    tracing::info!("parent process is gone, stopping");
                    shutdown.trigger();
                }
            })?;
        Ok(())
    }

    /// Starts the shutdown. Further calls do nothing.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Whether the shutdown has started.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Completes once the shutdown has started.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// Like [`Shutdown::wait`], for places that need a `'static` future (axum's graceful shutdown).
    pub fn wait_owned(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// The token inside, for libraries that take one.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

impl From<CancellationToken> for Shutdown {
    fn from(token: CancellationToken) -> Self {
        Self {
            token,
            drain: CancellationToken::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_clones_are_one() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn(shutdown.clone().wait_owned());
        assert!(!shutdown.is_triggered());
        shutdown.trigger();
        waiting.await.unwrap();
        shutdown.wait().await;
        assert!(shutdown.token().is_cancelled());
    }
}
