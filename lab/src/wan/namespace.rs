//! Network namespaces of Linux, through iproute2: `ip netns exec NAME …` finds what is made here.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

/// Where iproute2 keeps the names.
const DIRECTORY: &str = "/run/netns";

/// A network namespace with a name. One that this made is removed when it is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    made: bool,
}

impl Namespace {
    /// Uses the namespace of this name, or makes it with its loopback interface up.
    ///
    /// # Errors
    /// When it cannot be made: no rights (root is needed) or no iproute2.
    pub fn open(name: &str) -> io::Result<Self> {
        let made = !path(name).exists();
        if made {
            ip(&["netns", "add", name])?;
        }
        let namespace = Self {
            name: name.to_owned(),
            made,
        };
        if made {
            namespace.ip(&["link", "set", "lo", "up"])?;
        }
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` inside: sockets and devices that it opens belong to the namespace and keep doing so.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        // Of a thread's own, for a thread that has entered never comes back.
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(File::open(path(&self.name))?, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("panic inside a namespace")))
        })
    }

    /// Runs iproute2's `ip` inside.
    ///
    /// # Errors
    /// When it fails; the text is what it said.
    pub fn ip(&self, args: &[&str]) -> io::Result<()> {
        let inside = ["-n", &self.name];
        ip(&[&inside, args].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = ip(&["netns", "delete", &self.name])
        {
            tracing::warn!(%error, namespace = self.name, "network namespace stays");
        }
    }
}

fn path(name: &str) -> PathBuf {
    [DIRECTORY, name].iter().collect()
}

fn ip(args: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(args).output();
    let output = output.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("ip (Debian package iproute2): {error}"),
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "ip {}: {}",
        args.join(" "),
        said.trim()
    )))
}
