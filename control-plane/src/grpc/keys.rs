//! The part of `Admin` that changes projects and keys, and reads the audit log.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::control::{
    AuditEntry, CreateKeyRequest, CreateKeyResponse, CreateProjectRequest, CreateProjectResponse,
    KeyInfo, ListAuditRequest, ListAuditResponse, ListKeysRequest, ListKeysResponse,
    ListProjectsResponse, Project, RevokeKeyRequest, RevokeKeyResponse, RotateKeyRequest,
    RotateKeyResponse, VerifyAuditResponse,
};
use rand::Rng;
use rand::distr::Alphanumeric;
use tonic::Status;

use crate::config::Secret;
use crate::keyring;
use crate::store::audit::{By, Entry, Verdict};
use crate::store::keys::{self as records, DEFAULT_PROJECT, KeyRecord};
use crate::store::{Durable, Ephemeral, Error};

/// Random characters of a key after `API`, 62 values each.
const KEY_CHARACTERS: usize = 12;
/// Random characters of a secret: 238 bits.
const SECRET_CHARACTERS: usize = 40;
/// Length of a label or of who asks, in bytes.
const TEXT_LENGTH_MAX: usize = 256;
/// Length of a project's id in bytes.
const PROJECT_LENGTH_MAX: usize = 64;
/// Entries of the audit log in one answer.
const ENTRIES: (u32, u32) = (100, 1_000);

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("{0} is longer than {TEXT_LENGTH_MAX} bytes")]
    TooLong(&'static str),
    #[error("{0} has a control character in it")]
    Control(&'static str),
    #[error("a project's id is 1 to {PROJECT_LENGTH_MAX} lower-case letters, digits and '-'")]
    ProjectId,
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn status(refusal: Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::TooLong(_) | Refusal::Control(_) | Refusal::ProjectId => {
            Status::invalid_argument(message)
        }
        Refusal::Store(Error::Exists(_)) => Status::already_exists(message),
        Refusal::Store(Error::Missing(_)) => Status::not_found(message),
        Refusal::Store(_) => Status::unavailable(message),
    }
}

/// Does what operators ask for.
#[derive(Debug)]
pub(super) struct Operator {
    durable: Arc<dyn Durable>,
    ephemeral: Arc<dyn Ephemeral>,
}

impl Operator {
    pub(super) fn new(durable: Arc<dyn Durable>, ephemeral: Arc<dyn Ephemeral>) -> Self {
        Self { durable, ephemeral }
    }

    pub(super) async fn create_project(
        &self,
        request: CreateProjectRequest,
    ) -> Result<CreateProjectResponse, Refusal> {
        let CreateProjectRequest { id, label, by } = request;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if id.is_empty() || id.len() > PROJECT_LENGTH_MAX || !id.chars().all(allowed) {
            return Err(Refusal::ProjectId);
        }
        let by = by_whom(&by)?;
        let project = records::Project {
            id,
            label: text("label", label)?,
            created_at_ms: by.at_ms,
        };
        self.durable.create_project(&project, by).await?;
        Ok(CreateProjectResponse {
            project: Some(shown(project)),
        })
    }

    pub(super) async fn list_projects(&self) -> Result<ListProjectsResponse, Refusal> {
        let projects = self.durable.projects().await?;
        Ok(ListProjectsResponse {
            projects: projects.into_iter().map(shown).collect(),
        })
    }

    pub(super) async fn create_key(
        &self,
        request: CreateKeyRequest,
    ) -> Result<CreateKeyResponse, Refusal> {
        let by = by_whom(&request.by)?;
        let record = KeyRecord {
            key: format!("API{}", random(KEY_CHARACTERS)),
            project: project_or_default(request.project),
            label: text("label", request.label)?,
            secret: Secret::from(random(SECRET_CHARACTERS)),
            configured: false,
            created_at_ms: by.at_ms,
            rotated_at_ms: None,
        };
        self.durable.create_key(&record, by).await?;
        self.tell().await?;
        Ok(CreateKeyResponse {
            secret: record.secret.expose().to_owned(),
            key: Some(info(record)),
        })
    }

    pub(super) async fn list_keys(
        &self,
        request: ListKeysRequest,
    ) -> Result<ListKeysResponse, Refusal> {
        let wanted = |key: &KeyRecord| request.project.is_empty() || key.project == request.project;
        let keys = self.durable.keys().await?;
        Ok(ListKeysResponse {
            keys: keys.into_iter().filter(wanted).map(info).collect(),
        })
    }

    pub(super) async fn rotate_key(
        &self,
        request: RotateKeyRequest,
    ) -> Result<RotateKeyResponse, Refusal> {
        let by = by_whom(&request.by)?;
        let project = project_or_default(request.project);
        let secret = Secret::from(random(SECRET_CHARACTERS));
        let rotated = self.durable.rotate_key(&project, &request.key, &secret, by);
        rotated.await?;
        self.tell().await?;
        Ok(RotateKeyResponse {
            secret: secret.expose().to_owned(),
        })
    }

    pub(super) async fn revoke_key(
        &self,
        request: RevokeKeyRequest,
    ) -> Result<RevokeKeyResponse, Refusal> {
        let by = by_whom(&request.by)?;
        let project = project_or_default(request.project);
        self.durable.revoke_key(&project, &request.key, by).await?;
        self.tell().await?;
        Ok(RevokeKeyResponse {})
    }

    pub(super) async fn list_audit(
        &self,
        request: ListAuditRequest,
    ) -> Result<ListAuditResponse, Refusal> {
        let limit = match request.limit {
            0 => ENTRIES.0,
            limit => limit.min(ENTRIES.1),
        };
        let entries = self.durable.entries(request.after_seq, limit).await?;
        Ok(ListAuditResponse {
            entries: entries.into_iter().map(entry).collect(),
        })
    }

    pub(super) async fn verify_audit(&self) -> Result<VerifyAuditResponse, Refusal> {
        Ok(match self.durable.verify().await? {
            Verdict::Sound { entries, head } => VerifyAuditResponse {
                sound: true,
                entries,
                head,
                ..VerifyAuditResponse::default()
            },
            Verdict::Broken { seq, reason } => VerifyAuditResponse {
                sound: false,
                broken_seq: seq,
                reason: reason.to_owned(),
                ..VerifyAuditResponse::default()
            },
        })
    }

    /// Tells all replicas that keys changed; they also look on their own.
    async fn tell(&self) -> Result<(), Error> {
        let told = self
            .ephemeral
            .publish(keyring::TOPIC, serde_json::Value::Null);
        told.await
    }
}

fn random(characters: usize) -> String {
    let random = rand::rng().sample_iter(Alphanumeric).take(characters);
    random.map(char::from).collect()
}

fn project_or_default(project: String) -> String {
    if project.is_empty() {
        DEFAULT_PROJECT.to_owned()
    } else {
        project
    }
}

fn text(field: &'static str, text: String) -> Result<String, Refusal> {
    if text.len() > TEXT_LENGTH_MAX {
        return Err(Refusal::TooLong(field));
    }
    // It is shown in terminals.
    if text.contains(char::is_control) {
        return Err(Refusal::Control(field));
    }
    Ok(text)
}

pub(super) fn by_whom(who: &str) -> Result<By<'_>, Refusal> {
    if who.len() > TEXT_LENGTH_MAX {
        return Err(Refusal::TooLong("by"));
    }
    if who.contains(char::is_control) {
        return Err(Refusal::Control("by"));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(By {
        who: if who.is_empty() { "operator" } else { who },
        at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
    })
}

fn shown(project: records::Project) -> Project {
    Project {
        id: project.id,
        label: project.label,
        created_at_ms: project.created_at_ms,
    }
}

fn info(key: KeyRecord) -> KeyInfo {
    KeyInfo {
        key: key.key,
        project: key.project,
        label: key.label,
        configured: key.configured,
        created_at_ms: key.created_at_ms,
        rotated_at_ms: key.rotated_at_ms.unwrap_or_default(),
    }
}

fn entry(entry: Entry) -> AuditEntry {
    AuditEntry {
        seq: entry.seq,
        at_ms: entry.at_ms,
        who: entry.who,
        action: entry.act.action,
        target: entry.act.target,
        detail: entry.act.detail.to_string(),
        hash: entry.hash,
    }
}
