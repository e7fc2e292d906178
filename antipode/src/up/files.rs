//! What the processes find in the data directory: a configuration file each, and certificates of the mesh's own authority.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use runtime::tls::{Authority, NodeName, Paths};
use toml::{Table, Value};

use super::layout::{Control, Layout, Node, Role, loopback};
use super::options::Options;
use super::wan::Wan;

/// Name of the mesh: the trust domain of its certificates.
const MESH: &str = "antipode.local";

/// The authority that clients are to trust, beside the certificates.
const CLIENTS_CA: &str = "clients-ca.pem";

/// How long the certificates are valid; they are made anew with every start.
const VALIDITY: Duration = Duration::from_hours(30 * 24);

/// One process to run.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Subcommand.
    pub(crate) role: &'static str,
    /// Shown before its log lines, for example `edge fra`.
    pub(crate) label: String,
    /// Its configuration file.
    pub(crate) config: PathBuf,
}

/// Writes everything and says what to run: the control replicas first, then the layout's nodes in their order.
///
/// # Errors
/// When a file cannot be written or a certificate cannot be made.
pub(crate) fn write(
    directory: &Path,
    layout: &Layout,
    wan: &Wan,
    options: &Options,
) -> anyhow::Result<Vec<Spec>> {
    let authority = Authority::generate(MESH, VALIDITY)?;
    let certificates = directory.join("tls");
    std::fs::create_dir_all(&certificates)?;
    let client_tls = client_tls(&certificates, layout)?;
    let ca = text(&certificates.join(CLIENTS_CA).display());
    let mut specs = Vec::new();
    for replica in &layout.control {
        let mut table = control(directory, layout, (replica, options));
        table.extend(stores(directory, layout, options)?);
        if let Some(files) = &client_tls {
            table.insert("tls".to_owned(), files.clone().into());
            table.insert("edge_ca".to_owned(), ca.clone());
        }
        let number = replica.id.strip_prefix("control-0").unwrap_or(&replica.id);
        specs.push(Spec {
            role: "control",
            label: if number.is_empty() { "control" } else { number }.replace('-', " "),
            config: save(directory, &replica.id, &table)?,
        });
    }
    for node in &layout.nodes {
        let name = NodeName {
            mesh: MESH.to_owned(),
            region: node.region.code.to_owned(),
            role: node.role.name().to_owned(),
            node: node.id.clone(),
        };
        let tls = authority.issue_into(&certificates, &name, VALIDITY)?;
        let mut table = common(node, layout, &tls);
        if let Some(url) = &options.consul_url {
            table.insert("consul_url".to_owned(), text(url));
        }
        let via = wan.via(&node.id);
        let via: Table = via
            .into_iter()
            .map(|(peer, at)| (peer, text(&at)))
            .collect();
        table.insert("link_via".to_owned(), via.into());
        if node.role == Role::Edge {
            table.extend(edge(node, layout, options));
            table.extend(
                client_tls
                    .clone()
                    .map(|files| ("client_tls".to_owned(), files.into())),
            );
            if client_tls.is_some() {
                table.insert("edge_ca".to_owned(), ca.clone());
            }
        }
        specs.push(Spec {
            role: node.role.name(),
            label: label(node),
            config: save(directory, &node.id, &table)?,
        });
    }
    Ok(specs)
}

/// A certificate that gateway and edges show to clients, of an authority of its own: nodes of the mesh must not trust what clients
/// are made to trust. Nothing without `--tls`.
fn client_tls(directory: &Path, layout: &Layout) -> anyhow::Result<Option<Table>> {
    if !layout.tls {
        return Ok(None);
    }
    let authority = Authority::generate("of this machine", VALIDITY)?;
    let names: Vec<String> = layout.advertise.iter().map(ToString::to_string).collect();
    let local = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
    let new = local.into_iter().filter(|name| !names.contains(name));
    let names: Vec<String> = names.iter().cloned().chain(new).collect();
    let files = authority.issue_server_into(directory, "clients", (&names, VALIDITY))?;
    let ca = directory.join(CLIENTS_CA);
    std::fs::write(&ca, authority.ca_pem()).with_context(|| format!("{}", ca.display()))?;
    Ok(Some(table([
        ("cert", text(&files.cert.display())),
        ("key", text(&files.key.display())),
    ])))
}

