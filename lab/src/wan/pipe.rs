//! One direction of a path, sans-IO: packets in with the time of arrival, packets out when due.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{BurstLoss, Path};

/// Packets that may be under way at once: 64 Ki packets of 1,200 bytes are 3 s at 200 Mbps.
const IN_FLIGHT_MAX: usize = 65_536;

/// Why a packet did not come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Lost on its own ([`Path::loss`]).
    Loss,
    /// Lost in a burst ([`Path::burst_loss`]).
    Burst,
    /// The bottleneck's queue was full (drop-tail).
    Queue,
    /// More packets under way than the emulator holds (drops the newest).
    InFlight,
}

/// Counters of one direction since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PipeStats {
    /// Packets that were offered.
    pub received: u64,
    /// Packets that came out.
    pub delivered: u64,
    /// Bytes that came out.
    pub delivered_bytes: u64,
    /// Packets that were overtaken by later ones on purpose.
    pub reordered: u64,
    /// Drops with [`DropReason::Loss`].
    pub dropped_loss: u64,
    /// Drops with [`DropReason::Burst`].
    pub dropped_burst: u64,
    /// Drops with [`DropReason::Queue`].
    pub dropped_queue: u64,
    /// Drops with [`DropReason::InFlight`].
    pub dropped_in_flight: u64,
}

impl PipeStats {
    /// Packets dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_loss + self.dropped_burst + self.dropped_queue + self.dropped_in_flight
    }

    fn count(&mut self, reason: DropReason) {
        let counter = match reason {
            DropReason::Loss => &mut self.dropped_loss,
            DropReason::Burst => &mut self.dropped_burst,
            DropReason::Queue => &mut self.dropped_queue,
            DropReason::InFlight => &mut self.dropped_in_flight,
        };
        *counter += 1;
    }
}

#[derive(Debug)]
struct InFlight<T> {
    due: Instant,
    order: u64,
    len: usize,
    packet: T,
}

impl<T> PartialEq for InFlight<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<T> Eq for InFlight<T> {}

impl<T> PartialOrd for InFlight<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for InFlight<T> {
    /// Reversed, because `BinaryHeap` pops the greatest: earliest first, ties in order of arrival.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

/// One direction of a path. `T` is whatever stands for a packet.
#[derive(Debug)]
pub struct Pipe<T> {
    path: Path,
    rng: StdRng,
    bad: bool,
    /// When the bottleneck has sent all that it accepted.
    busy_until: Option<Instant>,
    /// When the last packet in order comes out; jitter and a shorter delay never overtake it.
    last_due: Option<Instant>,
    next_order: u64,
    in_flight: BinaryHeap<InFlight<T>>,
    queue_max: Duration,
    stats: PipeStats,
}

impl<T> Pipe<T> {
    /// An empty pipe; `path.seed` decides every random choice.
    pub fn new(path: Path) -> Self {
        let rng = StdRng::seed_from_u64(path.seed);
        Self {
            path,
            rng,
            bad: false,
            busy_until: None,
            last_due: None,
            next_order: 0,
            in_flight: BinaryHeap::new(),
            queue_max: Duration::ZERO,
            stats: PipeStats::default(),
        }
    }

    /// Changes the path from the next packet on; packets under way keep their time of arrival and
    /// the bottleneck's backlog its length. The random sequence restarts only with another seed.
    pub fn set_path(&mut self, path: Path) {
        if path.seed != self.path.seed {
            self.rng = StdRng::seed_from_u64(path.seed);
        }
        if path.burst_loss.is_none() {
            self.bad = false;
        }
        if path.rate_bps.is_none() {
            self.busy_until = None;
        }
        self.path = path;
    }

    /// What the pipe does at the moment.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Counters since the pipe was made.
    pub fn stats(&self) -> PipeStats {
        self.stats
    }

    /// How long a packet that arrives now waits for the bottleneck.
    pub fn queue_delay(&self, now: Instant) -> Duration {
        self.busy_until
            .map_or(Duration::ZERO, |busy| busy.saturating_duration_since(now))
    }

    /// The longest wait of a packet for the bottleneck since this was asked last.
    pub fn take_queue_delay_max(&mut self) -> Duration {
        std::mem::take(&mut self.queue_max)
    }

    /// Packets under way.
    pub fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// True when nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Takes a packet of `len` bytes that arrives at `now`.
    ///
    /// # Errors
    /// The reason when the path drops it; the drop is counted.
    pub fn push(&mut self, now: Instant, len: usize, packet: T) -> Result<(), DropReason> {
        self.stats.received += 1;
        let verdict = self.schedule(now, len);
        match verdict {
            Ok(due) => {
                let order = self.next_order;
                self.next_order += 1;
                self.in_flight.push(InFlight {
                    due,
                    order,
                    len,
                    packet,
                });
                Ok(())
            }
            Err(reason) => {
                self.stats.count(reason);
                Err(reason)
            }
        }
    }

    /// The next packet that has arrived by `now`.
    pub fn pop(&mut self, now: Instant) -> Option<T> {
        if self.in_flight.peek()?.due > now {
            return None;
        }
        let InFlight { len, packet, .. } = self.in_flight.pop()?;
        self.stats.delivered += 1;
        self.stats.delivered_bytes += len as u64;
        Some(packet)
    }

    /// When [`Pipe::pop`] has something next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.in_flight.peek().map(|packet| packet.due)
    }

    /// Queue, then wire: a packet that gets lost on the wire has used up the bottleneck.
    fn schedule(&mut self, now: Instant, len: usize) -> Result<Instant, DropReason> {
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return Err(DropReason::InFlight);
        }
        let sent = self.enqueue(now, len)?;
        if self.chance(self.path.loss) {
            return Err(DropReason::Loss);
        }
        if let Some(burst_loss) = self.path.burst_loss
            && self.lost_in_burst(burst_loss)
        {
            return Err(DropReason::Burst);
        }
        let due = sent + self.path.delay + self.jitter();
        let in_order = self.last_due.map_or(due, |last| last.max(due));
        if self.chance(self.path.reorder) {
            self.stats.reordered += 1;
            return Ok(in_order + Path::REORDER_HOLD);
        }
        self.last_due = Some(in_order);
        Ok(in_order)
    }

    /// When the bottleneck has sent the packet.
    fn enqueue(&mut self, now: Instant, len: usize) -> Result<Instant, DropReason> {
        let Some(rate_bps) = self.path.rate_bps else {
            return Ok(now);
        };
        let start = self.busy_until.map_or(now, |busy| busy.max(now));
        if start - now > Duration::from_millis(u64::from(self.path.queue_ms)) {
            return Err(DropReason::Queue);
        }
        self.queue_max = self.queue_max.max(start - now);
        let bits = len as u64 * 8;
        let sent = start + Duration::from_nanos(bits * 1_000_000_000 / rate_bps.max(1));
        self.busy_until = Some(sent);
        Ok(sent)
    }

    fn lost_in_burst(&mut self, burst_loss: BurstLoss) -> bool {
        let change = if self.bad {
            burst_loss.leave
        } else {
            burst_loss.enter
        };
        if self.chance(change) {
            self.bad = !self.bad;
        }
        self.bad && self.chance(burst_loss.loss)
    }

    fn jitter(&mut self) -> Duration {
        if self.path.jitter.is_zero() {
            return Duration::ZERO;
        }
        self.path.jitter.mul_f64(self.rng.random::<f64>())
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random::<f64>() < probability
    }
}

#[cfg(test)]
mod tests;
