//! Projects and keys in the database.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde_json::json;

use super::Sql;
use super::audit::record;
use super::database::{Row, Run, Tx, sql};
use crate::config::Secret;
use crate::store::Error;
use crate::store::audit::{Act, By};
use crate::store::keys::{DEFAULT_PROJECT, KeyRecord, Keys, Project};
use crate::store::sealed::Sealer;

/// What secrets are sealed for.
const PLACE: &str = "api_keys";

impl Keys for Sql {
    fn projects(&self) -> BoxFuture<'_, Result<Vec<Project>, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let rows = connection
                .all(sql(
                    "SELECT project, label, created_at_ms FROM projects ORDER BY project",
                ))
                .await?;
            rows.iter().map(project).collect()
        })
    }

    fn create_project<'a>(
        &'a self,
        project: &'a Project,
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut tx = self.database.begin().await?;
            let made = tx
                .execute(
                    sql(
                        "INSERT INTO projects (project, label, created_at_ms) VALUES ($1, $2, $3) \
                         ON CONFLICT DO NOTHING",
                    )
                    .with(project.id.as_str())
                    .with(project.label.as_str())
                    .with(project.created_at_ms),
                )
                .await?;
            if made == 0 {
                return Err(Error::Exists(format!("project {:?}", project.id)));
            }
            let act = act(
                "project.create",
                &project.id,
                json!({"label": project.label}),
            );
            record(&mut tx, &self.sealer, &act, by).await?;
            tx.commit().await
        })
    }

    fn keys(&self) -> BoxFuture<'_, Result<Vec<KeyRecord>, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let rows = connection
                .all(sql(
                    "SELECT api_key, project, label, secret, configured, created_at_ms, rotated_at_ms \
                     FROM api_keys WHERE revoked_at_ms IS NULL ORDER BY project, api_key",
                ))
                .await?;
            rows.iter().map(|row| key(row, &self.sealer)).collect()
        })
    }

    fn keys_version(&self) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let row = connection
                .one(sql("SELECT version FROM versions WHERE name = 'keys'"))
                .await?;
            row.map_or(Ok(0), |row| row.number("version"))
        })
    }

    fn create_key<'a>(
        &'a self,
        key: &'a KeyRecord,
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut tx = self.database.begin().await?;
            let project = tx
                .one(
                    sql("SELECT project FROM projects WHERE project = $1")
                        .with(key.project.as_str()),
                )
                .await?;
            if project.is_none() {
                return Err(Error::Missing(format!("project {:?}", key.project)));
            }
            let made = tx
                .execute(
                    sql("INSERT INTO api_keys \
                         (api_key, project, label, secret, configured, created_at_ms) \
                         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING")
                    .with(key.key.as_str())
                    .with(key.project.as_str())
                    .with(key.label.as_str())
                    .with(self.sealer.seal(&place(&key.key), &key.secret)?)
                    .with(key.configured)
                    .with(key.created_at_ms),
                )
                .await?;
            if made == 0 {
                return Err(Error::Exists(format!("API key {:?}", key.key)));
            }
            let target = format!("{}/{}", key.project, key.key);
            let act = act("key.create", &target, json!({"label": key.label}));
            self.keys_changed(tx, &act, by).await
        })
    }

    fn rotate_key<'a>(
        &'a self,
        project: &'a str,
        key: &'a str,
        secret: &'a Secret,
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut tx = self.database.begin().await?;
            let sealed = self.sealer.seal(&place(key), secret)?;
            let changed = tx
                .execute(
                    sql("UPDATE api_keys SET secret = $3, rotated_at_ms = $4 \
                         WHERE project = $1 AND api_key = $2 AND revoked_at_ms IS NULL")
                    .with(project)
                    .with(key)
                    .with(sealed)
                    .with(by.at_ms),
                )
                .await?;
            if changed == 0 {
                return Err(missing(project, key));
            }
            let act = act("key.rotate", &format!("{project}/{key}"), json!({}));
            self.keys_changed(tx, &act, by).await
        })
    }

    fn revoke_key<'a>(
        &'a self,
        project: &'a str,
        key: &'a str,
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut tx = self.database.begin().await?;
            // The secret goes; the name stays, so that it is not given out again.
            let changed = tx
                .execute(
                    sql("UPDATE api_keys SET revoked_at_ms = $3, secret = '' \
                         WHERE project = $1 AND api_key = $2 AND revoked_at_ms IS NULL")
                    .with(project)
                    .with(key)
                    .with(by.at_ms),
                )
                .await?;
            if changed == 0 {
                return Err(missing(project, key));
            }
            let act = act("key.revoke", &format!("{project}/{key}"), json!({}));
            self.keys_changed(tx, &act, by).await
        })
    }

    fn sync_keys<'a>(
        &'a self,
        configured: &'a BTreeMap<String, Secret>,
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut tx = self.database.begin().await?;
            if tx.locks_rows() {
                // Replicas that start together configure one after another.
                tx.one(sql(
                    "SELECT version FROM versions WHERE name = 'keys' FOR UPDATE",
                ))
                .await?;
            }
            let rows = tx
                .all(sql(
                    "SELECT api_key, project, label, secret, configured, created_at_ms, \
                     rotated_at_ms, revoked_at_ms FROM api_keys",
                ))
                .await?;
            let Differences { missing, dropped } = differences(&rows, configured, &self.sealer)?;
            if missing.is_empty() && dropped.is_empty() {
                return tx.commit().await;
            }
            let act = act(
                "key.configure",
                DEFAULT_PROJECT,
                json!({"set": missing.keys().collect::<Vec<_>>(), "dropped": dropped}),
            );
            for name in &dropped {
                tx.execute(sql("DELETE FROM api_keys WHERE api_key = $1").with(name.as_str()))
                    .await?;
            }
            for (name, secret) in missing {
                tx.execute(
                    sql("INSERT INTO api_keys \
                         (api_key, project, label, secret, configured, created_at_ms) \
                         VALUES ($1, $2, '', $3, TRUE, $4) ON CONFLICT (api_key) \
                         DO UPDATE SET secret = excluded.secret, configured = TRUE")
                    .with(name)
                    .with(DEFAULT_PROJECT)
                    .with(self.sealer.seal(&place(name), secret)?)
                    .with(by.at_ms),
                )
                .await?;
            }
            self.keys_changed(tx, &act, by).await
        })
    }
}

