//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// How many connections there are. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max: usize,
    per_address: usize,
}

/// One of the places for connections; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    limits: Limits,
    address: IpAddr,
}

impl Limits {
    pub(super) fn new(max: usize, per_address: usize) -> Self {
        Self {
            by_address: Arc::default(),
            max,
            per_address,
        }
    }

    /// A place for a connection from this address; `None` when all are taken.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut places = self.lock();
        let all: usize = places.values().sum();
        let here = places.get(&address).copied().unwrap_or(0);
        if all >= self.max || here >= self.per_address {
            return None;
        }
        places.insert(address, here + 1);
        Some(Place {
            limits: self.clone(),
            address,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.limits.lock();
        if let Some(here) = places.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                places.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_few_and_come_back() {
        let limits = Limits::new(3, 2);
        let [a, b]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let first = limits.take(a).unwrap();
        let _second = limits.take(mapped).unwrap();
        assert!(limits.take(a).is_none(), "two from one address");
        let _third = limits.take(b).unwrap();
        assert!(limits.take(b).is_none(), "three in all");
        drop(first);
        assert!(limits.take(b).is_some());
    }
}
