//! The cascade between regions: the QUIC link between two nodes, the mesh that every node embeds, and the relay role.
//!
//! - [`link`]: one hop, sans-IO: hop header, scheduler, repair, health.
//! - [`mesh`]: many hops, sans-IO: plans, subscriptions, flows, room replicas, failover.
//! - [`worker`]: the thread that owns the sockets and drives both; edges and relays start one each.
//! - [`control`]: a node's session with the control plane; edges use it as well.
//! - [`drain`]: a node's orderly end.
//! - [`registration`]: a node's entry in Consul, if there is one.
//! - [`role`]: the relay process.

pub mod control;
pub mod drain;
pub mod link;
pub mod mesh;
pub mod registration;
pub mod role;
pub mod worker;

pub use mesh::command::{MeshCommand, MeshEvent, NextHop, PeerInfo, Role, RoomPlan};
pub use mesh::stats::{FlowStats, LinkStats};
pub use role::{Config, run};
pub use worker::handle::{MediaSender, MeshHandle, MeshSink};
