//! The command line as clap sees it.

use clap::{Args, Parser, Subcommand, ValueEnum};
use runtime::telemetry::{LogConfig, LogFormat};

use crate::{admin, doctor, explain, geo_data, key, role, token, up};

/// Antipode: an edge-distributed SFU mesh that works with LiveKit SDKs.
#[derive(Debug, Parser)]
#[command(
    name = "antipode",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Logging, for every command.
    #[command(flatten)]
    pub(crate) log: LogFlags,
}

/// The roles and tools.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole mesh of several regions on this machine
    Up(up::Options),
    /// Run an edge: the SFU that clients of one region connect to
    Edge(role::Flags),
    /// Run a relay: a node of the cascade that has no clients
    Relay(role::Flags),
    /// Run the control plane and its HTTP gateway
    Control(role::Flags),
    /// Print an access token for a room
    Token(token::Options),
    /// Look at the nodes of a mesh
    #[command(subcommand)]
    Node(admin::NodeCommand),
    /// Look at the rooms of a mesh
    #[command(subcommand)]
    Room(admin::RoomCommand),
    /// Say why a room crosses the mesh as it does, and why people are sent where they are
    Explain(explain::Options),
    /// Data that tells where addresses are
    #[command(subcommand)]
    Geo(geo_data::GeoCommand),
    /// Create, list, rotate and revoke API keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Create and list projects
    #[command(subcommand)]
    Project(key::ProjectCommand),
    /// Read and check the log of what operators changed
    #[command(subcommand)]
    Audit(key::AuditCommand),
    /// Look for what would keep a role from its work on this machine, and say what to mend
    Doctor(doctor::Options),
    /// Put clients on a mesh and measure what they and the edges see
    Load(lab::load::Options),
}

/// Flags that say how to log.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LogFlags {
    /// Shape of log lines on standard error [default: human]
    #[arg(
        long = "log",
        global = true,
        value_name = "FORMAT",
        help_heading = "Logging"
    )]
    pub(crate) format: Option<Format>,
    /// What is logged, for example `info,relay=debug` [default: info]
    #[arg(
        long = "log-filter",
        global = true,
        env = "ANTIPODE_LOG",
        value_name = "DIRECTIVES",
        help_heading = "Logging"
    )]
    pub(crate) filter: Option<String>,
}

impl LogFlags {
    /// What to use, given what the configuration file says.
    pub(crate) fn over(&self, file: Option<&LogConfig>) -> LogConfig {
        let mut config = file.cloned().unwrap_or_default();
        match self.format {
            Some(Format::Json) => config.format = LogFormat::Json,
            Some(Format::Human) => config.format = LogFormat::Human,
            None => {}
        }
        if let Some(filter) = &self.filter {
            config.filter.clone_from(filter);
        }
        config
    }
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One JSON object per line.
    Json,
    /// For people.
    Human,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_override_what_the_file_says_about_logs() {
        let file = LogConfig {
            format: LogFormat::Json,
            filter: "warn".to_owned(),
        };
        assert_eq!(LogFlags::default().over(Some(&file)), file);
        let flags = LogFlags {
            format: Some(Format::Human),
            filter: Some("debug".to_owned()),
        };
        let config = flags.over(Some(&file));
        assert_eq!(
            (config.format, config.filter.as_str()),
            (LogFormat::Human, "debug")
        );
    }
}
