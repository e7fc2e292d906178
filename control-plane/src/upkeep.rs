//! What is done now and then.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use crate::store::Durable;

/// How often old records are dropped.
const PRUNE: Duration = Duration::from_secs(3_600);
/// How long ended rooms and participants' sessions stay on record.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Drops old records until `shutdown`, at once and then every hour.
pub async fn prune(durable: Arc<dyn Durable>, shutdown: CancellationToken) {
    let mut times = tokio::time::interval(PRUNE);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = times.tick() => {}
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let before = now.saturating_sub(KEPT).as_millis();
        let before_ms = u64::try_from(before).unwrap_or(u64::MAX);
        if let Err(error) = durable.prune(before_ms).await {
            tracing::warn!(%error, "old records could not be dropped");
        }
    }
}
