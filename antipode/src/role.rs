//! Running one role: configuration, logs, signals; then the role's crate does the rest.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use runtime::shutdown::Shutdown;
use runtime::telemetry;
use serde::de::DeserializeOwned;

use crate::cli::LogFlags;

/// Where a role's configuration comes from.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// TOML file to read
    #[arg(long, env = "ANTIPODE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one key, for example `--set shards=2` or `--set tls.ca=ca.pem`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<Setting>,
}

impl Source {
    /// Reads it.
    ///
    /// # Errors
    /// When it is bad.
    pub(crate) fn load<T: DeserializeOwned>(&self) -> Result<T, runtime::config::Error> {
        runtime::config::load(self.config.as_deref(), overrides(&self.settings))
    }
}

/// Flags of every role. Configuration is layered: defaults, then the file, then `ANTIPODE_…` variables, then flags.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Where its configuration comes from.
    #[command(flatten)]
    source: Source,
    /// Says whether the configuration is good and exits (0 good, 64 bad)
    #[arg(long)]
    check_config: bool,
    /// Stops when standard input is closed
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

/// One `KEY=VALUE`; the value is TOML where it parses as such and text otherwise.
#[derive(Clone, Debug, PartialEq)]
struct Setting {
    path: Vec<String>,
    value: toml::Value,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
        let path: Vec<String> = key.split('.').map(|part| part.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err("a part of the key is empty".to_owned());
        }
        let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
            .ok()
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| toml::Value::String(value.to_owned()));
        Ok(Self { path, value })
    }
}

impl Flags {
    /// Sets up logs and signals; `None` when only the configuration was to be checked.
    fn start(
        &self,
        log: &telemetry::LogConfig,
        signals: impl Fn() -> std::io::Result<Shutdown>,
    ) -> anyhow::Result<Option<Shutdown>> {
        if self.check_config {
            return Ok(None);
        }
        telemetry::init(log)?;
        let shutdown = signals()?;
        if self.exit_with_parent {
            shutdown.on_stdin_closed()?;
        }
        Ok(Some(shutdown))
    }
}

/// Settings as one nested table; of two for the same key the later wins.
fn overrides(settings: &[Setting]) -> toml::Table {
    let mut table = toml::Table::new();
    for setting in settings {
        set(&mut table, &setting.path, &setting.value);
    }
    table
}

fn set(table: &mut toml::Table, path: &[String], value: &toml::Value) {
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), value.clone());
        }
        [key, rest @ ..] => {
            let mut child = match table.remove(key) {
                Some(toml::Value::Table(child)) => child,
                _ => toml::Table::new(),
            };
            set(&mut child, rest, value);
            table.insert(key.clone(), child.into());
        }
    }
}

/// Settings that each are of the right shape and yet are no good: told as bad configuration.
pub(crate) fn unsound(error: impl std::error::Error + Send + Sync + 'static) -> anyhow::Error {
    runtime::config::Error::Unsound(Box::new(error)).into()
}

/// Runs an edge until it is told to stop.
///
/// # Errors
/// When the configuration is bad or the edge cannot start.
pub(crate) async fn edge(flags: Flags, log: &LogFlags) -> anyhow::Result<()> {
    let config: edge_node::Config = flags.source.load()?;
    config.check().map_err(unsound)?;
    let drains = config.drain_s > 0;
    let signals = || {
        if drains {
            Shutdown::on_signals_after_drain()
        } else {
            Shutdown::on_signals()
        }
    };
    match flags.start(&log.over(Some(&config.log)), signals)? {
        Some(shutdown) => edge_node::run(config, shutdown).await,
        None => Ok(()),
    }
}

/// Runs a relay until it is told to stop.
///
/// # Errors
/// When the configuration is bad or the relay cannot start.
pub(crate) async fn relay(flags: Flags, log: &LogFlags) -> anyhow::Result<()> {
    let config: relay::Config = flags.source.load()?;
    let log = log.over(Some(&config.log));
    match flags.start(&log, Shutdown::on_signals_after_drain)? {
        Some(shutdown) => relay::run(config, shutdown).await,
        None => Ok(()),
    }
}

/// Runs the control plane until it is told to stop.
///
/// # Errors
/// When the configuration is bad or the control plane cannot start.
pub(crate) async fn control(flags: Flags, log: &LogFlags) -> anyhow::Result<()> {
    let config: control_plane::Config = flags.source.load()?;
    config.check().map_err(unsound)?;
    match flags.start(&log.over(None), Shutdown::on_signals)? {
        Some(shutdown) => control_plane::run(config, shutdown).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_toml_where_they_can_be() {
        let setting: Setting = "shards=2".parse().unwrap();
        assert_eq!(setting.value, toml::Value::Integer(2));
        let setting: Setting = "control=[\"http://a:1\"]".parse().unwrap();
        assert!(setting.value.is_array());
        let setting: Setting = "region=fra".parse().unwrap();
        assert_eq!(setting.value, toml::Value::String("fra".to_owned()));
        let setting: Setting = "name=1\nother=2".parse().unwrap();
        assert!(setting.value.is_str(), "one key only");
        for bad in ["region", "=x", "a..b=1"] {
            assert!(bad.parse::<Setting>().is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_nest_and_the_last_wins() {
        let settings = ["tls.ca=a", "tls.key=k", "tls.ca=b", "shards=1"];
        let settings: Vec<Setting> = settings.iter().map(|text| text.parse().unwrap()).collect();
        let table = overrides(&settings);
        let expected: toml::Table =
            toml::from_str("shards = 1\n[tls]\nca = \"b\"\nkey = \"k\"").unwrap();
        assert_eq!(table, expected);
    }

    #[test]
    fn an_unknown_key_is_bad_configuration() {
        let settings = vec!["grcp=127.0.0.1:1".parse().unwrap()];
        let source = Source {
            config: None,
            settings,
        };
        let error = source.load::<control_plane::Config>().unwrap_err();
        assert!(error.to_string().contains("grcp"), "{error}");
    }
}
