//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places that a listener has for connections. Clones are one.
#[derive(Clone, Debug)]
pub struct Places {
    held: Arc<Mutex<Held>>,
    max: usize,
    per_address: usize,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_network: HashMap<IpAddr, usize>,
}

/// One of the places; free again when dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    network: IpAddr,
}

impl Places {
    /// So many in all, and so many from one address; 0: as many as there are. An IPv6 client is its /64: whoever has one
    /// address has all of those (RFC 6177).
    pub fn new(max: usize, per_address: usize) -> Self {
        Self {
            held: Arc::default(),
            max,
            per_address,
        }
    }

    /// A place for a connection from this address; `None` when all that it may have are taken.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let network = network(address.to_canonical());
        let mut held = self.lock();
        let here = held.by_network.get(&network).copied().unwrap_or(0);
        let full = |held: usize, max: usize| max > 0 && held >= max;
        if full(held.all, self.max) || full(here, self.per_address) {
            return None;
        }
        held.all += 1;
        held.by_network.insert(network, here + 1);
        Some(Place {
            places: self.clone(),
            network,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.lock();
        held.all = held.all.saturating_sub(1);
        if let Some(here) = held.by_network.get_mut(&self.network) {
            *here -= 1;
            if *here == 0 {
                held.by_network.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let places = Places::new(3, 2);
        let (one, other) = (address("192.0.2.1"), address("2001:db8::1"));
        let first = places.take(one).expect("free");
        let _second = places.take(address("::ffff:192.0.2.1")).expect("free");
        assert!(places.take(one).is_none(), "its two are taken");
        let _third = places.take(other).expect("free");
        assert!(places.take(address("192.0.2.2")).is_none(), "all are taken");
        drop(first);
        assert!(places.take(address("2001:db8::2")).is_some(), "free again");
        assert_eq!(places.lock().all, 2);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let places = Places::new(0, 1);
        let _held = places.take(address("2001:db8::1")).expect("free");
        assert!(places.take(address("2001:db8::ffff")).is_none());
        assert!(places.take(address("2001:db8:0:1::1")).is_some());
        let unlimited = Places::new(0, 0);
        let held: Vec<_> = (0..1_000)
            .map_while(|_| unlimited.take(address("192.0.2.1")))
            .collect();
        assert_eq!(held.len(), 1_000);
    }
}
