//! Who gets which track: the tables behind [`super::MediaPlane`], without I/O.
//!
//! A local track is received on the shard of its publisher, its home. A shard with a subscriber to a track that is not its own
//! holds an instance of it, which is fed from the home shard's ring, or from the mesh worker's for a remote track. What the
//! subscriptions of all shards and the mesh want together decides what crosses which ring, what the publisher is to send, and
//! what is asked of the mesh.

mod demand;
mod news;
mod rooms;
#[cfg(test)]
mod tests;
mod track;

use super::PlaneEvent;
use media::router::{
    Command, ReceiveConfig, SenderClock, Source, StreamIndex, SubscriptionConfig, Target,
    TrackConfig, TrackKey, TransportKey,
};
use media::srtp::SessionKeys;
use proto::{NodeId, RoomId, TrackSid};
use relay::MeshCommand;
use rooms::Rooms;
use std::collections::BTreeMap;
use track::{Origin, Track};

pub(super) use demand::ShardMasks;

/// What has to be done after a change, in order.
#[derive(Debug)]
pub(super) enum Action {
    /// For one shard's router.
    Router(usize, Command),
    /// For one shard: where it hands on packets of a track that it receives.
    Fan(usize, TrackKey, Fan),
    /// For one shard: the publisher's clock of a track it has an instance of.
    SenderReport(usize, TrackKey, StreamIndex, SenderClock),
    /// For the mesh worker.
    Mesh(MeshCommand),
    /// For the mesh sink: which shards get which streams of a remote track; none when it is gone.
    Route(TrackKey, ShardMasks),
    /// For whoever uses the plane.
    Plane(PlaneEvent),
}

/// Where the home shard of a track hands on its packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Fan {
    /// Other shards by stream.
    pub(super) shards: ShardMasks,
    /// Bit n: stream n goes to the mesh.
    pub(super) mesh: u8,
}

/// Which remote track, as the mesh names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RemoteName {
    pub(super) room: RoomId,
    pub(super) track_sid: TrackSid,
    pub(super) origin: NodeId,
}

/// A peer connection as far as the tables know it.
struct Transport {
    shard: usize,
    /// Keys are there, so the shard's router knows it.
    ready: bool,
    receive: Option<ReceiveConfig>,
    subscriptions: BTreeMap<TrackKey, SubscriptionConfig>,
    /// Where the client said one.
    priorities: BTreeMap<TrackKey, u8>,
}

/// The tables.
#[derive(Default)]
pub(super) struct Wiring {
    transports: BTreeMap<TransportKey, Transport>,
    tracks: BTreeMap<TrackKey, Track>,
    rooms: Rooms,
    /// Audio tracks of a room forwarded at a time; 0 = all.
    audio_streams: u16,
    actions: Vec<Action>,
}

impl Wiring {
    /// Empty tables.
    pub(super) fn new(audio_streams: u16) -> Self {
        Self {
            audio_streams,
            ..Self::default()
        }
    }

    /// What the calls since the last time ask for.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Transports that are open, by shard.
    pub(super) fn load(&self, shards: usize) -> Vec<usize> {
        let mut load = vec![0; shards];
        for transport in self.transports.values() {
            if let Some(count) = load.get_mut(transport.shard) {
                *count += 1;
            }
        }
        load
    }

    /// The shard of an open transport.
    pub(super) fn shard_of(&self, transport: TransportKey) -> Option<usize> {
        self.transports
            .get(&transport)
            .map(|transport| transport.shard)
    }

    /// A transport opens on a shard; its router hears of it only when there are keys.
    pub(super) fn open_transport(&mut self, key: TransportKey, shard: usize) {
        let transport = Transport {
            shard,
            ready: false,
            receive: None,
            subscriptions: BTreeMap::new(),
            priorities: BTreeMap::new(),
        };
        self.transports.insert(key, transport);
    }

