//! What `antipode up` tells programs: one line of JSON, and the same in a file that follows restarts.

use std::io::Write;
use std::path::{Path, PathBuf};

use runtime::ready::Ready;
use serde::{Deserialize, Serialize};

use super::layout::{Layout, Role};

/// The mesh as printed.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    ready: bool,
    http: String,
    api_key: String,
    api_secret: String,
    control: Vec<Process>,
    edges: Vec<Process>,
    relays: Vec<Process>,
}

/// One process. What does not apply is left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Process {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    pid: u32,
    admin: String,
}

/// The processes of a mesh and how far each has come. Indexes are: the control replicas, then the layout's
/// nodes.
#[derive(Debug)]
pub(crate) struct Mesh {
    http: String,
    file: PathBuf,
    roles: Vec<Option<Role>>,
    processes: Vec<Process>,
}

/// The mesh's file in its data directory.
pub(crate) fn path(directory: &Path) -> PathBuf {
    directory.join("mesh.json")
}

/// gRPC URL of the control plane in a mesh's file.
pub(crate) fn control_url(text: &str) -> Option<String> {
    let line: Line = serde_json::from_str(text).ok()?;
    line.control.into_iter().find_map(|control| control.grpc)
}

impl Mesh {
    /// A mesh of which nothing runs yet.
    pub(crate) fn new(layout: &Layout, directory: &Path) -> Self {
        let control = layout.control.iter().map(|control| Process {
            node: control.id.clone(),
            url: Some(layout.gateway_url(control)),
            grpc: Some(control.grpc_url()),
            ..Process::default()
        });
        let nodes = layout.nodes.iter().map(|node| Process {
            region: Some(node.region.code.to_owned()),
            node: node.id.clone(),
            url: (node.role == Role::Edge).then(|| layout.client_url(node)),
            ..Process::default()
        });
        Self {
            http: layout.http_url(),
            file: path(directory),
            roles: layout
                .control
                .iter()
                .map(|_| None)
                .chain(layout.nodes.iter().map(|node| Some(node.role)))
                .collect(),
            processes: control.chain(nodes).collect(),
        }
    }

    /// URL of the call page.
    pub(crate) fn http_url(&self) -> &str {
        &self.http
    }

    /// Id of a process.
    pub(crate) fn name(&self, index: usize) -> &str {
        self.processes
            .get(index)
            .map_or("", |process| &process.node)
    }

    /// Ids of processes that have not said yet that they serve.
    pub(crate) fn missing(&self) -> Vec<&str> {
        let starting = self.processes.iter().filter(|process| process.pid == 0);
        starting.map(|process| process.node.as_str()).collect()
    }

    /// Takes over what a process said.
    pub(crate) fn set_ready(&mut self, index: usize, ready: &Ready) {
        if let Some(process) = self.processes.get_mut(index) {
            process.pid = ready.pid;
            process.admin.clone_from(&ready.admin);
        }
    }

    /// Prints the line on standard output.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&self.line())?)?;
        stdout.flush()?;
        Ok(())
    }

    /// Writes the line to the mesh's file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let new = self.file.with_extension("json.new");
        std::fs::write(&new, serde_json::to_string(&self.line())?)?;
        std::fs::rename(&new, &self.file)?;
        Ok(())
    }

    fn line(&self) -> Line {
        let of = |wanted: Option<Role>| {
            let roles = self.roles.iter().zip(&self.processes);
            let chosen = roles.filter(move |(role, _)| **role == wanted);
            chosen
                .map(|(_, process)| process.clone())
                .collect::<Vec<_>>()
        };
        Line {
            ready: true,
            http: self.http.clone(),
            api_key: super::API_KEY.to_owned(),
            api_secret: super::API_SECRET.to_owned(),
            control: of(None),
            edges: of(Some(Role::Edge)),
            relays: of(Some(Role::Relay)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::up::options::Options;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_line_has_the_promised_shape_and_follows_restarts() {
        let flags = ["up", "--base-port", "0", "--regions", "fra,iad"];
        let options = Cli::try_parse_from(flags).map(|cli| cli.options).unwrap();
        let layout = Layout::new(&options).unwrap();
        let mut mesh = Mesh::new(&layout, &std::env::temp_dir());
        assert_eq!(
            mesh.missing(),
            ["control-0", "edge-fra-0", "edge-iad-0", "relay-sin-0"]
        );
        for index in 0..4 {
            mesh.set_ready(index, &Ready::new("n", format!("http://127.0.0.1:{index}")));
        }
        assert!(mesh.missing().is_empty());
        mesh.set_ready(
            1,
            &Ready {
                pid: 77,
                ..Ready::new("n", "http://127.0.0.1:9")
            },
        );
        let line = serde_json::to_value(mesh.line()).unwrap();
        assert_eq!(line["ready"], true);
        assert_eq!(
            (&line["api_key"], &line["api_secret"]),
            (&"devkey".into(), &"secret".into())
        );
        assert_eq!(line["edges"][0]["region"], "fra");
        assert_eq!(line["edges"][0]["pid"], 77);
        assert_eq!(
            line["edges"][0]["url"],
            format!("ws://127.0.0.1:{}", layout.nodes[0].http)
        );
        assert_eq!(line["relays"][0]["node"], "relay-sin-0");
        assert!(line["relays"][0].get("url").is_none());
        assert_eq!(control_url(&line.to_string()), Some(layout.grpc_url()));
    }
}
