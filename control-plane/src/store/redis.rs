//! The ephemeral store of several replicas: Redis.
//!
//! Everything that this replica knows is kept in the process as well, and written to Redis behind the callers' backs: nobody
//! who plans rooms waits for it. When Redis is gone, readers get what this replica knows; when it is back, everything is
//! written anew. Keys carry a lifetime that is renewed while their replica lives.

mod events;
mod keys;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, RedisError};
use futures_util::future::BoxFuture;
use prost::Message as _;
use proto::control::{
    GetRoomResponse, Link, LinkReport, Node, NodeRoom, RoomPlan, RoomReport, RoomSummary,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::ephemeral::{Event, Rate, Taken, counted};
use super::memory::Memory;
use super::{Ephemeral, Error, Update};
use crate::config::Secret;
use crate::metrics::Metrics;
use keys::Keys;
use writer::{Write, Writer};

/// Longest wait for an answer of Redis.
const CALL_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Batches of changes that wait to be written. Beyond it they are dropped, and everything is written anew later.
const QUEUE: usize = 1_024;

/// Takes a token of a bucket. KEYS: bucket. ARGV: tokens per second, burst, now in milliseconds. As
/// [`super::ephemeral::Bucket`] does it.
const TAKE: &str = r"
local rate, burst, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(kept[1] or burst), tonumber(kept[2] or now)
tokens = math.min(burst, tokens + math.max(0, now - at) * rate / 1000)
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = math.ceil((1 - tokens) * 1000 / rate) end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', string.format('%d', math.max(at, now)))
redis.call('PEXPIRE', KEYS[1], math.ceil((burst - tokens) * 1000 / rate) + 1000)
return wait
";

/// How to reach Redis, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// `redis://…` or, with TLS, `rediss://…`.
    pub url: Secret,
    /// Name of the mesh: several may use one Redis.
    pub mesh: String,
    /// Name of this replica.
    pub replica: String,
}

/// Redis, with a copy of this replica's part in the process.
pub struct Redis {
    local: Arc<Memory>,
    keys: Keys,
    replica: String,
    connection: ConnectionManager,
    whole: watch::Receiver<bool>,
    writes: mpsc::Sender<Write>,
    /// Changes were dropped: everything is to be written anew.
    behind: Arc<AtomicBool>,
    metrics: Metrics,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("replica", &self.replica)
            .field("whole", &*self.whole.borrow())
            .finish_non_exhaustive()
    }
}

