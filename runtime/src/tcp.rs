//! TCP connections: options of those that carry media, and limits for those of people who may not wish us well.

mod guard;
mod places;

use socket2::SockRef;
use tokio::net::TcpStream;

pub use guard::Guarded;
pub use places::{Place, Places};

/// Has small writes leave at once, and lets the system hold back no more than `unsent` bytes that are not on their way yet: beyond
/// that the socket is not writable, so that a queue with a drop policy can do what it is for. A system that lacks an option does
/// without.
pub fn prefer_latency(stream: &TcpStream, unsent: u32) {
    let socket = SockRef::from(stream);
    let set = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_notsent_lowat(unsent));
    if let Err(error) = set {
        tracing::debug!(%error, "TCP options");
    }
}
