//! One suite per kind of store, run against both of its twins: SQLite and PostgreSQL, the process's memory and Redis, the
//! built-in registry and Consul. The servers are real and private; a server that is not installed is a failure.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod degraded;
mod durable;
mod ephemeral;
mod keys;
mod outbox;
mod registry;
mod twin;

use std::time::{Duration, Instant};

/// Waits until something is so; fails when it takes too long.
pub(crate) async fn eventually(what: &str, within: Duration, mut so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !so().await {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
