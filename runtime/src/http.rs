//! Serves an axum application to people who may not wish us well: bounded connections, over TLS or not, and a limit on how slowly
//! a request may arrive.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::{IntCounterVec, IntGauge, Opts};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};

use crate::shutdown::Shutdown;
use crate::tcp::{Guarded, Places};
use crate::tls::listener::Acceptor;

/// Pause after an accept that failed: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long running requests may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(2);

/// What one listener puts up with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the listen queue.
    pub connections: usize,
    /// Of those, from one address (an IPv6 client is its /64); 0: no limit. Further ones are closed. Connections that became
    /// something else (WebSockets) do not count.
    pub connections_per_address: usize,
    /// How long the TLS handshake, and then each request's header, may take to arrive.
    pub header_timeout: Duration,
    /// How long a client may take no byte of what it asked for.
    pub stall_timeout: Duration,
    /// Size of a request's header, bytes. At least 8,192.
    pub header_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            // A large office behind one address that joins within seconds; still few of all.
            connections_per_address: 1_024,
            header_timeout: Duration::from_secs(10),
            // As long as TCP itself is patient with a path that lost everything several times.
            stall_timeout: Duration::from_secs(30),
            // A join request rides in the request line: a first offer is about 4 KiB compressed, 20 KiB if not.
            header_bytes: 64 << 10,
        }
    }
}

/// A listener to serve.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub tcp: TcpListener,
    /// TLS; none: plain HTTP.
    pub tls: Option<Acceptor>,
    /// What it puts up with.
    pub limits: Limits,
    /// Shows how many connections there are.
    pub connections: IntGauge,
    /// Counts connections that were refused or cut off, by reason: [`refusals`].
    pub refused: IntCounterVec,
}

/// The counter of a listener's refused connections, with the label `reason`: `address_limit`, `tls_handshake`, `silent` (no
/// request within its time), `slow_header`, `malformed`, `slow_reader`.
///
/// # Errors
/// When the name is none.
pub fn refusals(name: &str) -> prometheus::Result<IntCounterVec> {
    let help = "Connections refused or cut off, by reason";
    IntCounterVec::new(Opts::new(name, help), &["reason"])
}

/// Serves HTTP/1.1 until `shutdown`; then takes no more connections, lets running requests end for up to 2 s, and leaves
/// connections that became something else (WebSockets) to their owners. Handlers find the peer's address as
/// `ConnectInfo<SocketAddr>`.
pub async fn serve<S>(listener: Listener, app: S, shutdown: Shutdown)
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let Listener {
        tcp,
        tls,
        limits,
        connections,
        refused,
    } = listener;
    let slots = Arc::new(Semaphore::new(limits.connections));
    let places = Places::new(0, limits.connections_per_address);
    let tasks = TaskTracker::new();
    while let Some((stream, peer, slot)) = accept(&tcp, &slots, &shutdown).await {
        let Some(place) = places.take(peer.ip()) else {
            refused.with_label_values(&["address_limit"]).inc();
            continue;
        };
        let conversation = Conversation {
            peer,
            limits,
            app: app.clone(),
            shutdown: shutdown.clone(),
            refused: refused.clone(),
        };
        let (tls, connections) = (tls.clone(), connections.clone());
        tasks.spawn(async move {
            connections.inc();
            converse(stream, tls, conversation).await;
            connections.dec();
            drop((slot, place));
        });
    }
    drop(tcp);
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::debug!(
            connections = tasks.len(),
            "listener stops with requests open"
        );
    }
}

/// The next connection and its right to be served; `None` at shutdown.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    shutdown: &Shutdown,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let next = async {
        let slot = Arc::clone(slots).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return Some((stream, peer, slot)),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        accepted = next => accepted,
        () = shutdown.wait() => None,
    }
}

/// One connection's share of the listener.
struct Conversation<S> {
    peer: SocketAddr,
    limits: Limits,
    app: S,
    shutdown: Shutdown,
    refused: IntCounterVec,
}

