//! The task that follows which processes of a name there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Health, Index, Instance, Registry};

/// How long a blocking query waits.
const WAIT: Duration = Duration::from_secs(30);
/// Shortest and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Pause after an answer, so that changes in quick succession are seen together.
const CALM: Duration = Duration::from_millis(5);

/// What is known of the processes of a name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// By id, as the registry said last.
    pub instances: BTreeMap<String, Instance>,
    /// Whether the registry answers. Otherwise `instances` is what it said before it went.
    pub current: bool,
}

impl View {
    /// Those that pass.
    pub fn passing(&self) -> impl Iterator<Item = &Instance> {
        let all = self.instances.values();
        all.filter(|instance| instance.health == Health::Passing)
    }
}

/// Follows the processes of a name until `shutdown`. The first view is empty and not current.
pub fn watch(
    registry: Arc<dyn Registry>,
    name: &str,
    shutdown: CancellationToken,
) -> watch::Receiver<View> {
    let (views, receiver) = watch::channel(View::default());
    let name = name.to_owned();
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = views.closed() => {}
            () = follow(&*registry, &name, &views) => {}
        }
    });
    receiver
}

async fn follow(registry: &dyn Registry, name: &str, views: &watch::Sender<View>) {
    let (mut index, mut pause, mut failing) = (Index(0), PAUSE.0, false);
    loop {
        match registry.list(name, index, WAIT).await {
            Ok(listing) => {
                // A registry that lost its state counts anew: wait for nothing the next time.
                index = if listing.index < index {
                    Index(0)
                } else {
                    listing.index
                };
                pause = PAUSE.0;
                if std::mem::replace(&mut failing, false) {
                    tracing::info!(name, "the registry is back");
                }
                let view = View {
                    instances: listing.instances,
                    current: true,
                };
                views.send_if_modified(|before| {
                    let other = *before != view;
                    *before = view;
                    other
                });
                tokio::time::sleep(CALM).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    let known = views.borrow().instances.len();
                    tracing::warn!(name, %error, known, "the registry is gone; what it said last stays");
                }
                // Its state may be another one when it is back.
                index = Index(0);
                views.send_if_modified(|view| std::mem::replace(&mut view.current, false));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}
