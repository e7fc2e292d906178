//! Which replicas there are to speak to: those of the configuration, and those that DNS names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::line::Lines;

pub(super) struct Replicas {
    urls: BTreeSet<String>,
    named: Option<watch::Receiver<BTreeSet<SocketAddr>>>,
}

impl Replicas {
    pub(super) fn new(
        urls: Vec<String>,
        named: Option<watch::Receiver<BTreeSet<SocketAddr>>>,
    ) -> Self {
        Self {
            urls: urls.into_iter().collect(),
            named,
        }
    }

    fn wanted(&self) -> BTreeSet<String> {
        let named = self.named.as_ref();
        let named = named
            .map(|named| named.borrow().clone())
            .unwrap_or_default();
        let named = named.into_iter().map(|at| format!("http://{at}"));
        self.urls.iter().cloned().chain(named).collect()
    }

    /// Keeps a session with each of them until `shutdown`. One that DNS names no more keeps its session while that lasts.
    pub(super) async fn keep(mut self, lines: Arc<Lines>, shutdown: CancellationToken) {
        let mut running: BTreeMap<String, CancellationToken> = BTreeMap::new();
        loop {
            let wanted = self.wanted();
            running.retain(|url, retired| {
                let stays = wanted.contains(url);
                if !stays {
                    retired.cancel();
                }
                stays
            });
            for url in wanted {
                running.entry(url).or_insert_with_key(|url| {
                    let retired = CancellationToken::new();
                    let line = Arc::clone(&lines).keep(url.clone(), retired.clone());
                    let shutdown = shutdown.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = line => {}
                            () = shutdown.cancelled() => {}
                        }
                    });
                    retired
                });
            }
            let changed = async {
                let changes = match &mut self.named {
                    Some(named) => named.changed().await.is_ok(),
                    None => false,
                };
                if !changes {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = shutdown.cancelled() => return,
                () = lines.nobody_listens() => return,
            }
        }
    }
}
