//! Explains a room: how it crosses the mesh and why, where its people were sent and why, and where somebody would be sent
//! now.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use proto::RoomId;
use proto::control::replicas_client::ReplicasClient;
use proto::control::{RecallRequest, RecallResponse, RoomReport};
use serde::{Deserialize, Serialize};

use crate::actor::{Handle, Stopped};
use crate::placement::{self, Asked, Edge, Explanation, Links, Moment, Placed, Placer};
use crate::planner::{self, Decision, PlanExplanation};
use crate::replicas::Replicas;
use crate::store::{self, Ephemeral};

/// How long other replicas may take to say what they know of a room.
const RECALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How old measured round trips between nodes may be.
const LINKS_AGE_MAX: Duration = Duration::from_secs(2);

/// What is to be explained.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query {
    /// The room; `None` for a client alone.
    pub room: Option<RoomId>,
    /// Address of a would-be client.
    pub address: Option<IpAddr>,
    /// Address of its name server.
    pub resolver: Option<IpAddr>,
    /// The region it is in, instead of an address.
    pub region: Option<String>,
    /// Whether to add the decision that the plan is from, to be solved again.
    pub decision: bool,
}

/// A room explained.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RoomExplanation {
    /// The room's name, if one was named.
    pub room: Option<String>,
    /// Its project.
    pub project: Option<String>,
    /// Epoch of its plan; 0 when it does not live.
    pub epoch: u64,
    /// Its plan; `None` when it does not live.
    pub plan: Option<PlanExplanation>,
    /// Where people were sent who asked for a token.
    pub placed: Vec<Placed>,
    /// Where somebody would be sent who wanted to join now.
    pub would_be: Option<Explanation>,
    /// Why there is no edge for somebody who wanted to join now.
    pub no_edge: Option<String>,
    /// The decision that the plan is from, when asked for.
    pub decision: Option<Decision>,
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such room, and no client was named either.
    #[error("no room {0:?}")]
    NoRoom(String),
    /// A region was named that nobody knows.
    #[error(transparent)]
    Placement(placement::Error),
    /// What is known of the moment cannot be read.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The control plane is stopping.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Explains rooms, and places clients by the mesh's present state. Clones share one.
#[derive(Clone, Debug)]
pub struct Explainer {
    handle: Handle,
    ephemeral: Arc<dyn Ephemeral>,
    placer: Arc<Placer>,
    replicas: Replicas,
    links: Arc<Mutex<Option<ReadLinks>>>,
}

/// Round trips between nodes, and when they were read.
type ReadLinks = (Instant, Arc<Links>);

impl Explainer {
    /// Over these parts.
    pub fn new(
        handle: Handle,
        ephemeral: Arc<dyn Ephemeral>,
        placer: Arc<Placer>,
        replicas: Replicas,
    ) -> Self {
        Self {
            handle,
            ephemeral,
            placer,
            replicas,
            links: Arc::default(),
        }
    }

    /// The control plane's task.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The placer.
    pub fn placer(&self) -> &Placer {
        &self.placer
    }

    /// Decides which edge a client is sent to, as the mesh is now.
    ///
    /// # Errors
    /// When there is no edge for it ([`Error::Placement`]), or the store does not answer.
    pub async fn place(&self, asked: &Asked<'_>) -> Result<Explanation, Error> {
        let nodes = self.ephemeral.nodes().await?;
        let room = match asked.room {
            Some(room) => self.ephemeral.room(room.as_str()).await?,
            None => None,
        };
        let links = self.links().await?;
        let moment = Moment {
            nodes: &nodes,
            links: &links,
            room: room.as_ref(),
        };
        self.placer.place(asked, moment).map_err(Error::Placement)
    }

    /// Like [`Explainer::place`], with where to reach the edge; `None` when it went meanwhile.
    ///
    /// # Errors
    /// As [`Explainer::place`].
    pub async fn edge_for(&self, asked: &Asked<'_>) -> Result<Option<Edge>, Error> {
        let placed = self.place(asked).await?;
        let edges = placement::ready_edges(&self.ephemeral.nodes().await?);
        let mut edges = edges.into_iter();
        Ok(edges.find(|edge| edge.node_id == placed.node_id))
    }

