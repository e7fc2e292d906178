//! Waiting until the nodes of a mesh know each other.

use std::time::Duration;

use anyhow::Context;
use proto::control::{ListLinksRequest, ListNodesRequest, NodeState};

use super::layout::Node;

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(50);

/// Waits until the control plane calls all nodes ready and both ends of every link up. When that takes longer than
/// `within`, it says what is missing and ends all the same: the mesh works as far as it is up.
pub(crate) async fn wait(grpc_url: &str, nodes: &[Node], within: Duration) {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let state = look(grpc_url, nodes).await;
        match state {
            Ok(missing) if missing.is_empty() => return,
            _ if tokio::time::Instant::now() < deadline => tokio::time::sleep(INTERVAL).await,
            Ok(missing) => {
                tracing::warn!(missing = missing.join(", "), "the mesh is not complete yet");
                return;
            }
            Err(error) => {
                tracing::warn!("the mesh's state is not known: {error:#}");
                return;
            }
        }
    }
}

/// What is not there yet: nodes by id, links as `from>to`.
async fn look(grpc_url: &str, nodes: &[Node]) -> anyhow::Result<Vec<String>> {
    let mut client = crate::admin::connect(grpc_url).await?;
    let known = client
        .list_nodes(ListNodesRequest {})
        .await
        .context("nodes")?
        .into_inner()
        .nodes;
    let links = client
        .list_links(ListLinksRequest {})
        .await
        .context("links")?
        .into_inner()
        .links;
    let ready = |id: &str| {
        known.iter().any(|node| {
            node.state() == NodeState::Ready
                && node.hello.as_ref().is_some_and(|hello| hello.node_id == id)
        })
    };
    let up = |from: &str, to: &str| {
        links.iter().any(|link| {
            link.node_id == from
                && link
                    .state
                    .as_ref()
                    .is_some_and(|state| state.up && state.peer == to)
        })
    };
    let mut missing: Vec<String> = nodes
        .iter()
        .filter(|node| !ready(&node.id))
        .map(|node| node.id.clone())
        .collect();
    for from in nodes {
        let others = nodes.iter().filter(|to| to.id != from.id);
        let down = others.filter(|to| !up(&from.id, &to.id));
        missing.extend(down.map(|to| format!("{}>{}", from.id, to.id)));
    }
    Ok(missing)
}
