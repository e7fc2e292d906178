//! Flags of `antipode up`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use control_plane::RoomPolicy;

/// What mesh to run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Regions with an edge, comma separated codes of the catalogue; a region given twice gets two edges
    #[arg(long, value_delimiter = ',', default_value = "fra,iad,syd", value_parser = region)]
    pub(crate) regions: Vec<&'static geo::Region>,
    /// Regions with a relay; an empty list for none
    #[arg(long, value_delimiter = ',', default_value = "sin", value_parser = relay_region)]
    pub(crate) relays: Vec<Option<&'static geo::Region>>,
    /// Gives links between regions the delay that their distance would have
    #[arg(long, value_name = "on|off", default_value = "on")]
    pub(crate) wan: Switch,
    /// Share of packets lost between regions in each direction with --wan on, for example 1% or 0.01
    #[arg(long, default_value = "0", value_parser = share)]
    pub(crate) loss: f64,
    /// Address that clients and browsers reach this machine at; `0.0.0.0` for all
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) bind: IpAddr,
    /// Addresses of this machine that clients are told, comma separated; the first one is in URLs, every one is a media
    /// candidate. All must be covered by --bind [default: the bound address or, with 0.0.0.0, the one that this machine
    /// goes out with]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) advertise: Vec<IpAddr>,
    /// Port of the call page, dashboard and API; gRPC and admin are on the next two. 0 = free ports [default: 7800, or
    /// 80 below --base-port, or free]
    #[arg(long)]
    pub(crate) http: Option<u16>,
    /// First port of the edges: HTTP and WebSocket, +1 ICE-TCP, +2 UDP, +8 TURN, +9 TURN over TLS; the next edge at +10. 0 = free
    /// ports
    #[arg(long, default_value_t = 7880)]
    pub(crate) base_port: u16,
    /// Where the mesh keeps configuration, certificates and its database [default: a directory per user and base port;
    /// a temporary one with --base-port 0]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Starts a process again that died
    #[arg(long, value_name = "on|off", default_value = "on")]
    pub(crate) restart: Switch,
    /// How rooms cross the mesh: `auto` (straight, around bad links, over cheaper hubs that cost no delay), `direct`, or
    /// `via=REGION-OR-NODE` to force them through a relay
    #[arg(long, default_value = "auto")]
    pub(crate) room_policy: RoomPolicy,
    /// Forwarding threads per edge
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4))]
    pub(crate) shards: u16,
    /// HTTPS, WSS and TURN over TLS, with certificates of an authority that is made anew with every start: have browsers trust
    /// `tls/clients-ca.pem` in the data directory
    #[arg(long, value_name = "on|off", default_value = "off", num_args = 0..=1, default_missing_value = "on")]
    pub(crate) tls: Switch,
    /// Control replicas; several need --database-url and --redis-url. The further ones' ports follow on the first one's
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) replicas: u16,
    /// PostgreSQL database of the control plane, `postgres://…`; needs --data-dir, where its master key is kept [default: SQLite]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Redis of the control plane, `redis://…`
    #[arg(long, value_name = "URL")]
    pub(crate) redis_url: Option<String>,
    /// Agent of Consul where all processes register, `http://…`
    #[arg(long, value_name = "URL")]
    pub(crate) consul_url: Option<String>,
    /// Stops when standard input is closed
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
    /// A URL that is told of events (webhooks); may be given several times
    #[arg(long, value_name = "URL")]
    pub(crate) webhook: Vec<String>,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Switch {
    /// Whether it is on.
    pub(crate) fn is_on(self) -> bool {
        self == Self::On
    }
}

fn region(code: &str) -> Result<&'static geo::Region, String> {
    geo::region(code.trim()).ok_or_else(|| {
        let known: Vec<_> = geo::REGIONS.iter().map(|region| region.code).collect();
        format!("known regions: {}", known.join(", "))
    })
}

/// An empty list arrives as one empty code.
fn relay_region(code: &str) -> Result<Option<&'static geo::Region>, String> {
    if code.trim().is_empty() {
        Ok(None)
    } else {
        region(code).map(Some)
    }
}

fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = text
        .strip_suffix('%')
        .map_or((text, 1.0), |percent| (percent, 0.01));
    let number: f64 = number
        .trim()
        .parse()
        .map_err(|_| "expected for example 1% or 0.01")?;
    let share = number * scale;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err("expected a share from 0 to 1, or 0% to 100%".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fractions_or_percent() {
        assert_eq!(share("0.05"), Ok(0.05));
        assert_eq!(share("100%"), Ok(1.0));
        for bad in ["5", "-1%", "NaN", "", "%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn regions_come_from_the_catalogue() {
        assert_eq!(region("FRA").map(|region| region.code), Ok("fra"));
        assert!(region("atlantis").unwrap_err().contains("syd"));
        assert_eq!(relay_region(""), Ok(None));
    }
}
