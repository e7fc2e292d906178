//! Configuration of an edge.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use runtime::secret::Secret;
use runtime::telemetry::LogConfig;
use runtime::tls::Paths;
use runtime::tls::acme::Acme;
use runtime::tls::listener::Files;
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
    /// Base URLs of control replicas: a session is kept with each.
    #[serde(default)]
    pub control: Vec<String>,
    /// A name whose SRV records say where control replicas are, for example `antipode-control.service.consul`.
    #[serde(default)]
    pub control_srv: Option<String>,
    /// The name server that is asked for it, for example Consul's agent at `127.0.0.1:8600`; default: the system's.
    #[serde(default)]
    pub name_server: Option<SocketAddr>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    #[serde(default = "any_loopback_port")]
    pub admin: SocketAddr,
    /// Where clients open their signalling WebSocket.
    #[serde(default = "default_http")]
    pub http: SocketAddr,
    /// HTTP connections from one address at a time, those aside that became WebSockets; further ones are closed. 0 for no limit,
    /// for use behind a proxy that ends TLS.
    #[serde(default = "default_http_connections")]
    pub http_connections_per_address: usize,
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
    /// Certificate that clients are shown by HTTPS and by TURN over TLS; none: plain HTTP, for use behind a proxy that ends TLS.
    #[serde(default)]
    pub client_tls: Option<Files>,
    /// Has that certificate made and renewed by an ACME authority, instead of `client_tls`.
    #[serde(default)]
    pub client_acme: Option<Acme>,
    /// Authorities (PEM) of the certificates of other edges, where the system does not trust them: signalling is handed on to them.
    #[serde(default)]
    pub edge_ca: Option<PathBuf>,
    /// How long clients have to go elsewhere after SIGTERM, in seconds. 0 ends at once.
    #[serde(default = "default_drain_s")]
    pub drain_s: u64,
    /// TURN, for clients that reach neither UDP nor ICE-TCP.
    #[serde(default)]
    pub turn: Turn,
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

/// The TURN server of an edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turn {
    /// Whether there is one.
    pub enabled: bool,
    /// Where UDP is taken.
    pub udp: SocketAddr,
    /// Where plain TCP is taken; none: nowhere.
    pub tcp: Option<SocketAddr>,
    /// Where TLS is taken, with the certificate of `client_tls`; none: nowhere.
    pub tls: Option<SocketAddr>,
    /// Name or address that clients are told; none: the one that they reach signalling at.
    pub host: Option<String>,
    /// Most allocations at a time, up to 16,000.
    pub allocations: usize,
    /// Most allocations of one participant: one per peer connection, network interface and URL.
    pub allocations_per_participant: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            enabled: true,
            udp: any(TURN_PORT),
            tcp: None,
            tls: None,
            host: None,
            allocations: 4096,
            allocations_per_participant: 32,
        }
    }
}

/// TURN's port (RFC 8656 section 3.1).
const TURN_PORT: u16 = 3478;

/// Settings that do not go together, or files that are no good.
#[derive(Debug, thiserror::Error)]
pub enum Unsound {
    /// The certificate that clients are shown.
    #[error("client_tls, client_acme: {0}")]
    ClientTls(#[from] runtime::tls::listener::Error),
    /// TURN over TLS without a certificate.
    #[error("turn.tls needs a certificate: set client_tls or client_acme")]
    NoCertificate,
    /// No allocation would ever be made.
    #[error(
        "turn.allocations and turn.allocations_per_participant must be at least 1; turn.enabled = false does without TURN"
    )]
    NoAllocations,
    /// The host would not fit a URL.
    #[error("turn.host {0:?} is neither a name nor an address")]
    Host(String),
}

impl Config {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), Unsound> {
        runtime::tls::shown::check(self.client_tls.as_ref(), self.client_acme.as_ref())?;
        self.check_settings()
    }

    /// The same without a look at files.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_settings(&self) -> Result<(), Unsound> {
        if let (Some(files), Some(acme)) = (&self.client_tls, &self.client_acme) {
            runtime::tls::shown::check(Some(files), Some(acme))?;
        }
        let turn = &self.turn;
        if !turn.enabled {
            return Ok(());
        }
        if turn.tls.is_some() && self.client_tls.is_none() && self.client_acme.is_none() {
            return Err(Unsound::NoCertificate);
        }
        if turn.allocations == 0 || turn.allocations_per_participant == 0 {
            return Err(Unsound::NoAllocations);
        }
        match &turn.host {
            Some(host) if url::Host::parse(&bracketed(host)).is_err() => {
                Err(Unsound::Host(host.clone()))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A host as it stands in a URL: IPv6 addresses are in brackets.
pub(crate) fn bracketed(host: &str) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host.to_owned(),
    }
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

fn default_http_connections() -> usize {
    runtime::http::Limits::default().connections_per_address
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

fn default_drain_s() -> u64 {
    60
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(turn: &serde_json::Value) -> Config {
        let tls = serde_json::json!({ "ca": "ca", "cert": "cert", "key": "key" });
        let all = serde_json::json!({ "node_id": "n", "region": "fra", "tls": tls, "turn": turn });
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn turn_is_on_by_default_and_checked() {
        let default = config(&serde_json::json!({}));
        assert_eq!(default.turn.udp.port(), 3478);
        assert!(default.turn.enabled && default.check().is_ok());
        for (turn, said) in [
            (serde_json::json!({ "tls": "0.0.0.0:443" }), "client_tls"),
            (serde_json::json!({ "allocations": 0 }), "turn.allocations"),
            (serde_json::json!({ "host": "two words" }), "turn.host"),
        ] {
            let error = config(&turn).check().unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains('\n'), "{error}");
        }
        for host in ["turn.example.org", "192.0.2.1", "2001:db8::1"] {
            config(&serde_json::json!({ "host": host }))
                .check()
                .unwrap();
        }
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let files = Files {
            cert: "nowhere.pem".into(),
            key: "nowhere.key".into(),
        };
        let config = Config {
            client_tls: Some(files),
            ..config(&serde_json::json!({}))
        };
        assert!(
            config
                .check()
                .unwrap_err()
                .to_string()
                .contains("nowhere.pem")
        );
    }
}
