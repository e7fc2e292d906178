//! A call in virtual time: a router, and peers with SRTP contexts of their own around it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::{
    Command, Config, Event, ExportedPacket, ExtensionIds, Output, ReceiveConfig, ReceiveMedia,
    ReceivePayload, Router, SendPayload, Source, SubscriptionConfig, Target, TrackConfig, TrackKey,
    TransportKey,
};
use crate::layer::Vp8;
use crate::packet::Codec;
use crate::rtp::{Form, Header, View, Writer};
use crate::srtp::{Inbound, OVERHEAD_MAX, Outbound, Profile, SessionKeys};
use crate::{rtcp, rtp, srtp};

/// The numbering of extensions that publishers use in these tests.
pub(super) const PUBLISHER_IDS: ExtensionIds = ExtensionIds {
    mid: Some(4),
    rid: Some(10),
    repaired_rid: Some(11),
    transport_cc: Some(3),
    abs_send_time: Some(2),
    abs_capture_time: None,
    audio_level: Some(1),
    orientation: Some(13),
    playout_delay: None,
    dependency_descriptor: Some(12),
};

/// Another numbering, for subscribers.
pub(super) const SUBSCRIBER_IDS: ExtensionIds = ExtensionIds {
    mid: Some(9),
    rid: None,
    repaired_rid: None,
    transport_cc: Some(5),
    abs_send_time: None,
    abs_capture_time: None,
    audio_level: Some(6),
    orientation: Some(7),
    playout_delay: None,
    dependency_descriptor: Some(8),
};

/// A bottleneck with a drop-tail queue.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) rate_bps: u64,
    pub(super) delay: Duration,
    pub(super) queue_max: Duration,
    /// Bytes beside each datagram that the path carries.
    pub(super) overhead: usize,
    free_at: Instant,
    /// What is on its way, by arrival.
    pub(super) carried: VecDeque<(Instant, Vec<u8>)>,
    /// How long the queue was when each datagram came, and when that was.
    pub(super) queued: Vec<(Instant, Duration)>,
    pub(super) dropped: Vec<(Instant, Vec<u8>)>,
}

impl Path {
    pub(super) fn new(now: Instant, rate_bps: u64) -> Self {
        Self {
            rate_bps,
            delay: Duration::from_millis(20),
            queue_max: Duration::from_millis(300),
            overhead: 0,
            free_at: now,
            carried: VecDeque::new(),
            queued: Vec::new(),
            dropped: Vec::new(),
        }
    }

    fn carry(&mut self, now: Instant, datagram: &[u8]) {
        let start = self.free_at.max(now);
        self.queued.push((now, start - now));
        if start - now > self.queue_max {
            return self.dropped.push((now, datagram.to_vec()));
        }
        let bits = (datagram.len() + self.overhead) as u64 * 8;
        self.free_at = start + Duration::from_micros(bits * 1_000_000 / self.rate_bps);
        let arrival = self.free_at + self.delay;
        self.carried.push_back((arrival, datagram.to_vec()));
    }

    /// The longest queue since `since`.
    pub(super) fn longest_since(&self, since: Instant) -> Duration {
        let late = self.queued.iter().filter(|(at, _)| *at >= since);
        late.map(|(_, queue)| *queue).max().unwrap_or_default()
    }
}

/// An RTP packet as a peer got it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) header: Header,
    pub(super) elements: BTreeMap<u8, Vec<u8>>,
    pub(super) payload: Vec<u8>,
}

impl Received {
    pub(super) fn vp8(&self) -> Vp8 {
        Vp8::parse(&self.payload).unwrap()
    }

    pub(super) fn picture_id(&self) -> u16 {
        self.vp8().picture_id.unwrap().value
    }
}

pub(super) struct Peer {
    outbound: Outbound,
    inbound: Inbound,
    pub(super) media: Vec<Received>,
    pub(super) reports: Vec<Vec<u8>>,
    /// Everything to this peer is lost; the sequence numbers of media are kept.
    pub(super) deaf: bool,
    pub(super) lost: Vec<u16>,
    /// Packets of bare padding.
    pub(super) padding: usize,
    /// What datagrams to this peer go through; without one they are there at once.
    pub(super) path: Option<Path>,
}

impl Peer {
    /// Takes what arrived since the last call.
    pub(super) fn take_media(&mut self) -> Vec<Received> {
        std::mem::take(&mut self.media)
    }

