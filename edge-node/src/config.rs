//! Configuration of an edge.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use runtime::secret::Secret;
use runtime::telemetry::LogConfig;
use runtime::tls::Paths;
use serde::{Deserialize, Serialize};

/// Configuration of an edge.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Id of this node, as in its certificate.
    pub node_id: String,
    /// Its region, as in its certificate.
    pub region: String,
    /// Name of the mesh: the trust domain of the certificates.
    #[serde(default = "default_mesh")]
    pub mesh: String,
    /// Base URLs of control replicas.
    #[serde(default)]
    pub control: Vec<String>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    #[serde(default = "any_loopback_port")]
    pub admin: SocketAddr,
    /// Where clients open their signalling WebSocket.
    #[serde(default = "default_http")]
    pub http: SocketAddr,
    /// Where clients that have no UDP connect (ICE-TCP, RFC 6544).
    #[serde(default = "default_tcp")]
    pub rtc_tcp: SocketAddr,
    /// Where clients send media; shard `n` listens on this port plus `n`.
    #[serde(default = "default_udp")]
    pub rtc_udp: SocketAddr,
    /// Media threads, each with a UDP port of its own; 0: one per core.
    #[serde(default = "default_shards")]
    pub shards: usize,
    /// Addresses that clients reach this edge at; empty: the listening ones.
    #[serde(default)]
    pub external_addresses: Vec<IpAddr>,
    /// The URL that clients are given, for example `wss://fra.example.org`; default: `ws://` and the listening address.
    #[serde(default)]
    pub client_url: Option<String>,
    /// How many participants this edge takes.
    #[serde(default = "default_capacity")]
    pub capacity: u32,
    /// Where peers reach the link worker (UDP).
    #[serde(default = "any_loopback_port")]
    pub link: SocketAddr,
    /// Addresses that peers are told; empty: the one that is bound.
    #[serde(default)]
    pub link_advertise: Vec<SocketAddr>,
    /// Peers that are dialled at another address than they announce, by node id (WAN emulation, tunnels).
    #[serde(default)]
    pub link_via: BTreeMap<String, SocketAddr>,
    /// Most that is sent to one peer, in bits per second.
    #[serde(default = "default_rate")]
    pub link_rate_bps: u64,
    /// Audio tracks of a room that a client gets, and that a link carries, at a time: those that speak; 0: all.
    #[serde(default = "default_audio_streams")]
    pub audio_streams: u16,
    /// Certificates of the mesh.
    pub tls: Paths,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
    /// The agent of Consul where this node registers: `http://…` or `https://…`.
    #[serde(default)]
    pub consul_url: Option<Secret>,
    /// Token for Consul's access control.
    #[serde(default)]
    pub consul_token: Option<Secret>,
}

fn default_mesh() -> String {
    "antipode".to_owned()
}

fn any_loopback_port() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

fn default_http() -> SocketAddr {
    any(7880)
}

fn default_tcp() -> SocketAddr {
    any(7881)
}

fn default_udp() -> SocketAddr {
    any(7882)
}

fn default_shards() -> usize {
    1
}

fn default_capacity() -> u32 {
    1000
}

fn default_audio_streams() -> u16 {
    relay::worker::DEFAULT_AUDIO_STREAMS
}

fn default_rate() -> u64 {
    relay::worker::DEFAULT_RATE_BPS
}
