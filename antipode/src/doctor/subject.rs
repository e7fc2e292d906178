//! What there is to look at, by role and configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use control_plane::Secret;
use control_plane::placement::geo_data::Sources;

use super::Role;
use super::certificates::Certificate;
use super::names::Name;
use super::ports::{Port, Transport};
use crate::role::{Source, unsound};

/// Files that a process has open besides connections: libraries, logs, databases, its own sockets.
const FILES_BASE: u64 = 256;
/// Files per participant: a WebSocket, and a TCP connection where it has no UDP.
const FILES_PER_PARTICIPANT: u64 = 2;

/// The stores of a role.
#[derive(Debug, Default)]
pub(super) struct Stores {
    /// `postgres://…`
    pub(super) postgres: Option<Secret>,
    /// Folder of the embedded database, where that is used.
    pub(super) folder: Option<PathBuf>,
    /// `redis://…`
    pub(super) redis: Option<Secret>,
    /// The agent's URL, and the token for it.
    pub(super) consul: Option<(Secret, Option<Secret>)>,
    /// Databases of addresses; `None` for roles that have no use for them.
    pub(super) geo: Option<Sources>,
}

/// What there is to look at.
#[derive(Debug, Default)]
pub(super) struct Subject {
    pub(super) ports: Vec<Port>,
    pub(super) files_needed: u64,
    pub(super) sends_media: bool,
    pub(super) certificates: Vec<Certificate>,
    pub(super) names: Vec<Name>,
    /// Base URLs of control replicas that the role connects to.
    pub(super) control: Vec<String>,
    pub(super) stores: Stores,
}

impl Subject {
    /// Reads the role's configuration.
    ///
    /// # Errors
    /// When that is bad. Files that it names are looked at later, and are no error here.
    pub(super) fn read(role: Role, source: &Source) -> anyhow::Result<Self> {
        Ok(match role {
            Role::Edge => edge(&source.load()?)?,
            Role::Relay => relay(&source.load()?),
            Role::Control => control(&source.load()?)?,
        })
    }
}

fn tcp(key: &'static str, address: SocketAddr) -> Port {
    Port {
        key,
        transport: Transport::Tcp,
        address,
    }
}

fn udp(key: &'static str, address: SocketAddr) -> Port {
    Port {
        key,
        transport: Transport::Udp,
        address,
    }
}

fn mesh_certificates(paths: &runtime::tls::Paths) -> Vec<Certificate> {
    vec![
        Certificate::new("tls.ca", paths.ca.clone()),
        Certificate::with_key("tls.cert", paths.cert.clone(), paths.key.clone()),
    ]
}

fn consul(url: Option<&Secret>, token: Option<&Secret>) -> Option<(Secret, Option<Secret>)> {
    Some((url?.clone(), token.cloned()))
}

fn edge(config: &edge_node::Config) -> anyhow::Result<Subject> {
    config.check_settings().map_err(unsound)?;
    let shards = match config.shards {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        shards => shards,
    };
    let mut ports = vec![
        tcp("http", config.http),
        tcp("rtc_tcp", config.rtc_tcp),
        udp("link", config.link),
        tcp("admin", config.admin),
    ];
    ports.extend((0..shards).filter_map(|shard| {
        let port = config
            .rtc_udp
            .port()
            .checked_add(u16::try_from(shard).ok()?)?;
        Some(udp("rtc_udp", SocketAddr::new(config.rtc_udp.ip(), port)))
    }));
    let turn = Some(&config.turn).filter(|turn| turn.enabled);
    if let Some(turn) = turn {
        ports.push(udp("turn.udp", turn.udp));
        ports.extend(turn.tcp.map(|address| tcp("turn.tcp", address)));
        ports.extend(turn.tls.map(|address| tcp("turn.tls", address)));
    }
    let mut certificates = mesh_certificates(&config.tls);
    certificates.extend(config.client_tls.as_ref().map(|files| {
        Certificate::with_key("client_tls.cert", files.cert.clone(), files.key.clone())
    }));
    let expected: Vec<IpAddr> = config.external_addresses.clone();
    let mut names: Vec<Name> = config
        .control
        .iter()
        .filter_map(|url| Name::of_url("control", url))
        .collect();
    names.extend(
        config
            .client_url
            .iter()
            .filter_map(|url| Name::of_url("client_url", url))
            .map(|name| name.expecting(expected.clone())),
    );
    names.extend(
        turn.and_then(|turn| turn.host.as_deref())
            .and_then(|host| Name::of_host("turn.host", host)),
    );
    Ok(Subject {
        ports,
        files_needed: FILES_BASE + FILES_PER_PARTICIPANT * u64::from(config.capacity),
        sends_media: true,
        certificates,
        names,
        control: config.control.clone(),
        stores: Stores {
            consul: consul(config.consul_url.as_ref(), config.consul_token.as_ref()),
            ..Stores::default()
        },
    })
}

fn relay(config: &relay::Config) -> Subject {
    let names = config.control.iter();
    Subject {
        ports: vec![udp("link", config.link), tcp("admin", config.admin)],
        files_needed: FILES_BASE,
        sends_media: true,
        certificates: mesh_certificates(&config.tls),
        names: names
            .filter_map(|url| Name::of_url("control", url))
            .collect(),
        control: config.control.clone(),
        stores: Stores {
            consul: consul(config.consul_url.as_ref(), config.consul_token.as_ref()),
            ..Stores::default()
        },
    }
}

fn control(config: &control_plane::Config) -> anyhow::Result<Subject> {
    // Certificates are looked at below, where their age is told as well.
    let without_files = control_plane::Config {
        // Both at once are a mistake of another kind.
        tls: config.tls.clone().filter(|_| config.acme.is_some()),
        ..config.clone()
    };
    without_files.check().map_err(unsound)?;
    let secrets = [
        ("database_url", &config.database_url),
        ("redis_url", &config.redis_url),
        ("consul_url", &config.consul_url),
    ];
    let named = secrets
        .into_iter()
        .filter_map(|(key, url)| Name::of_url(key, url.as_ref()?.expose()));
    let postgres = config
        .database_url
        .clone()
        .filter(|url| url.expose().starts_with("postgres"));
    let folder = postgres.is_none().then(|| config.data_dir.clone());
    let connections = u64::try_from(config.http_connections).unwrap_or(u64::MAX);
    Ok(Subject {
        ports: vec![
            tcp("grpc", config.grpc),
            tcp("http", config.http),
            tcp("admin", config.admin),
        ],
        // A signalling connection that goes through the gateway is two.
        files_needed: FILES_BASE.saturating_add(connections.saturating_mul(2)),
        sends_media: false,
        certificates: config
            .tls
            .iter()
            .map(|files| Certificate::with_key("tls.cert", files.cert.clone(), files.key.clone()))
            .collect(),
        names: named.collect(),
        control: Vec::new(),
        stores: Stores {
            postgres,
            folder,
            redis: config.redis_url.clone(),
            consul: consul(config.consul_url.as_ref(), config.consul_token.as_ref()),
            geo: Some(Sources::of(config)),
        },
    })
}
