//! The task that keeps a process registered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Error, Registry, Service};

/// How often what a process says of itself may be replaced; in between only its note changes.
const REPLACE: Duration = Duration::from_secs(10);
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a process says of itself now: how it is registered, and a note on its load.
pub type Described = (Service, String);

/// Keeps a process registered until `shutdown`, then takes it out. `describe` is asked three times per TTL. When the
/// registry is gone it is tried again at that pace, and the process serves on.
pub async fn announce(
    registry: Arc<dyn Registry>,
    describe: impl Fn() -> Described + Send,
    shutdown: CancellationToken,
) {
    let mut described = describe();
    let mut times = tokio::time::interval(described.0.ttl / 3);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut state = State::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = times.tick() => {}
        }
        described = describe();
        state.say(&*registry, &described).await;
    }
    if state.registered.is_some() {
        let leaving = registry.deregister(&described.0.id);
        if !matches!(tokio::time::timeout(GOODBYE, leaving).await, Ok(Ok(()))) {
            tracing::debug!(
                service = described.0.id,
                "not taken out of the registry; it expires"
            );
        }
    }
}

#[derive(Default)]
struct State {
    /// What it is registered as, and since when.
    registered: Option<(Service, Instant)>,
    failing: bool,
}

impl State {
    async fn say(&mut self, registry: &dyn Registry, (service, note): &Described) {
        let said = self.try_say(registry, service, note).await;
        match said {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(service = service.id, "the registry is back");
            }
            Ok(()) => {}
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(service = service.id, %error, "the registry is gone; this process serves on");
                }
            }
        }
    }

    async fn try_say(
        &mut self,
        registry: &dyn Registry,
        service: &Service,
        note: &str,
    ) -> Result<(), Error> {
        let known = self.registered.as_ref();
        let good =
            known.is_some_and(|(as_what, since)| as_what == service || since.elapsed() < REPLACE);
        if good {
            match registry.pass(&service.id, note).await {
                // The registry lost its state: all anew.
                Err(Error::Unknown(_)) => self.registered = None,
                other => return other,
            }
        }
        registry.register(service).await?;
        self.registered = Some((service.clone(), Instant::now()));
        registry.pass(&service.id, note).await
    }
}
