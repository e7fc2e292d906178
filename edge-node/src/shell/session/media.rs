//! What a session asks of the media plane, the same for every kind of client.

use media::router::{Source, TrackConfig, TrackKey};
use proto::RoomId;

use crate::core::sdp::LocalTransport;
use crate::core::session::{Output, Remote};
use crate::shell::edge::SharedEdge;
use crate::shell::media_plane::{LocalParameters, RemoteParameters, Transport};
use crate::shell::rooms::Mailbox;

/// A session's connections and room, as its outputs need them.
#[derive(Debug)]
pub(in crate::shell) struct MediaSide<'a> {
    pub(in crate::shell) edge: &'a SharedEdge,
    pub(in crate::shell) room: (&'a RoomId, &'a Mailbox),
    /// What the client publishes on.
    pub(in crate::shell) uplink: &'a Transport,
    /// What it receives on, mostly the same.
    pub(in crate::shell) downlink: &'a Transport,
}

impl MediaSide<'_> {
    /// Does what is for the media plane; hands back what is not.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others are the caller's"
    )]
    pub(in crate::shell) fn perform(&self, output: Output) -> Option<Output> {
        let (plane, uplink, downlink) = (&self.edge.plane, self.uplink, self.downlink);
        match output {
            Output::Receive(receive) => plane.set_receive(uplink.key, receive),
            Output::Publish { track, sid, config } => {
                let (name, mailbox) = self.room;
                self.edge.tracks.insert(track, mailbox.clone());
                self.edge.reports.name(track, sid.clone());
                let config = TrackConfig {
                    source: Source::Local(uplink.key),
                    ..config
                };
                plane.publish(track, uplink.key, (name.clone(), sid), config);
            }
            Output::Unpublish(track) => {
                self.edge.tracks.remove(track);
                self.edge.reports.forget(track);
                plane.remove_track(track);
            }
            Output::SetMuted(track, muted) => plane.set_muted(track, muted),
            Output::Subscribe(track, config) => plane.subscribe(downlink.key, track, *config),
            Output::Unsubscribe(track) => plane.unsubscribe(downlink.key, track),
            Output::SetTarget(track, target) => plane.set_target(downlink.key, track, target),
            Output::SetPriority(track, priority) => {
                plane.set_priority(downlink.key, track, priority);
            }
            Output::Data { reliable, payload } => {
                downlink.send_data(if reliable { "_reliable" } else { "_lossy" }, payload);
            }
            other => return Some(other),
        }
        None
    }
}

/// Ends tracks whose session is over.
pub(in crate::shell) fn forget_tracks(edge: &SharedEdge, tracks: Vec<TrackKey>) {
    for track in tracks {
        edge.tracks.remove(track);
        edge.reports.forget(track);
        edge.plane.remove_track(track);
    }
}

impl From<LocalParameters> for LocalTransport {
    fn from(local: LocalParameters) -> Self {
        Self {
            ufrag: local.ufrag,
            pwd: local.pwd,
            fingerprint: local.fingerprint,
            candidates: local.candidates,
        }
    }
}

impl From<Remote> for RemoteParameters {
    fn from(remote: Remote) -> Self {
        Self {
            ufrag: remote.ufrag,
            pwd: remote.pwd,
            fingerprints: remote.fingerprints,
            dtls_server: remote.dtls_server,
        }
    }
}
