//! ICE over TCP, passive (RFC 6544) with framing after RFC 4571: for clients whose network lets no UDP through.

use super::plane::Plane;
use super::shard::{ConnectionInput, Outbound};
use crate::core::ice::{Path, local_ufrag, shard_of_ufrag};
use runtime::shutdown::Shutdown;
use runtime::tcp::Places;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Time for the first connectivity check.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Consent to send is checked every five seconds (RFC 7675 section 5.1): who says nothing for so long has gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a client may take nothing of what it is sent: by then its media is worthless.
const STALL_MAX: Duration = Duration::from_secs(10);
/// Connections in all.
const CONNECTIONS_MAX: usize = 4096;
/// Connections from one address: a small office behind one NAT, two transports each.
const CONNECTIONS_PER_ADDRESS: usize = 64;
/// Frames waiting to be written to a slow client before new ones are dropped: 200 ms of 2 Mbit/s and more.
const OUTGOING: usize = 256;
/// Largest frame taken, in bytes: no datagram of ours or theirs is larger.
const FRAME_MAX: usize = 2048;
/// Pause after a failed accept: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the shutdown.
pub(super) async fn serve(listener: TcpListener, plane: Arc<Plane>, shutdown: Shutdown) {
    let limits = Places::new(CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS);
    let mut next = 0_u32;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                let Some(place) = limits.take(remote.ip()) else {
                    plane.metrics.tcp_refused("limit");
                    continue;
                };
                next = next.wrapping_add(1);
                let (plane, shutdown) = (Arc::clone(&plane), shutdown.clone());
                let path = Path::tcp(canonical(remote), next);
                tokio::spawn(async move {
                    tokio::select! {
                        result = connection(stream, path, &plane) => if let Err(error) = result {
                            tracing::debug!(?path, %error, "ICE-TCP connection ended");
                        },
                        () = shutdown.wait() => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting ICE-TCP");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection: the first frame says which shard it belongs to; the shard checks it and answers.
async fn connection(stream: TcpStream, path: Path, plane: &Plane) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let mut read = BufReader::new(read);
    let first = tokio::time::timeout(FIRST_FRAME_TIMEOUT, read_frame(&mut read)).await;
    let first = first
        .map_err(|_| io::ErrorKind::TimedOut)
        .inspect_err(|_| {
            plane.metrics.tcp_refused("timeout");
        })??;
    let shard = local_ufrag(&first)
        .and_then(|ufrag| shard_of_ufrag(&ufrag))
        .and_then(|shard| plane.shards.get(shard));
    let Some(shard) = shard else {
        plane.metrics.tcp_refused("no_check");
        return Ok(());
    };
    let (outgoing, frames) = mpsc::channel(OUTGOING);
    let send = async |input| {
        let sent = shard
            .connections
            .send(input)
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe);
        shard.bell.ring();
        sent
    };
    send(ConnectionInput::Opened { path, outgoing }).await?;
    send(ConnectionInput::Frame { path, bytes: first }).await?;
    let reading = async {
        loop {
            let bytes = tokio::time::timeout(SILENCE_MAX, read_frame(&mut read)).await;
            let bytes = bytes.map_err(|_| io::ErrorKind::TimedOut)??;
            send(ConnectionInput::Frame { path, bytes }).await?;
        }
    };
    // The shard drops its end when the first check is no good; writing ends then, and the connection with it.
    let result = tokio::select! {
        result = reading => result,
        result = write_frames(write, frames) => result,
    };
    send(ConnectionInput::Closed { path }).await?;
    result
}

async fn read_frame(read: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::from(read.read_u16().await?);
    if length > FRAME_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; length];
    read.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn write_frames(
    mut write: OwnedWriteHalf,
    mut frames: mpsc::Receiver<Outbound>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut batch = Vec::with_capacity(16);
    while frames.recv_many(&mut batch, 16).await > 0 {
        buffer.clear();
        for Outbound { bytes, .. } in batch.drain(..) {
            if let Ok(length) = u16::try_from(bytes.len()) {
                buffer.extend(length.to_be_bytes());
                buffer.extend_from_slice(&bytes);
            }
        }
        let written = tokio::time::timeout(STALL_MAX, write.write_all(&buffer)).await;
        written.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(())
}

/// An IPv4 client of a dual-stack socket by its IPv4 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
