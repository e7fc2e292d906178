//! Whether a role could listen where it is to, and who is in the way.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use super::Finding;

const CHECK: &str = "ports";
/// State of a listening TCP socket in `/proc/net/tcp` (`TCP_LISTEN` of the kernel).
const LISTENING: &str = "0A";

/// What is listened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Where a role listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// The key of the configuration.
    pub(super) key: &'static str,
    pub(super) transport: Transport,
    pub(super) address: SocketAddr,
}

/// Tries to listen there.
pub(super) fn look(port: &Port) -> Finding {
    let Port {
        key,
        transport,
        address,
    } = port;
    let bound = match transport {
        Transport::Tcp => TcpListener::bind(address).map(drop),
        Transport::Udp => UdpSocket::bind(address).map(drop),
    };
    let at = format!("{key} {address} ({transport})");
    let Err(error) = bound else {
        return Finding::ok(CHECK, format!("{at} is free"));
    };
    match error.kind() {
        ErrorKind::AddrInUse => in_use(port, &at),
        ErrorKind::PermissionDenied => Finding::error(
            CHECK,
            format!("{at} is not allowed"),
            "ports below 1024 need CAP_NET_BIND_SERVICE: AmbientCapabilities of systemd, or setcap cap_net_bind_service=+ep",
        ),
        ErrorKind::AddrNotAvailable => Finding::error(
            CHECK,
            format!("{at} is not an address of this machine"),
            format!(
                "set {key} to 0.0.0.0 or to an address that `ip address` shows; what others reach is set apart"
            ),
        ),
        _ => Finding::error(
            CHECK,
            format!("{at}: {error}"),
            format!("set {key} to another address"),
        ),
    }
}

fn in_use(port: &Port, at: &str) -> Finding {
    let users = users(port);
    let Some((pid, name)) = users.first() else {
        return Finding::error(
            CHECK,
            format!("{at} is in use; by whom is shown to root only"),
            "end that process, or set another port",
        );
    };
    let says = format!("{at} is in use by {name} (pid {pid})");
    if name == "antipode" {
        return Finding::warning(
            CHECK,
            says,
            "nothing, if that is this very role; otherwise set another port",
        );
    }
    let fix = format!("end it (kill {pid}), or set {} to another port", port.key);
    Finding::error(CHECK, says, fix)
}

/// Processes with a socket on the port, as far as we may see them.
fn users(port: &Port) -> Vec<(u32, String)> {
    let tables = match port.transport {
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let listening = port.transport == Transport::Tcp;
    let inodes: BTreeSet<String> = tables
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| inodes(&table, port.address.port(), listening))
        .collect();
    if inodes.is_empty() {
        return Vec::new();
    }
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| holds(*pid, &inodes))
        .map(|pid| (pid, name_of(pid)))
        .collect()
}

/// Inodes of the sockets of a port in a table of `/proc/net` (proc(5)).
fn inodes(table: &str, port: u16, listening: bool) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let local = fields.get(1)?;
        let state = fields.get(3)?;
        let fits = local.ends_with(&wanted) && (!listening || *state == LISTENING);
        fits.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    };
    table.lines().skip(1).filter_map(inode).collect()
}

fn holds(pid: u32, inodes: &BTreeSet<String>) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut targets = files.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.any(|target: std::path::PathBuf| {
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[");
        let inode = inode.and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.contains(inode))
    })
}

fn name_of(pid: u32) -> String {
    let path = format!("/proc/{pid}/comm");
    let name = std::fs::read_to_string(Path::new(&path)).unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn who_listens_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = Port {
            key: "http",
            transport: Transport::Tcp,
            address: taken.local_addr().unwrap(),
        };
        let finding = look(&port);
        assert!(finding.level > Level::Ok, "{finding:?}");
        let pid = std::process::id().to_string();
        assert!(finding.says.contains(&pid), "{finding:?}");
        drop(taken);
        assert_eq!(look(&port).level, Level::Ok);

        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = Port {
            key: "link",
            transport: Transport::Udp,
            address: taken.local_addr().unwrap(),
        };
        assert!(look(&port).says.contains(&pid), "{:?}", look(&port));
    }

    #[test]
    fn an_address_of_another_machine_is_told_apart() {
        let port = Port {
            key: "link",
            transport: Transport::Udp,
            address: "192.0.2.1:7890".parse().unwrap(),
        };
        let finding = look(&port);
        assert_eq!(finding.level, Level::Error);
        assert!(finding.says.contains("not an address of this machine"));
    }

    #[test]
    fn tables_of_sockets_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1EC8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n   \
            1: 0100007F:1EC8 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n";
        assert_eq!(inodes(table, 7880, true), ["4711"]);
        assert_eq!(inodes(table, 7880, false), ["4711", "4712"]);
        assert!(inodes("nonsense\nx", 7880, true).is_empty());
    }
}
