//! Webhooks: applications are told of events by signed POST requests, at least once, in order per room.
//!
//! The core makes events; they are put into an [`Outbox`] for every configured URL. One task takes from it what is due, sends it and
//! puts off what failed. Replicas may share an outbox: what one has taken the others do not get until it is put off or given back.

mod deliver;
mod memory;
mod sign;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use crate::core::Event;

pub use deliver::{Target, deliver};
pub use memory::Memory;
pub use sign::{Error as SignError, Signed, sign};

/// An outbox did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("outbox: {0}")]
pub struct Error(pub Box<dyn std::error::Error + Send + Sync>);

/// One event on its way to one URL.
#[derive(Clone, PartialEq, Debug)]
pub struct Delivery {
    /// Of this outbox.
    pub id: u64,
    /// Where it goes.
    pub url: String,
    /// What is told.
    pub event: Event,
    /// Tries so far.
    pub attempts: u32,
}

/// Events that wait to be told.
pub trait Outbox: fmt::Debug + Send + Sync {
    /// Puts events in, once for every URL. One whose id is there already, or was lately, is left out.
    fn add<'a>(
        &'a self,
        events: &'a [Event],
        urls: &'a [String],
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Takes up to `limit` events that are due: of the events of a room for a URL only ever the oldest. They are not given out
    /// again before `until_ms`, milliseconds since the Unix epoch, as `now_ms`.
    fn take(
        &self,
        now_ms: u64,
        until_ms: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Delivery>, Error>>;

    /// It was told, or is given up: the room's next one is due.
    fn done(&self, id: u64) -> BoxFuture<'_, Result<(), Error>>;

    /// It was not told; it is due again at `at_ms`.
    fn put_off(&self, id: u64, at_ms: u64) -> BoxFuture<'_, Result<(), Error>>;
}

/// Where events go.
#[derive(Clone, Debug)]
pub struct Webhooks {
    outbox: Arc<dyn Outbox>,
    urls: Arc<[String]>,
    added: Arc<Notify>,
}

impl Webhooks {
    /// Events go to these URLs by way of the outbox.
    pub fn new(outbox: Arc<dyn Outbox>, urls: &[String]) -> Self {
        Self {
            outbox,
            urls: urls.into(),
            added: Arc::default(),
        }
    }

    /// Puts events in.
    ///
    /// # Errors
    /// When the outbox does not take them; they should be put in again later.
    pub async fn add(&self, events: &[Event]) -> Result<(), Error> {
        self.outbox.add(events, &self.urls).await?;
        self.added.notify_one();
        Ok(())
    }
}