    /// How many RTCP packets of a kind arrived.
    pub(super) fn count(&self, is_kind: impl Fn(&rtcp::Packet<'_>) -> bool) -> usize {
        self.reports
            .iter()
            .flat_map(|bytes| rtcp::Packets::new(bytes))
            .filter(&is_kind)
            .count()
    }

    /// Sequence numbers asked for by NACK.
    pub(super) fn nacked(&self) -> Vec<u16> {
        let packets = self
            .reports
            .iter()
            .flat_map(|bytes| rtcp::Packets::new(bytes));
        packets
            .filter_map(|packet| {
                if let rtcp::Packet::Nack { lost, .. } = packet {
                    Some(lost)
                } else {
                    None
                }
            })
            .flatten()
            .collect()
    }
}

/// Matches picture loss indications.
pub(super) fn is_pli(packet: &rtcp::Packet<'_>) -> bool {
    matches!(packet, rtcp::Packet::Pli { .. })
}

pub(super) struct Call {
    pub(super) now: Instant,
    pub(super) router: Router,
    pub(super) out: Output,
    pub(super) peers: Vec<Peer>,
    pub(super) events: Vec<Event>,
    pub(super) exported: Vec<ExportedPacket>,
    /// Tracks that are audio: their subscriptions have no RTX.
    audio: Vec<u32>,
    profile: Profile,
}

impl Call {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some instant to start from"
    )]
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            router: Router::new(Config::new(now, 1 << 63)),
            out: Output::new(),
            peers: Vec::new(),
            events: Vec::new(),
            exported: Vec::new(),
            audio: Vec::new(),
            profile: Profile::AeadAes128Gcm,
        }
    }

    pub(super) fn with_profile(profile: Profile) -> Self {
        Self {
            profile,
            ..Self::new()
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        self.router.handle_command(self.now, command, &mut self.out);
        self.drain();
    }

    /// A peer joins; its transport key is its position.
    pub(super) fn join(&mut self) -> usize {
        let id = self.peers.len();
        let material: Vec<u8> = (0..self.profile.keying_material_len())
            .map(|i| u8::try_from((i * 31 + id * 7) % 251).unwrap())
            .collect();
        let keys = |is_server| {
            SessionKeys::from_keying_material(self.profile, &material, is_server).unwrap()
        };
        let peer = keys(false);
        self.peers.push(Peer {
            outbound: Outbound::new(&peer).unwrap(),
            inbound: Inbound::new(&peer).unwrap(),
            media: Vec::new(),
            reports: Vec::new(),
            deaf: false,
            lost: Vec::new(),
            padding: 0,
            path: None,
        });
        self.command(Command::AddTransport {
            transport: key(id),
            keys: keys(true),
        });
        id
    }

    pub(super) fn subscribe(&mut self, peer: usize, track: u32, target: Option<Target>) {
        let id = u32::try_from(peer).unwrap();
        let is_audio = self.audio.contains(&track);
        let payload = |codec, pt, rtx_pt| SendPayload { codec, pt, rtx_pt };
        let config = SubscriptionConfig {
            mid: format!("m{track}"),
            ssrc: 0x1000 * (id + 1) + track,
            rtx_ssrc: (!is_audio).then_some(0x1000 * (id + 1) + track + 0x800),
            payloads: vec![
                payload(Codec::Opus, 120, None),
                payload(Codec::Vp8, 100, Some(101)),
                payload(Codec::H264, 102, Some(103)),
                payload(Codec::Vp9, 104, Some(105)),
            ],
            extensions: SUBSCRIBER_IDS,
            target,
            red: false,
        };
        self.command(Command::Subscribe {
            transport: key(peer),
            track: TrackKey(track),
            config: Box::new(config),
        });
    }

    pub(super) fn target(&mut self, peer: usize, track: u32, target: Option<Target>) {
        self.command(Command::SetTarget {
            transport: key(peer),
            track: TrackKey(track),
            target,
        });
    }

    /// Seals a packet as `peer` does and hands it to the router.
    pub(super) fn send(&mut self, peer: usize, mut packet: Vec<u8>, index: u64) {
        let sealed = self.seal(peer, &mut packet, index);
        self.router
            .handle_datagram(self.now, key(peer), &mut packet[..sealed], &mut self.out);
        self.drain();
    }

    pub(super) fn seal(&self, peer: usize, packet: &mut Vec<u8>, index: u64) -> usize {
        let len = packet.len();
        let header_len = rtp::header_len(packet).unwrap();
        packet.resize(len + OVERHEAD_MAX, 0);
        self.peers[peer]
            .outbound
            .seal_rtp(packet, header_len, len, index)
            .unwrap()
    }

    /// Sends RTCP as `peer` does.
    pub(super) fn report(&mut self, peer: usize, fill: impl FnOnce(&mut rtcp::Writer<'_>)) {
        let mut buffer = [0; 1500];
        let mut writer = rtcp::Writer::new(&mut buffer);
        fill(&mut writer);
        let len = writer.len();
        let sealed = self.peers[peer]
            .outbound
            .seal_rtcp(&mut buffer, len)
            .unwrap();
        self.router
            .handle_datagram(self.now, key(peer), &mut buffer[..sealed], &mut self.out);
        self.drain();
    }

    /// Lets time pass, serving the router's deadlines on the way.
    pub(super) fn advance(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.router.poll_timeout().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.router.handle_timeout(self.now, &mut self.out);
            self.drain();
        }
        self.now = end;
    }

    pub(super) fn drain(&mut self) {
        let Self {
            now, out, peers, ..
        } = self;
        out.arena.drain_by_transport(|transport, contents, size| {
            let Some(peer) = peers.get_mut(transport.0 as usize) else {
                return;
            };
            for datagram in contents.chunks(size) {
                match &mut peer.path {
                    Some(path) => path.carry(*now, datagram),
                    None => receive(peer, datagram.to_vec()),
                }
            }
        });
        self.events.append(&mut self.out.events);
        self.exported.append(&mut self.out.packets);
    }

    /// Takes the events since the last call.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

pub(super) fn receive(peer: &mut Peer, mut datagram: Vec<u8>) {
    if peer.deaf {
        peer.lost
            .push(u16::from_be_bytes([datagram[2], datagram[3]]));
        return;
    }
    if rtp::is_rtcp(&datagram) {
        let report: Result<&mut [u8], srtp::Error> = peer.inbound.open_rtcp(&mut datagram);
        peer.reports.push(report.unwrap().to_vec());
        return;
    }
    let packet = peer.inbound.open_rtp(&mut datagram).unwrap();
    let view = View::parse(packet).unwrap();
    if view.padding() > 0 {
        peer.padding += 1;
        return;
    }
    peer.media.push(Received {
        header: view.header,
        elements: view
            .extensions()
            .map(|(id, value)| (id, value.to_vec()))
            .collect(),
        payload: view.payload().to_vec(),
    });
}

pub(super) fn key(peer: usize) -> TransportKey {
    TransportKey(u32::try_from(peer).unwrap())
}

pub(super) fn high() -> Option<Target> {
    Some(Target {
        layer: 2,
        temporal: 7,
    })
}

/// One stream as an encoder and packetizer make it.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    pub(super) peer: usize,
    pub(super) ssrc: u32,
    pub(super) mid: &'static str,
    pub(super) rid: &'static str,
    /// Extended; the SRTP index.
    pub(super) seq: u64,
    pub(super) rtx_seq: u64,
    pub(super) timestamp: u32,
    pub(super) picture: u16,
    pub(super) tl0: u8,
    pub(super) transport_seq: u16,
}

