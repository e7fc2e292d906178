//! Ids, gRPC services and link control messages: the types that cross process borders. No I/O.

mod id;
mod room;

pub use id::{Identity, NodeId, ParticipantSid, RegionId, RoomSid, TrackSid};
pub use room::{BadName, DEFAULT_PROJECT, RoomId, check_name};

/// Control messages of a link between two nodes (`schema/link.proto`).
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod link {
    include!(concat!(env!("OUT_DIR"), "/antipode.link.v1.rs"));
}

/// The control plane's gRPC services (`schema/control.proto`).
#[cfg(feature = "grpc")]
#[allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]
pub mod control {
    tonic::include_proto!("antipode.control.v1");

    /// The services' descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/control.bin"));
}
