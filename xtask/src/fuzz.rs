//! `cargo xtask fuzz`

use std::path::Path;

use anyhow::Context;

use crate::workspace::{self, Workspace};

/// Runs the fuzz targets (all when none is named) for `seconds` each; needs a nightly toolchain and `cargo-fuzz`.
///
/// # Errors
/// When a target crashes, or a tool is missing.
pub(crate) fn run(seconds: u32, only: &[String]) -> anyhow::Result<()> {
    let workspace = Workspace::load()?;
    let found = targets(&workspace.workspace_root.join("fuzz/targets"))?;
    for name in only {
        anyhow::ensure!(
            found.contains(name),
            "no target {name}; there are: {}",
            found.join(", ")
        );
    }
    let limit = format!("-max_total_time={seconds}");
    for target in found
        .iter()
        .filter(|target| only.is_empty() || only.contains(target))
    {
        let corpus = format!("fuzz/corpus/{target}");
        std::fs::create_dir_all(workspace.workspace_root.join(&corpus))?;
        let seeds = format!("fuzz/seeds/{target}");
        let args = [
            "+nightly",
            "fuzz",
            "run",
            target,
            &corpus,
            &seeds,
            "--",
            &limit,
            "-timeout=5",
        ];
        // The rustup shim, not the toolchain's own cargo: only the former understands `+nightly`.
        workspace::run(Path::new("cargo"), &args, &workspace.workspace_root)?;
    }
    Ok(())
}

fn targets(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("no fuzz targets at {}", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(
                path.file_stem()
                    .map(|stem| stem.to_string_lossy().into_owned()),
            );
        }
    }
    names.sort();
    Ok(names)
}
