//! This replica in the registry, and the others: who else plans, and which nodes Consul sees.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use runtime::discovery::builtin::Builtin;
use runtime::discovery::consul::Consul;
use runtime::discovery::{self, Health, Registry, Service, View};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Secret};
use crate::metrics::Metrics;

/// A replica that did not say for so long that it lives is critical.
const TTL: Duration = Duration::from_secs(3);

/// Registers this replica until `shutdown` and follows the others. `addresses` are those of gRPC and HTTP.
///
/// # Errors
/// When the URL of Consul or its token is malformed.
pub fn start(
    config: &Config,
    addresses: (SocketAddr, SocketAddr),
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> anyhow::Result<watch::Receiver<View>> {
    let registry: Arc<dyn Registry> = match &config.consul_url {
        None => Arc::new(Builtin::default()),
        Some(url) => {
            let token = config.consul_token.as_ref().map(Secret::expose);
            Arc::new(Consul::new(url.expose(), token).context("consul_url")?)
        }
    };
    let service = service(config, addresses);
    let shown = metrics.clone();
    let describe = move || {
        let mut service = service.clone();
        let rooms = shown.rooms.get();
        service.meta.insert("load".to_owned(), rooms.to_string());
        (service, format!("rooms={rooms}"))
    };
    let announced = discovery::announce(Arc::clone(&registry), describe, shutdown.clone());
    tokio::spawn(announced);
    let view = |name| discovery::watch(Arc::clone(&registry), name, shutdown.clone());
    let replicas = view(discovery::CONTROL);
    for (role, views) in [
        ("control", replicas.clone()),
        ("edge", view(discovery::EDGE)),
        ("relay", view(discovery::RELAY)),
    ] {
        tokio::spawn(count(role, views, metrics.clone()));
    }
    Ok(replicas)
}

/// Shows how many processes of a role the registry has.
async fn count(role: &'static str, mut views: watch::Receiver<View>, metrics: Metrics) {
    while views.changed().await.is_ok() {
        let view = views.borrow_and_update().clone();
        metrics.stores.registry_up.set(i64::from(view.current));
        for (health, label) in [
            (Health::Passing, "passing"),
            (Health::Warning, "warning"),
            (Health::Critical, "critical"),
        ] {
            let all = view.instances.values();
            let count = all.filter(|instance| instance.health == health).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let gauge = metrics.stores.registered.with_label_values(&[role, label]);
            gauge.set(count);
        }
    }
}

fn service(config: &Config, (grpc, http): (SocketAddr, SocketAddr)) -> Service {
    let address = match &config.advertise {
        Some(host) => host.clone(),
        // The agent's own address takes its place.
        None if grpc.ip().is_unspecified() => String::new(),
        None => grpc.ip().to_string(),
    };
    // The agent asks from where it runs, which is beside us.
    let asked = if grpc.ip().is_unspecified() {
        format!("127.0.0.1:{}", grpc.port())
    } else {
        grpc.to_string()
    };
    let meta = [
        ("role", "control".to_owned()),
        ("region", config.region.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("mesh", config.mesh.clone()),
        ("grpc_port", grpc.port().to_string()),
        ("http_port", http.port().to_string()),
    ];
    let meta = meta.map(|(key, value)| (key.to_owned(), value));
    Service {
        name: discovery::CONTROL.to_owned(),
        id: config.node_id.clone(),
        address,
        port: grpc.port(),
        tags: vec![
            "role=control".to_owned(),
            format!("region={}", config.region),
        ],
        meta: meta.into_iter().collect(),
        ttl: TTL,
        grpc: Some(asked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_registered_where_it_is_reached() {
        let any = ([0, 0, 0, 0], 7900).into();
        let loopback = ([127, 0, 0, 1], 7900).into();
        let mut config = Config::default();
        let behind_agent = service(&config, (any, any));
        assert_eq!(behind_agent.address, "");
        assert_eq!(behind_agent.grpc.as_deref(), Some("127.0.0.1:7900"));
        assert_eq!(service(&config, (loopback, any)).address, "127.0.0.1");
        config.advertise = Some("control.example.org".to_owned());
        assert_eq!(service(&config, (any, any)).address, "control.example.org");
    }
}