    /// The DTLS handshake is done: everything that was said about the transport so far takes effect.
    pub(super) fn transport_ready(&mut self, key: TransportKey, keys: SessionKeys) {
        let Some(transport) = self.transports.get_mut(&key) else {
            return;
        };
        transport.ready = true;
        let shard = transport.shard;
        self.actions.push(Action::Router(
            shard,
            Command::AddTransport {
                transport: key,
                keys,
            },
        ));
        if let Some(receive) = &transport.receive {
            let receive = Box::new(receive.clone());
            self.actions.push(Action::Router(
                shard,
                Command::SetReceive {
                    transport: key,
                    receive,
                },
            ));
        }
        for (track, config) in &transport.subscriptions {
            let config = Box::new(config.clone());
            let command = Command::Subscribe {
                transport: key,
                track: *track,
                config,
            };
            self.actions.push(Action::Router(shard, command));
        }
        for (track, &priority) in &transport.priorities {
            let command = Command::SetPriority {
                transport: key,
                track: *track,
                priority,
            };
            self.actions.push(Action::Router(shard, command));
        }
    }

    /// A transport is gone, and its subscriptions with it.
    pub(super) fn close_transport(&mut self, key: TransportKey) {
        let Some(transport) = self.transports.remove(&key) else {
            return;
        };
        if transport.ready {
            let command = Command::RemoveTransport { transport: key };
            self.actions.push(Action::Router(transport.shard, command));
        }
        for track in transport.subscriptions.into_keys() {
            self.release(track, transport.shard);
        }
    }

    /// Replaces what a transport sends to us.
    pub(super) fn set_receive(&mut self, key: TransportKey, receive: ReceiveConfig) {
        let Some(transport) = self.transports.get_mut(&key) else {
            return;
        };
        if transport.ready {
            let receive = Box::new(receive.clone());
            let command = Command::SetReceive {
                transport: key,
                receive,
            };
            self.actions.push(Action::Router(transport.shard, command));
        }
        transport.receive = Some(receive);
    }

    /// A track of a local publisher appears.
    pub(super) fn publish(
        &mut self,
        key: TrackKey,
        from: TransportKey,
        (room, track_sid): (RoomId, TrackSid),
        config: TrackConfig,
    ) {
        let Some(home) = self.shard_of(from) else {
            return;
        };
        self.remove_track(key);
        let config = TrackConfig {
            source: Source::Local(from),
            room: self.rooms.enter(&room),
            ..config
        };
        self.add_to_router(home, key, config);
        self.actions
            .push(mesh_publish(key, (room, track_sid), config));
        self.tracks
            .insert(key, Track::new(Origin::Local { home }, config));
    }

    /// A local track is published in another room too; it is the same to the router.
    pub(super) fn share_track(&mut self, key: TrackKey, name: (RoomId, TrackSid)) {
        if let Some(track) = self.tracks.get(&key)
            && matches!(track.origin, Origin::Local { .. })
        {
            self.actions.push(mesh_publish(key, name, track.config));
        }
    }

    /// And no more.
    pub(super) fn unshare_track(&mut self, key: TrackKey, room: RoomId) {
        if self.tracks.contains_key(&key) {
            let room = Some(room);
            self.actions
                .push(Action::Mesh(MeshCommand::Unpublish { track: key, room }));
        }
    }

    /// A track of another edge appears. Nothing is asked of it before somebody subscribes.
    pub(super) fn add_remote_track(
        &mut self,
        key: TrackKey,
        name: RemoteName,
        config: TrackConfig,
    ) {
        self.remove_track(key);
        let config = TrackConfig {
            source: Source::Remote,
            room: self.rooms.enter(&name.room),
            ..config
        };
        self.tracks
            .insert(key, Track::new(Origin::Remote(name), config));
    }

