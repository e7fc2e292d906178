//! The other control replicas: which of them live, whose a room is, and how they are reached.
//!
//! Who there may be comes from the registry or the configuration, and stays known when the registry is gone. Who lives is found
//! by asking: replicas ping each other directly, so that the loss of a store tells nothing wrong and a death is seen at once.

mod peer;
mod takeover;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use runtime::discovery::View;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::metrics::Metrics;
use crate::ring::Ring;
use peer::Peer;
pub use takeover::{Parts, follow};

/// How often the others are pinged.
const PING: Duration = Duration::from_millis(250);
/// Longest wait for an answer.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// One that refused is asked again after this; when it refuses again it is dead.
const PING_AGAIN: Duration = Duration::from_millis(50);
/// One that did not answer for so long is dead: a busy machine is late, a dead one must not be waited for any longer.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// How long the registry may take to name the others at the start.
const NAMED_WITHIN: Duration = Duration::from_millis(1_500);
/// A replica that starts while others own rooms takes none before it knows its nodes, or this has passed.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
/// How long nodes have to report their rooms once all have a session.
const REPORTED_WITHIN: Duration = Duration::from_millis(700);

/// Who this replica is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its id.
    pub id: String,
    /// The mesh: replicas of another one that share the registry are none of ours.
    pub mesh: String,
    /// Differs for every start.
    pub incarnation: u64,
}

impl Identity {
    /// Of a process that starts now.
    pub fn new(id: &str, mesh: &str) -> Self {
        Self {
            id: id.to_owned(),
            mesh: mesh.to_owned(),
            incarnation: rand::random(),
        }
    }
}

/// What is known of the others. Clones show the same.
#[derive(Clone, Debug)]
pub struct Replicas {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    identity: Identity,
    peers: Mutex<BTreeMap<String, Peer>>,
    /// Whether this replica itself may own rooms.
    ready: watch::Sender<bool>,
    ring: watch::Sender<Ring>,
}

/// Where a room's owner is.
#[derive(Clone, Debug)]
pub enum Owner {
    /// This replica.
    Own,
    /// Another one.
    Other(Other),
    /// Nobody yet.
    Nobody,
}

/// Another replica.
#[derive(Clone, Debug)]
pub struct Other {
    /// Its id.
    pub id: String,
    /// Reaches it.
    pub channel: Channel,
}

impl Replicas {
    /// One that is alone and stays so.
    pub fn alone(identity: Identity) -> Self {
        let ring = Ring::alone(identity.id.as_str());
        Self::with(identity, ring, true)
    }

    /// One of several: owns nothing until it knows the others.
    pub fn several(identity: Identity) -> Self {
        let ring = Ring::new(identity.id.as_str(), []);
        Self::with(identity, ring, false)
    }

    fn with(identity: Identity, ring: Ring, ready: bool) -> Self {
        Self {
            inner: Arc::new(Inner {
                identity,
                peers: Mutex::default(),
                ready: watch::Sender::new(ready),
                ring: watch::Sender::new(ring),
            }),
        }
    }

    /// Who this one is.
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Whether this one may own rooms.
    pub fn is_ready(&self) -> bool {
        *self.inner.ready.borrow()
    }

    /// Who owns rooms, as this replica sees it.
    pub fn ring(&self) -> watch::Receiver<Ring> {
        self.inner.ring.subscribe()
    }

    /// Whose a room, or another name, is.
    pub fn owner(&self, name: &str) -> Owner {
        let ring = self.inner.ring.borrow();
        match ring.owner(name) {
            None => Owner::Nobody,
            Some(id) if *id == self.inner.identity.id => Owner::Own,
            Some(id) => {
                let found = self.living().into_iter().find(|other| other.id == id);
                found.map_or(Owner::Nobody, Owner::Other)
            }
        }
    }

    /// The others that live.
    pub fn living(&self) -> Vec<Other> {
        let peers = self.peers();
        let living = peers.values().filter(|peer| peer.lives);
        let other = |peer: &Peer| {
            let id = peer.id.clone()?;
            let channel = peer.channel.clone();
            Some(Other { id, channel })
        };
        living.filter_map(other).collect()
    }

    /// Another one did not answer a call: it is dead until it answers a ping.
    pub fn suspect(&self, id: &str) {
        let mut peers = self.peers();
        let suspects = peers
            .values_mut()
            .filter(|peer| peer.id.as_deref() == Some(id));
        suspects.for_each(|peer| peer.lives = false);
        drop(peers);
        self.form();
    }