impl Redis {
    /// Prepares the store and starts its tasks, which end at `shutdown`. Redis need not be there yet.
    ///
    /// # Errors
    /// When the URL is malformed.
    pub async fn open(
        options: &Options,
        metrics: Metrics,
        shutdown: CancellationToken,
    ) -> Result<Self, Error> {
        let client = Client::open(options.url.expose())?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CALL_TIMEOUT))
            // The writer looks every second whether Redis is there, which is the retry.
            .set_number_of_retries(0);
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), config)?;
        let local = Arc::new(Memory::new(options.replica.as_str()));
        let keys = Keys::new(&options.mesh);
        let (writes, queue) = mpsc::channel(QUEUE);
        let behind = Arc::new(AtomicBool::new(false));
        let mut writer = Writer::new(
            connection.clone(),
            keys.clone(),
            Arc::clone(&local),
            Arc::clone(&behind),
            metrics.clone(),
        );
        // Whoever reads next sees whether it is there.
        writer.look().await;
        let whole = writer.whole();
        tokio::spawn(writer.run(queue, shutdown.clone()));
        let listener = events::Listener {
            client,
            channel: keys.events(),
            replica: options.replica.clone(),
            local: Arc::clone(&local),
            metrics: metrics.clone(),
        };
        let listens = listener.start(shutdown).await;
        if !listens {
            tracing::debug!("Redis is not heard yet");
        }
        Ok(Self {
            local,
            keys,
            replica: options.replica.clone(),
            connection,
            whole,
            writes,
            behind,
            metrics,
        })
    }

    fn is_here(&self) -> bool {
        *self.whole.borrow()
    }

    /// What Redis answers in time. `None` when it is gone or fails, which is counted.
    async fn ask<T>(
        &self,
        operation: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Option<T> {
        if !self.is_here() {
            return None;
        }
        let answer = tokio::time::timeout(CALL_TIMEOUT, call).await;
        match answer.unwrap_or(Err(Error::TimedOut)) {
            Ok(found) => Some(found),
            Err(error) => {
                self.metrics
                    .stores
                    .redis_failures
                    .with_label_values(&[operation])
                    .inc();
                tracing::debug!(operation, %error, "Redis failed; this replica's own part is used");
                None
            }
        }
    }

    /// Waits until what was applied before is written, so that readers find it.
    async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.writes.send(Write::Flush(done)).await.is_ok() {
            // Dropped when Redis is gone: there is nothing to wait for.
            written.await.ok();
        }
    }

    async fn read_nodes(&self) -> Result<Vec<Node>, Error> {
        self.flush().await;
        let mut connection = self.connection.clone();
        let ids = self.living(&self.keys.nodes(), &mut connection).await?;
        let keys: Vec<_> = ids.iter().map(|id| self.keys.node(id)).collect();
        let nodes = many(&mut connection, &keys).await?;
        Ok(nodes.iter().filter_map(|bytes| decoded(bytes)).collect())
    }

    async fn read_links(&self) -> Result<Vec<Link>, Error> {
        self.flush().await;
        let mut connection = self.connection.clone();
        let ids = self.living(&self.keys.nodes(), &mut connection).await?;
        let keys: Vec<_> = ids.iter().map(|id| self.keys.links(id)).collect();
        let mut pipe = ::redis::pipe();
        for key in &keys {
            pipe.cmd("GET").arg(key);
        }
        let reports: Vec<Option<Vec<u8>>> = if keys.is_empty() {
            Vec::new()
        } else {
            pipe.query_async(&mut connection).await?
        };
        let of_node = |(id, report): (String, Option<Vec<u8>>)| {
            let report: LinkReport = decoded(&report?)?;
            let links = report.links.into_iter().map(move |link| Link {
                node_id: id.clone(),
                state: Some(link),
            });
            Some(links.collect::<Vec<_>>())
        };
        Ok(ids
            .into_iter()
            .zip(reports)
            .filter_map(of_node)
            .flatten()
            .collect())
    }

    async fn read_rooms(&self) -> Result<Vec<RoomSummary>, Error> {
        self.flush().await;
        let mut connection = self.connection.clone();
        let names = self.living(&self.keys.rooms(), &mut connection).await?;
        let mut summaries = Vec::with_capacity(names.len());
        for chunk in names.chunks(256) {
            let mut pipe = ::redis::pipe();
            for name in chunk {
                pipe.cmd("HGETALL").arg(self.keys.room(name));
            }
            let rooms: Vec<BTreeMap<String, Vec<u8>>> = pipe.query_async(&mut connection).await?;
            summaries.extend(
                rooms
                    .iter()
                    .filter_map(|fields| Some(Room::new(fields)?.summary())),
            );
        }
        Ok(summaries)
    }

    async fn read_room(&self, name: &str) -> Result<Option<GetRoomResponse>, Error> {
        self.flush().await;
        let mut connection = self.connection.clone();
        let fields: BTreeMap<String, Vec<u8>> = ::redis::cmd("HGETALL")
            .arg(self.keys.room(name))
            .query_async(&mut connection)
            .await?;
        let Some(room) = Room::new(&fields) else {
            return Ok(None);
        };
        let keys: Vec<_> = room.plans.keys().map(|id| self.keys.node(id)).collect();
        let nodes = many(&mut connection, &keys).await?;
        let regions: BTreeMap<String, String> = nodes
            .iter()
            .filter_map(|bytes| decoded::<Node>(bytes)?.hello)
            .map(|hello| (hello.node_id, hello.region))
            .collect();
        Ok(Some(room.response(&regions)))
    }

    /// Members of an index whose lifetime has not passed, in order.
    async fn living(
        &self,
        index: &str,
        connection: &mut ConnectionManager,
    ) -> Result<Vec<String>, Error> {
        let mut members: Vec<String> = ::redis::cmd("ZRANGEBYSCORE")
            .arg(index)
            .arg(now_ms())
            .arg("+inf")
            .query_async(connection)
            .await?;
        members.sort_unstable();
        Ok(members)
    }
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Values that are there.
async fn many(
    connection: &mut ConnectionManager,
    keys: &[String],
) -> Result<Vec<Vec<u8>>, RedisError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let values: Vec<Option<Vec<u8>>> = ::redis::cmd("MGET")
        .arg(keys)
        .query_async(connection)
        .await?;
    Ok(values.into_iter().flatten().collect())
}

/// What cannot be read is of a version that is not known, and is left out.
fn decoded<T: prost::Message + Default>(bytes: &[u8]) -> Option<T> {
    T::decode(bytes).ok()
}

/// A room's fields, read.
struct Room {
    summary: RoomSummary,
    plans: BTreeMap<String, RoomPlan>,
    reports: BTreeMap<String, RoomReport>,
}

impl Room {
    fn new(fields: &BTreeMap<String, Vec<u8>>) -> Option<Self> {
        let mut room = Self {
            summary: decoded(fields.get("summary")?)?,
            plans: BTreeMap::new(),
            reports: BTreeMap::new(),
        };
        for (field, bytes) in fields {
            match field.split_once(':') {
                Some(("plan", node)) => {
                    room.plans
                        .insert(node.to_owned(), RoomPlan::decode(&**bytes).ok()?);
                }
                Some(("report", node)) => {
                    room.reports
                        .insert(node.to_owned(), RoomReport::decode(&**bytes).ok()?);
                }
                _ => {}
            }
        }
        Some(room)
    }

    fn summary(&self) -> RoomSummary {
        counted(&self.summary, self.reports.values())
    }

