//! `antipode up`: a whole mesh on this machine, every role a process of its own, with realistic distances between regions.

mod child;
mod files;
mod layout;
mod links;
mod options;
mod ports;
mod report;
mod supervisor;
mod wan;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use runtime::shutdown::Shutdown;
use tokio::sync::mpsc;

use crate::cli::LogFlags;
use layout::Layout;
pub(crate) use options::Options;
use report::Mesh;
use supervisor::{State, Supervisor};

/// The development API key that a mesh of `antipode up` knows.
pub(crate) const API_KEY: &str = "devkey";

/// The development key's secret.
pub(crate) const API_SECRET: &str = "secret";

/// How long the processes may take to say that they serve.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long all links together may take to come up; later the mesh counts as ready with a warning.
const LINKS_WITHIN: Duration = Duration::from_secs(10);

/// Runs the mesh until Ctrl-C or SIGTERM.
///
/// # Errors
/// When the options do not fit together, a port is taken, or a role does not start.
pub(crate) async fn run(options: Options, log: &LogFlags) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals()?;
    if options.exit_with_parent {
        shutdown.on_stdin_closed()?;
    }
    let layout = Layout::new(&options)?;
    let directory = Directory::open(&options)?;
    let wan = wan::Wan::start(&layout.nodes, &options).context("WAN emulator")?;
    let specs = files::write(directory.path(), &layout, &wan, &options)?;
    let mesh = Mesh::new(&layout, directory.path());
    let (states, updates) = mpsc::channel(64);
    let supervisor = Supervisor::start(specs, options.restart.is_on(), log, &states, &shutdown)?;
    drop(states);
    let outcome = follow(mesh, updates, &layout, &shutdown).await;
    shutdown.trigger();
    supervisor.stopped().await;
    mesh_file_gone(directory.path());
    drop(wan);
    outcome
}

/// Waits until all is up, prints the ready line, then keeps the mesh's file up to date until the end.
async fn follow(
    mut mesh: Mesh,
    mut updates: mpsc::Receiver<(usize, State)>,
    layout: &Layout,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let started = tokio::time::timeout(READY_WITHIN, all_ready(&mut mesh, &mut updates));
    tokio::select! {
        started = started => started.with_context(|| {
            format!("not ready within {READY_WITHIN:?}: {}", mesh.missing().join(", "))
        })??,
        () = shutdown.wait() => return Ok(()),
    }
    let control = layout.grpc_url();
    tokio::select! {
        () = links::wait(&control, &layout.nodes, LINKS_WITHIN) => {}
        () = shutdown.wait() => return Ok(()),
    }
    mesh.print()?;
    mesh.save()?;
    tracing::info!(
        url = mesh.http_url(),
        edges = layout.edges().count(),
        relays = layout.relays().count(),
        "mesh is up; Ctrl-C stops it"
    );
    loop {
        tokio::select! {
            update = updates.recv() => match update {
                Some((index, State::Ready(ready))) => {
                    mesh.set_ready(index, &ready);
                    mesh.save()?;
                }
                Some((_, State::Failed(_))) => {}
                None => return Ok(()),
            },
            () = shutdown.wait() => return Ok(()),
        }
    }
}

/// Until every process has printed its ready line; one that dies before is an error.
async fn all_ready(
    mesh: &mut Mesh,
    updates: &mut mpsc::Receiver<(usize, State)>,
) -> anyhow::Result<()> {
    while !mesh.missing().is_empty() {
        match updates.recv().await {
            Some((index, State::Ready(ready))) => mesh.set_ready(index, &ready),
            Some((index, State::Failed(reason))) => {
                anyhow::bail!("{} does not start: {reason}", mesh.name(index))
            }
            None => anyhow::bail!("stopped while starting"),
        }
    }
    Ok(())
}

/// gRPC URL of the mesh that runs from the default data directory, if one does.
pub(crate) fn running_control() -> Option<String> {
    let text = std::fs::read_to_string(report::path(&default_directory(7880)?)).ok()?;
    report::control_url(&text)
}

fn mesh_file_gone(directory: &Path) {
    // It may never have been written.
    drop(std::fs::remove_file(report::path(directory)));
}

/// Where the mesh keeps its files. A temporary one goes when this is dropped.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    temporary: bool,
    /// Locked for as long as the mesh runs.
    _lock: File,
}

impl Directory {
    fn open(options: &Options) -> anyhow::Result<Self> {
        let (path, temporary) = match (&options.data_dir, options.base_port) {
            (Some(path), _) => (path.clone(), false),
            (None, 0) => {
                let name = format!("antipode-up-{}", std::process::id());
                (std::env::temp_dir().join(name), true)
            }
            (None, port) => {
                let path = default_directory(port);
                (path.context("no home directory: give --data-dir")?, false)
            }
        };
        std::fs::create_dir_all(&path)
            .with_context(|| format!("data directory {}", path.display()))?;
        let path = std::path::absolute(&path)?;
        let lock = File::create(path.join("lock"))?;
        lock.try_lock().map_err(|error| {
            anyhow::anyhow!(
                "another mesh uses {} ({error}): give --data-dir",
                path.display()
            )
        })?;
        Ok(Self {
            path,
            temporary,
            _lock: lock,
        })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "temporary directory stays");
        }
    }
}

/// Per user and base port: `$XDG_STATE_HOME/antipode/up-7880`, by default under `~/.local/state`.
fn default_directory(base_port: u16) -> Option<PathBuf> {
    let given = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let state = given("XDG_STATE_HOME").or_else(|| Some(given("HOME")?.join(".local/state")))?;
    Some(state.join("antipode").join(format!("up-{base_port}")))
}