/// How the configured keys differ from those of the store.
struct Differences<'a> {
    /// To be set.
    missing: BTreeMap<&'a str, &'a Secret>,
    /// Configured before, and not any more.
    dropped: Vec<String>,
}

/// A key that was revoked stays so, one whose secret was rotated keeps the new one: the configuration is older.
fn differences<'a>(
    rows: &[Row],
    configured: &'a BTreeMap<String, Secret>,
    sealer: &Sealer,
) -> Result<Differences<'a>, Error> {
    let all = configured.iter();
    let mut missing: BTreeMap<_, _> = all.map(|(name, secret)| (name.as_str(), secret)).collect();
    let mut dropped = Vec::new();
    for row in rows {
        let name = row.text("api_key")?;
        let revoked = row.maybe_number("revoked_at_ms")?.is_some();
        let Some(secret) = missing.get(name.as_str()) else {
            if row.flag("configured")? && !revoked {
                dropped.push(name);
            }
            continue;
        };
        // A secret that does not open any more is set again.
        let known = key(row, sealer).ok();
        let rotated = known
            .as_ref()
            .is_some_and(|key| key.rotated_at_ms.is_some());
        let same = known.is_some_and(|key| key.configured && key.secret == **secret);
        if revoked || rotated {
            tracing::warn!(
                key = name,
                revoked,
                "configured API key was changed since and stays so"
            );
        }
        if revoked || rotated || same {
            missing.remove(name.as_str());
        }
    }
    Ok(Differences { missing, dropped })
}

impl Sql {
    /// Ends a transaction that changed keys.
    async fn keys_changed(&self, mut tx: Tx, act: &Act, by: By<'_>) -> Result<(), Error> {
        tx.execute(sql(
            "UPDATE versions SET version = version + 1 WHERE name = 'keys'",
        ))
        .await?;
        record(&mut tx, &self.sealer, act, by).await?;
        tx.commit().await
    }
}

/// What a key's secret is sealed for.
fn place(key: &str) -> String {
    format!("{PLACE}/{key}")
}

fn act(action: &str, target: &str, detail: serde_json::Value) -> Act {
    Act {
        action: action.to_owned(),
        target: target.to_owned(),
        detail,
    }
}

fn missing(project: &str, key: &str) -> Error {
    Error::Missing(format!("API key {key:?} of project {project:?}"))
}

fn project(row: &Row) -> Result<Project, Error> {
    Ok(Project {
        id: row.text("project")?,
        label: row.text("label")?,
        created_at_ms: row.number("created_at_ms")?,
    })
}

fn key(row: &Row, sealer: &Sealer) -> Result<KeyRecord, Error> {
    let key = row.text("api_key")?;
    Ok(KeyRecord {
        project: row.text("project")?,
        label: row.text("label")?,
        secret: sealer.open(&place(&key), &row.text("secret")?)?,
        configured: row.flag("configured")?,
        created_at_ms: row.number("created_at_ms")?,
        rotated_at_ms: row.maybe_number("rotated_at_ms")?,
        key,
    })
}
