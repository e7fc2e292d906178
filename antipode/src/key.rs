//! `antipode key …`, `antipode project …` and `antipode audit …`: who may sign tokens, and who changed that.

use std::io::Write;

use clap::{Args, Subcommand};
use proto::control::{
    AuditEntry, CreateKeyRequest, CreateProjectRequest, KeyInfo, ListAuditRequest, ListKeysRequest,
    ListProjectsRequest, RevokeKeyRequest, RotateKeyRequest, VerifyAuditRequest,
};
use serde_json::json;

use crate::admin::{Target, age, print_json, print_table, row};

/// `antipode key …`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Create a key; its secret is shown this once
    Create {
        /// Project of the key
        #[arg(long, default_value = "default")]
        project: String,
        /// What it is for
        #[arg(long, default_value = "")]
        label: String,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// List valid keys, without their secrets
    List {
        /// Only keys of this project
        #[arg(long, default_value = "")]
        project: String,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Give a key another secret, shown this once; tokens signed with the one before are refused at once
    Rotate(Named),
    /// End a key; tokens signed with it are refused at once
    Revoke(Named),
}

/// One key.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The key, API…
    key: String,
    /// Project of the key
    #[arg(long, default_value = "default")]
    project: String,
    /// Where to ask.
    #[command(flatten)]
    target: Target,
}

/// `antipode project …`
#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// Create a project: a tenant with keys of its own
    Create {
        /// Its id: lower-case letters, digits and '-'
        id: String,
        /// For people
        #[arg(long, default_value = "")]
        label: String,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// List all projects
    List(Target),
}

/// `antipode audit …`
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List who changed what, oldest first
    List {
        /// Only entries after this number
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Check that no entry was changed, dropped or inserted
    Verify(Target),
}

/// Who runs the command, for the audit log. Anybody can set it: it tells people apart and proves nothing.
pub(crate) fn who() -> String {
    let name = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
    name.unwrap_or_else(|_| "operator".to_owned())
}

/// Runs `antipode key …`.
///
/// # Errors
/// When the control plane does not answer or refuses, or the output cannot be written.
pub(crate) async fn key(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create {
            project,
            label,
            target,
        } => {
            let by = who();
            let request = CreateKeyRequest { project, label, by };
            let made = target.connect().await?.create_key(request).await;
            let made = made.map_err(said)?.into_inner();
            let key = made.key.unwrap_or_default();
            show_secret(&target, &key.project, &key.key, &made.secret)
        }
        KeyCommand::List { project, target } => {
            let request = ListKeysRequest { project };
            let found = target.connect().await?.list_keys(request).await;
            list_keys(&target, &found.map_err(said)?.into_inner().keys)
        }
        KeyCommand::Rotate(named) => {
            let request = RotateKeyRequest {
                project: named.project.clone(),
                key: named.key.clone(),
                by: who(),
            };
            let made = named.target.connect().await?.rotate_key(request).await;
            let secret = made.map_err(said)?.into_inner().secret;
            show_secret(&named.target, &named.project, &named.key, &secret)
        }
        KeyCommand::Revoke(named) => {
            let request = RevokeKeyRequest {
                project: named.project,
                key: named.key,
                by: who(),
            };
            let done = named.target.connect().await?.revoke_key(request).await;
            done.map(drop).map_err(said)
        }
    }
}

/// Runs `antipode project …`.
///
/// # Errors
/// As [`key`].
pub(crate) async fn project(command: ProjectCommand) -> anyhow::Result<()> {
    match command {
        ProjectCommand::Create { id, label, target } => {
            let by = who();
            let request = CreateProjectRequest { id, label, by };
            let made = target.connect().await?.create_project(request).await;
            made.map(drop).map_err(said)
        }
        ProjectCommand::List(target) => {
            let mut admin = target.connect().await?;
            let found = admin.list_projects(ListProjectsRequest {});
            let projects = found.await.map_err(said)?.into_inner().projects;
            if target.is_json() {
                let projects = projects.iter().map(|project| {
                    json!({"project": project.id, "label": project.label,
                        "created_at_ms": project.created_at_ms})
                });
                return print_json(&projects.collect::<Vec<_>>().into());
            }
            let mut rows = vec![row(["PROJECT", "LABEL"])];
            rows.extend(
                projects
                    .into_iter()
                    .map(|project| vec![project.id, project.label]),
            );
            print_table(&rows)
        }
    }
}

/// Runs `antipode audit …`.
///
/// # Errors
/// As [`key`]; and when the log is not as it was written.
pub(crate) async fn audit(command: AuditCommand) -> anyhow::Result<()> {
    match command {
        AuditCommand::List {
            after,
            limit,
            target,
        } => {
            let request = ListAuditRequest {
                after_seq: after,
                limit,
            };
            let found = target.connect().await?.list_audit(request).await;
            list_entries(&target, &found.map_err(said)?.into_inner().entries)
        }
        AuditCommand::Verify(target) => {
            let mut admin = target.connect().await?;
            let found = admin.verify_audit(VerifyAuditRequest {}).await;
            let found = found.map_err(said)?.into_inner();
            anyhow::ensure!(
                found.sound,
                "the audit log was changed: entry {}: {}",
                found.broken_seq,
                found.reason
            );
            if target.is_json() {
                let shown = json!({"sound": true, "entries": found.entries, "head": found.head});
                return print_json(&shown);
            }
            let mut out = std::io::stdout().lock();
            writeln!(
                out,
                "sound: {} entries, the last with hash {}",
                found.entries, found.head
            )?;
            Ok(())
        }
    }
}

/// What the control plane said, without the words of the protocol.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

fn show_secret(target: &Target, project: &str, key: &str, secret: &str) -> anyhow::Result<()> {
    if target.is_json() {
        return print_json(&json!({"project": project, "key": key, "secret": secret}));
    }
    print_table(&[row(["KEY", "SECRET"]), row([key, secret])])
}

fn list_keys(target: &Target, keys: &[KeyInfo]) -> anyhow::Result<()> {
    if target.is_json() {
        let keys = keys.iter().map(|key| {
            json!({"project": key.project, "key": key.key, "label": key.label,
                "configured": key.configured, "created_at_ms": key.created_at_ms,
                "rotated_at_ms": key.rotated_at_ms})
        });
        return print_json(&keys.collect::<Vec<_>>().into());
    }
    let mut rows = vec![row(["PROJECT", "KEY", "LABEL", "FROM"])];
    for key in keys {
        let from = if key.configured {
            "configuration"
        } else {
            "operator"
        };
        rows.push(row([&key.project, &key.key, &key.label, from]));
    }
    print_table(&rows)
}

fn list_entries(target: &Target, entries: &[AuditEntry]) -> anyhow::Result<()> {
    if target.is_json() {
        let entries = entries.iter().map(|entry| {
            let detail: serde_json::Value = serde_json::from_str(&entry.detail).unwrap_or_default();
            json!({"seq": entry.seq, "at_ms": entry.at_ms, "who": entry.who,
                "action": entry.action, "target": entry.target, "detail": detail,
                "hash": entry.hash})
        });
        return print_json(&entries.collect::<Vec<_>>().into());
    }
    let mut rows = vec![row(["ENTRY", "AGE", "WHO", "ACTION", "TARGET", "DETAIL"])];
    for entry in entries {
        let (seq, ago) = (entry.seq.to_string(), age(entry.at_ms));
        rows.push(row([
            &seq,
            &ago,
            &entry.who,
            &entry.action,
            &entry.target,
            &entry.detail,
        ]));
    }
    print_table(&rows)
}
