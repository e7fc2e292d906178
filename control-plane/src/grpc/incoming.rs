//! Connections of nodes and operators, as the gRPC server takes them: so many, and from those who speak.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use prometheus::IntCounterVec;
use runtime::tcp::{Guarded, Place, Places};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections at a time: every node has two, and they come again before the old ones are missed.
const CONNECTIONS_MAX: usize = 8_192;
/// Of those, from one address: a machine of nodes, or a network behind one address.
const CONNECTIONS_PER_ADDRESS: usize = 512;
/// Bytes that every client begins with (RFC 9113 section 3.4). What comes then is watched by HTTP/2's own pings.
const PREFACE: usize = 24;
/// How long they may take.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take no byte of what it is sent.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after an accept that failed: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection that has a place.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Guarded<TcpStream>,
    _place: Place,
}

/// The connections that come, without those that are refused.
pub(super) fn incoming(
    listener: TcpListener,
    refused: IntCounterVec,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Places::new(CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS);
    unfold((listener, places, refused), |state| async move {
        let (listener, places, refused) = &state;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(connection) = Connection::new(stream, (peer, places), refused) {
                        return Some((Ok(connection), state));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting gRPC connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

impl Connection {
    fn new(
        stream: TcpStream,
        (peer, places): (SocketAddr, &Places),
        refused: &IntCounterVec,
    ) -> Option<Self> {
        let Some(place) = places.take(peer.ip()) else {
            refused.with_label_values(&["address_limit"]).inc();
            return None;
        };
        // Messages are small: they are not held back where the system lets us say so.
        stream.set_nodelay(true).ok();
        let stream = Guarded::new(stream, STALL_TIMEOUT, refused.clone());
        Some(Self {
            stream: stream.opened_within(PREFACE_TIMEOUT, PREFACE),
            _place: place,
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.get_ref().connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
