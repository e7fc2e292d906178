//! What a node tells its mesh worker, and what it hears from it.

use std::net::SocketAddr;
use std::str::FromStr;

use media::router::{SenderClock, StreamIndex, TrackKey};
use proto::{NodeId, RegionId, RoomId, TrackSid};

/// What a node of the mesh does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Has clients.
    Edge,
    /// Only forwards.
    Relay,
}

impl Role {
    /// The role as in a certificate's URI: `edge` or `relay`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Relay => "relay",
        }
    }

    /// The reverse of [`Role::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "edge" => Some(Self::Edge),
            "relay" => Some(Self::Relay),
            _ => None,
        }
    }
}

/// Another node that links may be made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its id, as in its certificate.
    pub node: NodeId,
    /// What it does, as in its certificate.
    pub role: Role,
    /// Where it is, as in its certificate.
    pub region: RegionId,
    /// Where its link worker listens; tried in turn.
    pub addresses: Vec<SocketAddr>,
}

impl PeerInfo {
    /// Reads a peer of the control plane's list; `None` when its role is unknown. Addresses that do not parse are left out.
    pub fn from_control(peer: &proto::control::Peer) -> Option<Self> {
        let role = match peer.role() {
            proto::control::Role::Edge => Role::Edge,
            proto::control::Role::Relay => Role::Relay,
            proto::control::Role::Unspecified => return None,
        };
        Some(Self {
            node: NodeId::from(peer.node_id.as_str()),
            role,
            region: RegionId::from(peer.region.as_str()),
            addresses: peer
                .link_addresses
                .iter()
                .filter_map(|address| SocketAddr::from_str(address).ok())
                .collect(),
        })
    }
}

/// How one room crosses the mesh, as seen by this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomPlan {
    /// The room.
    pub room: RoomId,
    /// A plan replaces one with a lower epoch; others are ignored.
    pub epoch: u64,
    /// Edges that serve the room; empty when the room ended.
    pub members: Vec<NodeId>,
    /// One entry per member other than this node.
    pub next_hops: Vec<NextHop>,
}

/// The way to one member edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The member edge.
    pub edge: NodeId,
    /// The neighbour to go through; `edge` itself when direct.
    pub via: NodeId,
    /// Taken while the link to `via` is down.
    pub backup: Option<NodeId>,
}

impl From<&proto::control::RoomPlan> for RoomPlan {
    fn from(plan: &proto::control::RoomPlan) -> Self {
        let next_hops = plan.next_hops.iter().map(|hop| NextHop {
            edge: NodeId::from(hop.edge.as_str()),
            via: NodeId::from(hop.via.as_str()),
            backup: (!hop.backup.is_empty()).then(|| NodeId::from(hop.backup.as_str())),
        });
        Self {
            room: RoomId::from(plan.room.as_str()),
            epoch: plan.epoch,
            members: plan
                .members
                .iter()
                .map(|member| NodeId::from(member.as_str()))
                .collect(),
            next_hops: next_hops.collect(),
        }
    }
}

/// An order to the mesh worker.
#[derive(Clone, Debug)]
pub enum MeshCommand {
    /// Every other node that links may be made with; replaces the list before.
    SetPeers(Vec<PeerInfo>),
    /// A room's plan; ignored unless its epoch is above the one known.
    SetPlan(RoomPlan),
    /// This node has no part in the room any more.
    ForgetRoom(RoomId),
    /// This edge's state of a room. The mesh fills in the origin and destinations, sends it to every other member, and again in full
    /// to new members and after a link came up.
    RoomState(proto::link::RoomState),
    /// Who speaks at this edge. The mesh fills in the origin and destinations.
    Speakers(proto::link::Speakers),
    /// This edge serves the room no more; tell the others.
    RoomGone(RoomId),
    /// A data message of a local participant. Without destinations it goes to every other member.
    Data(proto::link::Data),
    /// A track that is published here. The same one may be published in further rooms.
    Publish {
        /// Its room.
        room: RoomId,
        /// Its id in the mesh.
        track_sid: TrackSid,
        /// Its key on this node.
        track: TrackKey,
        /// Whether it is audio.
        audio: bool,
        /// RTP clock rate, in Hz.
        clock_rate: u32,
        /// Number of simulcast streams, 1 to 3.
        streams: u8,
        /// Spatial layers inside the one stream (SVC), 1 to 3; 1 with simulcast.
        spatial: u8,
    },
    /// A track published here has ended, or is no longer published in one of several rooms.
    Unpublish {
        /// The track.
        track: TrackKey,
        /// That room; `None`: it has ended.
        room: Option<RoomId>,
    },
    /// The publisher's clock of a track published here.
    SenderReport {
        /// The track.
        track: TrackKey,
        /// Its simulcast stream.
        stream: StreamIndex,
        /// The clock.
        clock: SenderClock,
    },
    /// Streams of a remote track that local subscribers want.
    Demand {
        /// Its room.
        room: RoomId,
        /// Its id in the mesh.
        track_sid: TrackSid,
        /// The edge it is published at.
        origin: NodeId,
        /// Its key on this node.
        track: TrackKey,
        /// Bit n set: layer n (simulcast stream, or spatial layer with SVC) is wanted; 0 for none.
        streams: u8,
    },
    /// A local subscriber needs a keyframe of a remote track.
    KeyframeNeeded {
        /// The track.
        track: TrackKey,
        /// Its simulcast stream.
        stream: StreamIndex,
    },
}

/// News from the mesh worker.
#[derive(Clone, Debug)]
pub enum MeshEvent {
    /// The rest of the mesh wants these streams of a track published here.
    Demand {
        /// The track.
        track: TrackKey,
        /// Bit n set: layer n (simulcast stream, or spatial layer with SVC) is wanted; 0 for none.
        streams: u8,
    },
    /// Somebody needs a keyframe of a track published here.
    KeyframeNeeded {
        /// The track.
        track: TrackKey,
        /// Its simulcast stream.
        stream: StreamIndex,
    },
    /// The publisher's clock of a remote track; `clock.received` is when its report reached the publisher's edge, on our clock.
    SenderReport {
        /// The track.
        track: TrackKey,
        /// Its simulcast stream.
        stream: StreamIndex,
        /// The clock.
        clock: SenderClock,
    },
    /// Another edge's state of a room; it may be one already known, never an older one.
    RoomState(proto::link::RoomState),
    /// Who speaks at another edge.
    Speakers(proto::link::Speakers),
    /// Another edge serves the room no more: it said so, or left the plan.
    RoomGone {
        /// The room.
        room: RoomId,
        /// The edge.
        origin: NodeId,
    },
    /// A data message of a participant of another edge.
    Data(proto::link::Data),
    /// The link to a peer is usable.
    LinkUp {
        /// The peer.
        peer: NodeId,
    },
    /// The link to a peer is lost.
    LinkDown {
        /// The peer.
        peer: NodeId,
    },
}
