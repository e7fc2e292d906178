//! The audit log: who changed what. Entries form a chain of keyed hashes: without the master key nobody can change, drop
//! or insert one unseen.

use futures_util::future::BoxFuture;

use super::Error;

/// Who does something, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct By<'a> {
    /// A person, an API key, or the process itself.
    pub who: &'a str,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// What happened, to be logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Act {
    /// For example `key.revoke`.
    pub action: String,
    /// To what, for example `default/APIabc`.
    pub target: String,
    /// More of it. Never a secret.
    pub detail: serde_json::Value,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its place, from 1.
    pub seq: u64,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who did it.
    pub who: String,
    /// What was done.
    pub act: Act,
    /// Hash of this entry and the hash before, in hexadecimal.
    pub hash: String,
}

/// What a check of the whole log found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Every entry is as it was written.
    Sound {
        /// How many there are.
        entries: u64,
        /// Hash of the last one; noted elsewhere, it proves the log up to there.
        head: String,
    },
    /// An entry was changed, dropped or inserted.
    Broken {
        /// The first place that is wrong.
        seq: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// The audit log.
pub trait Audit {
    /// Appends an entry.
    fn append<'a>(&'a self, act: &'a Act, by: By<'a>) -> BoxFuture<'a, Result<Entry, Error>>;

    /// At most `limit` entries after a place, oldest first.
    fn entries(&self, after_seq: u64, limit: u32) -> BoxFuture<'_, Result<Vec<Entry>, Error>>;

    /// Checks the whole log.
    fn verify(&self) -> BoxFuture<'_, Result<Verdict, Error>>;
}
