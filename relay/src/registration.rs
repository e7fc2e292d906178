//! How a node registers where operators and control replicas see it: in Consul, if there is one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use proto::control::{Hello, Role};
use runtime::discovery::consul::Consul;
use runtime::discovery::{self, Service};
use runtime::secret::Secret;
use tokio_util::sync::CancellationToken;

use crate::control::Status;

/// A node that did not say for so long that it lives is critical.
const TTL: Duration = Duration::from_secs(10);

/// Where to register.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// URL of the agent; without it nobody is told.
    pub url: Option<Secret>,
    /// Token for its access control.
    pub token: Option<Secret>,
}

/// Keeps a node registered until `shutdown`. The node serves on when the agent is gone.
///
/// # Errors
/// When the URL or the token is malformed.
pub fn start(
    config: &Config,
    hello: Hello,
    status: impl Fn() -> Status + Send + 'static,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Some(url) = &config.url else {
        return Ok(());
    };
    let token = config.token.as_ref().map(Secret::expose);
    let consul = Consul::new(url.expose(), token).context("consul_url")?;
    let describe = move || {
        let load = status().load;
        let draining = if load.drain.is_some() {
            "draining "
        } else {
            ""
        };
        let note = format!(
            "{draining}participants={} rooms={} cpu={:.2} egress_bps={}",
            load.participants, load.rooms, load.cpu_cores, load.egress_bps
        );
        (service(&hello, load.participants), note)
    };
    tokio::spawn(discovery::announce(Arc::new(consul), describe, shutdown));
    Ok(())
}

fn service(hello: &Hello, participants: u32) -> Service {
    let (name, role) = match hello.role() {
        Role::Edge => (discovery::EDGE, "edge"),
        Role::Relay | Role::Unspecified => (discovery::RELAY, "relay"),
    };
    // Peers reach a node at its link.
    let link = hello.link_addresses.first().map(String::as_str);
    let (address, port) = link
        .and_then(|link| link.rsplit_once(':'))
        .unwrap_or_default();
    let meta = [
        ("role", role.to_owned()),
        ("region", hello.region.clone()),
        ("version", hello.version.clone()),
        ("incarnation", hello.incarnation.to_string()),
        ("link", hello.link_addresses.join(",")),
        ("client_url", hello.client_url.clone()),
        ("admin_url", hello.admin_url.clone()),
        ("capacity", hello.capacity.to_string()),
        ("load", participants.to_string()),
    ];
    Service {
        name: name.to_owned(),
        id: hello.node_id.clone(),
        address: address.trim_matches(['[', ']']).to_owned(),
        port: port.parse().unwrap_or_default(),
        tags: vec![format!("role={role}"), format!("region={}", hello.region)],
        meta: meta
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<BTreeMap<_, _>>(),
        ttl: TTL,
        grpc: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_registered_at_its_link() {
        let hello = Hello {
            node_id: "edge-fra-0".to_owned(),
            role: Role::Edge.into(),
            region: "fra".to_owned(),
            link_addresses: vec!["[2001:db8::1]:7890".to_owned(), "192.0.2.1:7890".to_owned()],
            ..Hello::default()
        };
        let service = service(&hello, 3);
        assert_eq!(service.name, discovery::EDGE);
        assert_eq!(
            (service.address.as_str(), service.port),
            ("2001:db8::1", 7890)
        );
        assert_eq!(service.tags, ["role=edge", "region=fra"]);
        assert_eq!(service.meta["load"], "3");
        assert_eq!(service.meta["link"], "[2001:db8::1]:7890,192.0.2.1:7890");
    }

    #[tokio::test]
    async fn a_bad_url_is_refused_at_once() {
        let config = Config {
            url: Some("consul:8500".into()),
            token: None,
        };
        let status = || Status {
            load: proto::control::Load::default(),
            links: proto::control::LinkReport::default(),
        };
        let shutdown = CancellationToken::new();
        assert!(start(&config, Hello::default(), status, shutdown.clone()).is_err());
        assert!(start(&Config::default(), Hello::default(), status, shutdown).is_ok());
    }
}