/// `edge fra`; a second node of the region shows its number.
fn label(node: &Node) -> String {
    let number = node.id.rsplit('-').next().filter(|number| *number != "0");
    let number = number.map_or_else(String::new, |number| format!(" {number}"));
    format!("{} {}{number}", node.role.name(), node.region.code)
}

/// Where the control replicas keep what they share, and where they find each other.
fn stores(directory: &Path, layout: &Layout, options: &Options) -> anyhow::Result<Table> {
    let mut stores = Table::new();
    let urls = [
        ("database_url", &options.database_url),
        ("redis_url", &options.redis_url),
        ("consul_url", &options.consul_url),
    ];
    for (key, url) in urls {
        let url = url.as_ref().map(|url| (key.to_owned(), text(url)));
        stores.extend(url);
    }
    if options.database_url.is_some() {
        let key = control_plane::store::sealed::read_or_create(&directory.join("master.key"))?;
        stores.insert("master_key".to_owned(), text(key.expose()));
    }
    if layout.control.len() > 1 {
        let replicas = layout.control.iter().map(|one| text(&one.grpc_url()));
        stores.insert("replicas".to_owned(), Value::Array(replicas.collect()));
    }
    Ok(stores)
}

fn control(directory: &Path, layout: &Layout, (replica, options): (&Control, &Options)) -> Table {
    let mut control = plain_control(directory, layout, (replica, options));
    let geo_data = crate::geo_data::default_folder();
    if let Some(folder) = geo_data.filter(|folder| crate::geo_data::has_databases(folder)) {
        control.insert("geo_data_dir".to_owned(), text(&folder.display()));
    }
    control
}

fn plain_control(
    directory: &Path,
    layout: &Layout,
    (replica, options): (&Control, &Options),
) -> Table {
    let keys = Table::from_iter([(super::API_KEY.to_owned(), text(super::API_SECRET))]);
    let webhooks = options.webhook.iter();
    let webhooks = webhooks.map(|url| table([("url", text(url))]).into());
    table([
        ("node_id", text(&replica.id)),
        (
            "region",
            text(options.regions.first().map_or("", |region| region.code)),
        ),
        ("mesh", text(MESH)),
        ("grpc", text(&loopback(replica.grpc))),
        ("http", text(&SocketAddr::new(layout.bind, replica.http))),
        ("admin", text(&loopback(replica.admin))),
        ("data_dir", text(&directory.join("control").display())),
        ("development", Value::Boolean(true)),
        ("room_policy", text(&options.room_policy)),
        ("keys", keys.into()),
        ("webhooks", Value::Array(webhooks.collect())),
    ])
}

/// What edges and relays have in common.
fn common(node: &Node, layout: &Layout, tls: &Paths) -> Table {
    let paths = [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)];
    table([
        ("node_id", text(&node.id)),
        ("region", text(node.region.code)),
        ("mesh", text(MESH)),
        (
            "control",
            Value::Array(
                layout
                    .control
                    .iter()
                    .map(|one| text(&one.grpc_url()))
                    .collect(),
            ),
        ),
        ("admin", text(&loopback(node.admin))),
        ("link", text(&node.link_address())),
        (
            "tls",
            table(paths.map(|(name, path)| (name, text(&path.display())))).into(),
        ),
    ])
}

fn edge(node: &Node, layout: &Layout, options: &Options) -> Table {
    let client = |port| text(&SocketAddr::new(layout.bind, port));
    table([
        ("http", client(node.http)),
        ("rtc_tcp", client(node.rtc_tcp)),
        ("rtc_udp", client(node.rtc_udp)),
        ("shards", Value::Integer(options.shards.into())),
        (
            "external_addresses",
            Value::Array(layout.advertise.iter().map(text).collect()),
        ),
        ("client_url", text(&layout.client_url(node))),
        ("turn", turn(node, layout).into()),
    ])
}

