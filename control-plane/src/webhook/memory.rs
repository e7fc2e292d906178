//! The outbox of a control plane that keeps none on disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use proto::RoomSid;

use super::{Delivery, Error, Outbox};
use crate::core::Event;

/// Ids of events that are remembered.
const IDS_MAX: usize = 100_000;

/// Keeps events in memory: they are lost with the process, and of more than `max` that wait the oldest are. After a restart events
/// that were told already may be told again, with the same id.
#[derive(Debug)]
pub struct Memory {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    /// Oldest first, by where they go and which room they are of.
    queues: BTreeMap<(String, RoomSid), VecDeque<Waiting>>,
    /// Which queue an event is in, oldest first.
    places: BTreeMap<u64, (String, RoomSid)>,
    known: BTreeSet<String>,
    order: VecDeque<String>,
    dropped: u64,
}

#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    due_ms: u64,
}

impl Memory {
    /// An empty one for at most `max` events.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            state: Mutex::default(),
        }
    }

    /// How many events were lost since more than the limit waited.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.lock().places.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in between leaves at worst an event without a place: it is not told.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut State) -> T,
    ) -> BoxFuture<'_, Result<T, Error>> {
        let result = change(&mut self.lock());
        Box::pin(std::future::ready(Ok(result)))
    }
}

impl State {
    fn add(&mut self, event: &Event, urls: &[String], max: usize) {
        if !self.known.insert(event.id.clone()) {
            return;
        }
        self.order.push_back(event.id.clone());
        if self.order.len() > IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        for url in urls {
            self.last_id += 1;
            let place = (url.clone(), event.room_sid.clone());
            let waiting = Waiting {
                delivery: Delivery {
                    id: self.last_id,
                    url: url.clone(),
                    event: event.clone(),
                    attempts: 0,
                },
                due_ms: 0,
            };
            self.places.insert(self.last_id, place.clone());
            self.queues.entry(place).or_default().push_back(waiting);
        }
        while self.places.len() > max {
            let Some((&oldest, _)) = self.places.first_key_value() else {
                break;
            };
            self.remove(oldest);
            self.dropped += 1;
        }
    }

    fn take(&mut self, now_ms: u64, until_ms: u64, limit: usize) -> Vec<Delivery> {
        let heads = self.queues.values_mut().filter_map(VecDeque::front_mut);
        let due = heads.filter(|head| head.due_ms <= now_ms).take(limit);
        due.map(|head| {
            head.due_ms = until_ms;
            head.delivery.attempts += 1;
            Delivery {
                attempts: head.delivery.attempts - 1,
                ..head.delivery.clone()
            }
        })
        .collect()
    }

    fn remove(&mut self, id: u64) {
        let Some(place) = self.places.remove(&id) else {
            return;
        };
        let Some(queue) = self.queues.get_mut(&place) else {
            return;
        };
        queue.retain(|waiting| waiting.delivery.id != id);
        if queue.is_empty() {
            self.queues.remove(&place);
        }
    }

    fn put_off(&mut self, id: u64, at_ms: u64) {
        let queue = self
            .places
            .get(&id)
            .and_then(|place| self.queues.get_mut(place));
        let waiting = queue.and_then(|queue| queue.iter_mut().find(|w| w.delivery.id == id));
        if let Some(waiting) = waiting {
            waiting.due_ms = at_ms;
        }
    }
}

impl Outbox for Memory {
    fn add<'a>(
        &'a self,
        events: &'a [Event],
        urls: &'a [String],
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.change(|state| {
            for event in events {
                state.add(event, urls, self.max);
            }
        })
    }

    fn take(
        &self,
        now_ms: u64,
        until_ms: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Delivery>, Error>> {
        self.change(|state| state.take(now_ms, until_ms, limit))
    }

    fn done(&self, id: u64) -> BoxFuture<'_, Result<(), Error>> {
        self.change(|state| state.remove(id))
    }

    fn put_off(&self, id: u64, at_ms: u64) -> BoxFuture<'_, Result<(), Error>> {
        self.change(|state| state.put_off(id, at_ms))
    }
}
