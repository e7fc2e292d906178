//! Automation of the project: `cargo xtask check | tidy | bench | scenario | fuzz`.

mod bench;
mod check;
mod fuzz;
mod scenario;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Automation of the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything that must hold before a change is handed in: format, clippy, tidy, dependencies
    Check,
    /// The rules of the house that compilers and linters do not know
    Tidy,
    /// Runs a benchmark; the last line of output is JSON with nanoseconds per iteration
    Bench {
        /// Name of a bench target, for example `forward`
        name: String,
        /// Options of the bench target, for example `--matrix FILE` of `placement`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs a scenario against a real mesh with real clients; the last line of output is JSON, the exit code 1 when
    /// something did not hold
    Scenario {
        /// NAME [--short | --seconds N] [options of the scenario]; nothing for a list
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs every fuzz target for a while
    Fuzz {
        /// Seconds per target
        #[arg(long, default_value_t = 30)]
        seconds: u32,
        /// Only these targets
        targets: Vec<String>,
    },
}

#[expect(clippy::print_stderr, reason = "a tool for people at a terminal")]
fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Check => check::run(),
        Command::Tidy => tidy::run(),
        Command::Bench { name, args } => bench::run(&name, &args),
        Command::Scenario { args } => scenario::run(&args),
        Command::Fuzz { seconds, targets } => fuzz::run(seconds, &targets),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
