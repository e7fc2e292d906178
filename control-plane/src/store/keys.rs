//! Projects and their API keys.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;

use super::Error;
use super::audit::By;
use crate::config::Secret;

/// The project of keys that come from the configuration.
pub use proto::DEFAULT_PROJECT;

/// A tenant: its rooms, keys and events are apart from those of others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Project {
    /// Its id, 1 to 64 lower-case letters, digits and `-`.
    pub id: String,
    /// For people.
    pub label: String,
    /// When it was created, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
}

/// An API key with its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRecord {
    /// The key, which tokens name as issuer.
    pub key: String,
    /// Its project.
    pub project: String,
    /// For people.
    pub label: String,
    /// The secret, which signs.
    pub secret: Secret,
    /// Whether it came from the configuration, and goes when it goes there.
    pub configured: bool,
    /// When it was created, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When its secret was replaced last, milliseconds since the Unix epoch.
    pub rotated_at_ms: Option<u64>,
}

/// Projects and keys. Secrets are sealed at rest; every change has an entry in the audit log, made in one transaction
/// with it.
pub trait Keys {
    /// All projects by id.
    fn projects(&self) -> BoxFuture<'_, Result<Vec<Project>, Error>>;

    /// Creates a project.
    ///
    /// # Errors
    /// [`Error::Exists`] when there is one of that id.
    fn create_project<'a>(
        &'a self,
        project: &'a Project,
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// All keys that are valid, by project and key.
    fn keys(&self) -> BoxFuture<'_, Result<Vec<KeyRecord>, Error>>;

    /// Grows with every change of keys.
    fn keys_version(&self) -> BoxFuture<'_, Result<u64, Error>>;

    /// Creates a key.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is no such project, [`Error::Exists`] when there is or was such a key.
    fn create_key<'a>(&'a self, key: &'a KeyRecord, by: By<'a>)
    -> BoxFuture<'a, Result<(), Error>>;

    /// Replaces a key's secret: tokens signed with the one before are refused from then on.
    ///
    /// # Errors
    /// [`Error::Missing`] when the project has no such valid key.
    fn rotate_key<'a>(
        &'a self,
        project: &'a str,
        key: &'a str,
        secret: &'a Secret,
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Ends a key. Its name is not given out again.
    ///
    /// # Errors
    /// [`Error::Missing`] when the project has no such valid key.
    fn revoke_key<'a>(
        &'a self,
        project: &'a str,
        key: &'a str,
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Makes the configured keys those of the store. A key that was revoked stays so.
    fn sync_keys<'a>(
        &'a self,
        configured: &'a BTreeMap<String, Secret>,
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>>;
}
