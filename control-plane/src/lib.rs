//! The control plane: node sessions, room assignment, planner, stores, HTTP gateway.
//!
//! [`core::Core`] decides, without I/O: which nodes there are ([`registry`]), who serves which room, and what every node is
//! told of it ([`planner`]). One task ([`actor`]) owns the core, saves what it wants saved ([`store`]) and then sends what it
//! wants sent. Nodes and operators come in by [`grpc`], people and applications by [`http`].

pub mod actor;
pub mod authority;
pub mod config;
pub mod core;
pub mod dispatch;
pub mod explain;
pub mod grpc;
pub mod http;
pub mod keyring;
pub mod metrics;
pub mod outbox;
pub mod placement;
pub mod planner;
pub mod presence;
pub mod prices;
pub mod registry;
pub mod replicas;
pub mod ring;
pub mod rules;
pub mod server;
pub mod store;
pub mod token;
pub mod upkeep;
mod view;
pub mod webhook;

pub use config::{Config, RoomPolicy, Secret};
pub use server::{Server, run};