    /// The edge that serves a participant, if it is ready.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn serving(&self, room: &RoomId, identity: &str) -> Result<Option<Edge>, Error> {
        let room = self.ephemeral.room(room.as_str()).await?;
        let nodes = room.map_or(Vec::new(), |room| room.nodes);
        let serves = |report: &RoomReport| {
            let mut participants = report.participants.iter();
            participants.any(|participant| participant.identity == identity)
        };
        let serving: Vec<_> = nodes
            .iter()
            .filter(|node| node.report.as_ref().is_some_and(serves))
            .map(|node| node.node_id.as_str())
            .collect();
        if serving.is_empty() {
            return Ok(None);
        }
        let edges = placement::ready_edges(&self.ephemeral.nodes().await?);
        let mut edges = edges.into_iter();
        Ok(edges.find(|edge| serving.contains(&edge.node_id.as_str())))
    }

    /// Explains.
    ///
    /// # Errors
    /// When there is nothing to explain, or the parts that know do not answer.
    pub async fn explain(&self, query: &Query) -> Result<RoomExplanation, Error> {
        let (decision, placed) = match &query.room {
            Some(room) => self.recall(room).await?,
            None => (None, Vec::new()),
        };
        let client_named = query.address.is_some() || query.region.is_some();
        if let (Some(room), None, false) = (&query.room, &decision, client_named) {
            return Err(Error::NoRoom(room.name().to_owned()));
        }
        let asked = Asked {
            room: query.room.as_ref(),
            address: query.address,
            resolver: query.resolver,
            at: query.region.as_deref(),
            wish: None,
        };
        let (would_be, no_edge) = match self.place(&asked).await {
            Ok(explanation) => (Some(explanation), None),
            Err(Error::Placement(
                error @ (placement::Error::NoEdge | placement::Error::Confined { .. }),
            )) => (None, Some(error.to_string())),
            Err(error) => return Err(error),
        };
        let plan = decision
            .as_ref()
            .map(|decision| planner::explain(&decision.problem, &decision.solution));
        Ok(RoomExplanation {
            room: query.room.as_ref().map(|room| room.name().to_owned()),
            project: query.room.as_ref().map(|room| room.project().to_owned()),
            epoch: decision.as_ref().map_or(0, |decision| decision.epoch),
            plan,
            placed,
            would_be,
            no_edge,
            decision: decision.filter(|_| query.decision),
        })
    }

    /// What all replicas know of a room: its owner the decision, each where it sent people. Those that do not answer are left
    /// out.
    async fn recall(&self, room: &RoomId) -> Result<(Option<Decision>, Vec<Placed>), Error> {
        let mut decision = self.handle.decision(room.clone()).await?;
        let mut placed = self.placer.remembered(room);
        let asked = self.replicas.living().into_iter().map(|other| async move {
            let mut client = ReplicasClient::new(other.channel);
            let room = room.to_string();
            let asked = client.recall(RecallRequest { room });
            let answer = tokio::time::timeout(RECALL_TIMEOUT, asked).await.ok()?;
            Some(answer.ok()?.into_inner())
        });
        for answer in join_all(asked).await.into_iter().flatten() {
            let RecallResponse {
                decision: theirs,
                placed: there,
            } = answer;
            // What cannot be read is of a later version.
            decision = decision.or_else(|| serde_json::from_str(&theirs).ok());
            placed.extend(serde_json::from_str::<Vec<Placed>>(&there).unwrap_or_default());
        }
        placed.sort_by_key(|placed| placed.at_ms);
        Ok((decision, placed))
    }

    /// Measured round trips between nodes, read again when they are old: a large mesh has thousands.
    async fn links(&self) -> Result<Arc<Links>, Error> {
        let known = self
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((at, links)) = known
            && at.elapsed() < LINKS_AGE_MAX
        {
            return Ok(links);
        }
        let links = Arc::new(placement::links_of(&self.ephemeral.links().await?));
        let mut kept = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some((Instant::now(), Arc::clone(&links)));
        Ok(links)
    }
}
