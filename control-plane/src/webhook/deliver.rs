//! The task that sends what is due.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng as _;
use reqwest::Client;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::redirect::Policy;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Webhooks, sign};
use crate::keyring::Keyring;
use crate::metrics::Metrics;
use crate::store::webhooks::{Again, Claim, Delivery, Webhook};
use crate::store::{Durable, Error};
use crate::token::SigningKey;

/// What a webhook's body is.
const CONTENT: &str = "application/webhook+json";
/// How long a receiver may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the store may take to hand out events: its host may have vanished.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a taken event stays with one replica: longer than a receiver may take.
const LEASE: Duration = Duration::from_secs(15);
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

/// Sends events.
#[derive(Debug)]
pub struct Courier {
    webhooks: Webhooks,
    durable: Arc<dyn Durable>,
    keys: Keyring,
    client: Client,
    metrics: Metrics,
    /// Unlike any other that ever took events.
    worker: String,
}

impl Courier {
    /// Sends to `webhooks` what waits in the store, signed with keys as they are at the time.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(
        webhooks: Webhooks,
        durable: Arc<dyn Durable>,
        keys: Keyring,
        metrics: Metrics,
    ) -> reqwest::Result<Self> {
        runtime::tls::install_provider();
        let client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(Policy::none())
            .user_agent(concat!("antipode/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            webhooks,
            durable,
            keys,
            client,
            metrics,
            worker: format!("{:032x}", rand::random::<u128>()),
        })
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        tokio::select! {
            () = Arc::new(self).work() => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn work(self: Arc<Self>) {
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
        let claim = Claim {
            worker: &self.worker,
            now_ms: now_ms(),
            lease_ms: millis(LEASE),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        };
        let claimed = tokio::time::timeout(CLAIM_TIMEOUT, self.durable.claim(claim)).await;
        let claimed = claimed.unwrap_or(Err(Error::TimedOut));
        claimed.unwrap_or_else(|error| {
            tracing::warn!(%error, "events cannot be read");
            Vec::new()
        })
    }

    async fn attempt(&self, delivery: Delivery) {
        let kept = match self.send(&delivery.webhook).await {
            Ok(()) => {
                self.count("delivered");
                self.done(&delivery.webhook).await
            }
            Err(reason) => self.put_off(&delivery, &reason).await,
        };
        if let Err(error) = kept {
            // It is told again after its lease.
            tracing::warn!(%error, "outbox not updated");
        }
    }

    async fn done(&self, webhook: &Webhook) -> Result<bool, Error> {
        self.durable.delivered(webhook, &self.worker).await
    }

    /// Tries again later, or gives up what is too old.
    async fn put_off(&self, delivery: &Delivery, error: &str) -> Result<bool, Error> {
        let (webhook, event) = (&delivery.webhook, &delivery.webhook.id);
        let now_ms = now_ms();
        if now_ms.saturating_sub(webhook.created_at_ms) > millis(AGE_MAX) {
            tracing::warn!(event, error, "event given up");
            self.count("dropped");
            return self.done(webhook).await;
        }
        tracing::info!(event, error, "event not taken");
        self.count("retried");
        let due_at_ms = now_ms.saturating_add(millis(backoff(delivery.attempts)));
        let again = Again { due_at_ms, error };
        self.durable.reschedule(webhook, &self.worker, again).await
    }

    fn count(&self, result: &str) {
        self.metrics.webhooks.with_label_values(&[result]).inc();
    }

    /// One try; on failure why. URLs may hold secrets of the application, so no error shows one.
    async fn send(&self, webhook: &Webhook) -> Result<(), String> {
        let target = self.webhooks.targets.get(&webhook.target);
        let target = target.ok_or("the URL is not configured any more")?;
        let of_project = || self.keys.of_project(&target.project);
        let key = target.key.clone().or_else(of_project);
        let key = key.ok_or("its project has no API key")?;
        let found = self.keys.find(&key).ok_or("its API key is not valid")?;
        let (secret, project) = found;
        if project != target.project {
            return Err("its API key is of another project".to_owned());
        }
        let key = SigningKey {
            key: &key,
            secret: secret.expose(),
        };
        let authorization = sign(&webhook.payload, key, SystemTime::now());
        let authorization = authorization.map_err(|error| error.to_string())?;
        let request = self
            .client
            .post(&target.url)
            .header(CONTENT_TYPE, CONTENT)
            .header(AUTHORIZATION, authorization)
            .body(webhook.payload.clone());
        let response = request.send().await;
        let response = response.map_err(|error| error.without_url().to_string())?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(format!("the receiver answered {}", response.status()))
        }
    }
}

/// Wait after the given number of tries, with a fifth of jitter.
fn backoff(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    let wait = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(doublings));
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
