//! The API keys that are valid now, and the task that follows their changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use proto::control::{ApiKey, ApiKeys};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::actor::Handle;
use crate::config::Secret;
use crate::store::ephemeral::{Event, MISSED};
use crate::store::keys::{DEFAULT_PROJECT, KeyRecord};
use crate::store::{Durable, Ephemeral, Error};

/// Topic of the event that tells replicas of changed keys.
pub const TOPIC: &str = "keys";

/// How often the version of the keys is looked at, should an event be lost: a revoked key is refused within this and the
/// time it takes to tell the edges.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Held {
    project: String,
    secret: Secret,
}

/// The keys. Clones show the same ones, always the latest.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: Arc<ArcSwap<BTreeMap<String, Held>>>,
}

impl Keyring {
    /// A key's secret.
    pub fn get(&self, key: &str) -> Option<Secret> {
        self.keys.load().get(key).map(|held| held.secret.clone())
    }

    /// A key's secret and project.
    pub fn find(&self, key: &str) -> Option<(Secret, String)> {
        let keys = self.keys.load();
        let held = keys.get(key)?;
        Some((held.secret.clone(), held.project.clone()))
    }

    /// A key's project.
    pub fn project(&self, key: &str) -> Option<String> {
        self.keys.load().get(key).map(|held| held.project.clone())
    }

    /// Some key of a project.
    pub fn of_project(&self, project: &str) -> Option<String> {
        let keys = self.keys.load();
        let mut named = keys.iter().filter(|(_, held)| held.project == project);
        named.next().map(|(key, _)| key.clone())
    }

    /// Some key of the default project.
    pub fn first(&self) -> Option<String> {
        self.of_project(DEFAULT_PROJECT)
    }

    /// Puts these keys in place of those before.
    pub fn replace(&self, keys: Vec<KeyRecord>) {
        let held = keys.into_iter().map(|record| {
            let KeyRecord {
                key,
                project,
                secret,
                ..
            } = record;
            (key, Held { project, secret })
        });
        self.keys.store(Arc::new(held.collect()));
    }

    /// All keys, for the nodes, as of this version of the store's.
    pub fn for_nodes(&self, version: u64) -> ApiKeys {
        let keys = self.keys.load();
        let key = |(key, held): (&String, &Held)| ApiKey {
            key: key.clone(),
            secret: held.secret.expose().to_owned(),
            project: held.project.clone(),
        };
        ApiKeys {
            keys: keys.iter().map(key).collect(),
            version,
        }
    }
}

/// Follows the store's keys: the gateway and all nodes have them within a second of a change by any replica.
#[derive(Debug)]
pub struct Follower {
    /// Where they are.
    pub durable: Arc<dyn Durable>,
    /// Tells of changes.
    pub ephemeral: Arc<dyn Ephemeral>,
    /// To be kept up to date.
    pub keyring: Keyring,
    /// Tells the nodes.
    pub handle: Handle,
    /// The version that `keyring` has.
    pub version: u64,
}

impl Follower {
    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut events = self.ephemeral.subscribe();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = looks.tick() => {}
                event = events.recv() => match event {
                    Ok(Event { topic, .. }) if topic == TOPIC || topic == MISSED => {}
                    Ok(_) => continue,
                    Err(RecvError::Lagged(_)) => {}
                    // The store keeps its own sender for as long as it lives.
                    Err(RecvError::Closed) => return,
                },
            }
            match self.look().await {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "API keys cannot be read; those known stay valid");
                    }
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let version = self.durable.keys_version().await?;
        if version == self.version {
            return Ok(());
        }
        self.keyring.replace(self.durable.keys().await?);
        // When the task has ended there is nobody left to tell.
        self.handle.keys(self.keyring.for_nodes(version)).await.ok();
        self.version = version;
        tracing::info!(version, "API keys changed");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(project: &str, key: &str, secret: &str) -> KeyRecord {
        KeyRecord {
            key: key.to_owned(),
            project: project.to_owned(),
            label: String::new(),
            secret: Secret::from(secret),
            configured: false,
            created_at_ms: 0,
            rotated_at_ms: None,
        }
    }

    #[test]
    fn clones_show_the_latest_keys() {
        let keyring = Keyring::default();
        let clone = keyring.clone();
        keyring.replace(vec![
            record("a", "k1", "s1"),
            record(DEFAULT_PROJECT, "k2", "s2"),
        ]);
        assert_eq!(clone.get("k1"), Some(Secret::from("s1")));
        assert_eq!(clone.project("k1").as_deref(), Some("a"));
        assert_eq!(clone.first().as_deref(), Some("k2"));
        assert_eq!(clone.of_project("b"), None);
        keyring.replace(vec![record("a", "k1", "s3")]);
        assert_eq!(clone.get("k1"), Some(Secret::from("s3")));
        assert_eq!(clone.get("k2"), None);
        assert_eq!(clone.for_nodes(7).keys.len(), 1);
        assert!(!format!("{clone:?}").contains("s3"));
    }
}
