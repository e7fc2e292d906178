//! What follows from who lives: the core owns what the ring says, and takes over what became this replica's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::discovery::View;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Replicas;
use crate::actor::{Handle, Stopped};
use crate::store::{Durable, Ephemeral, Error};

/// How often the durable store is asked again for the rooms to take over.
const AGAIN: Duration = Duration::from_millis(250);
/// How long it may take to read them: hundred thousand rooms need some seconds.
const LOAD_TIMEOUT: Duration = Duration::from_secs(15);

/// What takes over.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The core's task.
    pub handle: Handle,
    /// Has the rooms.
    pub durable: Arc<dyn Durable>,
    /// Is told what is this replica's.
    pub ephemeral: Arc<dyn Ephemeral>,
}

impl Parts {
    /// These.
    pub fn new(
        handle: &Handle,
        durable: &Arc<dyn Durable>,
        ephemeral: &Arc<dyn Ephemeral>,
    ) -> Self {
        Self {
            handle: handle.clone(),
            durable: Arc::clone(durable),
            ephemeral: Arc::clone(ephemeral),
        }
    }
}

/// Keeps the core up to date with the ring until `shutdown`.
pub async fn follow(
    replicas: Replicas,
    named: watch::Receiver<View>,
    parts: Parts,
    shutdown: CancellationToken,
) {
    let (readies, handle) = (replicas.clone(), parts.handle.clone());
    let ready = async move { readies.become_ready(named, &handle).await };
    let following = follow_ring(&replicas, &parts);
    tokio::select! {
        _ = async { tokio::join!(ready, following) } => {}
        () = shutdown.cancelled() => {}
    }
}

async fn follow_ring(replicas: &Replicas, parts: &Parts) -> Result<(), Stopped> {
    let mut rings = replicas.ring();
    loop {
        let ring = rings.borrow_and_update().clone();
        parts.handle.ring(ring).await?;
        tokio::select! {
            taken = take_over(parts) => taken?,
            // Who lives changed again meanwhile: anew.
            changed = rings.changed() => {
                changed.map_err(|_| Stopped)?;
                continue;
            }
        }
        rings.changed().await.map_err(|_| Stopped)?;
    }
}

/// Hands the core all rooms that live; as soon as the durable store has them.
async fn take_over(parts: &Parts) -> Result<(), Stopped> {
    let began = Instant::now();
    let mut failing = false;
    let saved = loop {
        let loading = tokio::time::timeout(LOAD_TIMEOUT, parts.durable.load());
        let error = match loading.await {
            Ok(Ok(saved)) => break saved,
            Ok(Err(error)) => error,
            Err(_) => Error::TimedOut,
        };
        if !std::mem::replace(&mut failing, true) {
            tracing::warn!(%error, "rooms cannot be taken over yet");
        }
        tokio::time::sleep(AGAIN).await;
    };
    parts.handle.adopt(saved.rooms).await?;
    parts.ephemeral.renew();
    tracing::debug!(took_ms = began.elapsed().as_millis(), "rooms taken over");
    Ok(())
}
