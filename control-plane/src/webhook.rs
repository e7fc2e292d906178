//! Webhooks: applications are told of events by signed POST requests, at least once, in order per room and URL.
//!
//! The core makes events; for every configured URL each becomes a change that the durable store saves in one transaction with
//! what it tells of. A task of every replica takes what is due from the store, sends it and puts off what failed; what one
//! replica has taken the others do not get until its lease ends.

mod deliver;
mod sign;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use proto::DEFAULT_PROJECT;
use tokio::sync::Notify;

use crate::core::Event;
use crate::store::Change;
use crate::store::webhooks::Webhook;

pub use deliver::Courier;
pub use sign::sign;

/// Bytes of the digest that stands for a URL.
const TARGET_BYTES: usize = 12;

/// A URL that is told of events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where to.
    pub url: String,
    /// The project whose events these are.
    pub project: String,
    /// The API key that signs, of the same project; none: the first that it has.
    pub key: Option<String>,
}

/// Where events go. Clones are one.
#[derive(Clone, Debug)]
pub struct Webhooks {
    /// By what stands for them in the store: their URLs may hold secrets of the application.
    targets: Arc<BTreeMap<String, Target>>,
    added: Arc<Notify>,
}

impl Webhooks {
    /// Events go to these URLs.
    pub fn new(targets: Vec<Target>) -> Self {
        let named = |target: Target| (name(&target.project, &target.url), target);
        Self {
            targets: Arc::new(targets.into_iter().map(named).collect()),
            added: Arc::default(),
        }
    }

    /// What is to be saved so that all URLs hear of an event.
    pub fn changes(&self, event: &Event) -> impl Iterator<Item = Change> {
        let payload = serde_json::to_string(&event.content);
        if let Err(error) = &payload {
            tracing::error!(event = event.id, %error, "event has no JSON form");
        }
        let payload = payload.ok().into_iter();
        payload.flat_map(move |payload| {
            let project = event.room.project();
            let told = self
                .targets
                .iter()
                .filter(move |(_, to)| to.project == project);
            told.map(move |(target, _)| {
                Change::Webhook(Webhook {
                    id: event.id.clone(),
                    target: target.clone(),
                    room: event.room.clone(),
                    event: event.content.event.clone(),
                    payload: payload.clone(),
                    created_at_ms: event.at_ms,
                })
            })
        })
    }

    /// Events may have been saved.
    pub fn notify(&self) {
        self.added.notify_one();
    }
}

/// What stands for a URL and the project whose events it gets.
fn name(project: &str, url: &str) -> String {
    let text = match project {
        DEFAULT_PROJECT => url.to_owned(),
        project => format!("{project}\n{url}"),
    };
    let digest = digest(&SHA256, text.as_bytes());
    let bytes = digest.as_ref().iter().take(TARGET_BYTES);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