    fn peers(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Peer>> {
        // Every change is one assignment: nothing is half done after a panic.
        let peers = self.inner.peers.lock();
        peers.unwrap_or_else(PoisonError::into_inner)
    }

    /// The ring follows from who lives and is ready.
    fn form(&self) {
        // Looked at while nobody else forms one, so that no older view takes the place of a later one.
        self.inner.ring.send_if_modified(|before| {
            let ring = self.seen();
            let other = *before != ring;
            if other {
                let members: Vec<_> = ring.members().collect();
                tracing::info!(members = members.join(" "), "replicas that own rooms");
                *before = ring;
            }
            other
        });
    }

    /// The ring of those that live and are ready now.
    fn seen(&self) -> Ring {
        let identity = &self.inner.identity;
        let own = self.is_ready().then(|| identity.id.clone());
        let peers = self.peers();
        let others = peers.values().filter(|peer| peer.lives && peer.ready);
        let members = others.filter_map(|peer| peer.id.clone()).chain(own);
        Ring::new(identity.id.as_str(), members)
    }

    fn set_ready(&self) {
        self.inner.ready.send_replace(true);
        self.form();
    }

    /// Follows who there is until `shutdown`: `urls` and what the registry names.
    pub fn watch(
        &self,
        urls: &[String],
        named: watch::Receiver<View>,
        metrics: &Metrics,
        shutdown: &CancellationToken,
    ) {
        let (replicas, urls) = (self.clone(), urls.to_vec());
        let (metrics, shutdown) = (metrics.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = replicas.keep_peers(urls, named, &metrics) => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    /// Pings whom there is to ping. Ends with the registry's view.
    async fn keep_peers(
        &self,
        urls: Vec<String>,
        mut named: watch::Receiver<View>,
        metrics: &Metrics,
    ) {
        let mut tasks: BTreeMap<String, tokio_util::task::AbortOnDropHandle<()>> = BTreeMap::new();
        loop {
            let view = named.borrow_and_update().clone();
            let mut wanted: Vec<String> = urls.clone();
            wanted.extend(self.urls_in(&view));
            // What the registry does not name while it is gone may be there all the same.
            if view.current {
                // Nor is one dead that answers: the registry may have lost its memory, or the other one its way there.
                let mut peers = self.peers();
                peers.retain(|url, peer| wanted.contains(url) || peer.lives);
                tasks.retain(|url, _| peers.contains_key(url));
            }
            for url in wanted {
                if tasks.contains_key(&url) {
                    continue;
                }
                let Ok(endpoint) = Endpoint::from_shared(url.clone()) else {
                    tracing::warn!(url, "not the URL of a control replica");
                    continue;
                };
                let endpoint = endpoint.tcp_nodelay(true).connect_timeout(PING_TIMEOUT);
                let channel = endpoint.connect_lazy();
                self.peers().insert(url.clone(), Peer::new(channel));
                let (replicas, at, metrics) = (self.clone(), url.clone(), metrics.clone());
                let task = tokio::spawn(async move { replicas.ping_for_ever(&at, &metrics).await });
                tasks.insert(url, tokio_util::task::AbortOnDropHandle::new(task));
            }
            self.form();
            if named.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Whom the registry names, whatever it says of their health: it hears of a death, and of a recovery, later than we do.
    fn urls_in(&self, view: &View) -> Vec<String> {
        let identity = &self.inner.identity;
        let others = view.instances.values().filter(|instance| {
            instance.id != identity.id && instance.meta.get("mesh") == Some(&identity.mesh)
        });
        let url = |instance: &runtime::discovery::Instance| {
            let address = &instance.address;
            let host = if address.contains(':') {
                format!("[{address}]")
            } else {
                address.clone()
            };
            format!("http://{host}:{}", instance.port)
        };
        others.map(url).collect()
    }

    /// Waits until this replica may own rooms: at once when no other does; else when it knows its nodes and what they serve.
    async fn become_ready(&self, mut named: watch::Receiver<View>, handle: &crate::actor::Handle) {
        let began = Instant::now();
        let known = named.wait_for(|view| view.current);
        // Gone or slow: those of the configuration are asked all the same.
        tokio::time::timeout(NAMED_WITHIN, known).await.ok();
        while self.peers().values().any(|peer| !peer.asked) && began.elapsed() < SETTLED_WITHIN {
            tokio::time::sleep(PING_AGAIN).await;
        }
        let mut settled_at = None;
        loop {
            let others = self.peers().values().any(|peer| peer.lives && peer.ready);
            match handle.is_settled().await {
                Ok(true) => settled_at = settled_at.or_else(|| Some(Instant::now())),
                Ok(false) => settled_at = None,
                Err(_) => return,
            }
            let settled = settled_at.is_some_and(|at| at.elapsed() >= REPORTED_WITHIN);
            if !others || settled || began.elapsed() >= SETTLED_WITHIN {
                break;
            }
            tokio::time::sleep(PING_AGAIN).await;
        }
        tracing::info!(
            after_ms = began.elapsed().as_millis(),
            "this replica may own rooms"
        );
        self.set_ready();
    }
}
