//! The admin listener of a role: `/metrics` (Prometheus text format 0.0.4), `/healthz`, `/readyz`, and JSON documents of the
//! role's own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{IntGauge, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::http::{self, Limits, Listener};
use crate::shutdown::Shutdown;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 256;
/// Of those, from one address.
const CONNECTIONS_PER_ADDRESS: usize = 64;
/// Size of a request's header, bytes: nobody asks for much here.
const HEADER_BYTES: usize = 16 << 10;

/// Whether the role can do its work; `/readyz` answers from it. Starts as not ready. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    ready: Arc<AtomicBool>,
}

impl Readiness {
    /// Not ready yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what `/readyz` says from now on.
    pub fn set(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// What `/readyz` says now.
    pub fn get(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

/// A running admin listener; dropping it closes it.
#[derive(Debug)]
pub struct AdminHandle {
    address: SocketAddr,
    shutdown: Shutdown,
}

impl AdminHandle {
    /// The address it is bound to, with the port the system chose if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Base URL, for example `http://127.0.0.1:9090`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for AdminHandle {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

#[derive(Clone)]
struct Served {
    registry: Registry,
    readiness: Readiness,
}

/// A JSON document: its path, and what makes it anew for each request.
pub type Document = (&'static str, Box<dyn Fn() -> String + Send + Sync>);

/// Binds `address` and serves from a task of its own.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    registry: Registry,
    readiness: Readiness,
) -> std::io::Result<AdminHandle> {
    serve_with(address, registry, readiness, Vec::new()).await
}

/// [`serve`] with documents of the role's own.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve_with(
    address: SocketAddr,
    registry: Registry,
    readiness: Readiness,
    documents: Vec<Document>,
) -> std::io::Result<AdminHandle> {
    let tcp = TcpListener::bind(address).await?;
    let address = tcp.local_addr()?;
    let listener = listener(tcp, &registry).map_err(std::io::Error::other)?;
    let mut app = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(ready))
        .with_state(Served {
            registry,
            readiness,
        });
    for (path, make) in documents {
        let make: Arc<dyn Fn() -> String + Send + Sync> = Arc::from(make);
        let answer =
            move || std::future::ready(([(header::CONTENT_TYPE, "application/json")], make()));
        app = app.route(path, get(answer));
    }
    let shutdown = Shutdown::new();
    tokio::spawn(http::serve(listener, app, shutdown.clone()));
    Ok(AdminHandle { address, shutdown })
}

/// The listener with its limits: for a few scrapers and people, who are quick.
fn listener(tcp: TcpListener, registry: &Registry) -> prometheus::Result<Listener> {
    let connections = IntGauge::new(
        "antipode_admin_connections",
        "Connections to the admin listener",
    )?;
    let refused = http::refusals("antipode_admin_refused_connections_total")?;
    registry.register(Box::new(connections.clone()))?;
    registry.register(Box::new(refused.clone()))?;
    let limits = Limits {
        connections: CONNECTIONS_MAX,
        connections_per_address: CONNECTIONS_PER_ADDRESS,
        header_bytes: HEADER_BYTES,
        ..Limits::default()
    };
    Ok(Listener {
        tcp,
        tls: None,
        limits,
        connections,
        refused,
    })
}

async fn metrics(State(served): State<Served>) -> Response {
    match TextEncoder::new().encode_to_string(&served.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(served): State<Served>) -> (StatusCode, &'static str) {
    if served.readiness.get() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn request(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn serves_metrics_health_and_readiness() {
        let registry = Registry::new();
        crate::process::register(&registry).unwrap();
        let readiness = Readiness::new();
        let documents: Vec<Document> = vec![("/debug/x", Box::new(|| "[1]".to_owned()))];
        let address = "127.0.0.1:0".parse().unwrap();
        let admin = serve_with(address, registry, readiness.clone(), documents)
            .await
            .unwrap();
        let address = admin.local_addr();
        assert!(
            request(address, "/healthz")
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(
            request(address, "/readyz")
                .await
                .starts_with("HTTP/1.1 503")
        );
        readiness.set(true);
        assert!(
            request(address, "/readyz")
                .await
                .starts_with("HTTP/1.1 200")
        );
        let text = request(address, "/metrics").await;
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
        let document = request(address, "/debug/x").await;
        assert!(
            document.contains("application/json") && document.ends_with("[1]"),
            "{document}"
        );
        assert!(request(address, "/else").await.starts_with("HTTP/1.1 404"));
        drop(admin);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
