//! Which crate may import which.

use crate::workspace::{Package, Workspace};

/// Per crate, the crates of the workspace that it may import. `antipode` is only the command line and may import all.
const MAY_IMPORT: [(&str, &[&str]); 9] = [
    ("proto", &[]),
    ("geo", &[]),
    ("runtime", &[]),
    ("media", &["proto"]),
    ("relay", &["media", "proto", "runtime"]),
    ("edge-node", &["media", "relay", "proto", "runtime"]),
    ("control-plane", &["geo", "proto", "runtime"]),
    (
        "lab",
        &[
            "proto",
            "geo",
            "runtime",
            "media",
            "relay",
            "edge-node",
            "control-plane",
        ],
    ),
    ("xtask", &[]),
];

/// Imports that the table does not allow. Dependencies of tests alone are free: they do not shape the product.
pub(crate) fn breaches(workspace: &Workspace) -> Vec<String> {
    let members: Vec<&str> = workspace.packages.iter().map(|p| p.name.as_str()).collect();
    workspace
        .packages
        .iter()
        .flat_map(|package| of(package, &members))
        .collect()
}

fn of(package: &Package, members: &[&str]) -> Vec<String> {
    let name = package.name.as_str();
    let internal = package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
        .map(|dependency| dependency.name.as_str())
        .filter(|dependency| members.contains(dependency));
    if name == "antipode" {
        return Vec::new();
    }
    match MAY_IMPORT.iter().find(|(member, _)| *member == name) {
        Some((_, allowed)) => internal
            .filter(|dependency| !allowed.contains(dependency))
            .map(|dependency| format!("{name} must not depend on {dependency}"))
            .collect(),
        None => vec![format!("{name} is not in the table of imports")],
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependencies = dependencies.iter().map(|(name, kind)| Dependency {
            name: (*name).to_owned(),
            kind: kind.map(str::to_owned),
        });
        Package {
            name: name.to_owned(),
            dependencies: dependencies.collect(),
            targets: Vec::new(),
            manifest_path: PathBuf::new(),
        }
    }

    fn workspace(packages: Vec<Package>) -> Workspace {
        Workspace {
            packages,
            workspace_root: PathBuf::new(),
        }
    }

    #[test]
    fn only_what_the_table_allows() {
        let workspace = workspace(vec![
            package(
                "media",
                &[("proto", None), ("runtime", None), ("slab", None)],
            ),
            package(
                "relay",
                &[
                    ("media", None),
                    ("geo", Some("dev")),
                    ("geo", Some("build")),
                ],
            ),
            package("antipode", &[("media", None)]),
            package("proto", &[]),
            package("runtime", &[]),
            package("geo", &[]),
            package("stray", &[]),
        ]);
        assert_eq!(
            breaches(&workspace),
            [
                "media must not depend on runtime",
                "relay must not depend on geo",
                "stray is not in the table of imports",
            ]
        );
    }
}
