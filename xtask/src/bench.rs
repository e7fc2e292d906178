//! `cargo xtask bench NAME`: runs a bench target, whose last line on standard output is its result as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

use crate::workspace::{self, Workspace, cargo};

/// Runs the bench target of this name, whichever crate has it, with options of its own.
///
/// # Errors
/// When there is no such target, or it fails.
pub(crate) fn run(name: &str, options: &[String]) -> anyhow::Result<()> {
    let workspace = Workspace::load()?;
    let package = find(&workspace, name)?;
    let mut args = vec!["bench", "--package", package, "--bench", name];
    let options = options.iter().map(|option| absolute(option));
    let options: Vec<_> = options.collect::<Result<_, _>>()?;
    if !options.is_empty() {
        args.push("--");
        args.extend(options.iter().map(String::as_str));
    }
    workspace::run(&cargo(), &args, &workspace.workspace_root)
}

/// Files are named from where one stands; cargo runs benches in their crate's directory.
fn absolute(option: &str) -> anyhow::Result<String> {
    if !option.starts_with('-') && Path::new(option).exists() {
        return Ok(std::path::absolute(option)?.display().to_string());
    }
    Ok(option.to_owned())
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
