//! The workspace as cargo knows it, and running cargo in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde::Deserialize;

/// `cargo metadata --no-deps`, as far as it is of use here.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// Member crates.
    pub(crate) packages: Vec<Package>,
    /// Where builds go.
    /// Directory of the root `Cargo.toml`.
    pub(crate) workspace_root: PathBuf,
}

/// A member crate.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// What it depends on directly.
    pub(crate) dependencies: Vec<Dependency>,
    /// What it builds.
    pub(crate) targets: Vec<Target>,
    /// Its `Cargo.toml`.
    pub(crate) manifest_path: PathBuf,
}

/// A direct dependency.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    /// Name of the crate.
    pub(crate) name: String,
    /// `dev`, `build`, or nothing for a normal one.
    pub(crate) kind: Option<String>,
}

/// Something that cargo builds.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, `bench`, …
    pub(crate) kind: Vec<String>,
}

impl Workspace {
    /// Asks cargo.
    ///
    /// # Errors
    /// When cargo cannot be run or its answer is not understood.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let output = Command::new(cargo())
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit())
            .output()
            .context("cargo metadata")?;
        anyhow::ensure!(output.status.success(), "cargo metadata failed");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// The cargo that runs this tool.
pub(crate) fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Runs a program in a directory and waits for it.
///
/// # Errors
/// When it cannot be run or fails.
pub(crate) fn run<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    directory: &Path,
) -> anyhow::Result<()> {
    let words: Vec<_> = args
        .iter()
        .map(|arg| arg.as_ref().to_string_lossy())
        .collect();
    let shown = format!("{} {}", program.display(), words.join(" "));
    let status = Command::new(program)
        .args(args)
        .current_dir(directory)
        .status();
    let status = status.with_context(|| shown.clone())?;
    anyhow::ensure!(status.success(), "{shown}: {status}");
    Ok(())
}
