//! Private PostgreSQL, Redis, Consul and Pebble for tests and scenarios: real servers on free ports of loopback, with their data in a
//! temporary folder. They end with the value that started them, and with the thread that did, so that nothing stays behind
//! when a test is killed.

mod consul;
mod pebble;
mod postgres;
mod process;
mod redis;

pub use consul::Consul;
pub use pebble::Pebble;
pub use postgres::Postgres;
pub use process::Error;
pub use redis::Redis;
