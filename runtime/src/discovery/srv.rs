//! Where processes are by DNS: the SRV records of a name (RFC 2782), at a name server of one's own choice (Consul's agent
//! answers on port 8600) or the system's.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Records are asked for again when their time to live is over, but neither more nor less often than this. Consul's have none.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest wait for one answer of one name server; it is asked twice.
const TIMEOUT: Duration = Duration::from_millis(800);
/// Records that are looked at: a name that has more is not ours.
const RECORDS_MAX: usize = 64;

/// A name, and who is asked for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    /// For example `antipode-control.service.consul`.
    pub name: String,
    /// The name server; `None`: those of the system.
    pub server: Option<SocketAddr>,
}

/// The system's name servers are not known.
#[derive(Debug, thiserror::Error)]
#[error("the system's name servers cannot be read: {0}")]
pub struct NoNameServer(String);

/// Follows the addresses behind a name until `shutdown`. The first set is empty; when the name server is gone, or does not know
/// the name, the last set stays.
///
/// # Errors
/// When the system's name servers are wanted and not known.
pub fn follow(
    name: &Name,
    shutdown: CancellationToken,
) -> Result<watch::Receiver<BTreeSet<SocketAddr>>, NoNameServer> {
    let resolver = resolver(name.server).map_err(|error| NoNameServer(error.to_string()))?;
    let (addresses, receiver) = watch::channel(BTreeSet::new());
    // A name with a dot at the end has no search domains tried.
    let asked = format!("{}.", name.name.trim_end_matches('.'));
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = addresses.closed() => {}
            () = ask_for_ever(&resolver, &asked, &addresses) => {}
        }
    });
    Ok(receiver)
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(at) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let connections = connections.map(|mut connection| {
                connection.port = at.port();
                connection
            });
            let server = NameServerConfig::new(at.ip(), true, connections.to_vec());
            let config = ResolverConfig::from_name_servers(vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = TIMEOUT;
    options.attempts = 2;
    // Who is gone must not be remembered as such once it is back.
    options.negative_max_ttl = Some(Duration::ZERO);
    builder.build()
}

async fn ask_for_ever(
    resolver: &TokioResolver,
    name: &str,
    addresses: &watch::Sender<BTreeSet<SocketAddr>>,
) {
    let mut failing = false;
    loop {
        let wait = match ask(resolver, name).await {
            Ok((found, valid_until)) if !found.is_empty() => {
                if std::mem::replace(&mut failing, false) {
                    tracing::info!(name, "the name is known again");
                }
                addresses.send_if_modified(|before| {
                    let other = *before != found;
                    *before = found;
                    other
                });
                let valid = valid_until.saturating_duration_since(Instant::now());
                valid.clamp(AGAIN.0, AGAIN.1)
            }
            Ok(_) => lost(name, "no address", &mut failing),
            Err(error) => lost(name, &error.to_string(), &mut failing),
        };
        tokio::time::sleep(wait).await;
    }
}

fn lost(name: &str, error: &str, failing: &mut bool) -> Duration {
    if !std::mem::replace(failing, true) {
        tracing::warn!(
            name,
            error,
            "the name is not known now; addresses known before stay"
        );
    }
    AGAIN.0
}

/// The addresses behind a name, and until when they hold.
async fn ask(
    resolver: &TokioResolver,
    name: &str,
) -> Result<(BTreeSet<SocketAddr>, Instant), NetError> {
    let lookup = resolver.srv_lookup(name).await?;
    let mut found = BTreeSet::new();
    for record in lookup.answers().iter().take(RECORDS_MAX) {
        let RData::SRV(srv) = &record.data else {
            continue;
        };
        match resolver.lookup_ip(srv.target.clone()).await {
            Ok(ips) => found.extend(ips.iter().map(|ip| SocketAddr::new(ip, srv.port))),
            Err(error) => tracing::debug!(target = %srv.target, %error, "no address"),
        }
    }
    Ok((found, lookup.valid_until()))
}
