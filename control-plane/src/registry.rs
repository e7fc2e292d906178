//! Which nodes there are and how they fare. Sans-IO: sessions begin and end, reports arrive, time passes.

mod damping;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::NodeId;
use proto::control::{self, Hello, LinkState, Load, NodeState};

use crate::planner::{Role, Site};
use damping::Damping;

/// One session of a node, unique in this process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionId(pub u64);

/// Nodes a mesh may have: a mistake or an attack ends here.
const NODES_MAX: usize = 1_024;
/// Length of a node id in bytes.
const NODE_ID_LENGTH_MAX: usize = 64;
/// How long a dead node is shown to operators.
const DEAD_SHOWN: Duration = Duration::from_secs(600);
/// How old a link report may be to count as evidence.
const EVIDENCE_AGE_MAX: Duration = Duration::from_secs(10);
/// A report that left before the session ended may arrive this much after.
const EVIDENCE_SLACK: Duration = Duration::from_millis(500);
/// Peers that must have lost a node, and none hear it, before it is suspect while its session lives.
const SUSPECTING_PEERS: usize = 2;

/// Why a node's hello was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// Empty, too long, or characters other than letters, digits, `.`, `_`, `-`.
    #[error("node id {0:?} is not 1 to {NODE_ID_LENGTH_MAX} letters, digits, '.', '_' or '-'")]
    NodeId(String),
    /// Neither edge nor relay.
    #[error("role {0} is unknown")]
    Role(i32),
    /// A later start of the same node has a session.
    #[error("a later incarnation of the node is connected")]
    Superseded,
    /// Too many nodes.
    #[error("the mesh has {NODES_MAX} nodes already")]
    Full,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it said of itself.
    pub hello: Hello,
    /// Its role, from the hello.
    pub role: Role,
    /// How it fares.
    pub state: NodeState,
    /// Its last report of load.
    pub load: Load,
    /// When its session began, milliseconds since the Unix epoch.
    pub connected_at_ms: u64,
    /// Its session; `None` when it has none.
    pub session: Option<SessionId>,
    /// When its state is looked at again.
    pub deadline: Option<Instant>,
    lost_at: Option<Instant>,
    links: BTreeMap<NodeId, bool>,
    links_at: Option<Instant>,
    damping: Damping,
}

impl Node {
    /// People per place it has, 0.0 to 1.0 and above; 0 when it names no capacity.
    pub fn load_share(&self) -> f64 {
        match self.hello.capacity {
            0 => 0.0,
            capacity => f64::from(self.load.participants) / f64::from(capacity),
        }
    }

    /// It lets its clients go elsewhere and then ends.
    pub fn is_draining(&self) -> bool {
        self.load.drain.is_some()
    }

    /// Its process said that it ends now.
    pub fn is_leaving(&self) -> bool {
        self.load.drain.is_some_and(|drain| drain.leaving)
    }

    /// The state of a node that has a session and whose peers have nothing against it.
    fn settled(&self) -> NodeState {
        // An edge without an address for clients, or any node without one for links, is not up yet.
        let reachable = !self.hello.link_addresses.is_empty()
            && (self.role == Role::Relay || !self.hello.client_url.is_empty());
        match (reachable, self.is_draining()) {
            (false, _) => NodeState::Starting,
            (true, true) => NodeState::Draining,
            (true, false) => NodeState::Ready,
        }
    }

    /// For the planner.
    pub fn site(&self) -> Site {
        Site::new(self.role, self.hello.region.clone())
    }

    /// For operators.
    pub fn view(&self) -> control::Node {
        control::Node {
            hello: Some(self.hello.clone()),
            state: self.state.into(),
            load: Some(self.load),
            connected_at_ms: self.connected_at_ms,
        }
    }

    /// For its peers.
    pub fn peer(&self) -> control::Peer {
        control::Peer {
            node_id: self.hello.node_id.clone(),
            role: self.hello.role,
            region: self.hello.region.clone(),
            link_addresses: self.hello.link_addresses.clone(),
        }
    }
}

/// What a hello changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcomed {
    /// The node.
    pub node: NodeId,
    /// The session that this one replaces, to be closed.
    pub replaces: Option<SessionId>,
    /// The process started anew: what it knew is gone.
    pub restarted: bool,
}

/// What a look at a node's deadline found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing is due.
    Unchanged,
    /// It just died.
    Died,
    /// It has been dead for long and is forgotten.
    Forgotten,
    /// It had come and gone too often and counts again.
    Settled,
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Registry {
    nodes: BTreeMap<NodeId, Node>,
    sessions: BTreeMap<SessionId, NodeId>,
}

