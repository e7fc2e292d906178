//! The control plane from outside: real connections, real database, nodes that only speak the protocol.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "nodes wait for one kind of message"
)]

mod acme;
mod api;
mod attacks;
mod drain;
mod explain;
mod gateway;
mod keys;
mod plane;
mod projects;
mod services;
mod signal;
mod webhooks;

/// Waits until something is so; fails when it takes too long.
pub(crate) async fn eventually(
    what: &str,
    within: std::time::Duration,
    mut so: impl AsyncFnMut() -> bool,
) {
    let began = std::time::Instant::now();
    while !so().await {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
