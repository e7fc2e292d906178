//! What an operator can set.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use proto::DEFAULT_PROJECT;
pub use runtime::secret::Secret;
use runtime::telemetry::LogConfig;
use runtime::tls::acme::Acme;
use runtime::tls::listener::Files;
use serde::{Deserialize, Serialize};

use crate::placement;
use crate::prices::Prices;
use crate::rules::{Bounds, Residency, RoomRule, Rules, Terms};
use crate::store::sealed;
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
    /// Of those, from one address; further ones are closed. 0 for no limit; none either with `trusted_proxies`.
    pub http_connections_per_address: usize,
    /// How long a node whose session ended may stay away before it counts as dead, in milliseconds.
    pub node_grace_ms: u64,
    /// The same for nodes that were known before this process started, in milliseconds: they all reconnect at once.
    pub restart_grace_ms: u64,
    /// How long a room keeps its session id after its last edge left, in milliseconds.
    pub empty_room_ms: u64,
    /// Logging.
    pub log: LogConfig,
    /// The durable store: `postgres://USER:PASSWORD@HOST/DATABASE`, or the path of a SQLite file. Without it a SQLite
    /// file in `data_dir`.
    pub database_url: Option<Secret>,
    /// The ephemeral store: `redis://…` or `rediss://…`. Without it in this process, which then must be the only replica.
    pub redis_url: Option<Secret>,
    /// The agent of Consul where this replica registers: `http://…` or `https://…`. Without it nodes and replicas are
    /// known by their sessions alone.
    pub consul_url: Option<Secret>,
    /// Token for Consul's access control.
    pub consul_token: Option<Secret>,
    /// gRPC URLs of other replicas (`http://host:port`), beside those that Consul names. This one's own may be among them.
    pub replicas: Vec<String>,
    /// Host name or address where nodes and other replicas reach this one, for Consul. Without it the address that `grpc`
    /// listens on, or, if that is any, the agent's.
    pub advertise: Option<String>,
    /// Seals secrets in the durable store: 32 bytes in base64 (`openssl rand -base64 32`). All replicas need the same.
    /// Without it, and with a SQLite file, a file `master.key` in `data_dir` that is made at the first start.
    pub master_key: Option<Secret>,
    /// Certificate of the HTTP gateway; none: plain HTTP, for use behind a proxy that ends TLS.
    pub tls: Option<Files>,
    /// Has the gateway's certificate made and renewed by an ACME authority, instead of `tls`. For one replica per name.
    pub acme: Option<Acme>,
    /// Certificate authorities of the edges' certificates, a PEM file, where the system does not trust them: for signalling that
    /// goes through the gateway.
    pub edge_ca: Option<PathBuf>,
    /// Requests per second and address at the gateway, four times as many at once; 0 for no limit.
    pub rate_per_address: u32,
    /// Requests per second signed by one API key at the gateway, four times as many at once; 0 for no limit.
    pub rate_per_key: u32,
    /// Rules for rooms by name: policy, bounds on delay, regions they must not leave. The first that fits holds.
    pub room_rules: Vec<RoomRule>,
    /// Round trip that a cheaper way may add to the fastest one, in milliseconds, with `room_policy = "auto"`.
    pub added_delay_ms: u32,
    /// Round trip between two edges that no cheaper way may exceed, in milliseconds; 0 for none.
    pub pair_delay_ms_max: u32,
    /// Prices of outgoing traffic by region, in US dollars per gigabyte: `{ link = 0.02, client = 0.09 }`. Regions that are
    /// left out have list prices.
    pub egress_prices: BTreeMap<String, geo::price::Egress>,
    /// What places clients on edges, and what each term weighs.
    pub placement: placement::Settings,
    /// Folder with databases that tell where addresses are (`*.mmdb`, all are read); `antipode geo fetch` fills it.
    pub geo_data_dir: Option<PathBuf>,
    /// One such database for IPv4 addresses, instead of a folder.
    pub geo_city_v4: Option<PathBuf>,
    /// One such database for IPv6 addresses.
    pub geo_city_v6: Option<PathBuf>,
    /// Networks of proxies whose `X-Forwarded-For` is believed, in CIDR notation.
    pub trusted_proxies: Vec<IpNet>,
    /// URLs that are told of a project's events, and the API key that signs: without one the first of the project.
    pub webhooks: Vec<Webhook>,
}

