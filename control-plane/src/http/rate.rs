//! How many requests one address, and one API key, may make.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Gateway;
use super::client_address;
use super::error::ApiError;
use crate::store::Ephemeral;
use crate::store::ephemeral::{Rate, Taken};

/// Requests at once, for each one per second that is allowed in the long run: a page loads in a burst.
const BURST: u32 = 4;
/// Questions to the shared store that are under way at a time.
const ASKING_MAX: usize = 1_024;
/// The longest that what the shared store says is believed: a clock of another replica may be wrong.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How often addresses and keys that have all of their share again are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(30);

/// The limits of one gateway; clones are one. Each replica counts by itself, and with what the others counted where a store
/// is shared.
#[derive(Clone, Debug)]
pub struct RateLimits {
    addresses: Option<Arc<DefaultKeyedRateLimiter<IpAddr>>>,
    keys: Option<Arc<DefaultKeyedRateLimiter<String>>>,
    clock: DefaultClock,
    rates: (u32, u32),
    shared: Option<Shared>,
}

impl RateLimits {
    /// Requests per second in the long run, per address and per API key; 0 for as many as they like.
    pub fn new(per_address: u32, per_key: u32) -> Self {
        Self {
            addresses: quota(per_address).map(|quota| Arc::new(RateLimiter::dashmap(quota))),
            keys: quota(per_key).map(|quota| Arc::new(RateLimiter::dashmap(quota))),
            clock: DefaultClock::default(),
            rates: (per_address, per_key),
            shared: None,
        }
    }

    /// The rates hold for all replicas of this store together.
    #[must_use]
    pub fn shared_by(mut self, store: Arc<dyn Ephemeral>) -> Self {
        self.shared = Some(Shared::new(store));
        self
    }

    /// Forgets from time to time who has not been here for long, until `shutdown`.
    pub async fn forget_idle(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(FORGET_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
            if let Some(addresses) = &self.addresses {
                addresses.retain_recent();
                addresses.shrink_to_fit();
            }
            if let Some(keys) = &self.keys {
                keys.retain_recent();
                keys.shrink_to_fit();
            }
            if let Some(shared) = &self.shared {
                shared.forget_past();
            }
        }
    }

