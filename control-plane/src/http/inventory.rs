//! Nodes, links and rooms as JSON, for the dashboard and for scripts. Outside of development a token with `roomList`, or
//! with `roomAdmin` for the room in question, is needed: answers name participants. It shows rooms of its key's project.

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use proto::RoomId;
use proto::control::{
    GetRoomResponse, Hello, Link, LinkState, Node, NodeRoom, NodeState, ParticipantReport, Role,
    RoomPlan, RoomSummary,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::{Gateway, auth};

pub(super) async fn nodes(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    auth::require(&gateway, &headers, |grants| grants.room_list)?.of_operator()?;
    let nodes = gateway.ephemeral.nodes().await?;
    Ok(Json(
        json!({ "nodes": nodes.iter().map(node).collect::<Vec<_>>() }),
    ))
}

pub(super) async fn links(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    auth::require(&gateway, &headers, |grants| grants.room_list)?.of_operator()?;
    let links = gateway.ephemeral.links().await?;
    Ok(Json(
        json!({ "links": links.iter().map(link).collect::<Vec<_>>() }),
    ))
}

pub(super) async fn rooms(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
) -> Result<Json<Value>, ApiError> {
    let scope = auth::require(&gateway, &headers, |grants| grants.room_list)?;
    let rooms = gateway.ephemeral.rooms().await?;
    let shown = rooms
        .iter()
        .filter(|room| scope.shows(&RoomId::from(room.room.as_str())));
    Ok(Json(
        json!({ "rooms": shown.map(summary).collect::<Vec<_>>() }),
    ))
}

/// Which project's room is meant, where a request may be about any.
#[derive(Debug, Deserialize)]
pub(super) struct Of {
    project: Option<String>,
}

pub(super) async fn room(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
    of: Result<Query<Of>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(name) = path.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let Query(of) = of.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let scope = auth::require(&gateway, &headers, |grants| {
        grants.room_list || (grants.room_admin && grants.room == name)
    })?;
    let id = scope.room(&name, of.project.as_deref())?;
    let found = gateway.ephemeral.room(id.as_str()).await?;
    let GetRoomResponse {
        summary: head,
        nodes,
    } = found.ok_or_else(|| ApiError::not_found(format!("no room {name:?}")))?;
    let mut room = summary(&head.unwrap_or_default());
    if let Some(fields) = room.as_object_mut() {
        fields.insert("nodes".to_owned(), nodes.iter().map(node_room).collect());
    }
    Ok(Json(room))
}

fn node(node: &Node) -> Value {
    let hello = node.hello.clone().unwrap_or_default();
    let load = node.load.unwrap_or_default();
    let place = geo::region(&hello.region);
    let role = match hello.role() {
        Role::Edge => "edge",
        Role::Relay => "relay",
        Role::Unspecified => "unknown",
    };
    let state = match node.state() {
        NodeState::Starting => "starting",
        NodeState::Ready => "ready",
        NodeState::Draining => "draining",
        NodeState::Suspect => "suspect",
        NodeState::Dead => "dead",
        NodeState::Unspecified => "unknown",
    };
    let Hello {
        node_id,
        region,
        version,
        link_addresses,
        client_url,
        admin_url,
        ..
    } = &hello;
    json!({
        "node_id": node_id,
        "role": role,
        "state": state,
        "region": region,
        "city": place.map(|place| place.city),
        "latitude": place.map(|place| place.position.latitude()),
        "longitude": place.map(|place| place.position.longitude()),
        "version": version,
        "incarnation": hello.incarnation,
        "link_addresses": link_addresses,
        "client_url": client_url,
        "admin_url": admin_url,
        "pid": hello.pid,
        "capacity": hello.capacity,
        "connected_at_ms": node.connected_at_ms,
        "drain": load.drain.map(|drain| json!({
            "since_ms": drain.since_ms,
            "deadline_ms": drain.deadline_ms,
            "clients": drain.clients,
            "tunnels": drain.tunnels,
        })),
        "load": {
            "participants": load.participants,
            "rooms": load.rooms,
            "cpu_cores": load.cpu_cores,
            "egress_bps": load.egress_bps,
        },
    })
}

fn link(link: &Link) -> Value {
    let state: LinkState = link.state.clone().unwrap_or_default();
    json!({
        "node_id": link.node_id,
        "peer": state.peer,
        "up": state.up,
        "rtt_us": state.rtt_us,
        "loss": state.loss,
        "packets_sent": state.packets_sent,
        "bytes_sent": state.bytes_sent,
        "packets_received": state.packets_received,
        "bytes_received": state.bytes_received,
        "packets_lost": state.packets_lost,
        "packets_repaired": state.packets_repaired,
    })
}

fn summary(room: &RoomSummary) -> Value {
    let id = RoomId::from(room.room.as_str());
    json!({
        "room": id.name(),
        "project": id.project(),
        "room_sid": room.room_sid,
        "epoch": room.epoch,
        "participants": room.participants,
        "edges": room.edges,
        "created_at_ms": room.created_at_ms,
    })
}

fn node_room(node: &NodeRoom) -> Value {
    let report = node.report.clone().unwrap_or_default();
    let flows = report.flows.iter().map(
        |flow| json!({ "peer": flow.peer, "track_sid": flow.track_sid, "layers": flow.layers }),
    );
    json!({
        "node_id": node.node_id,
        "region": node.region,
        "epoch": report.epoch,
        "participants": report.participants.iter().map(participant).collect::<Vec<_>>(),
        "flows": flows.collect::<Vec<_>>(),
        "plan": node.plan.as_ref().map(plan),
    })
}

fn participant(participant: &ParticipantReport) -> Value {
    let tracks = participant.tracks.iter().map(|track| {
        json!({
            "sid": track.sid,
            "kind": track.kind,
            "source": track.source,
            "codec": track.codec,
            "muted": track.muted,
        })
    });
    json!({
        "sid": participant.sid,
        "identity": participant.identity,
        "name": participant.name,
        "joined_at_ms": participant.joined_at_ms,
        "tracks": tracks.collect::<Vec<_>>(),
    })
}

fn plan(plan: &RoomPlan) -> Value {
    let hops = plan.next_hops.iter().map(|hop| {
        let backup = (!hop.backup.is_empty()).then_some(&hop.backup);
        json!({ "edge": hop.edge, "via": hop.via, "backup": backup })
    });
    json!({
        "epoch": plan.epoch,
        "members": plan.members,
        "next_hops": hops.collect::<Vec<_>>(),
    })
}
