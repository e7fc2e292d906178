//! `antipode node drain …` and `… undrain`: asks for it, then shows how far it is.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use proto::control::admin_client::AdminClient;
use proto::control::{
    DrainNodeRequest, DrainStatus, ListNodesRequest, Node, NodeState, UndrainNodeRequest,
};
use serde_json::json;
use tonic::transport::Channel;

use crate::admin::{Target, print_json};
use crate::key::{said, who};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// A node that is still there so long after its deadline will not end by itself.
const OVERDUE: Duration = Duration::from_secs(15);

/// `antipode node drain …`
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The node, as `antipode node list` shows it
    node: String,
    /// When its process ends at the latest, whoever is left: seconds, or a number with s, m or h
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = duration)]
    deadline: Duration,
    /// Return at once instead of waiting for the end
    #[arg(long)]
    no_wait: bool,
    /// Where to ask.
    #[command(flatten)]
    target: Target,
}

/// `antipode node undrain …`
#[derive(Debug, Args)]
pub(crate) struct Undrain {
    /// The node
    node: String,
    /// Where to ask.
    #[command(flatten)]
    target: Target,
}

/// `90`, `90s`, `5m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        Some((at, _)) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("expected seconds, or a number with s, m or h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number".to_owned())?;
    match number.checked_mul(seconds) {
        Some(0) | None => Err("out of range".to_owned()),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

/// Has a node drained; waits for its end unless told otherwise.
///
/// # Errors
/// When the control plane refuses or does not answer, the node stays beyond its deadline, or somebody undrains it meanwhile.
pub(crate) async fn drain(command: Drain) -> anyhow::Result<()> {
    let mut client = command.target.connect().await?;
    let before = find(&mut client, &command.node).await?;
    let request = DrainNodeRequest {
        node_id: command.node.clone(),
        within_ms: u64::try_from(command.deadline.as_millis())?,
        by: who(),
    };
    client.drain_node(request).await.map_err(said)?;
    if command.no_wait {
        return say(&command, "is draining", None);
    }
    let incarnation = before.map_or(0, |node| incarnation(&node));
    wait(&command, client, incarnation).await
}

/// Has a node stay.
///
/// # Errors
/// When the control plane refuses or does not answer.
pub(crate) async fn undrain(command: Undrain) -> anyhow::Result<()> {
    let request = UndrainNodeRequest {
        node_id: command.node.clone(),
        by: who(),
    };
    let mut client = command.target.connect().await?;
    client.undrain_node(request).await.map_err(said)?;
    if command.target.json() {
        return print_json(&json!({ "node": command.node, "state": "ready" }));
    }
    writeln!(std::io::stdout(), "{} takes clients again", command.node)?;
    Ok(())
}

fn incarnation(node: &Node) -> u64 {
    node.hello.as_ref().map_or(0, |hello| hello.incarnation)
}

async fn find(client: &mut AdminClient<Channel>, name: &str) -> anyhow::Result<Option<Node>> {
    let nodes = client.list_nodes(ListNodesRequest {}).await?;
    let mut nodes = nodes.into_inner().nodes.into_iter();
    Ok(nodes.find(|node| {
        node.hello
            .as_ref()
            .is_some_and(|hello| hello.node_id == name)
    }))
}

/// Shows who is left until the node's process has ended.
async fn wait(
    command: &Drain,
    mut client: AdminClient<Channel>,
    incarnation_before: u64,
) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    let mut shown = None;
    let mut seen_draining = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let found = find(&mut client, &command.node).await?;
        let Some(node) = found.filter(|node| incarnation(node) == incarnation_before) else {
            let text = format!("has left after {} s", begun.elapsed().as_secs());
            return say(command, &text, None);
        };
        if node.state() == NodeState::Dead {
            return say(command, "is dead", None);
        }
        let status = node.load.and_then(|load| load.drain);
        seen_draining |= status.is_some();
        if status.is_none() && seen_draining {
            anyhow::bail!(
                "{} takes clients again: somebody undrained it",
                command.node
            );
        }
        let people = node.load.map_or(0, |load| load.participants);
        let progress = status.map(|status| (people, status.tunnels));
        if progress.is_some() && progress != shown {
            shown = progress;
            say(command, "", status.map(|status| (people, status)))?;
        }
        if begun.elapsed() > command.deadline + OVERDUE {
            anyhow::bail!("{} is still there after its deadline", command.node);
        }
    }
}

fn say(command: &Drain, text: &str, progress: Option<(u32, DrainStatus)>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let node = &command.node;
    match (progress, command.target.json()) {
        (Some((people, status)), true) => writeln!(
            out,
            "{}",
            json!({ "node": node, "left": people, "of": status.clients,
                "tunnels": status.tunnels, "deadline_ms": status.deadline_ms })
        ),
        (Some((people, status)), false) => writeln!(out, "{node}  {}", line(people, &status)),
        (None, true) => writeln!(out, "{}", json!({ "node": node, "says": text })),
        (None, false) => writeln!(out, "{node}  {text}"),
    }?;
    Ok(out.flush()?)
}

/// What is left, for people.
fn line(people: u32, status: &DrainStatus) -> String {
    let people = format!("{people} of {} clients left", status.clients.max(people));
    match status.tunnels {
        0 => people,
        1 => format!("{people}, 1 that moved still signals through it"),
        tunnels => format!("{people}, {tunnels} that moved still signal through it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("45s"), Ok(Duration::from_secs(45)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7_200)));
        for bad in [
            "",
            "m",
            "5 m",
            "0",
            "-1",
            "5d",
            "99999999999999999999h",
            "9999999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn progress_reads_well() {
        let status = |tunnels| DrainStatus {
            clients: 20,
            tunnels,
            ..DrainStatus::default()
        };
        assert_eq!(line(12, &status(0)), "12 of 20 clients left");
        assert_eq!(
            line(0, &status(3)),
            "0 of 20 clients left, 3 that moved still signal through it"
        );
    }
}