fn turn(node: &Node, layout: &Layout) -> Table {
    let at = |port| text(&SocketAddr::new(layout.bind, port));
    let mut turn = table([("udp", at(node.turn)), ("tcp", at(node.turn))]);
    if layout.tls {
        turn.insert("tls".to_owned(), at(node.turn_tls));
    }
    turn
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn text<T: ToString + ?Sized>(value: &T) -> Value {
    Value::String(value.to_string())
}

/// Files hold the API secret: only the owner may read them.
fn save(directory: &Path, name: &str, config: &Table) -> anyhow::Result<PathBuf> {
    let path = directory.join(format!("{name}.toml"));
    let text = toml::to_string(config)?;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("{}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde::Serialize;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[derive(Serialize)]
    struct NoFlags {}

    fn load<T: serde::de::DeserializeOwned>(path: &Path) -> T {
        runtime::config::load(Some(path), NoFlags {}).unwrap()
    }

    #[test]
    fn the_roles_take_what_is_written() {
        runtime::tls::install_provider();
        let flags = [
            "up",
            "--base-port",
            "0",
            "--regions",
            "fra,syd",
            "--room-policy",
            "via=sin",
            "--webhook",
            "http://127.0.0.1:9/hook",
        ];
        let options = Cli::try_parse_from(flags).map(|cli| cli.options).unwrap();
        let layout = Layout::new(&options).unwrap();
        let wan = Wan::start(&layout.nodes, &options).unwrap();
        let directory = std::env::temp_dir().join(format!("antipode-files-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let specs = write(&directory, &layout, &wan, &options).unwrap();
        let labels: Vec<_> = specs.iter().map(|spec| spec.label.as_str()).collect();
        assert_eq!(labels, ["control", "edge fra", "edge syd", "relay sin"]);

        let control: control_plane::Config = load(&specs[0].config);
        assert_eq!(control.http, loopback(layout.control[0].http));
        assert_eq!(control.keys["devkey"].expose(), "secret");
        let targets = control.webhook_targets().unwrap();
        assert_eq!(targets[0].url, "http://127.0.0.1:9/hook");
        let edge: edge_node::Config = load(&specs[1].config);
        assert_eq!(edge.http, loopback(layout.nodes[0].http));
        assert_eq!(edge.link_via, wan.via("edge-fra-0"));
        assert_eq!(edge.link_via.len(), 2);
        edge.tls.load().unwrap();
        assert_eq!(edge.turn.udp.port(), layout.nodes[0].turn);
        assert_eq!((edge.turn.tls, edge.client_tls), (None, None));
        let relay: relay::Config = load(&specs[3].config);
        assert_eq!(relay.link, layout.nodes[2].link_address());
        assert_eq!(relay.tls.ca, edge.tls.ca);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn with_tls_clients_get_certificates_of_another_authority() {
        runtime::tls::install_provider();
        let flags = ["up", "--base-port", "0", "--regions", "fra", "--tls"];
        let options = Cli::try_parse_from(flags).map(|cli| cli.options).unwrap();
        let layout = Layout::new(&options).unwrap();
        assert!(layout.http_url().starts_with("https://"));
        assert!(layout.client_url(&layout.nodes[0]).starts_with("wss://"));
        let wan = Wan::start(&layout.nodes, &options).unwrap();
        let directory = std::env::temp_dir().join(format!("antipode-tls-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let specs = write(&directory, &layout, &wan, &options).unwrap();
        let control: control_plane::Config = load(&specs[0].config);
        let edge: edge_node::Config = load(&specs[1].config);
        edge.check().unwrap();
        control.check().unwrap();
        assert_eq!(edge.client_tls, control.tls);
        assert_eq!(edge.turn.tls.unwrap().port(), layout.nodes[0].turn_tls);
        let ca = std::fs::read(directory.join("tls/clients-ca.pem")).unwrap();
        assert_ne!(ca, std::fs::read(&edge.tls.ca).unwrap());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
