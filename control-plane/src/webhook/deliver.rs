//! The task that sends what is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng as _;
use reqwest::Client;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::redirect::Policy;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Delivery, Error, Webhooks, sign};
use crate::config::Secret;
use crate::metrics::Metrics;
use crate::token::SigningKey;

/// What a webhook's body is.
const CONTENT: &str = "application/webhook+json";
/// How long a receiver may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a taken event stays with one replica: longer than a receiver may take.
const LEASE: Duration = Duration::from_secs(30);
/// Requests at a time.
const CONCURRENCY: usize = 32;
/// How often the outbox is looked at without being told to.
const INTERVAL: Duration = Duration::from_millis(500);
/// Wait after the first try that failed; it doubles with every further one.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest wait between tries.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// An event that nobody took for so long is given up, so that the room's later ones are told.
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// A URL that is told of events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where to.
    pub url: String,
    /// The API key that signs.
    pub key: String,
}

/// What the task works with.
struct Courier {
    webhooks: Webhooks,
    /// API key by URL.
    signers: BTreeMap<String, String>,
    keys: Arc<BTreeMap<String, Secret>>,
    client: Client,
    metrics: Metrics,
}

/// Sends events until `shutdown`. `keys` are the API keys with their secrets.
///
/// # Errors
/// When the HTTP client cannot be made.
pub fn deliver(
    webhooks: Webhooks,
    targets: &[Target],
    keys: Arc<BTreeMap<String, Secret>>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> reqwest::Result<tokio::task::JoinHandle<()>> {
    runtime::tls::install_provider();
    let client = Client::builder()
        .timeout(TIMEOUT)
        .redirect(Policy::none())
        .user_agent(concat!("antipode/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let signers = targets.iter().map(|t| (t.url.clone(), t.key.clone()));
    let courier = Arc::new(Courier {
        webhooks,
        signers: signers.collect(),
        keys,
        client,
        metrics,
    });
    Ok(tokio::spawn(async move {
        tokio::select! {
            () = courier.run() => {}
            () = shutdown.cancelled() => {}
        }
    }))
}

impl Courier {
    async fn run(self: Arc<Self>) {
        let mut tries = JoinSet::new();
        loop {
            let free = CONCURRENCY - tries.len();
            for delivery in self.due(free).await {
                let courier = Arc::clone(&self);
                tries.spawn(async move { courier.attempt(delivery).await });
            }
            let added = self.webhooks.added.notified();
            tokio::select! {
                // Its room's next event is due.
                Some(_) = tries.join_next() => {}
                () = added, if free > 0 => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn due(&self, limit: usize) -> Vec<Delivery> {
        if limit == 0 {
            return Vec::new();
        }
        let now_ms = now_ms();
        let until_ms = now_ms.saturating_add(millis(LEASE));
        let taken = self.webhooks.outbox.take(now_ms, until_ms, limit).await;
        taken.unwrap_or_else(|error| {
            tracing::warn!(%error, "events cannot be read");
            Vec::new()
        })
    }

    async fn attempt(&self, delivery: Delivery) {
        let kept = match self.send(&delivery).await {
            Ok(()) => {
                self.count("delivered");
                self.webhooks.outbox.done(delivery.id).await
            }
            Err(reason) => self.put_off(&delivery, &reason).await,
        };
        if let Err(error) = kept {
            // It is told again after its lease.
            tracing::warn!(%error, "outbox not updated");
        }
    }

    /// Tries again later, or gives up what is too old.
    async fn put_off(&self, delivery: &Delivery, reason: &str) -> Result<(), Error> {
        let (id, event) = (delivery.id, &delivery.event.id);
        let now_ms = now_ms();
        if now_ms.saturating_sub(delivery.event.at_ms) > millis(AGE_MAX) {
            tracing::warn!(event, reason, "event given up");
            self.count("dropped");
            return self.webhooks.outbox.done(id).await;
        }
        tracing::info!(event, reason, "event not taken");
        self.count("retried");
        let at_ms = now_ms.saturating_add(millis(backoff(delivery.attempts)));
        self.webhooks.outbox.put_off(id, at_ms).await
    }

    fn count(&self, result: &str) {
        self.metrics.webhooks.with_label_values(&[result]).inc();
    }

    /// One try; on failure why. URLs may hold secrets of the application, so no error shows one.
    async fn send(&self, delivery: &Delivery) -> Result<(), String> {
        let key = self.signers.get(&delivery.url);
        let key = key.ok_or("the URL is not configured any more")?;
        let secret = self.keys.get(key).ok_or("its API key is not known")?;
        let key = SigningKey {
            key,
            secret: secret.expose(),
        };
        let signed = sign(&delivery.event.content, key, SystemTime::now());
        let signed = signed.map_err(|error| error.to_string())?;
        let request = self
            .client
            .post(&delivery.url)
            .header(CONTENT_TYPE, CONTENT)
            .header(AUTHORIZATION, signed.authorization)
            .body(signed.body);
        let response = request.send().await;
        let response = response.map_err(|error| error.without_url().to_string())?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(format!("the receiver answered {}", response.status()))
        }
    }
}

/// Wait after the given number of tries before the one that failed, with a fifth of jitter.
fn backoff(attempts: u32) -> Duration {
    let wait = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(attempts.min(16)));
    wait.min(BACKOFF_MAX)
        .mul_f64(rand::rng().random_range(0.8..1.2))
}

fn now_ms() -> u64 {
    millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
