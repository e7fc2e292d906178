//! `cargo xtask check`

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
    workspace::run(&cargo(), &["deny", "check"], root)
}

fn has_deny() -> bool {
    let mut version = Command::new(cargo());
    version
        .args(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}
