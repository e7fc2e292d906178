//! `cargo xtask tidy`: the rules of the house that compilers and linters do not know.

mod imports;
mod source;

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::workspace::Workspace;

/// Checks the workspace this is run in.
///
/// # Errors
/// When a rule is broken; each breach is a line of its text.
pub(crate) fn run() -> anyhow::Result<()> {
    check(&Workspace::load()?)
}

/// Checks a workspace.
///
/// # Errors
/// As [`run`].
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<()> {
    let mut breaches = imports::breaches(workspace);
    for package in &workspace.packages {
        let root = package
            .manifest_path
            .parent()
            .context("a manifest is in a directory")?;
        let mut files = Vec::new();
        for directory in ["src", "tests", "benches", "examples"] {
            rust_files(&root.join(directory), &mut files)?;
        }
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            let path = file
                .strip_prefix(&workspace.workspace_root)
                .unwrap_or(&file);
            breaches.extend(source::breaches(path, &text));
        }
    }
    anyhow::ensure!(breaches.is_empty(), "tidy:\n  {}", breaches.join("\n  "));
    Ok(())
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Ok(());
    };
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
