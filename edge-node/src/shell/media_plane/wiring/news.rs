//! What shards and mesh report.

use super::super::PlaneEvent;
use super::track::{Origin, Track};
use super::{Action, Wiring};
use media::router::{Event, SenderClock, StreamIndex, TrackKey};
use relay::{MeshCommand, MeshEvent};

impl Wiring {
    /// News of a shard's router.
    pub(in super::super) fn handle_router_event(&mut self, shard: usize, event: Event) {
        match event {
            Event::Demand {
                track: key,
                streams,
            } => {
                if let Some(track) = self.tracks.get_mut(&key) {
                    let before = track.wanted();
                    track.set_demand(shard, streams);
                    self.demand_changed(key, before);
                }
            }
            Event::KeyframeNeeded { track, stream } => self.request_keyframe(track, stream),
            Event::SenderReport {
                track,
                stream,
                clock,
            } => {
                self.actions.push(Action::Mesh(MeshCommand::SenderReport {
                    track,
                    stream,
                    clock,
                }));
                self.spread_clock(track, stream, clock);
            }
            Event::AudioLevel {
                track,
                level_dbov,
                voice,
            } => {
                let event = PlaneEvent::AudioLevel {
                    track,
                    level: level_dbov,
                    voice,
                };
                self.actions.push(Action::Plane(event));
            }
            Event::StreamStarted { track, stream } => {
                self.actions
                    .push(Action::Plane(PlaneEvent::StreamStarted { track, stream }));
            }
            Event::SubscriptionStarted { transport, track } => {
                let event = PlaneEvent::SubscriptionStarted { transport, track };
                self.actions.push(Action::Plane(event));
            }
            Event::StreamState {
                transport,
                track,
                paused,
            } => {
                let event = PlaneEvent::StreamState {
                    transport,
                    track,
                    paused,
                };
                self.actions.push(Action::Plane(event));
            }
            Event::ByeReceived { transport, ssrc } => {
                // Signalling ends tracks; a BYE also comes with a mere change of SSRC.
                tracing::debug!(transport = transport.0, ssrc, "BYE received");
            }
        }
    }

    /// News of the mesh.
    pub(in super::super) fn handle_mesh_event(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Demand {
                track: key,
                streams,
            } => {
                if let Some(track) = self.tracks.get_mut(&key)
                    && matches!(track.origin, Origin::Local { .. })
                {
                    let before = track.wanted();
                    track.mesh_demand = streams;
                    self.demand_changed(key, before);
                }
            }
            MeshEvent::KeyframeNeeded { track, stream } => {
                if let Some(Track {
                    origin: Origin::Local { .. },
                    ..
                }) = self.tracks.get(&track)
                {
                    self.request_keyframe(track, stream);
                }
            }
            MeshEvent::SenderReport {
                track,
                stream,
                clock,
            } => {
                self.spread_clock(track, stream, clock);
            }
            event @ (MeshEvent::RoomState(_)
            | MeshEvent::Speakers(_)
            | MeshEvent::RoomGone { .. }
            | MeshEvent::Data(_)
            | MeshEvent::LinkUp { .. }
            | MeshEvent::LinkDown { .. }) => {
                let event = PlaneEvent::Mesh(Box::new(event));
                self.actions.push(Action::Plane(event));
            }
        }
    }

    fn spread_clock(&mut self, key: TrackKey, stream: StreamIndex, clock: SenderClock) {
        let Some(track) = self.tracks.get_mut(&key) else {
            return;
        };
        track.note_clock(stream, clock);
        for shard in track.instances() {
            self.actions
                .push(Action::SenderReport(shard, key, stream, clock));
        }
    }
}
