//! Which processes the mesh has, what they are called and where they listen.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::Context;

use super::options::Options;
use super::ports::{self, Free};

/// Ports of one edge or relay: the first edge at the base port, the next one this far on.
const STEP: u16 = 10;
/// Within a node's ports: links. Client UDP takes the ports before, one per shard.
const LINK: u16 = 6;
/// Within a node's ports: admin HTTP.
const ADMIN: u16 = 7;
/// Within a node's ports: TURN over UDP and TCP.
const TURN: u16 = 8;
/// Within a node's ports: TURN over TLS.
const TURN_TLS: u16 = 9;
/// The gateway is this far below the base port, as 7800 is below 7880.
const HTTP_BELOW: u16 = 80;

/// What a node of the mesh is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes clients.
    Edge,
    /// Only forwards between nodes.
    Relay,
}

impl Role {
    /// The subcommand, which is also the role's name in certificates.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Relay => "relay",
        }
    }
}

/// An edge or relay.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// What it is.
    pub(crate) role: Role,
    /// Where it pretends to be.
    pub(crate) region: &'static geo::Region,
    /// Node id, for example `edge-fra-0`.
    pub(crate) id: String,
    /// HTTP and WebSocket; edges only.
    pub(crate) http: u16,
    /// ICE-TCP; edges only.
    pub(crate) rtc_tcp: u16,
    /// First UDP port for clients; edges only.
    pub(crate) rtc_udp: u16,
    /// UDP port for peers' links.
    pub(crate) link: u16,
    /// Admin HTTP.
    pub(crate) admin: u16,
    /// TURN over UDP and TCP; edges only.
    pub(crate) turn: u16,
    /// TURN over TLS; edges only.
    pub(crate) turn_tls: u16,
}

impl Node {
    /// Where links reach it; on loopback, for only the mesh's own processes use it.
    pub(crate) fn link_address(&self) -> SocketAddr {
        loopback(self.link)
    }
}

/// A control replica.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    /// Its id, for example `control-0`.
    pub(crate) id: String,
    /// Gateway.
    pub(crate) http: u16,
    /// gRPC, on loopback.
    pub(crate) grpc: u16,
    /// Admin HTTP, on loopback.
    pub(crate) admin: u16,
}

impl Control {
    /// gRPC URL.
    pub(crate) fn grpc_url(&self) -> String {
        format!("http://{}", loopback(self.grpc))
    }
}

/// The whole mesh.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The control replicas, at least one.
    pub(crate) control: Vec<Control>,
    /// Edges first, then relays.
    pub(crate) nodes: Vec<Node>,
    /// Address that listeners for clients bind to.
    pub(crate) bind: IpAddr,
    /// Addresses that clients are told; the first is in URLs.
    pub(crate) advertise: Vec<IpAddr>,
    /// The first of them.
    url_host: IpAddr,
    /// Clients speak TLS to gateway and edges.
    pub(crate) tls: bool,
}

impl Layout {
    /// Plans the mesh and sees to it that its ports are free.
    ///
    /// # Errors
    /// When the ports do not fit, are taken, or no address can be told to clients.
    pub(crate) fn new(options: &Options) -> anyhow::Result<Self> {
        anyhow::ensure!(
            !options.regions.is_empty(),
            "--regions needs at least one region"
        );
        let mut free = Free::new(options.bind);
        anyhow::ensure!(
            options.replicas == 1 || options.database_url.is_some() && options.redis_url.is_some(),
            "--replicas {} needs --database-url and --redis-url",
            options.replicas
        );
        let control = control(options, &mut free)?;
        let edges = options.regions.iter().map(|region| (Role::Edge, *region));
        let relays = options
            .relays
            .iter()
            .flatten()
            .map(|region| (Role::Relay, *region));
        let mut counts = BTreeMap::new();
        let mut nodes = Vec::new();
        for (index, (role, region)) in edges.chain(relays).enumerate() {
            let count: &mut u32 = counts.entry((role.name(), region.code)).or_default();
            let id = format!("{}-{}-{count}", role.name(), region.code);
            *count += 1;
            let first = match options.base_port {
                0 => free.take(STEP)?,
                base => node_port(base, index)?,
            };
            nodes.push(Node {
                role,
                region,
                id,
                http: first,
                rtc_tcp: first + 1,
                rtc_udp: first + 2,
                link: first + LINK,
                admin: first + ADMIN,
                turn: first + TURN,
                turn_tls: first + TURN_TLS,
            });
        }
        let advertise = advertised(options)?;
        let url_host = *advertise.first().context("no address to tell clients")?;
        let layout = Self {
            control,
            nodes,
            bind: options.bind,
            advertise,
            url_host,
            tls: options.tls.is_on(),
        };
        layout.check()?;
        Ok(layout)
    }

