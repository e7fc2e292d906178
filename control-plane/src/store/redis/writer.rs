//! The task that writes to Redis, and knows whether it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::redis::Pipeline;
use ::redis::aio::ConnectionManager;
use prost::Message as _;
use proto::NodeId;
use proto::control::{LinkReport, RoomPlan, RoomSummary};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::keys::Keys;
use super::{CALL_TIMEOUT, now_ms};
use crate::metrics::Metrics;
use crate::store::memory::Memory;
use crate::store::{Error, Update};

/// How long what a replica wrote stays when it does not renew it, in milliseconds.
const LIFETIME_MS: u64 = 120_000;
/// How long after its return every replica has written what it shows; until then each shows what it hears itself.
const WHOLE_AFTER: Duration = Duration::from_secs(3);
/// How often everything is written anew.
const RENEW: Duration = Duration::from_secs(40);
/// How often it is seen whether Redis is there.
const LOOK: Duration = Duration::from_secs(1);
/// Changes in one message to Redis.
const CHUNK: usize = 256;

/// Replaces a room's plans, unless a later epoch is there. KEYS: room. ARGV: lifetime, epoch, summary, then node and plan
/// in turn.
const SET_ROOM: &str = r"
local there = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
if there > tonumber(ARGV[2]) then return 0 end
local concerned = {}
for i = 4, #ARGV, 2 do concerned[ARGV[i]] = true end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local node = string.match(field, '^%a+:(.*)$')
  if node and not concerned[node] then redis.call('HDEL', KEYS[1], field) end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'summary', ARGV[3])
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], 'plan:' .. ARGV[i], ARGV[i + 1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
";

/// Sets a node's report, if the node has a part in the room. KEYS: room. ARGV: node, report.
const SET_REPORT: &str = r"
if redis.call('HEXISTS', KEYS[1], 'plan:' .. ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'report:' .. ARGV[1], ARGV[2])
return 1
";

/// What the writer is asked to do.
#[derive(Debug)]
pub(super) enum Write {
    /// To write changes.
    Updates(Vec<Update>),
    /// To say when all before is written.
    Flush(oneshot::Sender<()>),
}

pub(super) struct Writer {
    connection: ConnectionManager,
    keys: Keys,
    local: Arc<Memory>,
    behind: Arc<AtomicBool>,
    metrics: Metrics,
    here: watch::Sender<bool>,
    /// Whether what is in it may be shown: all replicas have had the time to write theirs.
    whole: watch::Sender<bool>,
    /// When it was back.
    back: Instant,
    /// Nobody was told yet whether it is there.
    fresh: bool,
    renewed: Instant,
}

impl Writer {
    pub(super) fn new(
        connection: ConnectionManager,
        keys: Keys,
        local: Arc<Memory>,
        behind: Arc<AtomicBool>,
        metrics: Metrics,
    ) -> Self {
        Self {
            connection,
            keys,
            local,
            behind,
            metrics,
            here: watch::Sender::new(false),
            whole: watch::Sender::new(false),
            back: Instant::now(),
            fresh: true,
            renewed: Instant::now(),
        }
    }

    pub(super) fn whole(&self) -> watch::Receiver<bool> {
        self.whole.subscribe()
    }

    pub(super) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Write>,
        shutdown: CancellationToken,
    ) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                taken = queue.recv_many(&mut batch, CHUNK) => {
                    if taken == 0 {
                        break;
                    }
                    self.take(&mut batch).await;
                }
                _ = looks.tick() => self.look().await,
            }
        }
    }

    /// Writes what is in a batch; answers those who wait for it.
    async fn take(&mut self, batch: &mut Vec<Write>) {
        let (mut updates, mut waiting) = (Vec::new(), Vec::new());
        for write in batch.drain(..) {
            match write {
                Write::Updates(more) => updates.extend(more),
                Write::Flush(done) => waiting.push(done),
            }
        }
        if !*self.here.borrow() {
            // Everything is written anew when it is back.
            let count = u64::try_from(updates.len()).unwrap_or(u64::MAX);
            self.metrics.stores.redis_dropped.inc_by(count);
        } else if let Err(error) = self.write(&updates).await {
            self.behind.store(true, Ordering::Relaxed);
            self.gone(&error);
        }
        for done in waiting {
            // The reader may have given up.
            done.send(()).ok();
        }
    }

    /// Sees whether Redis is there, and brings it up to date when that is due.
    pub(super) async fn look(&mut self) {
        let mut connection = self.connection.clone();
        let ping = async { Ok(::redis::cmd("PING").exec_async(&mut connection).await?) };
        let answer = tokio::time::timeout(CALL_TIMEOUT, ping).await;
        if let Err(error) = answer.unwrap_or(Err(Error::TimedOut)) {
            self.gone(&error);
            return;
        }
        let was_here = *self.here.borrow();
        let behind = self.behind.swap(false, Ordering::Relaxed);
        if !was_here || behind || self.renewed.elapsed() >= RENEW {
            self.renewed = Instant::now();
            if let Err(error) = self.write(&self.local.snapshot()).await {
                self.behind.store(true, Ordering::Relaxed);
                self.gone(&error);
                return;
            }
        }
        if !was_here {
            tracing::info!("Redis is there");
            self.metrics.stores.redis_up.set(1);
            self.here.send_replace(true);
            self.back = Instant::now();
            // At the start it is as the others left it.
            self.whole.send_replace(self.fresh);
            self.fresh = false;
        } else if self.back.elapsed() >= WHOLE_AFTER {
            self.whole
                .send_if_modified(|whole| !std::mem::replace(whole, true));
        }
    }

    fn gone(&mut self, error: &Error) {
        self.metrics
            .stores
            .redis_failures
            .with_label_values(&["write"])
            .inc();
        self.whole.send_replace(false);
        if self.here.send_replace(false) || self.fresh {
            self.metrics.stores.redis_up.set(0);
            tracing::warn!(
                %error,
                "Redis is gone: until it is back rooms and nodes are shown as this replica hears of them, and rate limits hold per replica"
            );
        }
        self.fresh = false;
    }

    async fn write(&self, updates: &[Update]) -> Result<(), Error> {
        for chunk in updates.chunks(CHUNK) {
            let mut pipe = ::redis::pipe();
            for update in chunk {
                self.add(&mut pipe, update);
            }
            let mut connection = self.connection.clone();
            let written = tokio::time::timeout(CALL_TIMEOUT, pipe.exec_async(&mut connection));
            written.await.map_err(|_| Error::TimedOut)??;
        }
        Ok(())
    }

    fn add(&self, pipe: &mut Pipeline, update: &Update) {
        let keys = &self.keys;
        match update {
            Update::Node(node) => {
                let Some(hello) = &node.hello else { return };
                let id = hello.node_id.as_str();
                self.set(pipe, &keys.node(id), node.encode_to_vec());
                self.index(pipe, &keys.nodes(), id);
            }
            Update::NodeForgotten(node) => {
                let id = node.as_str();
                pipe.cmd("DEL").arg(keys.node(id)).arg(keys.links(id));
                pipe.cmd("ZREM").arg(keys.nodes()).arg(id);
            }
            Update::Room { summary, plans } => self.add_room(pipe, summary, plans),
            Update::RoomEnded(room) => {
                pipe.cmd("DEL").arg(keys.room(room.as_str()));
                pipe.cmd("ZREM").arg(keys.rooms()).arg(room.as_str());
            }
            Update::Report { node, report } => {
                pipe.cmd("EVAL").arg(SET_REPORT).arg(1);
                pipe.arg(keys.room(&report.room))
                    .arg(node.as_str())
                    .arg(report.encode_to_vec());
            }
            Update::ReportGone { node, room } => {
                pipe.cmd("HDEL")
                    .arg(keys.room(room.as_str()))
                    .arg(format!("report:{node}"));
            }
            Update::Links { node, links } => {
                let links = links.clone();
                let report = LinkReport { links }.encode_to_vec();
                self.set(pipe, &keys.links(node.as_str()), report);
            }
        }
    }

    fn add_room(
        &self,
        pipe: &mut Pipeline,
        summary: &RoomSummary,
        plans: &std::collections::BTreeMap<NodeId, RoomPlan>,
    ) {
        let epoch = summary.epoch;
        pipe.cmd("EVAL").arg(SET_ROOM).arg(1);
        pipe.arg(self.keys.room(&summary.room))
            .arg(LIFETIME_MS)
            .arg(epoch)
            .arg(summary.encode_to_vec());
        for (node, plan) in plans {
            pipe.arg(node.as_str()).arg(plan.encode_to_vec());
        }
        self.index(pipe, &self.keys.rooms(), &summary.room);
    }

    fn set(&self, pipe: &mut Pipeline, key: &str, bytes: Vec<u8>) {
        pipe.cmd("SET")
            .arg(key)
            .arg(bytes)
            .arg("PX")
            .arg(LIFETIME_MS);
    }

    /// Puts a name into an index, and takes out those whose lifetime has passed.
    fn index(&self, pipe: &mut Pipeline, index: &str, name: &str) {
        let now_ms = now_ms();
        pipe.cmd("ZADD")
            .arg(index)
            .arg(now_ms + LIFETIME_MS)
            .arg(name);
        pipe.cmd("ZREMRANGEBYSCORE")
            .arg(index)
            .arg("-inf")
            .arg(now_ms);
    }
}
