//! What several replicas say, as if it came from one.

use std::collections::BTreeMap;

use proto::control::control_message::Message;
use proto::control::{ApiKeys, ControlMessage, Peer, PeerList};
use tokio::sync::{Mutex, mpsc};

/// Nobody takes messages any more.
pub(super) struct Gone;

/// Hands on what replicas say. Of lists of peers everybody gets the union: a replica that has just started, or to which a node
/// has lost its way, does not know all of them.
#[derive(Debug)]
pub(super) struct Merged {
    incoming: mpsc::Sender<ControlMessage>,
    peers: Mutex<Peers>,
    /// Versions of the API keys that each session told of.
    keys: Mutex<BTreeMap<String, u64>>,
}

#[derive(Debug, Default)]
struct Peers {
    /// The latest list of each session, with its place among all.
    lists: BTreeMap<String, (u64, PeerList)>,
    count: u64,
    told: Option<PeerList>,
}

impl Peers {
    fn take(&mut self, url: &str, list: PeerList) {
        self.count += 1;
        self.lists.insert(url.to_owned(), (self.count, list));
    }

    /// The union, if it is not what was told last. What two lists say of a peer differs while it starts anew: the later one is
    /// right.
    fn news(&mut self) -> Option<PeerList> {
        let mut lists: Vec<_> = self.lists.values().collect();
        lists.sort_by_key(|(at, _)| *at);
        let peers = lists.into_iter().flat_map(|(_, list)| &list.peers);
        let union: BTreeMap<&str, &Peer> = peers.map(|p| (p.node_id.as_str(), p)).collect();
        let union = PeerList {
            peers: union.into_values().cloned().collect(),
        };
        if self.told.as_ref() == Some(&union) {
            return None;
        }
        self.told = Some(union.clone());
        Some(union)
    }
}

impl Merged {
    pub(super) fn new(incoming: mpsc::Sender<ControlMessage>) -> Self {
        Self {
            incoming,
            peers: Mutex::default(),
            keys: Mutex::default(),
        }
    }

    pub(super) async fn closed(&self) {
        self.incoming.closed().await;
    }

    /// Takes a message of the session with `url`.
    pub(super) async fn take(&self, url: &str, message: ControlMessage) -> Result<(), Gone> {
        let list = match message.message {
            Some(Message::Peers(list)) => list,
            Some(Message::Keys(keys)) => return self.take_keys(url, keys).await,
            _ => return self.incoming.send(message).await.map_err(|_| Gone),
        };
        // Held while it is handed on, so that no older union comes after a later one.
        let mut peers = self.peers.lock().await;
        peers.take(url, list);
        self.tell(&mut peers).await
    }

    /// API keys of a replica that lags behind another one are left out: what was revoked stays so.
    async fn take_keys(&self, url: &str, keys: ApiKeys) -> Result<(), Gone> {
        let mut versions = self.keys.lock().await;
        versions.insert(url.to_owned(), keys.version);
        if versions.values().any(|version| *version > keys.version) {
            tracing::warn!(
                url,
                version = keys.version,
                "a control replica has old API keys; left out"
            );
            return Ok(());
        }
        let message = ControlMessage {
            message: Some(Message::Keys(keys)),
        };
        self.incoming.send(message).await.map_err(|_| Gone)
    }

    /// A session ended. Its list goes when another replica has one; the last stays.
    pub(super) async fn ended(&self, url: &str) -> Result<(), Gone> {
        self.keys.lock().await.remove(url);
        let mut peers = self.peers.lock().await;
        if peers.lists.len() < 2 || peers.lists.remove(url).is_none() {
            return Ok(());
        }
        self.tell(&mut peers).await
    }

    async fn tell(&self, peers: &mut Peers) -> Result<(), Gone> {
        let Some(union) = peers.news() else {
            return Ok(());
        };
        let message = ControlMessage {
            message: Some(Message::Peers(union)),
        };
        self.incoming.send(message).await.map_err(|_| Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(nodes: &[(&str, &str)]) -> ControlMessage {
        let peer = |(node, region): &(&str, &str)| Peer {
            node_id: (*node).to_owned(),
            region: (*region).to_owned(),
            ..Peer::default()
        };
        let peers = nodes.iter().map(peer).collect();
        ControlMessage {
            message: Some(Message::Peers(PeerList { peers })),
        }
    }

    #[tokio::test]
    async fn keys_of_a_replica_that_lags_behind_are_left_out() {
        let (incoming, mut said) = mpsc::channel(8);
        let merged = Merged::new(incoming);
        let keys = |version| ControlMessage {
            message: Some(Message::Keys(ApiKeys {
                version,
                ..ApiKeys::default()
            })),
        };
        let mut heard = || match said.try_recv().ok()?.message? {
            Message::Keys(keys) => Some(keys.version),
            _ => None,
        };
        merged.take("a", keys(5)).await.ok();
        merged.take("b", keys(6)).await.ok();
        assert_eq!((heard(), heard()), (Some(5), Some(6)));
        // The first comes back, and has not heard of the change.
        merged.ended("a").await.ok();
        merged.take("a", keys(5)).await.ok();
        assert_eq!(heard(), None);
        merged.take("a", keys(6)).await.ok();
        assert_eq!(heard(), Some(6));
        // A store that begins anew counts from the start: nobody knows better.
        merged.ended("a").await.ok();
        merged.ended("b").await.ok();
        merged.take("b", keys(1)).await.ok();
        assert_eq!(heard(), Some(1));
    }

    #[tokio::test]
    async fn peers_are_the_union_of_what_replicas_know() {
        let (incoming, mut said) = mpsc::channel(8);
        let merged = Merged::new(incoming);
        let mut hear = || match said.try_recv().ok()?.message? {
            Message::Peers(list) => Some(list.peers.into_iter().map(|p| p.node_id + &p.region)),
            _ => None,
        };
        let mut heard = || hear().map(|names| names.collect::<Vec<_>>().join(" "));
        merged.take("a", list(&[("x", "1"), ("y", "1")])).await.ok();
        assert_eq!(heard().as_deref(), Some("x1 y1"));
        // One that has just started knows less, and of one node more lately.
        merged.take("b", list(&[("x", "2")])).await.ok();
        assert_eq!(heard().as_deref(), Some("x2 y1"));
        merged.take("b", list(&[("x", "2")])).await.ok();
        assert_eq!(heard(), None);
        merged.ended("a").await.ok();
        assert_eq!(heard().as_deref(), Some("x2"));
        // The last list stays.
        merged.ended("b").await.ok();
        assert_eq!(heard(), None);
    }
}