impl Encoder {
    pub(super) fn new(peer: usize, ssrc: u32, mid: &'static str, rid: &'static str) -> Self {
        Self {
            peer,
            ssrc,
            mid,
            rid,
            seq: u64::from(ssrc) * 1000 % 30_000,
            rtx_seq: 77,
            timestamp: ssrc.wrapping_mul(0x1234_5678),
            picture: u16::try_from(ssrc * 37 % 0x7fff).unwrap(),
            tl0: u8::try_from(ssrc % 200).unwrap(),
            transport_seq: 0,
        }
    }

    pub(super) fn rtp(&mut self, header: &Header, rid: (u8, &str), payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 1500];
        let mut writer = Writer::new(&mut packet, header, Form::OneByte).unwrap();
        self.transport_seq = self.transport_seq.wrapping_add(1);
        writer
            .extension(3, &self.transport_seq.to_be_bytes())
            .unwrap();
        if !self.mid.is_empty() {
            writer.extension(4, self.mid.as_bytes()).unwrap();
        }
        if !rid.1.is_empty() {
            writer.extension(rid.0, rid.1.as_bytes()).unwrap();
        }
        let start = writer.finish().unwrap();
        packet[start..start + payload.len()].copy_from_slice(payload);
        packet.truncate(start + payload.len());
        packet
    }

    /// Packetizes a VP8 frame of `packets` packets at temporal layer `temporal` (with Y set above
    /// the base layer): `(RTP packet, SRTP index)` each.
    pub(super) fn vp8(&mut self, key: bool, temporal: u8, packets: u8) -> Vec<(Vec<u8>, u64)> {
        self.vp8_of(key, temporal, packets, 11)
    }

    /// The same with payloads of `len` bytes, at least 11.
    pub(super) fn vp8_of(
        &mut self,
        key: bool,
        temporal: u8,
        packets: u8,
        len: usize,
    ) -> Vec<(Vec<u8>, u64)> {
        self.timestamp = self.timestamp.wrapping_add(3000);
        self.picture = (self.picture + 1) & 0x7fff;
        self.tl0 = self.tl0.wrapping_add(u8::from(temporal == 0));
        let [high, low] = (self.picture | 0x8000).to_be_bytes();
        let sync = u8::from(temporal > 0) << 5;
        let mut frame = Vec::new();
        for part in 0..packets {
            let first = if part == 0 { 0x90 } else { 0x80 };
            let layer = temporal << 6 | sync;
            let body = if part == 0 { u8::from(!key) } else { 0xee };
            let mut payload = vec![first, 0xe0, high, low, self.tl0, layer, body, part, 1, 2, 3];
            payload.resize(len, 0xaa);
            let header = Header {
                marker: part + 1 == packets,
                payload_type: 96,
                seq: rtp::low16(self.seq),
                timestamp: self.timestamp,
                ssrc: self.ssrc,
            };
            let rid = self.rid;
            frame.push((self.rtp(&header, (10, rid), &payload), self.seq));
            self.seq += 1;
        }
        frame
    }

    /// Sends a frame.
    pub(super) fn frame(&mut self, call: &mut Call, key: bool, temporal: u8) {
        for (packet, index) in self.vp8(key, temporal, 2) {
            call.send(self.peer, packet, index);
        }
    }

    /// Sends a packet again by RTX (RFC 4588).
    pub(super) fn rtx(&mut self, call: &mut Call, original: &[u8]) {
        let view = View::parse(original).unwrap();
        let mut payload = view.header.seq.to_be_bytes().to_vec();
        payload.extend_from_slice(view.payload());
        let header = Header {
            payload_type: 97,
            seq: rtp::low16(self.rtx_seq),
            ssrc: self.ssrc + 500,
            ..view.header
        };
        let rid = self.rid;
        let packet = self.rtp(&header, (11, rid), &payload);
        let (peer, index) = (self.peer, self.rtx_seq);
        self.rtx_seq += 1;
        call.send(peer, packet, index);
    }

    /// Sends an audio packet with a level.
    pub(super) fn opus(&mut self, call: &mut Call, payload_type: u8, payload: &[u8]) {
        self.timestamp = self.timestamp.wrapping_add(960);
        let header = Header {
            marker: false,
            payload_type,
            seq: rtp::low16(self.seq),
            timestamp: self.timestamp,
            ssrc: self.ssrc,
        };
        let packet = self.rtp(&header, (1, "\u{7f}"), payload);
        let (peer, index) = (self.peer, self.seq);
        self.seq += 1;
        call.send(peer, packet, index);
    }
}

