//! Opens the databases that tell where addresses are, and opens them again when their files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use geo::lookup::{Atlas, Database};
use runtime::mapped::PrivateMap;
use tokio_util::sync::CancellationToken;

use super::Placer;
use crate::config::Config;

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A file of geo data is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is no database.
    #[error("{}: {source}", path.display())]
    NoDatabase {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: geo::lookup::Error,
    },
    /// The folder has no database in it.
    #[error("{} has no *.mmdb file; `antipode geo fetch` puts some there", .0.display())]
    Empty(PathBuf),
}

/// Where geo data is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    /// Files, IPv4 first.
    pub files: Vec<PathBuf>,
    /// A folder whose `*.mmdb` files are all read.
    pub folder: Option<PathBuf>,
}

impl Sources {
    /// What the configuration names.
    pub fn of(config: &Config) -> Self {
        let files = [&config.geo_city_v4, &config.geo_city_v6];
        Self {
            files: files.into_iter().flatten().cloned().collect(),
            folder: config.geo_data_dir.clone(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.folder.is_none()
    }

    /// All files, by name within the folder, so that `…-ipv4` comes before `…-ipv6`.
    fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let mut files = self.files.clone();
        if let Some(folder) = &self.folder {
            let unreadable = |source| Error::Unreadable {
                path: folder.clone(),
                source,
            };
            let mut found = Vec::new();
            for entry in std::fs::read_dir(folder).map_err(unreadable)? {
                let path = entry.map_err(unreadable)?.path();
                if path
                    .extension()
                    .is_some_and(|extension| extension == "mmdb")
                {
                    found.push(path);
                }
            }
            if found.is_empty() && files.is_empty() {
                return Err(Error::Empty(folder.clone()));
            }
            found.sort();
            files.extend(found);
        }
        Ok(files)
    }

    /// What tells whether files changed: each with its length and time.
    fn seen(&self) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
        let files = self.files().unwrap_or_default();
        let look = |path: PathBuf| {
            let metadata = std::fs::metadata(&path).ok();
            let length = metadata.as_ref().map_or(0, std::fs::Metadata::len);
            (
                path,
                length,
                metadata.and_then(|metadata| metadata.modified().ok()),
            )
        };
        files.into_iter().map(look).collect()
    }

    /// Opens all of them, with room for private copies in `scratch`. Blocks while it copies.
    ///
    /// # Errors
    /// The first file that is of no use.
    pub fn open(&self, scratch: &Path) -> Result<Atlas<PrivateMap>, Error> {
        let open = |path: PathBuf| {
            let map = PrivateMap::copy_of(&path, scratch);
            let map = map.map_err(|source| Error::Unreadable {
                path: path.clone(),
                source,
            })?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Database::new(name, map).map_err(|source| Error::NoDatabase {
                path: path.clone(),
                source,
            })
        };
        let databases: Result<Vec<_>, _> = self.files()?.into_iter().map(open).collect();
        databases.map(Atlas::new)
    }
}

/// Kind, and time of building in Unix seconds, of every database.
///
/// # Errors
/// The first file that is of no use.
pub fn inspect(sources: &Sources) -> Result<Vec<(String, u64)>, Error> {
    let look = |path: PathBuf| {
        let bytes = std::fs::read(&path);
        let bytes = bytes.map_err(|source| Error::Unreadable {
            path: path.clone(),
            source,
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let database = Database::new(name, bytes).map_err(|source| Error::NoDatabase {
            path: path.clone(),
            source,
        })?;
        Ok((database.kind().to_owned(), database.built_at_s()))
    };
    sources.files()?.into_iter().map(look).collect()
}

/// Opens geo data for a placer, and again whenever files have changed and then stayed the same for a look, until `shutdown`.
/// Data that is of no use is reported and the data before is kept.
pub async fn follow(
    sources: Sources,
    scratch: PathBuf,
    placer: Arc<Placer>,
    shutdown: CancellationToken,
) {
    let mut opened = None;
    let mut before = None;
    loop {
        let seen = sources.seen();
        let settled = before.as_ref() == Some(&seen);
        // The first time there is nothing to lose: whatever is there is opened at once.
        if opened.as_ref() != Some(&seen) && (settled || opened.is_none()) {
            load(&sources, &scratch, &placer).await;
            opened = Some(seen.clone());
        }
        before = Some(seen);
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn load(sources: &Sources, scratch: &Path, placer: &Placer) {
    let (sources, scratch) = (sources.clone(), scratch.to_owned());
    let opening = tokio::task::spawn_blocking(move || sources.open(&scratch)).await;
    let opened = opening.unwrap_or_else(|error| {
        Err(Error::Unreadable {
            path: PathBuf::new(),
            source: std::io::Error::other(error),
        })
    });
    match opened {
        Ok(atlas) => {
            tell(&atlas);
            placer.set_atlas(atlas);
        }
        Err(error) => {
            tracing::warn!(%error, "geo data not opened; clients are placed by what was there before");
        }
    }
}

/// Says in the log what was opened, and whose it is.
fn tell(atlas: &Atlas<PrivateMap>) {
    for database in atlas.databases() {
        let attribution = database.attribution();
        tracing::info!(
            name = database.name(),
            built_at_s = database.built_at_s(),
            attribution = attribution.map(tracing::field::display),
            "geo data opened"
        );
    }
}
