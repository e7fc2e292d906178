//! What an operator can set.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use runtime::telemetry::LogConfig;
use serde::{Deserialize, Serialize};

use crate::webhook::Target;

/// Configuration of the control role. Keys that are not known are refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of this replica, for example `control-0`.
    pub node_id: String,
    /// Region the replica runs in, a code of the catalogue.
    pub region: String,
    /// Name of the mesh: the trust domain of the nodes' certificates.
    pub mesh: String,
    /// Where nodes and operators reach the gRPC services. Port 0 takes a free one.
    pub grpc: SocketAddr,
    /// Where people and applications reach the HTTP gateway. Port 0 takes a free one.
    pub http: SocketAddr,
    /// Admin listener: `/metrics`, `/healthz`, `/readyz`. Port 0 takes a free one.
    pub admin: SocketAddr,
    /// Folder of the embedded database; made when it is missing.
    pub data_dir: PathBuf,
    /// API keys: key to secret. Pushed to every edge.
    pub keys: BTreeMap<String, Secret>,
    /// Opens the token endpoint to everybody. Never in production.
    pub development: bool,
    /// Lets the gRPC services listen beyond loopback. They are not encrypted and hand API keys to whoever says it is
    /// a node: only for networks where nobody else can reach them.
    pub grpc_open: bool,
    /// How rooms cross the mesh.
    pub room_policy: RoomPolicy,
    /// How long tokens of the token endpoint are valid, in seconds.
    pub token_valid_s: u64,
    /// Connections the gateway serves at once; more wait in the listener's backlog.
    pub http_connections: usize,
    /// How long a node whose session ended may stay away before it counts as dead, in milliseconds.
    pub node_grace_ms: u64,
    /// The same for nodes that were known before this process started, in milliseconds: they all reconnect at once.
    pub restart_grace_ms: u64,
    /// How long a room keeps its session id after its last edge left, in milliseconds.
    pub empty_room_ms: u64,
    /// Logging.
    pub log: LogConfig,
    /// URLs that are told of events, and the API key that signs; the first key when none is said.
    pub webhooks: Vec<Webhook>,
    /// Events that wait to be told at most; beyond it the oldest are lost, and counted.
    pub webhook_queue: usize,
}

/// A URL that is told of events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where events are posted to.
    pub url: String,
    /// The API key that signs them.
    #[serde(default)]
    pub key: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_id: "control-0".to_owned(),
            region: String::new(),
            mesh: "antipode".to_owned(),
            grpc: SocketAddr::from(([127, 0, 0, 1], 7900)),
            http: SocketAddr::from(([127, 0, 0, 1], 7800)),
            admin: SocketAddr::from(([127, 0, 0, 1], 7901)),
            data_dir: PathBuf::from("data"),
            keys: BTreeMap::new(),
            development: false,
            grpc_open: false,
            room_policy: RoomPolicy::Direct,
            token_valid_s: 6 * 3_600,
            http_connections: 1_024,
            node_grace_ms: 2_000,
            restart_grace_ms: 15_000,
            empty_room_ms: 20_000,
            log: LogConfig::default(),
            webhooks: Vec::new(),
            webhook_queue: 10_000,
        }
    }
}

/// Settings that do not go together.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unsound {
    /// The gRPC services would be open to the network.
    #[error(
        "grpc = \"{0}\" is not a loopback address and the services are not encrypted; set grpc_open = true on a private network"
    )]
    GrpcOpen(SocketAddr),
    /// A region that geo knows nothing about.
    #[error("region {0:?} is not in the catalogue")]
    Region(String),
    /// An API key without a key or a secret.
    #[error("API key {0:?} has an empty key or secret")]
    Key(String),
    /// Nothing could connect.
    #[error("http_connections must be at least 1")]
    NoConnections,
    /// Not a URL that can be posted to.
    #[error("webhook {0:?} is not an http or https URL")]
    WebhookUrl(String),
    /// A webhook that nobody can sign.
    #[error("webhook {0:?} names no API key that is configured")]
    WebhookKey(String),
}