impl Registry {
    /// A node that was known before this process started: suspect until it is back or `deadline` passes.
    ///
    /// # Errors
    /// When the stored hello is malformed.
    pub fn restore(
        &mut self,
        hello: Hello,
        now: Instant,
        deadline: Instant,
    ) -> Result<NodeId, Refused> {
        let (id, mut node) = checked(hello)?;
        node.state = NodeState::Suspect;
        node.lost_at = Some(now);
        node.deadline = Some(deadline);
        self.nodes.insert(id.clone(), node);
        Ok(id)
    }

    /// A session's first message. A node that came and went too often lately stays suspect until its deadline.
    ///
    /// # Errors
    /// When the hello is malformed, late, or one node too many.
    pub fn connect(
        &mut self,
        session: SessionId,
        hello: Hello,
        (now, now_ms): (Instant, u64),
    ) -> Result<Welcomed, Refused> {
        let (id, mut node) = checked(hello)?;
        let before = self.nodes.get(&id);
        if before.is_none() && self.nodes.len() >= NODES_MAX {
            return Err(Refused::Full);
        }
        let replaces = before.and_then(|node| node.session);
        let incarnation = node.hello.incarnation;
        if before.is_some_and(|old| replaces.is_some() && old.hello.incarnation > incarnation) {
            return Err(Refused::Superseded);
        }
        let restarted = before.is_none_or(|old| old.hello.incarnation != incarnation);
        if let Some(old) = before {
            node.damping = old.damping;
            if !restarted {
                // It says how it fares within a moment.
                node.load = old.load;
            }
        }
        node.state = node.settled();
        if let Some(until) = node.damping.back(now) {
            node.state = NodeState::Suspect;
            node.deadline = Some(until);
        }
        node.connected_at_ms = now_ms;
        node.session = Some(session);
        if let Some(replaced) = replaces {
            self.sessions.remove(&replaced);
        }
        self.sessions.insert(session, id.clone());
        self.nodes.insert(id.clone(), node);
        Ok(Welcomed {
            node: id,
            replaces,
            restarted,
        })
    }

    /// A session ended: its node is suspect until `deadline`, or forgotten when it had said that it leaves. `None` when another
    /// session took over before.
    pub fn disconnect(
        &mut self,
        session: SessionId,
        now: Instant,
        deadline: Instant,
    ) -> Option<NodeId> {
        let id = self.sessions.remove(&session)?;
        let node = self.nodes.get_mut(&id)?;
        node.session = None;
        if node.is_leaving() {
            self.nodes.remove(&id);
            return Some(id);
        }
        node.state = NodeState::Suspect;
        node.damping.lost(now);
        node.lost_at = Some(now);
        node.deadline = Some(deadline);
        Some(id)
    }

    /// The node of a session.
    pub fn node_of(&self, session: SessionId) -> Option<&NodeId> {
        self.sessions.get(&session)
    }

    /// A node by id.
    pub fn get(&self, id: &NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// Nodes by id, dead ones included.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter()
    }

    /// A report of load. True when the node drains from now on, or no more.
    pub fn set_load(&mut self, id: &NodeId, load: Load) -> bool {
        let Some(node) = self.nodes.get_mut(id) else {
            return false;
        };
        let drained = node.is_draining();
        node.load = load;
        if matches!(node.state, NodeState::Ready | NodeState::Draining) {
            node.state = node.settled();
        }
        drained != node.is_draining()
    }

    /// A report on links. Returns nodes that became suspect by it, or ready again.
    pub fn set_links(&mut self, id: &NodeId, links: &[LinkState], now: Instant) -> Vec<NodeId> {
        let Some(node) = self.nodes.get_mut(id) else {
            return Vec::new();
        };
        let reported = links.iter().take(NODES_MAX);
        node.links = reported
            .map(|link| (NodeId::from(link.peer.as_str()), link.up))
            .collect();
        node.links_at = Some(now);
        let peers: Vec<_> = node.links.keys().cloned().collect();
        peers
            .into_iter()
            .filter(|peer| self.weigh(peer, now))
            .collect()
    }

    /// Sets a connected node's state by what its peers say of it. True when it changed.
    fn weigh(&mut self, id: &NodeId, now: Instant) -> bool {
        let Some(since) = now.checked_sub(EVIDENCE_AGE_MAX) else {
            return false;
        };
        let (hear, lost) = self.evidence(id, since);
        let Some(node) = self.nodes.get_mut(id) else {
            return false;
        };
        let before = node.state;
        let serves = matches!(before, NodeState::Ready | NodeState::Draining);
        if serves && hear == 0 && lost >= SUSPECTING_PEERS {
            node.state = NodeState::Suspect;
            node.damping.lost(now);
        } else if before == NodeState::Suspect && node.session.is_some() && hear > 0 {
            node.deadline = node.damping.back(now);
            if node.deadline.is_none() {
                node.state = node.settled();
            }
        }
        node.state != before
    }

