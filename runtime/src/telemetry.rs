//! Logs: spans and events by `tracing`, written to standard error (standard output belongs to results).

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object per line, for collectors.
    Json,
    /// One line for people; coloured when standard error is a terminal.
    #[default]
    Human,
}

/// What is logged and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Shape of the lines.
    pub format: LogFormat,
    /// Directives in the syntax of `tracing_subscriber::EnvFilter`, for example `info,relay=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            // The DTLS library warns of every extension of a handshake that it does not use.
            filter: "info,rtc_dtls=error".to_owned(),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter's text cannot be understood.
    #[error("log filter {filter:?} cannot be parsed: {source}")]
    Filter {
        /// The text as configured.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber is installed already.
    #[error("logging is set up already: {0}")]
    Installed(#[from] TryInitError),
}

/// Installs the process's log subscriber.
///
/// # Errors
/// When the filter cannot be parsed, or logging is set up already.
pub fn init(config: &LogConfig) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|source| Error::Filter {
        filter: config.filter.clone(),
        source,
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match config.format {
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_current_span(true);
            registry.with(layer.with_span_list(false)).try_init()?;
        }
        LogFormat::Human => {
            registry
                .with(layer.with_ansi(std::io::stderr().is_terminal()))
                .try_init()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let config = LogConfig {
            filter: "relay=loud".to_owned(),
            ..LogConfig::default()
        };
        let error = init(&config).unwrap_err();
        assert!(error.to_string().contains("relay=loud"), "{error}");
    }
}
