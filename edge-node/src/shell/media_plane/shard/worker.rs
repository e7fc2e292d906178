//! The shard's loop.

use super::super::PlaneEvent;
use super::super::metrics::Metrics;
use super::super::peer;
use super::super::wiring::Fan;
use super::ports::Ports;
use super::{Bell, ConnectionInput, Ends, RingPacket, Rings, ShardCommand, Spawn};
use crate::core::ice::{self, Carrier, Path, Server, SessionId};
use bytes::Bytes;
use media::router::{
    self, Event, ExportedPacket, Output, Router, TrackKey, TransportKey, TransportReport,
};
use runtime::shutdown::Shutdown;
use runtime::udp::{RecvBatch, UdpSocket};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Receive calls per tick, so that a flood of datagrams does not keep the rest waiting.
const RECEIVES: usize = 8;
/// Orders per tick.
const COMMANDS: usize = 4096;
/// Packets per ring and tick.
const RING_PACKETS: usize = 4096;
/// Frames of connections per tick.
const CONNECTION_FRAMES: usize = 1024;
/// Counters reach the registry this often.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// Seconds from the NTP epoch (1900) to the Unix epoch (RFC 5905 section 6).
const NTP_OFFSET: u64 = 2_208_988_800;
/// Datagrams waiting to be sent from which on it pays to wait for more of the same burst: one segmented send costs little more than
/// a single one (2.7 µs against 0.8 µs per datagram at eight).
const GATHER_MIN: usize = 32;
/// So many leave without waiting.
const GATHER_MAX: usize = 4096;
/// How long a burst is gathered.
const GATHER: Duration = Duration::from_millis(1);
/// Places in a transport's queue that DTLS leaves to ICE news.
const PEER_RESERVE: usize = 16;

/// A shard on its thread.
pub(super) struct Shard {
    index: usize,
    ports: Ports,
    ice: Server,
    router: Router,
    output: Output,
    rings: Rings,
    ends: Ends,
    bell: Arc<Bell>,
    peers: HashMap<TransportKey, mpsc::Sender<peer::Input>>,
    fans: HashMap<TrackKey, Fan>,
    events: mpsc::Sender<(usize, Event)>,
    news: mpsc::Sender<PlaneEvent>,
    metrics: Metrics,
    /// Arrival of the oldest packet since the last flush.
    oldest: Option<Instant>,
    /// When what is gathered has to leave.
    flush_due: Option<Instant>,
    stats: (router::Stats, ice::Stats),
    next_stats: Instant,
}

impl Shard {
    pub(super) fn new(spawn: Spawn, socket: UdpSocket, ends: Ends) -> Self {
        let now = Instant::now();
        let mut config = router::Config::new(now, ntp_now());
        config.seed = rand::random();
        config.feedback_ssrc = rand::random();
        Self {
            index: spawn.index,
            ports: Ports::new(socket, spawn.metrics.clone()),
            ice: Server::new(Arc::clone(spawn.identity.provider())),
            router: Router::new(config),
            output: Output::new(),
            rings: spawn.rings,
            ends,
            bell: spawn.bell,
            peers: HashMap::new(),
            fans: HashMap::new(),
            events: spawn.events,
            news: spawn.news,
            metrics: spawn.metrics,
            oldest: None,
            flush_due: None,
            stats: (router::Stats::default(), ice::Stats::default()),
            next_stats: now + STATS_INTERVAL,
        }
    }

    pub(super) async fn run(mut self, shutdown: &Shutdown) {
        let bell = Arc::clone(&self.bell);
        let mut batch = RecvBatch::new();
        loop {
            let wake = self.wake();
            tokio::select! {
                result = self.ports.socket.readable() => if let Err(error) = result {
                    tracing::error!(%error, shard = self.index, "UDP socket");
                    return;
                },
                () = bell.rung() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                () = shutdown.wait() => break,
            }
            self.tick(&mut batch);
        }
        // Transports that close with the process still say goodbye.
        self.tick(&mut batch);
        self.flush();
    }

    /// When there is something to do by itself.
    fn wake(&mut self) -> Instant {
        let ice = match self.ice.poll_output() {
            ice::Output::Timeout(at) => at,
            ice::Output::Transmit { .. } | ice::Output::Event(_) => None,
        };
        let timers = [self.router.poll_timeout(), ice, self.flush_due];
        timers
            .into_iter()
            .flatten()
            .min()
            .map_or(self.next_stats, |at| at.min(self.next_stats))
    }

    fn tick(&mut self, batch: &mut RecvBatch) {
        self.bell.rearm();
        let now = Instant::now();
        self.take_commands(now);
        self.take_rings(now);
        self.take_connections(now);
        self.receive(batch);
        let now = Instant::now();
        if self.router.poll_timeout().is_some_and(|at| at <= now) {
            self.router.handle_timeout(now, &mut self.output);
        }
        self.ice.handle_input(now, ice::Input::Timeout);
        self.drain_ice();
        self.hand_on();
        if !self.gathers(now) {
            self.flush();
        }
        if self.next_stats <= now {
            self.next_stats = now + STATS_INTERVAL;
            self.publish_stats(now);
        }
    }

