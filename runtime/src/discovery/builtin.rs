//! The registry of one process: what Consul does, without it. It asks no gRPC health services.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{BoxFuture, Error, Health, Index, Instance, Listing, Registry, Service};

/// Processes that may register: a mistake ends here.
const SERVICES_MAX: usize = 4_096;
/// A process that is critical for so long is taken out.
const DEREGISTER_AFTER: Duration = Duration::from_secs(60);

/// Keeps registrations in memory.
#[derive(Debug)]
pub struct Builtin {
    services: Mutex<BTreeMap<String, Registered>>,
    index: watch::Sender<u64>,
}

#[derive(Debug)]
struct Registered {
    service: Service,
    note: String,
    /// Critical from then on.
    until: Instant,
    /// Somebody was told that it is critical.
    told: bool,
}

impl Default for Builtin {
    fn default() -> Self {
        Self {
            services: Mutex::default(),
            index: watch::Sender::new(1),
        }
    }
}

impl Builtin {
    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Registered>) -> T) -> T {
        // Every change is one map entry: nothing is half done after a panic.
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut services)
    }

    fn changed(&self) {
        self.index.send_modify(|index| *index += 1);
    }

    /// Sees what expired; returns when something will next.
    fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        let (changed, next) = self.with(|services| {
            let before = services.len();
            services.retain(|_, entry| entry.until + DEREGISTER_AFTER > now);
            let mut changed = services.len() != before;
            for entry in services.values_mut() {
                let expired = entry.until <= now;
                changed |= expired && !entry.told;
                entry.told = expired;
            }
            let due = services.values().map(|entry| match entry.told {
                true => entry.until + DEREGISTER_AFTER,
                false => entry.until,
            });
            (changed, due.min())
        });
        if changed {
            self.changed();
        }
        next
    }

    fn listing(&self, name: &str) -> Listing {
        let index = Index(*self.index.borrow());
        let instances = self.with(|services| {
            let named = services.values().filter(|entry| entry.service.name == name);
            named
                .map(|entry| (entry.service.id.clone(), entry.instance()))
                .collect()
        });
        Listing { instances, index }
    }
}

impl Registered {
    fn instance(&self) -> Instance {
        let service = self.service.clone();
        Instance {
            id: service.id,
            address: service.address,
            port: service.port,
            tags: service.tags,
            meta: service.meta,
            health: if self.told {
                Health::Critical
            } else {
                Health::Passing
            },
            note: self.note.clone(),
        }
    }
}

impl Registry for Builtin {
    fn register<'a>(&'a self, service: &'a Service) -> BoxFuture<'a, Result<(), Error>> {
        let entry = Registered {
            service: service.clone(),
            note: String::new(),
            until: Instant::now() + service.ttl,
            told: false,
        };
        let taken = self.with(|services| {
            let room = services.len() < SERVICES_MAX || services.contains_key(&service.id);
            room.then(|| services.insert(service.id.clone(), entry))
                .is_some()
        });
        if taken {
            self.changed();
        }
        Box::pin(std::future::ready(if taken {
            Ok(())
        } else {
            Err(Error::Refused {
                status: 507,
                text: format!("{SERVICES_MAX} services are registered already"),
            })
        }))
    }

    fn pass<'a>(&'a self, id: &'a str, note: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        let changed = self.with(|services| {
            let entry = services.get_mut(id)?;
            entry.until = Instant::now() + entry.service.ttl;
            let changed = entry.told || entry.note != note;
            entry.told = false;
            note.clone_into(&mut entry.note);
            Some(changed)
        });
        if changed == Some(true) {
            self.changed();
        }
        let known = changed.map(|_| ());
        Box::pin(std::future::ready(
            known.ok_or_else(|| Error::Unknown(id.to_owned())),
        ))
    }

    fn deregister<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        if self.with(|services| services.remove(id)).is_some() {
            self.changed();
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn list<'a>(
        &'a self,
        name: &'a str,
        after: Index,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Listing, Error>> {
        Box::pin(async move {
            let deadline = Instant::now() + wait;
            let mut index = self.index.subscribe();
            loop {
                let next = self.expire();
                let listing = self.listing(name);
                let now = Instant::now();
                if after.0 == 0 || listing.index != after || now >= deadline {
                    return Ok(listing);
                }
                index.mark_unchanged();
                if *index.borrow() != after.0 {
                    continue;
                }
                let until = next.map_or(deadline, |next| next.min(deadline));
                // Either way it is looked at again.
                tokio::time::timeout_at(until.into(), index.changed())
                    .await
                    .ok();
            }
        })
    }
}
