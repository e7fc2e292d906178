//! Several control replicas over a real PostgreSQL, Redis and Consul: rooms move when a replica dies, and every replica answers
//! everything. Servers that are not installed are a failure.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "nodes wait for one kind of message"
)]

mod calls;
mod found;
mod ownership;
#[expect(dead_code, reason = "what other tests use of it")]
#[path = "../wire/plane.rs"]
mod plane;
mod replica;
