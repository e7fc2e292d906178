//! What the control plane, the mesh and the media plane say, handed to whom it concerns.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use media::router::{TrackKey, TransportKey, TransportReport};
use proto::control::control_message::Message as FromControl;
use proto::control::node_message::Message as ToControl;
use proto::control::{ControlMessage, Load, RoomPlan};
use proto::{ParticipantSid, RoomId};
use relay::control::{LoadMeter, Status, link_report};
use relay::drain::Drain;
use relay::{MeshCommand, MeshEvent, MeshHandle, PeerInfo};
use runtime::tunnel::Tunnels;
use tokio::sync::mpsc;

use super::client_rtts::ClientRtts;
use super::commands;
use super::edge::{Keys, SharedEdge};
use super::media_plane::PlaneEvent;
use super::metrics::Metrics;
use super::room::Mail;
use super::rooms::Mailbox;
use crate::core::room::Input;
use crate::core::token::Key;

/// What an edge reports every second.
pub fn status(
    mesh: MeshHandle,
    metrics: Metrics,
    (drain, tunnels): (Drain, Tunnels),
) -> impl Fn() -> Status + Send + Sync + 'static {
    let meter = LoadMeter::new();
    move || {
        let links = mesh.stats();
        let (cpu_cores, egress_bps) = meter.read(links.iter().map(|link| link.bytes_sent).sum());
        let count = |value: i64| u32::try_from(value).unwrap_or(0);
        Status {
            load: Load {
                participants: count(metrics.participants.get()),
                rooms: count(metrics.rooms.get()),
                cpu_cores,
                egress_bps,
                drain: drain.status(tunnels.open()),
            },
            links: link_report(&links),
        }
    }
}

/// Does what the control plane says until its messages end.
pub async fn follow_control(edge: SharedEdge, mut messages: mpsc::Receiver<ControlMessage>) {
    while let Some(message) = messages.recv().await {
        match message.message {
            Some(FromControl::Welcome(welcome)) => {
                tracing::info!(control = %welcome.control_id, "session with the control plane");
                // A replica that just started knows nothing of what we serve.
                for room in edge.rooms.all() {
                    post(&edge, &room, Mail::Report);
                }
            }
            Some(FromControl::Peers(peers)) => {
                let peers = peers
                    .peers
                    .iter()
                    .filter_map(PeerInfo::from_control)
                    .collect();
                edge.plane.mesh().command(MeshCommand::SetPeers(peers));
            }
            Some(FromControl::Keys(keys)) => {
                let keys = keys.keys.into_iter().map(|k| {
                    let (secret, project) = (k.secret, k.project);
                    (k.key, Key { secret, project })
                });
                let keys: Keys = keys.collect();
                edge.keys.store(Arc::new(keys));
                edge.keys_known.store(true, Ordering::Release);
            }
            Some(FromControl::Plan(plan)) => take_plan(&edge, plan),
            Some(FromControl::Command(command)) => commands::take(&edge, command),
            None => {}
        }
    }
}

fn take_plan(edge: &SharedEdge, plan: RoomPlan) {
    let name = RoomId::from(plan.room.as_str());
    if let Some(room) = edge.rooms.find(&name) {
        post(edge, &room, Mail::Plan(Box::new(plan)));
    }
}

/// Hands events of the media plane and the mesh to the rooms until they end.
pub async fn follow_plane(edge: SharedEdge, mut events: mpsc::Receiver<PlaneEvent>) {
    let mut client_rtts = ClientRtts::default();
    while let Some(event) = events.recv().await {
        let PlaneEvent::ClientRtts(measured) = event else {
            from_plane(&edge, event);
            continue;
        };
        if let Some(report) = client_rtts.take(Instant::now(), measured) {
            // Without a session nobody is there to learn from it.
            edge.control.send(ToControl::Clients(report)).ok();
        }
    }
}

