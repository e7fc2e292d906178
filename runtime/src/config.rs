//! Layers of configuration: defaults < TOML file < environment < flags, read once into one typed value.
//!
//! The type says what is allowed: it must be `#[serde(deny_unknown_fields)]`, so that a mistyped key is refused with its
//! name. Environment variables are `ANTIPODE_` and the key in capitals, with `__` between levels
//! (`ANTIPODE_LOG__FILTER=debug` is `log.filter`).

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Exit code of a process that was given bad configuration (`EX_USAGE` of `sysexits.h`).
pub const EXIT_CODE: u8 = 64;

/// Prefix of environment variables.
pub const ENV_PREFIX: &str = "ANTIPODE_";

/// Variables under the prefix that are flags of the command line (or tell tests where the binary is) and no keys.
const NOT_KEYS: [&str; 6] = ["config", "log", "url", "api_key", "api_secret", "bin"];

/// Why there is no configuration. Its text is one line that names the key and where it came from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not exist or cannot be read.
    #[error("configuration file {} cannot be read: {source}", path.display())]
    File {
        /// The file as given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key is unknown or missing, or its value is not of the right shape.
    #[error("bad configuration: {0}")]
    Value(Box<figment::Error>),
    /// Values that do not go together, or files that they name and that are no good.
    #[error("bad configuration: {0}")]
    Unsound(Box<dyn std::error::Error + Send + Sync>),
}

/// Reads `T` from the file (if any), the environment and the flags, each overriding the one before. `flags` serializes to
/// a map in which what was not given is left out; `T` brings its own defaults.
///
/// # Errors
/// When the file cannot be read, or a key is unknown, missing or of the wrong shape.
pub fn load<T: DeserializeOwned>(file: Option<&Path>, flags: impl Serialize) -> Result<T, Error> {
    load_with_prefix(file, ENV_PREFIX, flags)
}

fn load_with_prefix<T: DeserializeOwned>(
    file: Option<&Path>,
    prefix: &str,
    flags: impl Serialize,
) -> Result<T, Error> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        figment = figment.merge(Toml::string(&text));
    }
    figment
        .merge(Env::prefixed(prefix).ignore(&NOT_KEYS).split("__"))
        .merge(Serialized::defaults(flags))
        .extract()
        .map_err(|error| Error::Value(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::telemetry::{LogConfig, LogFormat};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        region: String,
        #[serde(default = "default_shards")]
        shards: u32,
        #[serde(default)]
        log: LogConfig,
    }

    fn default_shards() -> u32 {
        2
    }

    #[derive(Serialize, Default)]
    struct Flags {
        #[serde(skip_serializing_if = "Option::is_none")]
        shards: Option<u32>,
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("antipode-config-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn later_layers_override_earlier_ones() {
        let path = file(
            "layers.toml",
            "region = \"fra\"\nshards = 3\n[log]\nformat = \"json\"\nfilter = \"warn\"\n",
        );
        let plain: Sample = load_with_prefix(Some(&path), "AP_NONE_", Flags::default()).unwrap();
        assert_eq!((plain.region.as_str(), plain.shards), ("fra", 3));
        assert_eq!(plain.log.format, LogFormat::Json);
        let flagged: Sample =
            load_with_prefix(Some(&path), "AP_NONE_", Flags { shards: Some(8) }).unwrap();
        assert_eq!(flagged.shards, 8);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn unknown_missing_and_misshaped_keys_are_refused_by_name() {
        for (name, text, said) in [
            ("unknown.toml", "region = \"fra\"\nshard = 1\n", "shard"),
            ("missing.toml", "shards = 1\n", "region"),
            (
                "shape.toml",
                "region = \"fra\"\nshards = \"many\"\n",
                "shards",
            ),
            (
                "nested.toml",
                "region = \"fra\"\n[log]\nfromat = \"json\"\n",
                "fromat",
            ),
        ] {
            let path = file(name, text);
            let error = load_with_prefix::<Sample>(Some(&path), "AP_NONE_", Flags::default())
                .unwrap_err()
                .to_string();
            assert!(error.contains(said) && !error.contains('\n'), "{error}");
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let path = Path::new("does-not-exist.toml");
        let error = load::<Sample>(Some(path), Flags::default()).unwrap_err();
        assert!(error.to_string().contains("does-not-exist.toml"));
    }
}