    /// gRPC URL of the first control replica.
    pub(crate) fn grpc_url(&self) -> String {
        self.control
            .first()
            .map(Control::grpc_url)
            .unwrap_or_default()
    }

    /// URL of the call page.
    pub(crate) fn http_url(&self) -> String {
        let first = self.control.first();
        first
            .map(|control| self.gateway_url(control))
            .unwrap_or_default()
    }

    /// URL of a control replica's gateway.
    pub(crate) fn gateway_url(&self, control: &Control) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!(
            "{scheme}://{}",
            SocketAddr::new(self.url_host, control.http)
        )
    }

    /// URL that clients reach an edge at.
    pub(crate) fn client_url(&self, edge: &Node) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}", SocketAddr::new(self.url_host, edge.http))
    }

    /// The edges, in the order of `--regions`.
    pub(crate) fn edges(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.role == Role::Edge)
    }

    /// The relays, in the order of `--relays`.
    pub(crate) fn relays(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.role == Role::Relay)
    }

    fn check(&self) -> anyhow::Result<()> {
        for control in &self.control {
            ports::check(self.bind, control.http)?;
        }
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let own = self.nodes.iter().flat_map(|node| [node.link, node.admin]);
        let control = self.control.iter();
        for port in own.chain(control.flat_map(|control| [control.grpc, control.admin])) {
            ports::check(local, port)?;
        }
        for port in self.edges().flat_map(|edge| {
            [
                edge.http,
                edge.rtc_tcp,
                edge.rtc_udp,
                edge.turn,
                edge.turn_tls,
            ]
        }) {
            ports::check(self.bind, port)?;
        }
        Ok(())
    }
}

/// A port on this machine only.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn control(options: &Options, free: &mut Free) -> anyhow::Result<Vec<Control>> {
    let first = control_ports(options, free)?;
    let mut all = Vec::new();
    for number in 0..options.replicas {
        let [http, grpc, admin] = match (number, options.base_port) {
            (0, _) => first,
            (_, 0) => {
                let first = free.take(3)?;
                [first, first + 1, first + 2]
            }
            (number, _) => {
                let further = |port: u16| port.checked_add(3 * number);
                let ports = first.map(further);
                let [Some(http), Some(grpc), Some(admin)] = ports else {
                    anyhow::bail!("no room for the ports of {} replicas", options.replicas);
                };
                [http, grpc, admin]
            }
        };
        all.push(Control {
            id: format!("control-{number}"),
            http,
            grpc,
            admin,
        });
    }
    Ok(all)
}

fn control_ports(options: &Options, free: &mut Free) -> anyhow::Result<[u16; 3]> {
    let http = options
        .http
        .unwrap_or_else(|| options.base_port.saturating_sub(HTTP_BELOW));
    let first = match (http, options.base_port) {
        (0, _) => free.take(3)?,
        // Only the gateway's port was chosen.
        (http, 0) => {
            let rest = free.take(2)?;
            return Ok([http, rest, rest + 1]);
        }
        (http, _) => http,
    };
    anyhow::ensure!(
        first <= u16::MAX - 2,
        "--http {first} leaves no room for two more ports"
    );
    Ok([first, first + 1, first + 2])
}

fn node_port(base: u16, index: usize) -> anyhow::Result<u16> {
    let offset = u16::try_from(index)
        .ok()
        .and_then(|index| index.checked_mul(STEP));
    let first = offset.and_then(|offset| base.checked_add(offset));
    first
        .filter(|first| first.checked_add(STEP).is_some())
        .with_context(|| format!("--base-port {base} leaves no room for so many nodes"))
}

