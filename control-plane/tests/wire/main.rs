//! The control plane from outside: real connections, real database, nodes that only speak the protocol.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "nodes wait for one kind of message"
)]

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
