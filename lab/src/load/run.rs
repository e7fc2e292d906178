//! One run: join, warm up, measure, collect.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use hdrhistogram::Histogram;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};

use super::keyframes::Keyframes;
use super::metrics::Reading;
use super::{Options, Quantiles, Report};
use crate::client::{self, Camera, Client, Microphone, Observer, State};
use crate::meter::{Meter, Window};
use crate::synthetic::{VideoConfig, monotonic_ns};
use crate::token::{self, ApiKey};

/// A client must be connected within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long packets may be late before they count as lost.
const GRACE: Duration = Duration::from_secs(1);
/// The measurement starts this much after it is announced, so that every sender sees it.
const LEAD: Duration = Duration::from_millis(20);

/// Why a run failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A token could not be made.
    #[error(transparent)]
    Token(#[from] token::Error),
    /// No publisher, or no subscriber, could join; the last reason.
    #[error("no {role} could join: {reason}")]
    NobodyJoined {
        /// `publisher` or `subscriber`.
        role: &'static str,
        /// What the last one met.
        reason: String,
    },
    /// An admin address did not answer.
    #[error("cannot read an edge's metrics: {0}")]
    Metrics(#[from] reqwest::Error),
}

/// Runs the load and reports. Progress goes to standard error.
///
/// # Errors
/// When nobody can join or an edge's metrics cannot be read; single clients that fail are counted.
pub async fn run(options: Options) -> Result<Report, Error> {
    raise_open_files();
    let load = Load::new(options);
    let publishers = load.join_all(Role::Publisher).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = load.reading().await?;
    let subscribers = load.join_all(Role::Subscriber).await?;
    progress(&format!(
        "warming up for {} s",
        load.options.warm_up_seconds
    ));
    tokio::time::sleep(Duration::from_secs(load.options.warm_up_seconds)).await;
    let mut report = load.measure(before, &publishers, &subscribers).await?;
    report.failed_clients += publishers.failed + subscribers.failed;
    let closing: FuturesUnordered<_> = publishers
        .clients
        .into_iter()
        .chain(subscribers.clients)
        .map(Client::close)
        .collect();
    closing.for_each(|()| std::future::ready(())).await;
    Ok(report)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Publisher,
    Subscriber,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Subscriber => "subscriber",
        }
    }
}

struct Joined {
    clients: Vec<Client>,
    /// What the clients were asked for and got, in no order.
    keyframes: Vec<Arc<Keyframes>>,
    join_us: Histogram<u64>,
    failed: u32,
}

struct Load {
    options: Options,
    room: String,
    key: ApiKey,
    window: Arc<Window>,
}

impl Load {
    fn new(options: Options) -> Self {
        let random = || format!("load-{:08x}", rand::random::<u32>());
        Self {
            room: options.room.clone().unwrap_or_else(random),
            key: ApiKey {
                key: options.api_key.clone(),
                secret: options.api_secret.clone(),
            },
            window: Arc::new(Window::closed()),
            options,
        }
    }

    async fn reading(&self) -> Result<Reading, reqwest::Error> {
        Reading::of(&self.options.admin).await
    }