/// What clients are told: what was asked for, else the bound address or, if that means all, the one this machine goes out
/// with.
fn advertised(options: &Options) -> anyhow::Result<Vec<IpAddr>> {
    if !options.bind.is_unspecified() {
        let unbound = options.advertise.iter().find(|ip| **ip != options.bind);
        if let Some(unbound) = unbound {
            anyhow::bail!(
                "--advertise {unbound} is not served with --bind {}: use --bind 0.0.0.0",
                options.bind
            );
        }
        return Ok(vec![options.bind]);
    }
    if !options.advertise.is_empty() {
        return Ok(options.advertise.clone());
    }
    // Connecting a UDP socket sends nothing; it only asks the routing table. The address is of TEST-NET-1 (RFC 5737).
    let probe = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let local = probe
        .connect((Ipv4Addr::new(192, 0, 2, 1), 9))
        .and_then(|()| probe.local_addr());
    let local = local.context("no address to tell clients: give --advertise ADDRESS")?;
    Ok(vec![local.ip()])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(flags: &[&str]) -> Options {
        Cli::try_parse_from(["up"].iter().chain(flags))
            .map(|cli| cli.options)
            .unwrap()
    }

    #[test]
    fn customary_ports_by_default() {
        let options = options(&[]);
        let mut free = Free::new(options.bind);
        assert_eq!(
            control_ports(&options, &mut free).unwrap(),
            [7800, 7801, 7802]
        );
        assert_eq!(node_port(options.base_port, 0).unwrap(), 7880);
        assert_eq!(node_port(options.base_port, 2).unwrap(), 7900);
        assert!(node_port(65_000, 60).is_err());
    }

    #[test]
    fn free_ports_differ_and_names_are_unique() {
        let flags = [
            "--regions",
            "fra,iad,fra",
            "--relays",
            "sin,sin",
            "--base-port",
            "0",
        ];
        let layout = Layout::new(&options(&flags)).unwrap();
        let ids: Vec<_> = layout.nodes.iter().map(|node| node.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "edge-fra-0",
                "edge-iad-0",
                "edge-fra-1",
                "relay-sin-0",
                "relay-sin-1"
            ]
        );
        let mut ports: Vec<u16> = layout
            .nodes
            .iter()
            .flat_map(|n| {
                [
                    n.http, n.rtc_tcp, n.rtc_udp, n.link, n.admin, n.turn, n.turn_tls,
                ]
            })
            .chain(
                layout
                    .control
                    .iter()
                    .flat_map(|c| [c.http, c.grpc, c.admin]),
            )
            .collect();
        ports.sort_unstable();
        let count = ports.len();
        ports.dedup();
        assert_eq!(ports.len(), count);
    }

    #[test]
    fn several_replicas_have_ports_of_their_own_and_stores() {
        let stores = [
            "--database-url",
            "postgres://x/y",
            "--redis-url",
            "redis://x",
        ];
        let several = |flags: &[&str]| {
            let flags = [&["--replicas", "3", "--base-port", "7880"], flags].concat();
            let options = options(&flags);
            control(&options, &mut Free::new(options.bind))
        };
        let ports: Vec<_> = several(&stores).unwrap().iter().map(|c| c.http).collect();
        assert_eq!(ports, [7800, 7803, 7806]);
        let alone = options(&["--replicas", "2", "--base-port", "0"]);
        assert!(Layout::new(&alone).is_err());
    }

    #[test]
    fn no_relays_is_possible() {
        let layout = Layout::new(&options(&[
            "--regions",
            "fra",
            "--relays",
            "",
            "--base-port",
            "0",
        ]));
        assert_eq!(layout.unwrap().relays().count(), 0);
    }

    #[test]
    fn clients_are_told_what_is_asked_for_if_it_is_served() {
        let told = |flags: &[&str]| {
            let flags = [&["--base-port", "0"], flags].concat();
            Layout::new(&options(&flags))
        };
        let layout = told(&["--bind", "0.0.0.0", "--advertise", "127.0.0.1,10.77.3.1"]).unwrap();
        assert_eq!(layout.advertise.len(), 2);
        assert!(layout.http_url().starts_with("http://127.0.0.1:"));
        assert!(told(&["--advertise", "127.0.0.1"]).is_ok());
        let error = told(&["--advertise", "10.77.3.1"]).unwrap_err();
        assert!(error.to_string().contains("10.77.3.1"), "{error:#}");
    }

    #[test]
    fn a_taken_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let error = Layout::new(&options(&["--base-port", "0", "--http", &port])).unwrap_err();
        assert!(error.to_string().contains(&port), "{error:#}");
    }
}
