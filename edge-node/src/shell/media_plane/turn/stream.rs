//! TURN over TCP and TLS: one task per connection, which has at most one allocation.

mod backlog;

use super::super::shard::Outbound;
use super::super::tcp::canonical;
use super::Relay;
use super::flows::Session;
use crate::core::turn::{FRAME_MAX, Unframed, split};
use backlog::Backlog;
use bytes::{Buf as _, BytesMut};
use runtime::shutdown::Shutdown;
use runtime::tcp::{Place, Places};
use runtime::tls::listener::Acceptor;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Time for the TLS handshake, and again for an allocation.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Datagrams of shards on their way to the connection's task, which takes them at once.
const OUTGOING: usize = 256;
/// Bytes that the system may hold which are not on their way yet. What waits beyond that waits where the oldest can be dropped.
const UNSENT: u32 = 16 << 10;
/// Bytes handed to the system at once: a TLS record.
const WRITE: usize = 16 << 10;
/// How often the allocation is looked at for its end.
const TICK: Duration = Duration::from_secs(1);

/// A TCP listener.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) tcp: TcpListener,
    /// Connections speak TLS.
    pub(super) tls: Option<Acceptor>,
    pub(super) limits: Places,
}

/// Accepts connections until the shutdown, which ends them as well.
pub(super) async fn serve(listener: Listener, relay: Arc<Relay>, shutdown: Shutdown) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.tcp.accept() => accepted,
            () = shutdown.wait() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                let Some(place) = listener.limits.take(remote.ip()) else {
                    relay.metrics.refused("connection_limit");
                    continue;
                };
                let connection = connection(
                    stream,
                    (canonical(remote), place),
                    relay.clone(),
                    listener.tls.clone(),
                );
                let shutdown = shutdown.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        ended = connection => if let Err(error) = ended {
                            tracing::debug!(%error, "TURN connection ended");
                        },
                        () = shutdown.wait() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting TURN connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    (remote, _place): (SocketAddr, Place),
    relay: Arc<Relay>,
    tls: Option<Acceptor>,
) -> io::Result<()> {
    runtime::tcp::prefer_latency(&stream, UNSENT);
    match tls {
        None => converse(stream, ("tcp", remote), relay).await,
        Some(tls) => {
            let stream = tokio::time::timeout(SETUP_TIMEOUT, tls.accept(stream)).await;
            let stream = stream
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))
                .flatten()
                .inspect_err(|_| relay.metrics.refused("tls_handshake"))?;
            Box::pin(converse(stream, ("tls", remote), relay)).await
        }
    }
}

/// Moves messages both ways until one side has enough. Reading goes on while writing waits: it is how the client refreshes.
async fn converse(
    stream: impl AsyncRead + AsyncWrite,
    from: (&'static str, SocketAddr),
    relay: Arc<Relay>,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (outgoing, mut datagrams) = mpsc::channel(OUTGOING);
    let mut connection = Connection {
        session: Session::new(&relay, from, outgoing),
        relay,
        backlog: Backlog::default(),
        input: BytesMut::with_capacity(WRITE),
        output: Vec::with_capacity(WRITE),
        written: 0,
        flushed: true,
    };
    let mut batch: Vec<Outbound> = Vec::with_capacity(OUTGOING);
    let mut ticks = tokio::time::interval(TICK);
    let deadline = tokio::time::sleep(SETUP_TIMEOUT);
    tokio::pin!(deadline);
    loop {
        connection.fill();
        let pending = connection
            .output
            .get(connection.written..)
            .unwrap_or_default();
        let writing = !pending.is_empty() || !connection.flushed;
        tokio::select! {
            read = reader.read_buf(&mut connection.input) => {
                if read? == 0 {
                    return Ok(());
                }
                connection.take_input()?;
            }
            _ = datagrams.recv_many(&mut batch, OUTGOING) => connection.queue(&mut batch),
            pushed = push(&mut writer, pending), if writing => connection.advance(pushed?),
            _ = ticks.tick() => connection.session.tick(),
            () = &mut deadline, if !connection.session.has_allocation() => {
                connection.relay.metrics.refused("no_allocation");
                return Ok(());
            }
        }
    }
}

/// Writes some of `pending`, or flushes when nothing is: TLS holds back what did not fit the socket.
async fn push(writer: &mut (impl AsyncWrite + Unpin), pending: &[u8]) -> io::Result<usize> {
    if pending.is_empty() {
        writer.flush().await.map(|()| 0)
    } else {
        writer.write(pending).await
    }
}

struct Connection {
    relay: Arc<Relay>,
    session: Session,
    backlog: Backlog,
    input: BytesMut,
    output: Vec<u8>,
    /// Bytes of `output` that have been handed over.
    written: usize,
    flushed: bool,
}

impl Connection {
    fn take_input(&mut self) -> io::Result<()> {
        loop {
            match split(&self.input) {
                Unframed::Incomplete => return Ok(()),
                Unframed::Broken => {
                    self.relay.metrics.refused("malformed");
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Unframed::Message { length, consumed } => {
                    let message = self.input.get(..length).unwrap_or_default();
                    let outcome = self.session.receive(message);
                    self.input.advance(consumed);
                    for response in outcome.responses {
                        let dropped = self.backlog.push_response(response);
                        self.relay.metrics.dropped("slow_client", dropped);
                    }
                }
            }
        }
    }

    fn queue(&mut self, batch: &mut Vec<Outbound>) {
        for datagram in batch.drain(..) {
            let dropped = self.backlog.push(datagram);
            self.relay.metrics.dropped("slow_client", dropped);
        }
    }

    /// Puts what waits into the output once that has been handed over.
    fn fill(&mut self) {
        if self.written < self.output.len() {
            return;
        }
        self.output.clear();
        self.written = 0;
        while self.output.len() + FRAME_MAX <= WRITE {
            match self.backlog.pop() {
                Some(backlog::Item::Response(response)) => self.output.extend(response),
                Some(backlog::Item::Datagram(datagram)) => {
                    self.session.write(&datagram, (true, &mut self.output));
                }
                None => return,
            }
        }
    }

    fn advance(&mut self, pushed: usize) {
        self.written += pushed;
        self.flushed = pushed == 0;
    }
}