/// A URL that is told of events.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where events are posted to.
    pub url: String,
    /// The project whose events it is told of [default: `default`].
    #[serde(default)]
    pub project: Option<String>,
    /// The API key that signs them, of that project.
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
            http_connections: 8_192,
            http_connections_per_address: 1_024,
            node_grace_ms: 2_000,
            restart_grace_ms: 15_000,
            empty_room_ms: 20_000,
            log: LogConfig::default(),
            database_url: None,
            redis_url: None,
            consul_url: None,
            consul_token: None,
            replicas: Vec::new(),
            advertise: None,
            master_key: None,
            tls: None,
            acme: None,
            edge_ca: None,
            rate_per_address: 100,
            rate_per_key: 1_000,
            room_rules: Vec::new(),
            added_delay_ms: 0,
            pair_delay_ms_max: 0,
            egress_prices: BTreeMap::new(),
            placement: placement::Settings::default(),
            geo_data_dir: None,
            geo_city_v4: None,
            geo_city_v6: None,
            trusted_proxies: Vec::new(),
            webhooks: Vec::new(),
        }
    }
}

/// Settings that do not go together.
#[derive(Debug, thiserror::Error)]
pub enum Unsound {
    /// The gRPC services would be open to the network.
    #[error(
        "grpc = \"{0}\" is not a loopback address and the services are not encrypted; set grpc_open = true on a private network"
    )]
    GrpcOpen(SocketAddr),
    /// A region that geo knows nothing about.
    #[error("region {0:?} is not in the catalogue")]
    Region(String),
    /// An API key without a key or a secret, or with a key that is not a line.
    #[error("API key {0:?} has an empty key or secret, or a control character in it")]
    Key(String),
    /// Nothing could connect.
    #[error("http_connections must be at least 1")]
    NoConnections,
    /// A URL of a kind that is not known. What it says is not shown: it may hold a password.
    #[error("{key} must begin with {expected}")]
    Url {
        /// The key.
        key: &'static str,
        /// What it may begin with.
        expected: &'static str,
    },
    /// The master key is not one.
    #[error("master_key: {0}")]
    MasterKey(sealed::Error),
    /// Several replicas would seal with keys of their own.
    #[error("database_url needs master_key: make one with `openssl rand -base64 32`")]
    NoMasterKey,
    /// Nodes' sessions would not know of each other.
    #[error("redis_url needs database_url: replicas that share a Redis must share a database")]
    RedisAlone,
    /// The gateway's certificate.
    #[error("tls, acme: {0}")]
    Tls(#[from] runtime::tls::listener::Error),
    /// A price for a region that nobody can have.
    #[error(
        "egress_prices: {0:?} has a price that is no amount, or is not a region of the catalogue"
    )]
    Price(String),
    /// Weights that would make nonsense of every score.
    #[error("placement.{0} must be a number from 0 to 10,000")]
    Weight(&'static str),
    /// Not a URL that can be posted to.
    #[error("webhook {0:?} is not an http or https URL")]
    WebhookUrl(String),
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
        let blank = |(key, secret): &(&String, &Secret)| {
            key.is_empty() || key.contains(char::is_control) || secret.expose().is_empty()
        };
        if let Some((key, _)) = self.keys.iter().find(blank) {
            return Err(Unsound::Key(key.clone()));
        }
        if self.http_connections == 0 {
            return Err(Unsound::NoConnections);
        }
        runtime::tls::shown::check(self.tls.as_ref(), self.acme.as_ref())?;
        self.check_stores()?;
        self.check_placement()?;
        self.webhook_targets().map(|_| ())
    }

    fn check_stores(&self) -> Result<(), Unsound> {
        let begins = |url: &Option<Secret>, schemes: &[&str]| {
            url.as_ref().is_none_or(|url| {
                schemes
                    .iter()
                    .any(|scheme| url.expose().starts_with(scheme))
            })
        };
        if !begins(&self.redis_url, &["redis://", "rediss://"]) {
            let (key, expected) = ("redis_url", "redis:// or rediss://");
            return Err(Unsound::Url { key, expected });
        }
        if !begins(&self.consul_url, &["http://", "https://"]) {
            let (key, expected) = ("consul_url", "http:// or https://");
            return Err(Unsound::Url { key, expected });
        }
        let database = self.database();
        if let Database::Unknown = database {
            let key = "database_url";
            let expected = "postgres://, postgresql:// or sqlite:, or be the path of a file";
            return Err(Unsound::Url { key, expected });
        }
        let replicated = matches!(database, Database::Postgres(_));
        if let Some(key) = &self.master_key {
            sealed::Sealer::new(key).map_err(Unsound::MasterKey)?;
        } else if replicated {
            return Err(Unsound::NoMasterKey);
        }
        if self.redis_url.is_some() && !replicated {
            return Err(Unsound::RedisAlone);
        }
        Ok(())
    }

    /// Where events go, and which keys sign.
    ///
    /// # Errors
    /// When a URL cannot be posted to.
    pub fn webhook_targets(&self) -> Result<Vec<Target>, Unsound> {
        let target = |webhook: &Webhook| {
            let url = webhook.url.clone();
            let usable = reqwest::Url::parse(&url).ok();
            if usable.is_none_or(|url| !matches!(url.scheme(), "http" | "https")) {
                return Err(Unsound::WebhookUrl(url));
            }
            let project = webhook.project.as_deref().unwrap_or(DEFAULT_PROJECT);
            Ok(Target {
                url,
                project: project.to_owned(),
                key: webhook.key.clone(),
            })
        };
        self.webhooks.iter().map(target).collect()
    }

    fn check_placement(&self) -> Result<(), Unsound> {
        let absurd = |price: f64| !(0.0..=1_000.0).contains(&price);
        let wrong = self.egress_prices.iter().find(|(region, price)| {
            geo::region(region).is_none() || absurd(price.link) || absurd(price.client)
        });
        if let Some((region, _)) = wrong {
            return Err(Unsound::Price(region.clone()));
        }
        let region = &self.placement.default_region;
        if !region.is_empty() && geo::region(region).is_none() {
            return Err(Unsound::Region(region.clone()));
        }
        let weights = self.placement.weights();
        match weights
            .into_iter()
            .find(|(_, weight)| !(0.0..=10_000.0).contains(weight))
        {
            Some((name, _)) => Err(Unsound::Weight(name)),
            None => Ok(()),
        }
    }

    /// What holds for rooms.
    pub fn rules(&self) -> Rules {
        let general = Terms {
            policy: self.room_policy.clone(),
            bounds: Bounds {
                added_ms: self.added_delay_ms,
                pair_ms_max: self.pair_delay_ms_max,
            },
            allow: Residency::default(),
        };
        Rules::new(general, &self.room_rules)
    }

    /// What traffic costs.
    pub fn prices(&self) -> Prices {
        Prices::new(self.egress_prices.clone())
    }

    /// Which database the durable store is.
    pub fn database(&self) -> Database {
        let Some(url) = &self.database_url else {
            return Database::Sqlite(self.data_dir.join("control.db"));
        };
        match url.expose().split_once(':') {
            Some(("postgres" | "postgresql", _)) => Database::Postgres(url.clone()),
            Some(("sqlite", path)) => {
                Database::Sqlite(path.strip_prefix("//").unwrap_or(path).into())
            }
            Some((scheme, rest)) if !scheme.contains('/') && rest.starts_with("//") => {
                Database::Unknown
            }
            _ if url.expose().is_empty() => Database::Unknown,
            _ => Database::Sqlite(url.expose().into()),
        }
    }
}

