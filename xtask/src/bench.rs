//! `cargo xtask bench NAME`: runs a bench target, whose last line on standard output is its result as JSON.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::workspace::{self, Workspace, cargo};

/// Runs the bench target of this name, whichever crate has it.
///
/// # Errors
/// When there is no such target, or it fails.
pub(crate) fn run(name: &str) -> anyhow::Result<()> {
    let workspace = Workspace::load()?;
    let package = find(&workspace, name)?;
    let args = ["bench", "--package", package, "--bench", name];
    workspace::run(&cargo(), &args, &workspace.workspace_root)
}

fn find<'a>(workspace: &'a Workspace, name: &str) -> anyhow::Result<&'a str> {
    let benches = workspace.packages.iter().flat_map(|package| {
        let targets = package.targets.iter();
        let benches = targets.filter(|target| target.kind.iter().any(|kind| kind == "bench"));
        benches.map(move |target| (target.name.as_str(), package.name.as_str()))
    });
    let benches: BTreeMap<&str, &str> = benches.collect();
    benches.get(name).copied().with_context(|| {
        let known: Vec<_> = benches.keys().copied().collect();
        format!("no benchmark {name:?}; there are: {}", known.join(", "))
    })
}