    /// A track is gone, and its subscriptions with it.
    pub(super) fn remove_track(&mut self, key: TrackKey) {
        let Some(track) = self.tracks.remove(&key) else {
            return;
        };
        self.rooms.leave(track.config.room);
        for transport in self.transports.values_mut() {
            transport.subscriptions.remove(&key);
            transport.priorities.remove(&key);
        }
        for shard in track.shards() {
            self.actions
                .push(Action::Router(shard, Command::RemoveTrack { track: key }));
        }
        match &track.origin {
            Origin::Local { home } => {
                self.actions.push(Action::Fan(*home, key, Fan::default()));
                let unpublish = MeshCommand::Unpublish {
                    track: key,
                    room: None,
                };
                self.actions.push(Action::Mesh(unpublish));
            }
            Origin::Remote(name) => {
                self.actions.push(Action::Route(key, ShardMasks::default()));
                if track.wanted() != 0 {
                    self.actions.push(Action::Mesh(name.demand(key, 0)));
                }
            }
        }
    }

    /// A transport receives a track from now on.
    pub(super) fn subscribe(
        &mut self,
        transport_key: TransportKey,
        key: TrackKey,
        config: SubscriptionConfig,
    ) {
        let Some(transport) = self.transports.get_mut(&transport_key) else {
            return;
        };
        let Some(track) = self.tracks.get_mut(&key) else {
            return;
        };
        let shard = transport.shard;
        let fresh = transport
            .subscriptions
            .insert(key, config.clone())
            .is_none();
        let ready = transport.ready;
        if fresh && track.add_subscriber(shard) {
            self.add_instance(shard, key);
        }
        if ready {
            let config = Box::new(config);
            let command = Command::Subscribe {
                transport: transport_key,
                track: key,
                config,
            };
            self.actions.push(Action::Router(shard, command));
        }
    }

    /// A shard gets an instance of a track that is received elsewhere.
    fn add_instance(&mut self, shard: usize, key: TrackKey) {
        let Some(track) = self.tracks.get(&key) else {
            return;
        };
        let config = TrackConfig {
            source: Source::Remote,
            ..track.config
        };
        let muted = track.muted.then_some(Command::SetMuted {
            track: key,
            muted: true,
        });
        let speaking = track.speaking.then_some(Command::SetSpeaking {
            track: key,
            speaking: true,
        });
        let clocks: Vec<_> = track.clocks().collect();
        self.add_to_router(shard, key, config);
        let said = muted.into_iter().chain(speaking);
        self.actions
            .extend(said.map(|command| Action::Router(shard, command)));
        for (stream, clock) in clocks {
            self.actions
                .push(Action::SenderReport(shard, key, stream, clock));
        }
    }

    /// A transport receives a track no more.
    pub(super) fn unsubscribe(&mut self, transport_key: TransportKey, key: TrackKey) {
        let Some(transport) = self.transports.get_mut(&transport_key) else {
            return;
        };
        if transport.subscriptions.remove(&key).is_none() {
            return;
        }
        transport.priorities.remove(&key);
        let shard = transport.shard;
        if transport.ready {
            let command = Command::Unsubscribe {
                transport: transport_key,
                track: key,
            };
            self.actions.push(Action::Router(shard, command));
        }
        self.release(key, shard);
    }

    /// Highest layer that a subscription wants.
    pub(super) fn set_target(
        &mut self,
        transport_key: TransportKey,
        key: TrackKey,
        target: Option<Target>,
    ) {
        let Some(transport) = self.transports.get_mut(&transport_key) else {
            return;
        };
        let Some(config) = transport.subscriptions.get_mut(&key) else {
            return;
        };
        config.target = target;
        if transport.ready {
            let command = Command::SetTarget {
                transport: transport_key,
                track: key,
                target,
            };
            self.actions.push(Action::Router(transport.shard, command));
        }
    }

    /// The receiver's own order.
    pub(super) fn set_priority(
        &mut self,
        transport_key: TransportKey,
        key: TrackKey,
        priority: u8,
    ) {
        let Some(transport) = self.transports.get_mut(&transport_key) else {
            return;
        };
        if !transport.subscriptions.contains_key(&key) {
            return;
        }
        transport.priorities.insert(key, priority);
        if transport.ready {
            let command = Command::SetPriority {
                transport: transport_key,
                track: key,
                priority,
            };
            self.actions.push(Action::Router(transport.shard, command));
        }
    }

