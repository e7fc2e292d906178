//! `cargo xtask check`

use std::path::Path;
use std::process::{Command, Stdio};

use crate::workspace::{self, Workspace, cargo};

/// Checks everything; stops at the first thing that fails.
///
/// # Errors
/// When something is not as it must be, or a tool is missing.
pub(crate) fn run() -> anyhow::Result<()> {
    let workspace = Workspace::load()?;
    let root = &workspace.workspace_root;
    workspace::run(&cargo(), &["fmt", "--all", "--check"], root)?;
    crate::tidy::check(&workspace)?;
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    workspace::run(&cargo(), &clippy, root)?;
    if !has_deny() {
        workspace::run(&cargo(), &["install", "--locked", "cargo-deny"], root)?;
    }
    let offline = ["deny", "check", "licenses", "bans", "sources"];
    workspace::run(&cargo(), &offline, root)?;
    advisories(root)
}

/// Known vulnerabilities, from a database on the network. A machine that cannot reach it is told so; with `CI` set, where
/// nobody would read that, it is an error.
#[expect(clippy::print_stderr, reason = "a tool for people at a terminal")]
fn advisories(root: &Path) -> anyhow::Result<()> {
    match workspace::run(&cargo(), &["deny", "fetch", "db"], root) {
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("xtask: advisories NOT checked, their database cannot be fetched: {error}");
            Ok(())
        }
        Err(error) => Err(error),
        Ok(()) => workspace::run(
            &cargo(),
            &["deny", "check", "--disable-fetch", "advisories"],
            root,
        ),
    }
}

fn has_deny() -> bool {
    let mut version = Command::new(cargo());
    version
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}
