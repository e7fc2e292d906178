//! `antipode node …` and `antipode room …`: what the control plane knows, for people or as JSON.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Args, Subcommand};
use proto::control::admin_client::AdminClient;
use proto::control::{
    GetRoomRequest, GetRoomResponse, ListLinksRequest, ListNodesRequest, ListRoomsRequest, Node,
    NodeRoom, NodeState, Role, RoomSummary,
};
use proto::{DEFAULT_PROJECT, RoomId};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};

use crate::drain;

/// How long the control plane may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the control plane is and how to print.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// gRPC URL of the control plane [default: the mesh that `antipode up` runs here, else http://127.0.0.1:7900]
    #[arg(long, env = "ANTIPODE_URL", value_name = "URL")]
    url: Option<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// `antipode node …`
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List all nodes with their state and load
    List(Target),
    /// Send a node's clients elsewhere, bit by bit, and end its process when the last one has left
    Drain(drain::Drain),
    /// Keep a node that drains
    Undrain(drain::Undrain),
}

/// `antipode room …`
#[derive(Debug, Subcommand)]
pub(crate) enum RoomCommand {
    /// List rooms and the edges that serve them
    List {
        /// Only rooms of this project [default: of all]
        #[arg(long)]
        project: Option<String>,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
    /// Show who is on which edge, and which tracks cross which link
    Show {
        /// Name of the room
        room: String,
        /// Project of the room
        #[arg(long, default_value = DEFAULT_PROJECT)]
        project: String,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
}

/// Connects to a control plane.
///
/// # Errors
/// When the URL is malformed or nobody answers there.
pub(crate) async fn connect(url: &str) -> anyhow::Result<AdminClient<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .timeout(TIMEOUT)
        .connect_timeout(TIMEOUT);
    let channel = endpoint.connect().await;
    Ok(AdminClient::new(channel.with_context(|| {
        format!("no control plane answers at {url}")
    })?))
}

impl Target {
    /// Whether JSON is wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Connects to the control plane that is meant.
    ///
    /// # Errors
    /// As [`connect`].
    pub(crate) async fn connect(&self) -> anyhow::Result<AdminClient<Channel>> {
        let running = || crate::up::running_control();
        let url = self.url.clone().or_else(running);
        connect(url.as_deref().unwrap_or("http://127.0.0.1:7900")).await
    }