impl Config {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), Unsound> {
        if !self.grpc.ip().is_loopback() && !self.grpc_open {
            return Err(Unsound::GrpcOpen(self.grpc));
        }
        if !self.region.is_empty() && geo::region(&self.region).is_none() {
            return Err(Unsound::Region(self.region.clone()));
        }
        let blank = |(key, secret): &(&String, &Secret)| key.is_empty() || secret.0.is_empty();
        if let Some((key, _)) = self.keys.iter().find(blank) {
            return Err(Unsound::Key(key.clone()));
        }
        if self.http_connections == 0 {
            return Err(Unsound::NoConnections);
        }
        self.webhook_targets().map(|_| ())
    }

    /// Where events go, and which keys sign.
    ///
    /// # Errors
    /// When a URL cannot be posted to or a key is not configured.
    pub fn webhook_targets(&self) -> Result<Vec<Target>, Unsound> {
        let target = |webhook: &Webhook| {
            let url = webhook.url.clone();
            let usable = reqwest::Url::parse(&url).ok();
            if usable.is_none_or(|url| !matches!(url.scheme(), "http" | "https")) {
                return Err(Unsound::WebhookUrl(url));
            }
            let key = match &webhook.key {
                Some(key) => self.keys.get_key_value(key),
                None => self.keys.first_key_value(),
            };
            let (key, _) = key.ok_or_else(|| Unsound::WebhookKey(url.clone()))?;
            let key = key.clone();
            Ok(Target { url, key })
        };
        self.webhooks.iter().map(target).collect()
    }
}

/// An API secret. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for signing and for the nodes' sessions.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How rooms cross the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RoomPolicy {
    /// Every edge sends straight to every other; a relay, if there is one, is the backup.
    #[default]
    Direct,
    /// Every pair goes through this node or a relay of this region; the straight link is the backup.
    Via(String),
}

/// Neither `direct` nor `via=…`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("room policy {0:?} is neither \"direct\" nor \"via=REGION-OR-NODE\"")]
pub struct UnknownPolicy(String);

impl FromStr for RoomPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text.split_once('=') {
            None if text == "direct" => Ok(Self::Direct),
            Some(("via", target)) if !target.is_empty() => Ok(Self::Via(target.to_owned())),
            _ => Err(UnknownPolicy(text.to_owned())),
        }
    }
}

impl TryFrom<String> for RoomPolicy {
    type Error = UnknownPolicy;

    fn try_from(text: String) -> Result<Self, UnknownPolicy> {
        text.parse()
    }
}

impl fmt::Display for RoomPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Via(target) => write!(f, "via={target}"),
        }
    }
}

impl From<RoomPolicy> for String {
    fn from(policy: RoomPolicy) -> Self {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_parse_and_print() {
        for text in ["direct", "via=sin", "via=relay-sin-0"] {
            assert_eq!(text.parse::<RoomPolicy>().expect("known").to_string(), text);
        }
        for text in ["", "via", "via=", "hub=sin", "Direct"] {
            assert!(text.parse::<RoomPolicy>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert_eq!(Config::default().check(), Ok(()));
        let open = Config {
            grpc: ([0, 0, 0, 0], 7900).into(),
            ..Config::default()
        };
        assert!(matches!(open.check(), Err(Unsound::GrpcOpen(_))));
        assert_eq!(
            Config {
                grpc_open: true,
                ..open
            }
            .check(),
            Ok(())
        );
        let moon = Config {
            region: "moon".to_owned(),
            ..Config::default()
        };
        assert_eq!(moon.check(), Err(Unsound::Region("moon".to_owned())));
        let keys = [("devkey".to_owned(), Secret::from(""))].into();
        assert!(
            Config {
                keys,
                ..Config::default()
            }
            .check()
            .is_err()
        );
    }

    #[test]
    fn secrets_do_not_show_and_unknown_keys_are_refused() {
        let config: Config =
            serde_json::from_str(r#"{"keys":{"devkey":"hush"},"room_policy":"via=sin"}"#)
                .expect("valid");
        assert!(!format!("{config:?}").contains("hush"));
        assert_eq!(config.room_policy, RoomPolicy::Via("sin".to_owned()));
        assert!(serde_json::from_str::<Config>(r#"{"grcp":"127.0.0.1:1"}"#).is_err());
        assert!(serde_json::from_str::<Config>(r#"{"room_policy":"best"}"#).is_err());
    }
}