    /// How many connected peers hear the node and how many lost it, by reports from `since` on.
    fn evidence(&self, id: &NodeId, since: Instant) -> (usize, usize) {
        let said = self
            .nodes
            .values()
            .filter(|peer| peer.session.is_some() && peer.links_at.is_some_and(|at| at >= since))
            .filter_map(|peer| peer.links.get(id));
        said.fold((0, 0), |(hear, lost), up| {
            if *up {
                (hear + 1, lost)
            } else {
                (hear, lost + 1)
            }
        })
    }

    /// Looks at a node whose deadline may have passed. A node without a session that peers still hear is not dead:
    /// only its way to us is; it is looked at again after `grace`.
    pub fn expire(&mut self, id: &NodeId, now: Instant, grace: Duration) -> Verdict {
        let Some(node) = self.nodes.get_mut(id) else {
            return Verdict::Unchanged;
        };
        if node.deadline.is_none_or(|deadline| deadline > now) {
            return Verdict::Unchanged;
        }
        if node.session.is_some() {
            node.deadline = None;
            return self.trust_again(id, now);
        }
        if node.state == NodeState::Dead {
            self.nodes.remove(id);
            return Verdict::Forgotten;
        }
        let heard = node
            .lost_at
            .is_some_and(|at| self.evidence(id, at + EVIDENCE_SLACK).0 > 0);
        let Some(node) = self.nodes.get_mut(id) else {
            return Verdict::Unchanged;
        };
        if heard {
            // Only what is said from now on counts the next time.
            node.lost_at = Some(now);
            node.deadline = Some(now + grace.max(2 * EVIDENCE_SLACK));
            return Verdict::Unchanged;
        }
        node.state = NodeState::Dead;
        node.deadline = Some(now + DEAD_SHOWN);
        Verdict::Died
    }
}

impl Registry {
    /// A node has been held back for long enough: it counts again unless its peers lost it.
    fn trust_again(&mut self, id: &NodeId, now: Instant) -> Verdict {
        let since = now.checked_sub(EVIDENCE_AGE_MAX);
        let (hear, lost) = since.map_or((0, 0), |since| self.evidence(id, since));
        let Some(node) = self.nodes.get_mut(id) else {
            return Verdict::Unchanged;
        };
        if node.state != NodeState::Suspect || (hear == 0 && lost >= SUSPECTING_PEERS) {
            return Verdict::Unchanged;
        }
        node.state = node.settled();
        Verdict::Settled
    }
}