    async fn join_all(&self, role: Role) -> Result<Joined, Error> {
        let count = match role {
            Role::Publisher => self.options.publishers,
            Role::Subscriber => self.options.subscribers,
        };
        let (spread, concurrency) = match self.options.join_within {
            Some(within) if role == Role::Subscriber => (within / count.max(1), count as usize),
            _ => (Duration::ZERO, self.options.join_concurrency),
        };
        let begun = tokio::time::Instant::now();
        let joining = stream::iter(0..count)
            .map(|index| async move {
                tokio::time::sleep_until(begun + spread * index).await;
                self.join(role, index).await
            })
            .buffer_unordered(concurrency.max(1));
        let mut joining = std::pin::pin!(joining);
        let mut joined = Joined {
            clients: Vec::new(),
            keyframes: Vec::new(),
            join_us: histogram(),
            failed: 0,
        };
        let mut reason = String::new();
        while let Some(result) = joining.next().await {
            match result? {
                Ok((client, keyframes, after)) => {
                    joined.keyframes.push(keyframes);
                    let us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
                    joined.join_us.saturating_record(us);
                    joined.clients.push(client);
                }
                Err(error) => {
                    joined.failed += 1;
                    reason = error.to_string();
                    progress(&format!("a {} cannot join: {reason}", role.name()));
                }
            }
            let done = joined.clients.len();
            if done > 0 && (done.is_multiple_of(50) || done == count as usize) {
                progress(&format!("{done} of {count} {}s joined", role.name()));
            }
        }
        if joined.clients.is_empty() && count > 0 {
            return Err(Error::NobodyJoined {
                role: role.name(),
                reason,
            });
        }
        Ok(joined)
    }

    /// Joins one client and waits for its media connection; the outer error ends the run.
    async fn join(
        &self,
        role: Role,
        index: u32,
    ) -> Result<Result<(Client, Arc<Keyframes>, Duration), client::Error>, token::Error> {
        let started = Instant::now();
        let mut options = self.client(role, index)?;
        let keyframes = Arc::new(Keyframes::new());
        options.observer = Some(Arc::clone(&keyframes) as Arc<dyn Observer>);
        let connecting = async {
            let mut client = Client::join(options).await?;
            client.connected(CONNECT_TIMEOUT).await?;
            Ok((client, keyframes, started.elapsed()))
        };
        Ok(connecting.await)
    }

    fn client(&self, role: Role, index: u32) -> Result<client::Options, token::Error> {
        let publishes = role == Role::Publisher;
        let options = &self.options;
        let url = match (role, &options.subscriber_url) {
            (Role::Subscriber, Some(url)) => url,
            _ => &options.url,
        };
        let video = VideoConfig {
            bitrate_bps: options.bitrate,
            seed: u64::from(index),
            ..VideoConfig::default()
        };
        Ok(client::Options {
            url: url.clone(),
            token: self
                .key
                .mint(&self.room, &format!("{}-{index}", role.name()))?,
            version: options.signalling,
            stack: options.stack,
            subscribe: !publishes,
            video: (publishes && options.bitrate > 0).then_some(Camera::Synthetic(video)),
            audio: (publishes && options.audio).then_some(Microphone::Synthetic),
            source: index * 2,
            window: Arc::clone(&self.window),
            meter: Arc::new(Meter::new(Arc::clone(&self.window))),
            observer: None,
        })
    }

    async fn measure(
        &self,
        before: Reading,
        publishers: &Joined,
        subscribers: &Joined,
    ) -> Result<Report, Error> {
        let first = self.reading().await?;
        let cpu_first = cpu_seconds();
        let started = Instant::now();
        let start_ns = monotonic_ns() + ns(LEAD);
        let length = Duration::from_secs(self.options.seconds);
        self.window.set(start_ns, start_ns + ns(length));
        for second in 1..=self.options.seconds {
            tokio::time::sleep_until((started + Duration::from_secs(second)).into()).await;
            if second.is_multiple_of(5) || second == self.options.seconds {
                progress(&format!("{second} of {} s measured", self.options.seconds));
            }
        }
        let last = self.reading().await?;
        let cpu = cpu_seconds() - cpu_first;
        let elapsed = started.elapsed().as_secs_f64();
        tokio::time::sleep(LEAD + GRACE).await;

        let mut report = tally(&publishers.clients, &subscribers.clients);
        report.seconds = length.as_secs_f64();
        report.received_bps /= report.seconds.max(1.0);
        report.join_ms = Quantiles::of_us(&subscribers.join_us);
        tally_keyframes(&mut report, &publishers.keyframes, &subscribers.keyframes);
        let packets = (report.sent_packets + report.received_packets).max(1);
        report.generator_cpu_cores = cpu / elapsed;
        report.generator_cpu_us_per_packet = cpu * 1e6 / packets as f64;
        if !self.options.admin.is_empty() {
            let edge_cpu = last.cpu_seconds - first.cpu_seconds;
            let grown = first.resident_bytes - before.resident_bytes;
            report.edge_cpu_cores = Some(edge_cpu / elapsed);
            report.edge_rss_per_subscriber_bytes =
                Some(grown / f64::from(report.subscribers.max(1)));
            if let (Some(from), Some(to)) = (first.forwarded, last.forwarded)
                && to > from
            {
                report.edge_forwarded_packets = Some(whole(to - from));
                report.edge_cpu_us_per_packet = Some(edge_cpu * 1e6 / (to - from));
            }
        }
        Ok(report)
    }
}

