//! The part of `Admin` that has nodes drained: the log first, then the node, which is asked over its session.

use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use proto::control::command::Request;
use proto::control::{
    Command, Drain, DrainNodeRequest, DrainNodeResponse, NodeState, Undrain, UndrainNodeRequest,
    UndrainNodeResponse,
};
use tonic::Status;

use super::keys::{self, by_whom};
use crate::authority::Authority;
use crate::core::{Call, CallError};
use crate::store::audit::Act;
use crate::store::{Durable, Ephemeral, Error};

/// How long a node has to drain, unless it is said.
const WITHIN_DEFAULT: Duration = Duration::from_mins(5);
/// The longest drain: a day. Beyond it somebody has forgotten it.
const WITHIN_MAX: Duration = Duration::from_hours(24);
/// How long the node may take to say that it has begun.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Why a node was not drained.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    By(#[from] keys::Refusal),
    #[error(transparent)]
    Store(#[from] Error),
    #[error("a drain takes at most {} h", WITHIN_MAX.as_secs() / 3_600)]
    TooLong,
    #[error("there is no node {0:?}")]
    NoNode(String),
    #[error("node {0} is dead")]
    Dead(String),
    #[error("node {0} is not draining")]
    NotDraining(String),
    #[error("the node did not take it: {0}")]
    Node(CallError),
}

pub(super) fn status(refusal: Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::By(refusal) => keys::status(refusal),
        Refusal::TooLong => Status::invalid_argument(message),
        Refusal::NoNode(_) => Status::not_found(message),
        Refusal::Dead(_) | Refusal::NotDraining(_) => Status::failed_precondition(message),
        Refusal::Store(_) | Refusal::Node(_) => Status::unavailable(message),
    }
}

/// Has nodes drained.
#[derive(Debug)]
pub(super) struct Drains {
    pub(super) durable: Arc<dyn Durable>,
    pub(super) ephemeral: Arc<dyn Ephemeral>,
    pub(super) authority: Arc<dyn Authority>,
}

impl Drains {
    pub(super) async fn drain(
        &self,
        request: DrainNodeRequest,
    ) -> Result<DrainNodeResponse, Refusal> {
        let DrainNodeRequest {
            node_id,
            within_ms,
            by,
        } = request;
        let within = match within_ms {
            0 => WITHIN_DEFAULT,
            ms => Duration::from_millis(ms),
        };
        if within > WITHIN_MAX {
            return Err(Refusal::TooLong);
        }
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.state(&node_id).await?;
        let detail = serde_json::json!({ "within_ms": within_ms });
        self.log("node.drain", &node_id, detail, &by).await?;
        let order = Request::Drain(Drain { within_ms });
        self.order(node_id, order).await?;
        Ok(DrainNodeResponse {})
    }

    pub(super) async fn undrain(
        &self,
        request: UndrainNodeRequest,
    ) -> Result<UndrainNodeResponse, Refusal> {
        let UndrainNodeRequest { node_id, by } = request;
        if self.state(&node_id).await? != NodeState::Draining {
            return Err(Refusal::NotDraining(node_id));
        }
        let nothing = serde_json::json!({});
        self.log("node.undrain", &node_id, nothing, &by).await?;
        self.order(node_id, Request::Undrain(Undrain {})).await?;
        Ok(UndrainNodeResponse {})
    }

    /// The state of a node that is not dead.
    async fn state(&self, node_id: &str) -> Result<NodeState, Refusal> {
        let nodes = self.ephemeral.nodes().await?;
        let mut nodes = nodes.iter();
        let is_it = |node: &&proto::control::Node| {
            let hello = node.hello.as_ref();
            hello.is_some_and(|hello| hello.node_id == node_id)
        };
        let shown = || node_id.chars().take(64).collect();
        match nodes.find(is_it).map(proto::control::Node::state) {
            None => Err(Refusal::NoNode(shown())),
            Some(NodeState::Dead) => Err(Refusal::Dead(shown())),
            Some(state) => Ok(state),
        }
    }

    async fn log(
        &self,
        action: &str,
        node_id: &str,
        detail: serde_json::Value,
        by: &str,
    ) -> Result<(), Refusal> {
        let act = Act {
            action: action.to_owned(),
            target: node_id.to_owned(),
            detail,
        };
        self.durable.append(&act, by_whom(by)?).await?;
        Ok(())
    }

    async fn order(&self, node_id: String, request: Request) -> Result<(), Refusal> {
        let call = Call::Command {
            node: NodeId::from(node_id),
            command: Box::new(Command {
                request: Some(request),
                ..Command::default()
            }),
            within: ANSWER_WITHIN,
        };
        let done = self.authority.call(call).await;
        done.map(drop).map_err(Refusal::Node)
    }
}