fn from_plane(edge: &SharedEdge, event: PlaneEvent) {
    match event {
        PlaneEvent::AudioLevel { track, level, .. } => {
            let level_dbov = level;
            for room in edge.tracks.shared(track) {
                let input = Input::AudioLevel { track, level_dbov };
                post(edge, &room, Mail::Event(Box::new(input)));
            }
            to_track(edge, track, Input::AudioLevel { track, level_dbov });
        }
        PlaneEvent::Demand { track, streams } => {
            to_track(edge, track, Input::Demand(track, streams));
        }
        PlaneEvent::Mesh(event) => from_mesh(edge, *event),
        PlaneEvent::StreamState {
            transport,
            track,
            paused,
        } => stream_state(edge, transport, (track, paused)),
        PlaneEvent::Reports(reports) => spread_reports(edge, reports),
        event @ (PlaneEvent::StreamStarted { .. }
        | PlaneEvent::SubscriptionStarted { .. }
        | PlaneEvent::ClientRtts(_)) => {
            tracing::debug!(?event, "first packet");
        }
    }
}

fn stream_state(edge: &SharedEdge, transport: TransportKey, (track, paused): (TrackKey, bool)) {
    let Some(owner) = edge.reports.owner(transport) else {
        return;
    };
    let input = Input::StreamState {
        participant: owner.sid,
        track,
        paused,
    };
    to_room(edge, &owner.room, input);
}

/// Each room gets the reports on its participants as one mail; the last ones are kept for the admin listener.
fn spread_reports(edge: &SharedEdge, reports: Vec<TransportReport>) {
    let mut rooms: BTreeMap<RoomId, Vec<(ParticipantSid, TransportReport)>> = BTreeMap::new();
    for report in &reports {
        if let Some(owner) = edge.reports.owner(report.transport) {
            let entry = (owner.sid, report.clone());
            rooms.entry(owner.room).or_default().push(entry);
        }
    }
    for (room, reports) in rooms {
        to_room(edge, &room, Input::Reports(reports));
    }
    edge.reports.keep(Instant::now(), reports);
}

fn from_mesh(edge: &SharedEdge, event: MeshEvent) {
    match event {
        MeshEvent::RoomState(state) => {
            let room = RoomId::from(state.room.as_str());
            to_room(edge, &room, Input::State(state));
        }
        MeshEvent::Speakers(speakers) => {
            let room = RoomId::from(speakers.room.as_str());
            to_room(edge, &room, Input::Speakers(speakers));
        }
        MeshEvent::RoomGone { room, origin } => to_room(edge, &room, Input::Gone(origin)),
        MeshEvent::Data(data) => {
            let room = RoomId::from(data.room.as_str());
            to_room(edge, &room, Input::Data(data));
        }
        MeshEvent::LinkUp { peer } => {
            for room in edge.rooms.all() {
                let input = Input::Link {
                    peer: peer.clone(),
                    up: true,
                };
                post(edge, &room, Mail::Event(Box::new(input)));
            }
        }
        MeshEvent::LinkDown { peer } => {
            for room in edge.rooms.all() {
                let input = Input::Link {
                    peer: peer.clone(),
                    up: false,
                };
                post(edge, &room, Mail::Event(Box::new(input)));
            }
        }
        // The media plane deals with these itself.
        MeshEvent::Demand { .. }
        | MeshEvent::KeyframeNeeded { .. }
        | MeshEvent::SenderReport { .. } => {}
    }
}

fn to_track(edge: &SharedEdge, track: TrackKey, input: Input) {
    if let Some(room) = edge.tracks.room(track) {
        post(edge, &room, Mail::Event(Box::new(input)));
    }
}

fn to_room(edge: &SharedEdge, name: &RoomId, input: Input) {
    if let Some(room) = edge.rooms.find(name) {
        post(edge, &room, Mail::Event(Box::new(input)));
    }
}

/// Mail that must not wait for a busy room: it is dropped and counted then.
fn post(edge: &SharedEdge, room: &Mailbox, mail: Mail) {
    if room.try_send(mail).is_err() {
        edge.metrics.dropped.with_label_values(&["room_busy"]).inc();
    }
}

/// The URL that clients are given: as configured, or the listening address.
pub fn client_url(configured: Option<&str>, http: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "wss" } else { "ws" };
    match configured {
        Some(url) => url.to_owned(),
        None if http.ip().is_unspecified() => format!("{scheme}://127.0.0.1:{}", http.port()),
        None => format!("{scheme}://{http}"),
    }
}
