//! The media-blind I/O shell that every role stands on: sockets, certificates, telemetry, admin HTTP, configuration and
//! shutdown. Nothing in here knows what a packet or a room is.

pub mod admin;
pub mod config;
pub mod discovery;
pub mod http;
pub mod mapped;
pub mod process;
pub mod ready;
pub mod secret;
pub mod shutdown;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod tunnel;
pub mod udp;
