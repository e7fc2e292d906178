//! `antipode doctor ROLE`: looks at what a role needs of its machine and of others, by the role's own configuration, and says what
//! to mend.

mod certificates;
mod clock;
mod limits;
mod names;
mod ports;
mod stores;
mod subject;

use std::fmt;
use std::io::Write;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::admin::print_json;
use crate::role::Source;
use subject::Subject;

/// `antipode doctor …`
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The role whose configuration is looked at
    #[arg(value_enum)]
    role: Role,
    /// Its configuration.
    #[command(flatten)]
    source: Source,
    /// Time server to compare the clock with; empty: none
    #[arg(long, default_value = "pool.ntp.org", value_name = "HOST")]
    ntp: String,
    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// A role of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Takes clients.
    Edge,
    /// Only forwards.
    Relay,
    /// The control plane.
    Control,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It works, until it does not.
    Warning,
    /// The role does not start, or does not do its work.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What kind of look.
    pub(crate) check: &'static str,
    /// How bad it is.
    pub(crate) level: Level,
    /// What is the case.
    pub(crate) says: String,
    /// What to do about it; empty when nothing is to be done.
    pub(crate) fix: String,
}

impl Finding {
    /// All is well.
    pub(crate) fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            says: says.into(),
            fix: String::new(),
        }
    }

    /// It may go wrong some day.
    pub(crate) fn warning(
        check: &'static str,
        says: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            fix: fix.into(),
            ..Self::ok(check, says)
        }
    }

    /// It does not work.
    pub(crate) fn error(
        check: &'static str,
        says: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Error,
            ..Self::warning(check, says, fix)
        }
    }
}

/// Looks and prints what it finds.
///
/// # Errors
/// When the configuration is bad, or something is found that keeps the role from its work.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let subject = Subject::read(options.role, &options.source)?;
    let findings = examine(&subject, &options.ntp).await;
    let bad = |finding: &&Finding| finding.level == Level::Error;
    let errors = findings.iter().filter(bad).count();
    if options.json {
        print_json(&serde_json::json!({ "ok": errors == 0, "findings": findings }))?;
    } else {
        let mut out = std::io::stdout().lock();
        for finding in &findings {
            writeln!(out, "{}", line(finding))?;
        }
    }
    anyhow::ensure!(errors == 0, "{errors} of {} checks failed", findings.len());
    Ok(())
}

async fn examine(subject: &Subject, ntp: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = subject.ports.iter().map(ports::look).collect();
    findings.extend(limits::look(subject.files_needed, subject.sends_media));
    findings.extend(certificates::look(&subject.certificates));
    findings.extend(names::look(&subject.names).await);
    let (reached, control_clock) = names::reach(&subject.control).await;
    findings.extend(reached);
    findings.push(clock::look(ntp, control_clock).await);
    findings.extend(stores::look(&subject.stores).await);
    findings
}

fn line(finding: &Finding) -> String {
    let Finding {
        check,
        level,
        says,
        fix,
    } = finding;
    let mut text = format!("{level:<8} {check:<13} {says}");
    if !fix.is_empty() {
        text.push_str(&format!("\n{:23}-> {fix}", ""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_read_well() {
        assert_eq!(
            line(&Finding::ok("ports", "http 0.0.0.0:7880 (TCP) is free")),
            "ok       ports         http 0.0.0.0:7880 (TCP) is free"
        );
        let bad = Finding::error("clock", "2 min late", "install chrony");
        assert_eq!(
            line(&bad),
            "error    clock         2 min late\n                       -> install chrony"
        );
        assert!(Level::Error > Level::Warning && Level::Warning > Level::Ok);
    }
}