    /// A muted track is forwarded to nobody.
    pub(super) fn set_muted(&mut self, key: TrackKey, muted: bool) {
        let Some(track) = self.tracks.get_mut(&key) else {
            return;
        };
        track.muted = muted;
        for shard in track.shards() {
            self.actions.push(Action::Router(
                shard,
                Command::SetMuted { track: key, muted },
            ));
        }
    }

    /// The owner of a track speaks now, or no more.
    pub(super) fn set_speaking(&mut self, key: TrackKey, speaking: bool) {
        let Some(track) = self.tracks.get_mut(&key) else {
            return;
        };
        track.speaking = speaking;
        for shard in track.shards() {
            let command = Command::SetSpeaking {
                track: key,
                speaking,
            };
            self.actions.push(Action::Router(shard, command));
        }
    }

    /// A shard's router hears of a track; of audio it has to know first how much of the room is forwarded.
    fn add_to_router(&mut self, shard: usize, key: TrackKey, config: TrackConfig) {
        if config.codec.is_audio() && self.audio_streams > 0 {
            let command = Command::SetAudioLimit {
                room: config.room,
                streams: self.audio_streams,
            };
            self.actions.push(Action::Router(shard, command));
        }
        let command = Command::AddTrack { track: key, config };
        self.actions.push(Action::Router(shard, command));
    }

    /// One subscription of a shard to a track ended.
    fn release(&mut self, key: TrackKey, shard: usize) {
        let Some(track) = self.tracks.get_mut(&key) else {
            return;
        };
        let before = track.wanted();
        if track.remove_subscriber(shard) {
            self.actions
                .push(Action::Router(shard, Command::RemoveTrack { track: key }));
        }
        self.demand_changed(key, before);
    }

    /// The demand for a track changed at one place: adapts what crosses the rings and what is asked of its source.
    fn demand_changed(&mut self, key: TrackKey, before: u8) {
        let Some(track) = self.tracks.get(&key) else {
            return;
        };
        let wanted = track.wanted();
        match &track.origin {
            Origin::Local { home } => {
                let fan = Fan {
                    shards: track.masks(Some(*home)),
                    mesh: track.mesh_demand,
                };
                let streams = track.wanted_outside(*home);
                self.actions.push(Action::Fan(*home, key, fan));
                let command = Command::Export {
                    track: key,
                    streams,
                };
                self.actions.push(Action::Router(*home, command));
                if wanted != before {
                    let event = PlaneEvent::Demand {
                        track: key,
                        streams: wanted,
                    };
                    self.actions.push(Action::Plane(event));
                }
            }
            Origin::Remote(name) => {
                self.actions.push(Action::Route(key, track.masks(None)));
                if wanted != before {
                    self.actions.push(Action::Mesh(name.demand(key, wanted)));
                }
            }
        }
    }

    fn request_keyframe(&mut self, key: TrackKey, stream: StreamIndex) {
        let Some(track) = self.tracks.get(&key) else {
            return;
        };
        self.actions.push(match track.origin {
            Origin::Local { home } => {
                Action::Router(home, Command::RequestKeyframe { track: key, stream })
            }
            Origin::Remote(_) => Action::Mesh(MeshCommand::KeyframeNeeded { track: key, stream }),
        });
    }
}

fn mesh_publish(
    key: TrackKey,
    (room, track_sid): (RoomId, TrackSid),
    config: TrackConfig,
) -> Action {
    Action::Mesh(MeshCommand::Publish {
        room,
        track_sid,
        track: key,
        audio: config.codec.is_audio(),
        clock_rate: config.codec.clock_rate(),
        streams: config.streams,
        spatial: config.spatial,
    })
}

impl RemoteName {
    fn demand(&self, track: TrackKey, streams: u8) -> MeshCommand {
        MeshCommand::Demand {
            room: self.room.clone(),
            track_sid: self.track_sid.clone(),
            origin: self.origin.clone(),
            track,
            streams,
        }
    }
}