    fn take_commands(&mut self, now: Instant) {
        for _ in 0..COMMANDS {
            let Ok(command) = self.ends.commands.try_recv() else {
                return;
            };
            match command {
                ShardCommand::Open {
                    transport,
                    credentials,
                    peer,
                } => {
                    self.peers.insert(transport, peer);
                    let session = SessionId(transport.0);
                    self.ice.handle_input(
                        now,
                        ice::Input::Open {
                            session,
                            credentials,
                        },
                    );
                }
                ShardCommand::Restart {
                    transport,
                    credentials,
                } => {
                    let session = SessionId(transport.0);
                    self.ice.handle_input(
                        now,
                        ice::Input::Restart {
                            session,
                            credentials,
                        },
                    );
                }
                ShardCommand::Close { transport } => {
                    self.peers.remove(&transport);
                    let session = SessionId(transport.0);
                    self.ice.handle_input(now, ice::Input::Close { session });
                }
                ShardCommand::Dtls {
                    transport,
                    datagram,
                } => {
                    if let Some(path) = self.ice.path_of(SessionId(transport.0)) {
                        self.ports.send(path, &datagram, datagram.len());
                    }
                }
                ShardCommand::Router(command) => {
                    self.router.handle_command(now, command, &mut self.output);
                }
                ShardCommand::Fan { track, fan } => {
                    if fan == Fan::default() {
                        self.fans.remove(&track);
                    } else {
                        self.fans.insert(track, fan);
                    }
                }
                ShardCommand::SenderReport {
                    track,
                    stream,
                    clock,
                } => {
                    self.router.handle_sender_report(now, track, stream, clock);
                }
            }
        }
        self.bell.ring();
    }

    fn take_rings(&mut self, now: Instant) {
        for inlet in &mut self.rings.inlets {
            let waiting = inlet.slots().min(RING_PACKETS);
            let Ok(packets) = inlet.read_chunk(waiting) else {
                continue;
            };
            for RingPacket {
                track,
                stream,
                packet,
            } in packets
            {
                self.oldest = Some(
                    self.oldest
                        .map_or(packet.arrival, |at| at.min(packet.arrival)),
                );
                self.router
                    .handle_packet(now, track, stream, &packet, &mut self.output);
            }
            if inlet.slots() > 0 {
                self.bell.ring();
            }
        }
    }

    fn take_connections(&mut self, now: Instant) {
        for _ in 0..CONNECTION_FRAMES {
            let Ok(input) = self.ends.connections.try_recv() else {
                return;
            };
            match input {
                ConnectionInput::Opened { path, outgoing } => self.ports.open(path, outgoing),
                ConnectionInput::Frame { path, mut bytes } => {
                    self.handle_datagram(now, path, &mut bytes);
                    // A TCP connection lives by its first check. Who relays has an allocation, and may check before the
                    // transport is there.
                    if matches!(path.carrier, Carrier::Tcp(_)) && !self.ice.knows(path) {
                        self.metrics.tcp_refused("unauthenticated");
                        self.ports.close(path);
                    }
                }
                ConnectionInput::Closed { path } => {
                    self.ports.close(path);
                    self.ice.handle_input(now, ice::Input::PathClosed { path });
                }
            }
        }
        self.bell.ring();
    }

