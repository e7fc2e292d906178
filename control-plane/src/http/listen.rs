//! Accepts the gateway's connections, within limits: how many there are, and how long a client may take to say what it
//! wants (a client that dribbles its request header must not hold a connection for ever).

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client_address::Peer;
use crate::metrics::Metrics;

/// Pause after an accept that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(2);
/// Size of a request's header in bytes.
const HEADER_MAX: usize = 32 * 1_024;

/// Limits of the listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections served at once; more wait in the backlog.
    pub connections: usize,
    /// How long a client may take for a request's header, an idle connection's next one included.
    pub header_timeout: Duration,
}

/// Serves until `shutdown`, then lets requests that run end for up to 2 s.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Metrics,
    shutdown: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    while let Some((stream, permit)) = accept(&listener, &permits, &shutdown).await {
        metrics.http_connections.inc();
        let (metrics, shutdown) = (metrics.clone(), shutdown.clone());
        let peer = stream.peer_addr().map(|peer| Peer(peer.ip()));
        let router = match peer {
            Ok(peer) => router.clone().layer(Extension(peer)),
            // It has gone again already.
            Err(_) => router.clone(),
        };
        connections.spawn(async move {
            converse(stream, router, limits.header_timeout, shutdown).await;
            metrics.http_connections.dec();
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait())
        .await
        .is_err()
    {
        tracing::debug!(
            connections = connections.len(),
            "gateway stops with connections open"
        );
    }
}

/// The next connection and its right to be served; `None` at shutdown.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let next = async {
        let permit = Arc::clone(permits).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, permit)),
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        accepted = next => accepted,
        () = shutdown.cancelled() => None,
    }
}

async fn converse(
    stream: TcpStream,
    router: Router,
    header_timeout: Duration,
    shutdown: CancellationToken,
) {
    // Answers are small: do not hold them back.
    stream.set_nodelay(true).ok();
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEADER_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection broke");
    }
}
