//! Limits of the system: open files, buffers of UDP sockets.

use nix::sys::resource::{Resource, getrlimit};
use runtime::udp::{BUFFER_BYTES, UdpSocket};

use super::Finding;

/// Below this share of the buffer that is asked for, bursts are lost. One in so many.
const BUFFER_SHARE: usize = 8;

/// Looks at open files, and, for roles that send media, at UDP buffers.
pub(super) fn look(files_needed: u64, sends_media: bool) -> Vec<Finding> {
    let mut findings = vec![files(files_needed)];
    if sends_media {
        findings.push(buffers());
    }
    findings
}

fn files(needed: u64) -> Finding {
    const CHECK: &str = "files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) => judge_files(soft, needed),
        Err(error) => Finding::warning(CHECK, format!("limit of open files: {error}"), "nothing"),
    }
}

fn judge_files(limit: u64, needed: u64) -> Finding {
    const CHECK: &str = "files";
    let says = format!("{limit} files may be open, up to {needed} are needed");
    if limit >= needed {
        return Finding::ok(CHECK, says);
    }
    let fix = "LimitNOFILE=1048576 in the systemd unit, or `ulimit -n` before the start (this check is of the shell that it runs in)";
    if limit < needed / 4 {
        Finding::error(CHECK, says, fix)
    } else {
        Finding::warning(CHECK, says, fix)
    }
}

fn buffers() -> Finding {
    const CHECK: &str = "udp buffers";
    // Sockets are made within a runtime, which this is called from.
    let granted =
        UdpSocket::bind(([127, 0, 0, 1], 0).into()).and_then(|socket| socket.buffer_bytes());
    match granted {
        Ok((receive, send)) => judge_buffers(receive.min(send)),
        Err(error) => Finding::error(
            CHECK,
            format!("no UDP socket: {error}"),
            "nothing works without UDP",
        ),
    }
}

fn judge_buffers(granted: usize) -> Finding {
    const CHECK: &str = "udp buffers";
    let says = format!(
        "{} KiB granted, {} KiB asked for",
        granted >> 10,
        BUFFER_BYTES >> 10
    );
    if granted >= BUFFER_BYTES {
        return Finding::ok(CHECK, says);
    }
    let fix = format!(
        "sysctl -w net.core.rmem_max={BUFFER_BYTES} net.core.wmem_max={BUFFER_BYTES}, or give the process CAP_NET_ADMIN"
    );
    if granted < BUFFER_BYTES / BUFFER_SHARE {
        Finding::error(CHECK, says, fix)
    } else {
        Finding::warning(CHECK, says, fix)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn too_little_is_judged_by_how_much_it_lacks() {
        assert_eq!(judge_files(1_048_576, 2_256).level, Level::Ok);
        assert_eq!(judge_files(1_024, 2_256).level, Level::Warning);
        assert_eq!(judge_files(256, 2_256).level, Level::Error);
        assert_eq!(judge_buffers(2 * BUFFER_BYTES).level, Level::Ok);
        assert_eq!(judge_buffers(BUFFER_BYTES / 2).level, Level::Warning);
        let small = judge_buffers(212_992);
        assert_eq!(small.level, Level::Error);
        assert!(small.fix.contains("net.core.rmem_max=4194304"), "{small:?}");
    }
}
