//! `cargo xtask bench NAME`: runs a criterion bench target and sums it up as one line of JSON.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;

use crate::workspace::{self, Workspace, cargo};

/// Runs the bench target of this name, whichever crate has it.
///
/// # Errors
/// When there is no such target, or it fails.
pub(crate) fn run(name: &str) -> anyhow::Result<()> {
    let workspace = Workspace::load()?;
    let package = find(&workspace, name)?;
    let started = SystemTime::now();
    let args = ["bench", "--package", package, "--bench", name];
    workspace::run(&cargo(), &args, &workspace.workspace_root)?;
    let mut results = BTreeMap::new();
    collect(
        &workspace.target_directory.join("criterion"),
        started,
        &mut results,
    )?;
    let line = json!({"bench": name, "unit": "ns", "median": results});
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
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

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
}

/// Medians written since `started`, in nanoseconds per iteration by benchmark id. Criterion keeps them in `new/` below a
/// directory per benchmark.
fn collect(
    directory: &Path,
    started: SystemTime,
    results: &mut BTreeMap<String, f64>,
) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let estimates = path.join("estimates.json");
        let fresh = estimates
            .metadata()
            .and_then(|metadata| metadata.modified());
        if path.ends_with("new") && fresh.is_ok_and(|modified| modified >= started) {
            let benchmark: Benchmark = read(&path.join("benchmark.json"))?;
            let estimates: Estimates = read(&estimates)?;
            results.insert(benchmark.full_id, estimates.median.point_estimate);
        } else {
            collect(&path, started, results)?;
        }
    }
    Ok(())
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_fresh_estimates_count() {
        let root = std::env::temp_dir().join(format!("antipode-bench-{}", std::process::id()));
        let new = root.join("group/one/new");
        std::fs::create_dir_all(&new).unwrap();
        std::fs::create_dir_all(root.join("group/one/base")).unwrap();
        std::fs::write(new.join("benchmark.json"), r#"{"full_id":"group/one"}"#).unwrap();
        let estimates = r#"{"median":{"point_estimate":42.5}}"#;
        std::fs::write(new.join("estimates.json"), estimates).unwrap();
        let minute = Duration::from_secs(60);
        let mut results = BTreeMap::new();
        collect(&root, SystemTime::now() + minute, &mut results).unwrap();
        assert!(results.is_empty());
        collect(&root, SystemTime::now() - minute, &mut results).unwrap();
        assert_eq!(results, BTreeMap::from([("group/one".to_owned(), 42.5)]));
        std::fs::remove_dir_all(root).unwrap();
    }
}