    fn receive(&mut self, batch: &mut RecvBatch) {
        for _ in 0..RECEIVES {
            if let Err(error) = self.ports.socket.try_recv_batch(batch) {
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    tracing::debug!(%error, shard = self.index, "UDP receive");
                }
                return;
            }
            let now = Instant::now();
            for datagram in batch.datagrams() {
                let ip = datagram.source.ip().to_canonical();
                let path = Path::udp(SocketAddr::new(ip, datagram.source.port()));
                self.handle_datagram(now, path, datagram.bytes);
            }
        }
    }

    /// Tells protocols apart by the first byte (RFC 7983 section 7).
    fn handle_datagram(&mut self, now: Instant, path: Path, bytes: &mut [u8]) {
        match bytes.first() {
            Some(0..=3) => {
                self.ice.handle_input(
                    now,
                    ice::Input::Stun {
                        path,
                        message: bytes,
                    },
                );
                self.drain_ice();
            }
            Some(20..=63) => match self.ice.heard(now, path) {
                Some(session) => {
                    self.ice.prefer(path);
                    self.to_peer(session, bytes);
                }
                None => self.metrics.dropped("unknown_path", 1),
            },
            Some(128..=191) => match self.ice.heard(now, path) {
                Some(session) => {
                    self.oldest.get_or_insert(now);
                    let transport = TransportKey(session.0);
                    self.router
                        .handle_datagram(now, transport, bytes, &mut self.output);
                }
                None => self.metrics.dropped("unknown_path", 1),
            },
            Some(_) | None => self.metrics.dropped("unknown_protocol", 1),
        }
    }

    fn to_peer(&self, session: SessionId, bytes: &[u8]) {
        let Some(peer) = self.peers.get(&TransportKey(session.0)) else {
            return;
        };
        let room = peer.capacity() > PEER_RESERVE;
        if !room
            || peer
                .try_send(peer::Input::Dtls(Bytes::copy_from_slice(bytes)))
                .is_err()
        {
            self.metrics.queue_dropped("dtls_in", 1);
        }
    }

    fn drain_ice(&mut self) {
        loop {
            match self.ice.poll_output() {
                ice::Output::Transmit { path, message } => {
                    self.ports.send(path, &message, message.len());
                }
                ice::Output::Event(event) => self.handle_ice_event(event),
                ice::Output::Timeout(_) => return,
            }
        }
    }

    fn handle_ice_event(&self, event: ice::Event) {
        let (session, input) = match event {
            ice::Event::Authenticated { .. } => return,
            ice::Event::Nominated { session, path } => {
                tracing::debug!(transport = session.0, ?path, "path nominated");
                (session, peer::Input::Nominated)
            }
            ice::Event::Expired { session } => (session, peer::Input::Expired),
        };
        if let Some(peer) = self.peers.get(&TransportKey(session.0))
            && peer.try_send(input).is_err()
        {
            self.metrics.queue_dropped("ice_events", 1);
        }
    }

    /// Hands packets and events of the router to other threads.
    fn hand_on(&mut self) {
        let mut for_mesh = false;
        for ExportedPacket {
            track,
            stream,
            packet,
        } in self.output.packets.drain(..)
        {
            let Some(fan) = self.fans.get(&track) else {
                continue;
            };
            for shard in fan.shards.shards(stream) {
                let packet = Arc::clone(&packet);
                if let Some(outlet) = self.rings.outlets.get_mut(shard)
                    && !outlet.push(RingPacket {
                        track,
                        stream,
                        packet,
                    })
                {
                    self.metrics.queue_dropped("shard_ring", 1);
                }
            }
            if fan.mesh & (1 << stream) != 0 {
                self.rings.mesh.push(track, stream, packet);
                for_mesh = true;
            }
        }
        for outlet in &mut self.rings.outlets {
            outlet.flush();
        }
        if for_mesh {
            self.rings.mesh.flush();
        }
        for event in self.output.events.drain(..) {
            let minor = matches!(event, Event::AudioLevel { .. });
            let room = !minor || self.events.capacity() > self.events.max_capacity() / 2;
            if !room || self.events.try_send((self.index, event)).is_err() {
                self.metrics.queue_dropped("shard_events", 1);
            }
        }
    }

    /// Whether sending waits for more of a burst that goes to many. A few datagrams leave at once.
    fn gathers(&mut self, now: Instant) -> bool {
        if !(GATHER_MIN..GATHER_MAX).contains(&self.output.arena.len()) {
            return false;
        }
        now < *self.flush_due.get_or_insert(now + GATHER)
    }

    fn flush(&mut self) {
        self.flush_due = None;
        let oldest = self.oldest.take();
        if self.output.arena.is_empty() {
            return;
        }
        let (ice, ports, metrics) = (&self.ice, &self.ports, &self.metrics);
        self.output
            .arena
            .drain_by_transport(|transport, contents, segment| {
                match ice.path_of(SessionId(transport.0)) {
                    Some(path) => ports.send(path, contents, segment),
                    None => metrics.dropped("no_path", 1),
                }
            });
        if let Some(oldest) = oldest {
            self.metrics.forwarded_after(oldest.elapsed());
        }
    }

    fn publish_stats(&mut self, now: Instant) {
        let reports = self.router.reports(now);
        self.publish_rtts(&reports);
        self.metrics.quality.observe(&reports, STATS_INTERVAL);
        if !reports.is_empty() && self.news.try_send(PlaneEvent::Reports(reports)).is_err() {
            self.metrics.queue_dropped("reports", 1);
        }
        let (router, ice) = (self.router.stats(), self.ice.stats());
        self.metrics.add_router(&self.stats.0, router);
        self.metrics.add_ice(self.stats.1, ice);
        self.stats = (router.clone(), ice);
    }

    fn publish_rtts(&self, reports: &[TransportReport]) {
        let of = |report: &TransportReport| {
            let path = self.ice.path_of(SessionId(report.transport.0))?;
            Some((path.remote.ip(), report.rtt))
        };
        let measured = reports.iter().filter(|report| !report.rtt.is_zero());
        let rtts: Vec<_> = measured.filter_map(of).collect();
        if !rtts.is_empty() && self.news.try_send(PlaneEvent::ClientRtts(rtts)).is_err() {
            self.metrics.queue_dropped("reports", 1);
        }
    }
}

/// The wall clock as 32.32 NTP.
fn ntp_now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    ((since.as_secs() + NTP_OFFSET) << 32) | fraction
}
