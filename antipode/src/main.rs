//! The `antipode` command: every role and tool of the mesh in one binary.

mod admin;
mod cli;
mod doctor;
mod drain;
mod explain;
mod geo_data;
mod key;
mod role;
mod token;
mod up;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};
use runtime::telemetry;

fn main() -> ExitCode {
    runtime::tls::install_provider();
    runtime::process::raise_open_files();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Edge(flags) => role::edge(flags, &cli.log).await,
        Command::Relay(flags) => role::relay(flags, &cli.log).await,
        Command::Control(flags) => role::control(flags, &cli.log).await,
        Command::Up(options) => {
            telemetry::init(&cli.log.over(None))?;
            Box::pin(up::run(options, &cli.log)).await
        }
        Command::Token(options) => token::run(&options).await,
        Command::Node(command) => admin::node(command).await,
        Command::Room(command) => admin::room(command).await,
        Command::Explain(options) => explain::run(options).await,
        Command::Geo(command) => geo_data::run(command),
        Command::Key(command) => key::key(command).await,
        Command::Project(command) => key::project(command).await,
        Command::Audit(command) => key::audit(command).await,
        Command::Doctor(options) => Box::pin(doctor::run(options)).await,
        Command::Load(options) => {
            telemetry::init(&cli.log.over(None))?;
            load(options).await
        }
    }
}

/// Runs the load generator and prints its report on standard output.
async fn load(options: lab::load::Options) -> anyhow::Result<()> {
    let json = options.json;
    let report = Box::pin(lab::load::run(options)).await?;
    let text = if json {
        serde_json::to_string(&report)?
    } else {
        report.to_string()
    };
    writeln!(std::io::stdout(), "{}", text.trim_end())?;
    Ok(())
}

/// Help and version go to standard output with success; misuse is bad configuration.
fn usage(error: &clap::Error) -> ExitCode {
    let code = if error.use_stderr() {
        runtime::config::EXIT_CODE
    } else {
        0
    };
    // Nobody is left to tell when the terminal is gone.
    drop(error.print());
    ExitCode::from(code)
}

fn fail(error: &anyhow::Error) -> ExitCode {
    // As above.
    drop(writeln!(std::io::stderr(), "antipode: {error:#}"));
    let misconfigured = error
        .chain()
        .any(|cause| cause.is::<runtime::config::Error>());
    ExitCode::from(if misconfigured {
        runtime::config::EXIT_CODE
    } else {
        1
    })
}