/// Publishes a VP8 track with the given rids on m-line `mid`.
pub(super) fn publish_video(call: &mut Call, peer: usize, track: u32, rids: &[&str]) {
    let streams = u8::try_from(rids.len().max(1)).unwrap();
    let config = TrackConfig::new(Codec::Vp8, Source::Local(key(peer)), streams);
    call.command(Command::AddTrack {
        track: TrackKey(track),
        config,
    });
    let media = ReceiveMedia {
        mid: "v".to_owned(),
        track: TrackKey(track),
        payloads: vec![ReceivePayload {
            pt: 96,
            codec: Codec::Vp8,
            rtx: Some(97),
            nack: true,
            pli: true,
            clock_rate: 90_000,
        }],
        rids: rids.iter().map(|&rid| rid.to_owned()).collect(),
        ssrcs: Vec::new(),
    };
    let receive = ReceiveConfig {
        extensions: PUBLISHER_IDS,
        media: vec![media],
    };
    call.command(Command::SetReceive {
        transport: key(peer),
        receive: Box::new(receive),
    });
}

/// Publishes an Opus and RED track.
pub(super) fn publish_audio(call: &mut Call, peer: usize, track: u32) {
    call.audio.push(track);
    let config = TrackConfig::new(Codec::Opus, Source::Local(key(peer)), 1);
    call.command(Command::AddTrack {
        track: TrackKey(track),
        config,
    });
    let payload = |pt, codec| ReceivePayload {
        pt,
        codec,
        rtx: None,
        nack: false,
        pli: false,
        clock_rate: 48_000,
    };
    let media = ReceiveMedia {
        mid: "a".to_owned(),
        track: TrackKey(track),
        payloads: vec![payload(111, Codec::Opus), payload(63, Codec::Red)],
        rids: Vec::new(),
        ssrcs: Vec::new(),
    };
    let receive = ReceiveConfig {
        extensions: PUBLISHER_IDS,
        media: vec![media],
    };
    call.command(Command::SetReceive {
        transport: key(peer),
        receive: Box::new(receive),
    });
}

impl Call {
    /// Sends arbitrary bytes as authentic RTCP of `peer`.
    pub(super) fn raw_report(&mut self, peer: usize, buffer: &mut [u8], len: usize) {
        let sealed = self.peers[peer].outbound.seal_rtcp(buffer, len).unwrap();
        self.router
            .handle_datagram(self.now, key(peer), &mut buffer[..sealed], &mut self.out);
        self.drain();
    }
}