impl<S> Conversation<S> {
    fn count(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }
}

async fn converse<S>(stream: TcpStream, tls: Option<Acceptor>, conversation: Conversation<S>)
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    // Answers are small: they are not held back where the system lets us say so.
    stream.set_nodelay(true).ok();
    let Some(tls) = tls else {
        return speak(stream, conversation).await;
    };
    let handshake = tokio::time::timeout(conversation.limits.header_timeout, tls.accept(stream));
    match handshake.await.map_err(io::Error::from).flatten() {
        Ok(stream) => Box::pin(speak(stream, conversation)).await,
        Err(error) => {
            conversation.count("tls_handshake");
            tracing::debug!(%error, "no TLS handshake");
        }
    }
}

async fn speak<S>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    conversation: Conversation<S>,
) where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (peer, limits) = (conversation.peer, conversation.limits);
    let app = conversation.app.clone();
    let stream = Guarded::new(stream, limits.stall_timeout, conversation.refused.clone());
    let unanswered = stream.unanswered();
    let asked = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&asked);
    let service = app.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
        noted.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.map(Body::new)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    // For those who never send a byte. hyper's own clock may start later, or strike first.
    let silence = async {
        tokio::time::sleep(limits.header_timeout).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silence => {
            let began = unanswered.load(Ordering::Relaxed);
            conversation.count(if began { "slow_header" } else { "silent" });
            return tracing::debug!("connection without a request closed");
        }
        () = conversation.shutdown.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Who only waits, having been answered, may: the connection is closed for being idle.
        if error.is_timeout() && unanswered.load(Ordering::Relaxed) {
            conversation.count("slow_header");
        } else if error.is_timeout() && !asked.load(Ordering::Relaxed) {
            conversation.count("silent");
        } else if error.is_parse() {
            conversation.count("malformed");
        }
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(300);

    /// A listener with one route; ends when the returned shutdown is triggered.
    async fn start(connections: usize) -> (SocketAddr, Shutdown, tokio::task::JoinHandle<()>) {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let slow = async || {
            tokio::time::sleep(PATIENCE * 2).await;
            "late"
        };
        let app = Router::new()
            .route("/", get(|| std::future::ready("OK")))
            .route("/slow", get(slow));
        let listener = Listener {
            tcp,
            tls: None,
            limits: Limits {
                connections,
                header_timeout: PATIENCE,
                ..Limits::default()
            },
            connections: IntGauge::new("open", "Connections.").unwrap(),
            refused: refusals("refused").unwrap(),
        };
        let shutdown = Shutdown::new();
        let serving = tokio::spawn(serve(listener, app, shutdown.clone()));
        (address, shutdown, serving)
    }

    async fn get_path(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn silent_and_dribbling_clients_lose_their_place() {
        let (address, shutdown, _) = start(2).await;
        let began = Instant::now();
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut dribbling = TcpStream::connect(address).await.unwrap();
        dribbling.write_all(b"GET / HT").await.unwrap();
        // Both places are taken until the two are thrown out.
        assert!(get_path(address, "/").await.ends_with("OK"));
        assert!(began.elapsed() >= PATIENCE);
        let mut rest = Vec::new();
        silent.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        // The one that began a request may be told so before it is cut off.
        drop(dribbling.read_to_end(&mut rest).await);
        shutdown.trigger();
    }

    #[tokio::test]
    async fn running_requests_end_in_peace() {
        let (address, shutdown, serving) = start(8).await;
        let idle = TcpStream::connect(address).await.unwrap();
        let request = tokio::spawn(async move { get_path(address, "/slow").await });
        tokio::time::sleep(PATIENCE / 3).await;
        let began = Instant::now();
        shutdown.trigger();
        serving.await.unwrap();
        assert!(
            began.elapsed() < DRAIN,
            "nothing waits for idle connections"
        );
        assert!(request.await.unwrap().ends_with("late"));
        assert!(TcpStream::connect(address).await.is_err());
        drop(idle);
    }
}