/// A database as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// A server.
    Postgres(Secret),
    /// Something else.
    Unknown,
}

/// How rooms cross the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RoomPolicy {
    /// Every edge sends straight to every other; a relay, if there is one, is the backup.
    Direct,
    /// Every pair goes through this node or a relay of this region; the straight link is the backup.
    Via(String),
    /// Straight where that is best; around links that are down, lossy or slow; over hubs where that is cheaper and the
    /// bounds on delay allow it.
    #[default]
    Auto,
}

/// Neither `auto`, nor `direct`, nor `via=…`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("room policy {0:?} is neither \"auto\", nor \"direct\", nor \"via=REGION-OR-NODE\"")]
pub struct UnknownPolicy(String);

impl FromStr for RoomPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text.split_once('=') {
            None if text == "auto" => Ok(Self::Auto),
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
            Self::Auto => f.write_str("auto"),
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
        for text in ["auto", "direct", "via=sin", "via=relay-sin-0"] {
            assert_eq!(text.parse::<RoomPolicy>().expect("known").to_string(), text);
        }
        for text in ["", "via", "via=", "hub=sin", "Direct"] {
            assert!(text.parse::<RoomPolicy>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(Config::default().check().is_ok());
        let open = Config {
            grpc: ([0, 0, 0, 0], 7900).into(),
            ..Config::default()
        };
        assert!(matches!(open.check(), Err(Unsound::GrpcOpen(_))));
        let meant = Config {
            grpc_open: true,
            ..open
        };
        assert!(meant.check().is_ok());
        let moon = Config {
            region: "moon".to_owned(),
            ..Config::default()
        };
        assert!(matches!(moon.check(), Err(Unsound::Region(region)) if region == "moon"));
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
    fn stores_are_told_by_their_urls() {
        let of = |url: &str| {
            let database_url = Some(Secret::from(url));
            Config {
                database_url,
                ..Config::default()
            }
            .database()
        };
        assert_eq!(
            Config::default().database(),
            Database::Sqlite("data/control.db".into())
        );
        for url in ["postgres://u:p@h/d", "postgresql://h/d"] {
            assert_eq!(of(url), Database::Postgres(url.into()));
        }
        for (url, path) in [
            ("/var/lib/a.db", "/var/lib/a.db"),
            ("sqlite:a.db", "a.db"),
            ("sqlite:///a.db", "/a.db"),
        ] {
            assert_eq!(of(url), Database::Sqlite(path.into()));
        }
        assert_eq!(of("mysql://h/d"), Database::Unknown);
        assert_eq!(of(""), Database::Unknown);
    }

    #[test]
    fn unsound_stores_are_refused_and_passwords_not_shown() {
        let with = |adjust: fn(&mut Config)| {
            let mut config = Config::default();
            adjust(&mut config);
            config.check().expect_err("unsound").to_string()
        };
        let postgres = Some(Secret::from("postgres://u:hush@h/d"));
        assert!(with(|c| c.redis_url = Some("http://hush@h".into())).contains("redis_url"));
        assert!(with(|c| c.redis_url = Some("redis://h".into())).contains("database_url"));
        assert!(with(|c| c.consul_url = Some("hush".into())).contains("consul_url"));
        assert!(with(|c| c.database_url = Some("mysql://hush@h".into())).contains("database_url"));
        assert!(with(|c| c.database_url = Some("postgres://h".into())).contains("openssl"));
        assert!(with(|c| c.master_key = Some("hush".into())).contains("master_key"));
        for adjust in [
            |c: &mut Config| c.redis_url = Some("http://hush@h".into()),
            |c: &mut Config| c.consul_url = Some("hush".into()),
            |c: &mut Config| c.database_url = Some("mysql://hush@h".into()),
            |c: &mut Config| c.master_key = Some("hush".into()),
        ] {
            assert!(!with(adjust).contains("hush"));
        }
        let sound = Config {
            database_url: postgres,
            redis_url: Some("redis://h".into()),
            master_key: Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into()),
            ..Config::default()
        };
        assert!(sound.check().is_ok());
        assert!(!format!("{sound:?}").contains("hush"));
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
