//! `cargo xtask scenario NAME`: real processes, real clients and a network that misbehaves.

use std::path::Path;

use crate::workspace::{self, Workspace, cargo};

/// Runs the scenario of this name, whose last line on standard output is its result as JSON; lists them without a name.
/// Builds what is not fresh, unless `ANTIPODE_BIN` names a binary.
///
/// # Errors
/// When something does not hold, there is no such scenario, or a build fails.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let workspace = Workspace::load()?;
    let root = &workspace.workspace_root;
    if !args.is_empty() {
        build(root)?;
    }
    let mut words = vec!["--scenario"];
    words.extend(args.iter().map(String::as_str));
    workspace::run(&root.join("tests/e2e/run"), &words, root)
}

fn build(root: &Path) -> anyhow::Result<()> {
    let mut words = vec!["build", "--release", "--quiet", "--package", "lab"];
    if std::env::var_os("ANTIPODE_BIN").is_none() {
        words.extend(["--package", "antipode"]);
    }
    workspace::run(&cargo(), &words, root)
}
