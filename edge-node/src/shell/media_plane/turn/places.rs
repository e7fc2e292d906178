//! How many allocations there may be, in all and of one participant.

use crate::core::turn::{Admitted, Refusal};
use prometheus::IntGauge;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// First of the dynamic ports (RFC 6335 section 6), which relayed addresses have (RFC 8656 section 7.2).
const FIRST_PORT: u16 = 49_152;

/// The places for allocations. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Places {
    taken: Arc<Mutex<Taken>>,
    max: usize,
    per_participant: usize,
}

#[derive(Debug)]
struct Taken {
    by_participant: HashMap<String, usize>,
    ports: HashSet<u16>,
    next_port: u16,
}

/// The place of one allocation; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    participant: String,
    port: u16,
    shown: IntGauge,
}

impl Places {
    /// At most `max` in all, which the ports bound as well, and `per_participant` of one participant.
    pub(super) fn new(max: usize, per_participant: usize) -> Self {
        Self {
            taken: Arc::new(Mutex::new(Taken {
                by_participant: HashMap::new(),
                ports: HashSet::new(),
                next_port: FIRST_PORT,
            })),
            max: max.min(usize::from(u16::MAX - FIRST_PORT)),
            per_participant,
        }
    }

    /// A place for an allocation of a participant, counted in `shown` for as long as it lasts.
    pub(super) fn admit(
        &self,
        participant: &str,
        shown: IntGauge,
    ) -> Result<Admitted<Place>, Refusal> {
        let mut taken = self.lock();
        let theirs = taken.by_participant.get(participant).copied().unwrap_or(0);
        if theirs >= self.per_participant {
            return Err(Refusal::ParticipantQuota);
        }
        if taken.ports.len() >= self.max {
            return Err(Refusal::EdgeQuota);
        }
        let port = taken.port();
        taken
            .by_participant
            .insert(participant.to_owned(), theirs + 1);
        shown.inc();
        let place = Place {
            places: self.clone(),
            participant: participant.to_owned(),
            port,
            shown,
        };
        Ok(Admitted { port, place })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// The next port that is free; there is one.
    fn port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            if self.ports.insert(port) {
                return port;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shown.dec();
        let mut taken = self.places.lock();
        taken.ports.remove(&self.port);
        if let Some(theirs) = taken.by_participant.get_mut(&self.participant) {
            *theirs -= 1;
            if *theirs == 0 {
                taken.by_participant.remove(&self.participant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_hold_and_places_come_back() {
        let places = Places::new(3, 2);
        let shown = IntGauge::new("shown", "Allocations.").unwrap();
        let admit = |who| places.admit(who, shown.clone());
        let first = admit("PA_a").unwrap();
        let second = admit("PA_a").unwrap();
        assert_ne!(first.port, second.port);
        assert_eq!(admit("PA_a").unwrap_err(), Refusal::ParticipantQuota);
        let _third = admit("PA_b").unwrap();
        assert_eq!(admit("PA_c").unwrap_err(), Refusal::EdgeQuota);
        assert_eq!(shown.get(), 3);
        drop(first);
        assert_eq!(shown.get(), 2);
        admit("PA_a").unwrap();
    }

    #[test]
    fn ports_wrap_around_those_in_use() {
        let places = Places::new(2, 2);
        let shown = IntGauge::new("shown", "Allocations.").unwrap();
        let kept = places.admit("PA_a", shown.clone()).unwrap();
        assert_eq!(kept.port, FIRST_PORT);
        for _ in 0..u16::MAX - FIRST_PORT {
            places.admit("PA_b", shown.clone()).unwrap();
        }
        assert_eq!(places.admit("PA_b", shown).unwrap().port, FIRST_PORT + 1);
    }
}