/// Adds up the clients; `received_bps` holds bits until it is divided by the time.
fn tally(publishers: &[Client], subscribers: &[Client]) -> Report {
    let mut report = Report::default();
    let alive = |client: &&Client| client.state() == State::Connected;
    let count = |clients: &[Client]| clients.iter().filter(alive).count();
    let total = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    report.publishers = total(count(publishers));
    report.subscribers = total(count(subscribers));
    let lost_clients =
        publishers.len() + subscribers.len() - count(publishers) - count(subscribers);
    report.failed_clients = total(lost_clients);
    report.sent_packets = publishers
        .iter()
        .map(|client| client.sent().totals().0)
        .sum();
    report.expected_packets = report.sent_packets * subscribers.len() as u64;
    let mut delay_us = histogram();
    for received in subscribers.iter().map(|client| client.meter().received()) {
        report.received_packets += received.packets;
        report.received_bps += received.bytes as f64 * 8.0;
        report.duplicate_packets += received.duplicates;
        // Both have the same bounds, so nothing is out of range.
        let _added = delay_us.add(&received.delay_us).is_ok();
    }
    report.lost_packets = report
        .expected_packets
        .saturating_sub(report.received_packets);
    report.loss_ratio = report.lost_packets as f64 / report.expected_packets.max(1) as f64;
    report.delay_ms = Quantiles::of_us(&delay_us);
    report
}

fn tally_keyframes(
    report: &mut Report,
    publishers: &[Arc<Keyframes>],
    subscribers: &[Arc<Keyframes>],
) {
    let (mut joined_us, mut connected_us) = (histogram(), histogram());
    let mut answered_us = histogram();
    for subscriber in subscribers {
        if let Some(ns) = subscriber.negotiation_ns() {
            answered_us.saturating_record(ns / 1000);
        }
        let Some((from_join_ns, from_connect_ns)) = subscriber.took_ns() else {
            report.without_keyframe += 1;
            continue;
        };
        joined_us.saturating_record(from_join_ns / 1000);
        connected_us.saturating_record(from_connect_ns / 1000);
    }
    report.negotiation_ms = Quantiles::of_us(&answered_us);
    report.keyframe_ms = Quantiles::of_us(&joined_us);
    report.keyframe_after_connect_ms = Quantiles::of_us(&connected_us);
    for (all, most) in publishers.iter().map(|publisher| publisher.requests()) {
        report.keyframe_requests += all as u64;
        report.keyframe_requests_per_s_max = report.keyframe_requests_per_s_max.max(most as u64);
    }
}

#[expect(
    clippy::expect_used,
    reason = "constant bounds: 1 < 60 s and 2 digits are accepted"
)]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 2)
        .expect("1 us..60 s with two digits is a valid histogram")
}

/// User and system CPU time of this process, seconds.
fn cpu_seconds() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        [usage.user_time(), usage.system_time()]
            .iter()
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
            .sum()
    })
}

/// Two sockets per client: the usual soft limit of 1,024 is soon reached.
fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn progress(text: &str) {
    // Nobody may be reading; that is no reason to stop.
    let _written = writeln!(std::io::stderr(), "load: {text}").is_ok();
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a difference of counters, positive and far below 2^53"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}