    /// Counts a request of a client. What this machine's own programs and proxies ask is not limited.
    pub(super) fn check_address(&self, address: IpAddr) -> Result<(), ApiError> {
        let address = address.to_canonical();
        match &self.addresses {
            Some(addresses) if !address.is_loopback() => {
                let network = network(address);
                let allowed = addresses.check_key(&network);
                allowed.map_err(|until| too_many(until.wait_time_from(self.clock.now())))?;
                self.check_shared(format_args!("address {network}"), self.rates.0)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Counts a request that a key has signed.
    pub(super) fn check_key(&self, key: &str) -> Result<(), ApiError> {
        let Some(keys) = &self.keys else {
            return Ok(());
        };
        let allowed = keys.check_key(&key.to_owned());
        allowed.map_err(|until| too_many(until.wait_time_from(self.clock.now())))?;
        self.check_shared(format_args!("key {key}"), self.rates.1)
    }

    fn check_shared(&self, bucket: fmt::Arguments<'_>, per_second: u32) -> Result<(), ApiError> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        let rate = Rate {
            per_second: per_second.into(),
            burst: per_second.saturating_mul(BURST).into(),
        };
        shared.check(bucket.to_string(), rate).map_err(too_many)
    }
}

/// Counts with the other replicas. No request waits for the store: it is told of each, and what it says holds for the next.
#[derive(Clone, Debug)]
struct Shared {
    store: Arc<dyn Ephemeral>,
    /// Buckets that are empty, and until when.
    spent: Arc<Mutex<HashMap<String, Instant>>>,
    asking: Arc<Semaphore>,
}

impl Shared {
    fn new(store: Arc<dyn Ephemeral>) -> Self {
        Self {
            store,
            spent: Arc::default(),
            asking: Arc::new(Semaphore::new(ASKING_MAX)),
        }
    }

    /// How long to wait, as `Err`. Must be called within a tokio runtime.
    fn check(&self, bucket: String, rate: Rate) -> Result<(), Duration> {
        let now = Instant::now();
        if let Some(until) = self.lock().get(&bucket)
            && *until > now
        {
            return Err(*until - now);
        }
        // While the store is slow the replica counts alone.
        if let Ok(asking) = Arc::clone(&self.asking).try_acquire_owned() {
            let shared = self.clone();
            tokio::spawn(async move {
                shared.take(bucket, rate).await;
                drop(asking);
            });
        }
        Ok(())
    }

    async fn take(&self, bucket: String, rate: Rate) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        match self.store.take(&bucket, rate, now_ms).await {
            Ok(Taken::Allowed) => {}
            Ok(Taken::Limited { retry_after_ms }) => {
                let until = Instant::now() + Duration::from_millis(retry_after_ms).min(WAIT_MAX);
                self.lock().insert(bucket, until);
            }
            Err(error) => tracing::debug!(%error, "requests are counted here alone"),
        }
    }

    fn forget_past(&self) {
        let now = Instant::now();
        self.lock().retain(|_, until| *until > now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        // An entry is whole or not there.
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn quota(per_second: u32) -> Option<Quota> {
    let rate = NonZeroU32::new(per_second)?;
    let burst = NonZeroU32::new(per_second.saturating_mul(BURST))?;
    Some(Quota::per_second(rate).allow_burst(burst))
}

/// Whoever has one IPv6 address has a /64 of them (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let prefix = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(prefix).into()
        }
    }
}

fn too_many(wait: Duration) -> ApiError {
    ApiError::TooMany {
        retry_s: wait.as_secs() + 1,
    }
}

/// Turns away who asks too often, before anything else is done.
pub(super) async fn limit(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    match check(&gateway, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Counts a request of the client that it is from.
pub(super) fn check(gateway: &Gateway, request: &Request) -> Result<(), ApiError> {
    let Some(address) = client_address::of_request(gateway, request) else {
        return Ok(());
    };
    gateway
        .rates
        .check_address(address)
        .inspect_err(|_| gateway.metrics.gateway.rate_limited.inc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(limits: &RateLimits, address: &str) -> usize {
        let address: IpAddr = address.parse().expect("an address");
        (0..100)
            .take_while(|_| limits.check_address(address).is_ok())
            .count()
    }

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let limits = RateLimits::new(5, 2);
        assert_eq!(spent(&limits, "192.0.2.1"), 20);
        assert_eq!(spent(&limits, "192.0.2.1"), 0);
        assert_eq!(spent(&limits, "192.0.2.2"), 20, "others are not hurt");
        assert_eq!(spent(&limits, "127.0.0.1"), 100);
        assert_eq!(spent(&limits, "2001:db8::1"), 20);
        assert_eq!(spent(&limits, "2001:db8::2"), 0, "the same /64");
        let keyed = (0..100).take_while(|_| limits.check_key("key").is_ok());
        assert_eq!(keyed.count(), 8);
        let refused = limits.check_key("key").expect_err("spent");
        assert_eq!(refused, ApiError::TooMany { retry_s: 1 });
    }

    #[tokio::test]
    async fn replicas_of_one_store_count_together() {
        let store: Arc<dyn Ephemeral> = Arc::new(crate::store::memory::Memory::new("a"));
        let [one, other] = [(); 2].map(|()| RateLimits::new(5, 5).shared_by(Arc::clone(&store)));
        // Neither has anything against it by its own count.
        for _ in 0..10 {
            one.check_key("key").expect("within the rate");
            other.check_key("key").expect("within the rate");
            tokio::task::yield_now().await;
        }
        one.check_key("key").expect("not told yet");
        tokio::task::yield_now().await;
        assert!(one.check_key("key").is_err(), "told");
        other.check_key("key").expect("not told yet");
        tokio::task::yield_now().await;
        assert!(other.check_key("key").is_err(), "told");
        assert!(other.check_key("another").is_ok());
    }

    #[test]
    fn nought_is_no_limit() {
        let limits = RateLimits::new(0, 0);
        assert_eq!(spent(&limits, "192.0.2.1"), 100);
        assert!(limits.check_key("key").is_ok());
    }
}