    fn response(mut self, regions: &BTreeMap<String, String>) -> GetRoomResponse {
        let summary = Some(self.summary());
        let nodes = std::mem::take(&mut self.plans);
        let nodes = nodes.into_iter().map(|(node, plan)| NodeRoom {
            region: regions.get(&node).cloned().unwrap_or_default(),
            report: self.reports.remove(&node),
            plan: Some(plan),
            node_id: node,
        });
        GetRoomResponse {
            nodes: nodes.collect(),
            summary,
        }
    }
}

impl Ephemeral for Redis {
    fn apply(&self, updates: Vec<Update>) -> BoxFuture<'_, Result<(), Error>> {
        if updates.is_empty() {
            return Box::pin(std::future::ready(Ok(())));
        }
        if let Err(refused) = self.writes.try_send(Write::Updates(updates.clone()))
            && let Write::Updates(dropped) = refused.into_inner()
        {
            let count = u64::try_from(dropped.len()).unwrap_or(u64::MAX);
            self.metrics.stores.redis_dropped.inc_by(count);
            self.behind.store(true, Ordering::Relaxed);
        }
        self.local.apply(updates)
    }

    fn shadow(&self, updates: Vec<Update>) {
        self.local.shadow(updates);
    }

    fn renew(&self) {
        self.behind.store(true, Ordering::Relaxed);
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.flush())
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<Node>, Error>> {
        Box::pin(async move {
            match self.ask("nodes", self.read_nodes()).await {
                Some(found) => Ok(found),
                None => self.local.nodes().await,
            }
        })
    }

    fn rooms(&self) -> BoxFuture<'_, Result<Vec<RoomSummary>, Error>> {
        Box::pin(async move {
            match self.ask("rooms", self.read_rooms()).await {
                Some(found) => Ok(found),
                None => self.local.rooms().await,
            }
        })
    }

    fn room<'a>(&'a self, room: &'a str) -> BoxFuture<'a, Result<Option<GetRoomResponse>, Error>> {
        Box::pin(async move {
            match self.ask("room", self.read_room(room)).await {
                Some(found) => Ok(found),
                None => self.local.room(room).await,
            }
        })
    }

    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, Error>> {
        Box::pin(async move {
            match self.ask("links", self.read_links()).await {
                Some(found) => Ok(found),
                None => self.local.links().await,
            }
        })
    }

    fn publish<'a>(
        &'a self,
        topic: &'a str,
        body: serde_json::Value,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let event = Event {
                from: self.replica.clone(),
                topic: topic.to_owned(),
                body,
            };
            let told = async {
                let text = serde_json::to_string(&event).unwrap_or_default();
                let mut connection = self.connection.clone();
                Ok(::redis::cmd("PUBLISH")
                    .arg(self.keys.events())
                    .arg(text)
                    .exec_async(&mut connection)
                    .await?)
            };
            if self.ask("publish", told).await.is_none() {
                // Those on this replica hear it at least.
                self.local.hear(event);
            }
            Ok(())
        })
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.local.subscribe()
    }

    fn take<'a>(
        &'a self,
        bucket: &'a str,
        rate: Rate,
        now_ms: u64,
    ) -> BoxFuture<'a, Result<Taken, Error>> {
        Box::pin(async move {
            let taken = async {
                let mut connection = self.connection.clone();
                let wait_ms: u64 = ::redis::cmd("EVAL")
                    .arg(TAKE)
                    .arg(1)
                    .arg(self.keys.bucket(bucket))
                    .arg(rate.per_second)
                    .arg(rate.burst)
                    .arg(now_ms)
                    .query_async(&mut connection)
                    .await?;
                Ok(wait_ms)
            };
            match self.ask("take", taken).await {
                Some(0) => Ok(Taken::Allowed),
                Some(retry_after_ms) => Ok(Taken::Limited { retry_after_ms }),
                None => self.local.take(bucket, rate, now_ms).await,
            }
        })
    }

    fn remember<'a>(
        &'a self,
        name: &'a str,
        value: Vec<u8>,
        valid_ms: u64,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.local.remember(name, value.clone(), valid_ms).await?;
            let kept = async {
                let mut connection = self.connection.clone();
                Ok(::redis::cmd("SET")
                    .arg(self.keys.value(name))
                    .arg(value)
                    .arg("PX")
                    .arg(valid_ms.max(1))
                    .exec_async(&mut connection)
                    .await?)
            };
            // Kept here in any case; the failure is counted.
            self.ask("remember", kept).await;
            Ok(())
        })
    }

    fn recall<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, Error>> {
        Box::pin(async move {
            let found = async {
                let mut connection = self.connection.clone();
                let value: Option<Vec<u8>> = ::redis::cmd("GET")
                    .arg(self.keys.value(name))
                    .query_async(&mut connection)
                    .await?;
                Ok(value)
            };
            match self.ask("recall", found).await {
                Some(value) => Ok(value),
                None => self.local.recall(name).await,
            }
        })
    }

    fn whole(&self) -> bool {
        self.is_here()
    }
}