/// A node from its hello, not yet in any state.
fn checked(hello: Hello) -> Result<(NodeId, Node), Refused> {
    let id = hello.node_id.as_str();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if id.is_empty() || id.len() > NODE_ID_LENGTH_MAX || !id.chars().all(allowed) {
        let shown: String = id.chars().take(NODE_ID_LENGTH_MAX).collect();
        return Err(Refused::NodeId(shown));
    }
    let role = match control::Role::try_from(hello.role) {
        Ok(control::Role::Edge) => Role::Edge,
        Ok(control::Role::Relay) => Role::Relay,
        Ok(control::Role::Unspecified) | Err(_) => return Err(Refused::Role(hello.role)),
    };
    let id = NodeId::from(id);
    let node = Node {
        hello,
        role,
        state: NodeState::Starting,
        load: Load::default(),
        connected_at_ms: 0,
        session: None,
        deadline: None,
        lost_at: None,
        links: BTreeMap::new(),
        links_at: None,
        damping: Damping::default(),
    };
    Ok((id, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(2);

    fn hello(node: &str, incarnation: u64) -> Hello {
        Hello {
            node_id: node.to_owned(),
            incarnation,
            role: control::Role::Edge.into(),
            region: "fra".to_owned(),
            link_addresses: vec!["127.0.0.1:1".to_owned()],
            client_url: "ws://127.0.0.1:2".to_owned(),
            ..Hello::default()
        }
    }

    fn state(registry: &Registry, node: &str) -> NodeState {
        registry.get(&NodeId::from(node)).expect("known").state
    }

    fn link(peer: &str, up: bool) -> LinkState {
        LinkState {
            peer: peer.to_owned(),
            up,
            ..LinkState::default()
        }
    }

    fn three() -> (Registry, Instant) {
        let mut registry = Registry::default();
        for (session, node) in [(1, "a"), (2, "b"), (3, "c")] {
            registry
                .connect(SessionId(session), hello(node, 1), (Instant::now(), 0))
                .expect("welcome");
        }
        (registry, Instant::now() + Duration::from_secs(60))
    }

    #[test]
    fn a_session_that_ends_makes_suspect_then_dead_then_forgotten() {
        let (mut registry, now) = three();
        let a = NodeId::from("a");
        assert_eq!(
            registry.disconnect(SessionId(1), now, now + GRACE),
            Some(a.clone())
        );
        assert_eq!(state(&registry, "a"), NodeState::Suspect);
        assert_eq!(
            registry.expire(&a, now + GRACE / 2, GRACE),
            Verdict::Unchanged
        );
        assert_eq!(registry.expire(&a, now + GRACE, GRACE), Verdict::Died);
        assert_eq!(state(&registry, "a"), NodeState::Dead);
        assert_eq!(
            registry.expire(&a, now + GRACE + DEAD_SHOWN, GRACE),
            Verdict::Forgotten
        );
        assert!(registry.get(&a).is_none());
    }

    #[test]
    fn who_is_back_in_time_lives() {
        let (mut registry, now) = three();
        registry.disconnect(SessionId(1), now, now + GRACE);
        let welcomed = registry
            .connect(SessionId(4), hello("a", 1), (Instant::now(), 0))
            .expect("welcome");
        assert_eq!(
            welcomed,
            Welcomed {
                node: "a".into(),
                replaces: None,
                restarted: false
            }
        );
        assert_eq!(
            registry.expire(&"a".into(), now + 2 * GRACE, GRACE),
            Verdict::Unchanged
        );
        assert_eq!(state(&registry, "a"), NodeState::Ready);
    }

    #[test]
    fn a_node_that_peers_still_hear_is_not_dead() {
        let (mut registry, now) = three();
        let a = NodeId::from("a");
        registry.disconnect(SessionId(1), now, now + GRACE);
        registry.set_links(
            &"b".into(),
            &[link("a", true)],
            now + Duration::from_secs(1),
        );
        assert_eq!(registry.expire(&a, now + GRACE, GRACE), Verdict::Unchanged);
        registry.set_links(
            &"b".into(),
            &[link("a", false)],
            now + Duration::from_secs(3),
        );
        assert_eq!(registry.expire(&a, now + 2 * GRACE, GRACE), Verdict::Died);
    }

    #[test]
    fn a_report_from_before_the_loss_is_no_evidence() {
        let (mut registry, now) = three();
        registry.set_links(&"b".into(), &[link("a", true)], now);
        registry.disconnect(SessionId(1), now, now + GRACE);
        assert_eq!(
            registry.expire(&"a".into(), now + GRACE, GRACE),
            Verdict::Died
        );
    }

    #[test]
    fn suspect_when_two_peers_lost_it_and_ready_when_one_hears_it() {
        let (mut registry, now) = three();
        assert!(
            registry
                .set_links(&"b".into(), &[link("a", false)], now)
                .is_empty()
        );
        assert_eq!(
            state(&registry, "a"),
            NodeState::Ready,
            "one broken link is no dead node"
        );
        let changed = registry.set_links(&"c".into(), &[link("a", false)], now);
        assert_eq!(
            (changed, state(&registry, "a")),
            (vec!["a".into()], NodeState::Suspect)
        );
        registry.set_links(&"c".into(), &[link("a", true)], now);
        assert_eq!(state(&registry, "a"), NodeState::Ready);
    }

    #[test]
    fn a_later_incarnation_takes_over_and_an_earlier_one_is_refused() {
        let (mut registry, now) = three();
        let welcomed = registry
            .connect(SessionId(4), hello("a", 2), (Instant::now(), 0))
            .expect("welcome");
        assert_eq!(welcomed.replaces, Some(SessionId(1)));
        assert!(welcomed.restarted);
        assert_eq!(
            registry.disconnect(SessionId(1), now, now),
            None,
            "replaced before"
        );
        assert_eq!(
            registry.connect(SessionId(5), hello("a", 1), (Instant::now(), 0)),
            Err(Refused::Superseded)
        );
    }

    #[test]
    fn malformed_hellos_are_refused() {
        let mut registry = Registry::default();
        for id in ["", "a b", "ä", &"x".repeat(65)] {
            assert!(
                registry
                    .connect(SessionId(1), hello(id, 1), (Instant::now(), 0))
                    .is_err(),
                "{id:?}"
            );
        }
        let roleless = Hello {
            role: 9,
            ..hello("a", 1)
        };
        assert_eq!(
            registry.connect(SessionId(1), roleless, (Instant::now(), 0)),
            Err(Refused::Role(9))
        );
        let starting = Hello {
            client_url: String::new(),
            ..hello("a", 1)
        };
        registry
            .connect(SessionId(1), starting, (Instant::now(), 0))
            .expect("welcome");
        assert_eq!(state(&registry, "a"), NodeState::Starting);
    }
}
