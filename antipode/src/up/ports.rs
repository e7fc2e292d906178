//! Which ports the processes listen on.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use anyhow::Context;

/// Free ports are looked for here: below the range that Linux gives to outgoing sockets (32768 and up), so that they stay
/// free while a process restarts.
const SEARCHED: std::ops::Range<u16> = 20_000..32_000;

/// Hands out ports that nobody listens on, each once.
#[derive(Debug)]
pub(crate) struct Free {
    bind: IpAddr,
    next: u16,
    left: u16,
}

impl Free {
    /// Looks for ports that are free on `bind` and on loopback, from a random one on.
    pub(crate) fn new(bind: IpAddr) -> Self {
        let span = SEARCHED.end - SEARCHED.start;
        let random = RandomState::new().hash_one(std::process::id()) % u64::from(span);
        let offset = u16::try_from(random).unwrap_or(0);
        Self {
            bind,
            next: SEARCHED.start + offset,
            left: span,
        }
    }

    /// The first of `count` consecutive ports that are free for TCP and UDP.
    ///
    /// # Errors
    /// When there are none left.
    pub(crate) fn take(&mut self, count: u16) -> anyhow::Result<u16> {
        let mut run = 0;
        while self.left > 0 {
            let port = self.next;
            self.left -= 1;
            let wraps = port + 1 >= SEARCHED.end;
            self.next = if wraps { SEARCHED.start } else { port + 1 };
            run = if self.is_free(port) { run + 1 } else { 0 };
            if run == count {
                return Ok(port + 1 - count);
            }
            if wraps {
                run = 0;
            }
        }
        anyhow::bail!("no free ports from {} to {}", SEARCHED.start, SEARCHED.end)
    }

    fn is_free(&self, port: u16) -> bool {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        [self.bind, loopback]
            .into_iter()
            .all(|address| check(address, port).is_ok())
    }
}

/// Whether a process may listen on the port.
///
/// # Errors
/// When it is taken or not allowed; the text names it.
pub(crate) fn check(address: IpAddr, port: u16) -> anyhow::Result<()> {
    let free = TcpListener::bind((address, port)).and_then(|_| UdpSocket::bind((address, port)));
    free.with_context(|| format!("port {port} on {address} cannot be used"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_handed_out_once_and_taken_ones_never() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut free = Free::new(loopback);
        let first = free.take(1).unwrap();
        let run = free.take(4).unwrap();
        let last = free.take(1).unwrap();
        assert!(first != last && !(run..run + 4).contains(&first));
        assert!(!(run..run + 4).contains(&last));
        let listener = TcpListener::bind((loopback, 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        let said = check(loopback, taken).unwrap_err().to_string();
        assert!(said.contains(&taken.to_string()), "{said}");
    }
}