    /// Whether JSON is wanted.
    pub(crate) fn json(&self) -> bool {
        self.json
    }
}

/// Runs `antipode node …`.
///
/// # Errors
/// When the control plane does not answer or the output cannot be written.
pub(crate) async fn node(command: NodeCommand) -> anyhow::Result<()> {
    let target = match command {
        NodeCommand::List(target) => target,
        NodeCommand::Drain(command) => return drain::drain(command).await,
        NodeCommand::Undrain(command) => return drain::undrain(command).await,
    };
    let nodes = target
        .connect()
        .await?
        .list_nodes(ListNodesRequest {})
        .await?
        .into_inner()
        .nodes;
    if target.json {
        return print_json(&nodes.iter().map(node_json).collect::<Vec<_>>().into());
    }
    let mut rows = vec![row([
        "NODE", "ROLE", "REGION", "STATE", "PEOPLE", "ROOMS", "CPU", "URL",
    ])];
    for node in &nodes {
        let hello = node.hello.clone().unwrap_or_default();
        let load = node.load.unwrap_or_default();
        rows.push(vec![
            hello.node_id.clone(),
            role_name(hello.role()).to_owned(),
            hello.region.clone(),
            state_name(node.state()).to_owned(),
            load.participants.to_string(),
            load.rooms.to_string(),
            format!("{:.2}", load.cpu_cores),
            hello.client_url,
        ]);
    }
    print_table(&rows)
}

/// Runs `antipode room …`.
///
/// # Errors
/// When the control plane does not answer, the room is not known, or the output cannot be written.
pub(crate) async fn room(command: RoomCommand) -> anyhow::Result<()> {
    match command {
        RoomCommand::List { project, target } => list_rooms(project.as_deref(), &target).await,
        RoomCommand::Show {
            room,
            project,
            target,
        } => show_room(&named(&project, &room)?, &target).await,
    }
}

/// The room of this name in a project.
///
/// # Errors
/// When no room may be called that.
pub(crate) fn named(project: &str, room: &str) -> anyhow::Result<RoomId> {
    RoomId::new(project, room).map_err(|reason| anyhow::anyhow!("the room's name {reason}"))
}

async fn list_rooms(project: Option<&str>, target: &Target) -> anyhow::Result<()> {
    let mut client = target.connect().await?;
    let answer = client.list_rooms(ListRoomsRequest {}).await?;
    let rooms = answer.into_inner().rooms;
    let ids = rooms
        .into_iter()
        .map(|room| (RoomId::from(room.room.as_str()), room));
    let rooms: Vec<(RoomId, RoomSummary)> = ids
        .filter(|(id, _)| project.is_none_or(|project| id.project() == project))
        .collect();
    if target.json {
        let rooms = rooms.iter().map(|(id, room)| {
            json!({
                "room": id.name(), "project": id.project(), "sid": room.room_sid, "epoch": room.epoch,
                "participants": room.participants, "edges": room.edges,
                "created_at_ms": room.created_at_ms,
            })
        });
        return print_json(&rooms.collect::<Vec<_>>().into());
    }
    let mut rows = vec![row([
        "PROJECT", "ROOM", "SID", "PEOPLE", "EDGES", "EPOCH", "AGE",
    ])];
    for (id, room) in &rooms {
        rows.push(vec![
            id.project().to_owned(),
            id.name().to_owned(),
            room.room_sid.clone(),
            room.participants.to_string(),
            room.edges.join(","),
            room.epoch.to_string(),
            age(room.created_at_ms),
        ]);
    }
    print_table(&rows)
}

async fn show_room(room: &RoomId, target: &Target) -> anyhow::Result<()> {
    let mut client = target.connect().await?;
    let asked = GetRoomRequest {
        room: room.to_string(),
    };
    let answer = client.get_room(asked).await;
    let answer = answer.map_err(|status| {
        if status.code() == tonic::Code::NotFound {
            anyhow::anyhow!(
                "there is no room {:?} in project {}",
                room.name(),
                room.project()
            )
        } else {
            status.into()
        }
    })?;
    let shown = answer.into_inner();
    if target.json {
        return print_json(&room_json(&shown));
    }
    let links = client
        .list_links(ListLinksRequest {})
        .await?
        .into_inner()
        .links;
    let mut out = std::io::stdout().lock();
    let summary = shown.summary.clone().unwrap_or_default();
    writeln!(
        out,
        "{} of {}  {}  epoch {}  {} people on {} edges",
        room.name(),
        room.project(),
        summary.room_sid,
        summary.epoch,
        summary.participants,
        summary.edges.len()
    )?;
    for node in &shown.nodes {
        writeln!(out, "\n{} ({})", node.node_id, node.region)?;
        write_participants(&mut out, node)?;
        write_flows(&mut out, node, |peer| {
            let link = links.iter().find(|link| {
                link.node_id == node.node_id
                    && link.state.as_ref().is_some_and(|state| state.peer == peer)
            });
            link.and_then(|link| link.state.as_ref())
                .map(|state| state.rtt_us)
        })?;
        for hop in node.plan.iter().flat_map(|plan| &plan.next_hops) {
            let backup = if hop.backup.is_empty() {
                "none"
            } else {
                &hop.backup
            };
            writeln!(
                out,
                "  route to {} via {} (backup {backup})",
                hop.edge, hop.via
            )?;
        }
    }
    Ok(())
}

fn write_participants(out: &mut impl Write, node: &NodeRoom) -> std::io::Result<()> {
    for participant in node.report.iter().flat_map(|report| &report.participants) {
        writeln!(out, "  {} ({})", participant.identity, participant.sid)?;
        for track in &participant.tracks {
            let muted = if track.muted { " muted" } else { "" };
            let (sid, source, codec) = (&track.sid, &track.source, &track.codec);
            writeln!(out, "    {sid}  {} {source} {codec}{muted}", track.kind)?;
        }
    }
    Ok(())
}

fn write_flows(
    out: &mut impl Write,
    node: &NodeRoom,
    rtt_us: impl Fn(&str) -> Option<u32>,
) -> std::io::Result<()> {
    for flow in node.report.iter().flat_map(|report| &report.flows) {
        let rtt = rtt_us(&flow.peer).map_or_else(String::new, |rtt| {
            format!("  rtt {:.1} ms", f64::from(rtt) / 1_000.0)
        });
        let layers = layers(flow.layers);
        writeln!(
            out,
            "  -> {}  {} layers {layers}{rtt}",
            flow.peer, flow.track_sid
        )?;
    }
    Ok(())
}

/// Set bits as a list: `0b101` is `0,2`.
fn layers(bits: u32) -> String {
    let set = (0..u32::BITS).filter(|bit| bits & (1 << bit) != 0);
    set.map(|bit| bit.to_string()).collect::<Vec<_>>().join(",")
}

fn node_json(node: &Node) -> serde_json::Value {
    let hello = node.hello.clone().unwrap_or_default();
    let load = node.load.unwrap_or_default();
    json!({
        "node": hello.node_id, "role": role_name(hello.role()), "region": hello.region,
        "state": state_name(node.state()), "version": hello.version, "url": hello.client_url,
        "admin": hello.admin_url, "links": hello.link_addresses, "pid": hello.pid,
        "participants": load.participants, "rooms": load.rooms, "cpu_cores": load.cpu_cores,
        "egress_bps": load.egress_bps, "connected_at_ms": node.connected_at_ms,
        "drain": load.drain.map(|drain| json!({"since_ms": drain.since_ms,
            "deadline_ms": drain.deadline_ms, "clients": drain.clients, "tunnels": drain.tunnels})),
    })
}

fn room_json(room: &GetRoomResponse) -> serde_json::Value {
    let summary = room.summary.clone().unwrap_or_default();
    let id = RoomId::from(summary.room.as_str());
    let nodes = room.nodes.iter().map(|node| {
        let report = node.report.clone().unwrap_or_default();
        let participants = report.participants.iter().map(|participant| {
            let tracks = participant.tracks.iter().map(|track| {
                json!({"sid": track.sid, "kind": track.kind, "source": track.source,
                    "codec": track.codec, "muted": track.muted})
            });
            json!({"sid": participant.sid, "identity": participant.identity,
                "name": participant.name, "joined_at_ms": participant.joined_at_ms,
                "tracks": tracks.collect::<Vec<_>>()})
        });
        let flows = report
            .flows
            .iter()
            .map(|flow| json!({"peer": flow.peer, "track": flow.track_sid, "layers": flow.layers}));
        let hops = node.plan.iter().flat_map(|plan| &plan.next_hops);
        let hops = hops.map(|hop| json!({"edge": hop.edge, "via": hop.via, "backup": hop.backup}));
        json!({"node": node.node_id, "region": node.region,
            "participants": participants.collect::<Vec<_>>(),
            "flows": flows.collect::<Vec<_>>(), "next_hops": hops.collect::<Vec<_>>()})
    });
    json!({
        "room": id.name(), "project": id.project(), "sid": summary.room_sid, "epoch": summary.epoch,
        "participants": summary.participants, "edges": summary.edges,
        "created_at_ms": summary.created_at_ms, "nodes": nodes.collect::<Vec<_>>(),
    })
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Edge => "edge",
        Role::Relay => "relay",
        Role::Unspecified => "unknown",
    }
}

fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Starting => "starting",
        NodeState::Ready => "ready",
        NodeState::Draining => "draining",
        NodeState::Suspect => "suspect",
        NodeState::Dead => "dead",
        NodeState::Unspecified => "unknown",
    }
}

/// Time since a moment in milliseconds since the Unix epoch, in its largest unit.
pub(crate) fn age(since_ms: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    match now
        .saturating_sub(Duration::from_millis(since_ms))
        .as_secs()
    {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3_600),
    }
}

/// A row of a table.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.into_iter().map(str::to_owned).collect()
}

/// Prints JSON for people and programs.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{value:#}")?;
    Ok(())
}

/// Prints a table with its columns aligned.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn print_table(rows: &[Vec<String>]) -> anyhow::Result<()> {
    std::io::stdout().write_all(table(rows).as_bytes())?;
    Ok(())
}

/// Rows with their columns aligned, as text.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell_width = |row: &Vec<String>, column| {
        row.get(column)
            .map_or(0, |cell: &String| cell.chars().count())
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .map(|row| cell_width(row, column))
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_by_characters() {
        let rows = [
            row(["ROOM", "PEOPLE"]),
            row(["caffè", "3"]),
            row(["x", "12"]),
        ];
        assert_eq!(table(&rows), "ROOM   PEOPLE\ncaffè  3\nx      12\n");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn layers_are_listed() {
        assert_eq!(layers(0b101), "0,2");
        assert_eq!(layers(0), "");
    }
}
