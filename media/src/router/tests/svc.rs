//! Spatial layers in one stream (VP9), left out and taken up.

use super::*;
use crate::layer::Vp9;
use crate::rtp::{Header, low16};

/// A VP9 encoder of three spatial and two temporal layers, flexible mode, two packets a layer frame.
struct Camera {
    encoder: Encoder,
    picture: u8,
    /// Spatial layers that are sent.
    layers: u8,
}

impl Camera {
    fn publish(call: &mut Call, peer: usize, track: u32) -> Self {
        let config = TrackConfig {
            spatial: 3,
            ..TrackConfig::new(Codec::Vp9, Source::Local(key(peer)), 1)
        };
        call.command(Command::AddTrack {
            track: TrackKey(track),
            config,
        });
        let payload = ReceivePayload {
            pt: 98,
            codec: Codec::Vp9,
            rtx: None,
            nack: true,
            pli: true,
            clock_rate: 90_000,
        };
        let media = ReceiveMedia {
            mid: "v".to_owned(),
            track: TrackKey(track),
            payloads: vec![payload],
            rids: Vec::new(),
            ssrcs: Vec::new(),
        };
        call.command(Command::SetReceive {
            transport: key(peer),
            receive: Box::new(ReceiveConfig {
                extensions: call::PUBLISHER_IDS,
                media: vec![media],
            }),
        });
        Self {
            encoder: Encoder::new(peer, 11, "v", ""),
            picture: 0,
            layers: 3,
        }
    }

    /// Sends a picture; `anew` has a bit for each spatial layer that refers to no picture before.
    fn picture(&mut self, call: &mut Call, anew: u8, temporal: u8) {
        self.encoder.timestamp = self.encoder.timestamp.wrapping_add(3000);
        self.picture = (self.picture + 1) & 0x7f;
        for spatial in 0..self.layers {
            let refers = anew & (1 << spatial) == 0;
            for part in 0..2u8 {
                let flags = [0x08, 0x04][usize::from(part)] | if refers { 0x40 } else { 0 };
                let layer = temporal << 5 | spatial << 1 | u8::from(spatial > 0);
                let mut payload = vec![0xb0 | flags, self.picture, layer];
                if refers {
                    // The picture before in T0, or the one before this in T1.
                    payload.push(if temporal == 0 { 2 << 1 } else { 1 << 1 });
                }
                payload.extend([0x55, part]);
                let header = Header {
                    marker: spatial + 1 == self.layers && part == 1,
                    payload_type: 98,
                    seq: low16(self.encoder.seq),
                    timestamp: self.encoder.timestamp,
                    ssrc: self.encoder.ssrc,
                };
                let packet = self.encoder.rtp(&header, (1, "\u{7f}"), &payload);
                call.send(self.encoder.peer, packet, self.encoder.seq);
                self.encoder.seq += 1;
            }
        }
        call.advance(33);
    }

    /// A T0 and a T1 picture.
    fn pair(&mut self, call: &mut Call, anew: u8) {
        self.picture(call, anew, 0);
        self.picture(call, 0, 1);
    }
}

const KEY: u8 = 0b111;

fn target(layer: u8, temporal: u8) -> Option<Target> {
    Some(Target { layer, temporal })
}

/// The `(highest spatial layer, temporal layer)` of each picture; asserts that pictures are whole and end with the marker, and
/// that nothing is missing.
fn pictures(seen: &[Received]) -> Vec<(u8, u8)> {
    assert!(is_gap_free(seen), "{:?}", seqs(seen));
    let mut all = Vec::new();
    for picture in seen.chunk_by(|a, b| a.header.timestamp == b.header.timestamp) {
        let layers: Vec<Vp9> = picture
            .iter()
            .map(|packet| Vp9::parse(&packet.payload).unwrap())
            .collect();
        let last = layers.last().unwrap();
        assert!(last.end);
        assert_eq!(layers.len(), 2 * usize::from(last.spatial + 1));
        let markers: Vec<bool> = picture.iter().map(|packet| packet.header.marker).collect();
        assert_eq!(markers.iter().position(|m| *m), Some(markers.len() - 1));
        all.push((last.spatial, last.temporal));
    }
    all
}

#[test]
fn each_subscriber_gets_the_layers_of_its_target() {
    let mut call = Call::new();
    let alice = call.join();
    let mut camera = Camera::publish(&mut call, alice, 1);
    let viewers = [target(0, 7), target(1, 0), target(2, 7)].map(|target| {
        let viewer = call.join();
        call.subscribe(viewer, 1, target);
        viewer
    });
    camera.pair(&mut call, KEY);
    camera.pair(&mut call, 0);
    let expected: [&[(u8, u8)]; 3] = [
        &[(0, 0), (0, 1), (0, 0), (0, 1)],
        &[(1, 0), (1, 0)],
        &[(2, 0), (2, 1), (2, 0), (2, 1)],
    ];
    for (viewer, expected) in viewers.into_iter().zip(expected) {
        let seen = call.peers[viewer].take_media();
        assert_eq!(pictures(&seen), expected);
    }
    // One bit per spatial layer, and those below.
    let demand = Event::Demand {
        track: TrackKey(1),
        streams: 0b111,
    };
    assert!(call.take_events().contains(&demand));
}

#[test]
fn a_higher_spatial_layer_waits_for_a_keyframe_and_a_lower_one_does_not() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    let mut camera = Camera::publish(&mut call, alice, 1);
    call.subscribe(bob, 1, target(0, 7));
    camera.pair(&mut call, KEY);
    call.peers[bob].take_media();
    let before = call.peers[alice].count(is_pli);
    call.target(bob, 1, target(2, 7));
    assert_eq!(call.peers[alice].count(is_pli), before + 1);
    camera.pair(&mut call, 0);
    camera.pair(&mut call, KEY);
    call.target(bob, 1, target(1, 0));
    camera.pair(&mut call, 0);
    let seen = call.peers[bob].take_media();
    assert_eq!(pictures(&seen), [(0, 0), (0, 1), (2, 0), (2, 1), (1, 0)]);
    // Nobody waits any more.
    call.advance(3000);
    assert_eq!(call.peers[alice].count(is_pli), before + 1);
    let demands = call.take_events().into_iter().filter_map(|event| {
        if let Event::Demand { streams, .. } = event {
            Some(streams)
        } else {
            None
        }
    });
    assert_eq!(demands.collect::<Vec<_>>(), [0b001, 0b111, 0b011]);
}

#[test]
fn a_layer_that_the_publisher_stops_is_not_asked_for() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    let mut camera = Camera::publish(&mut call, alice, 1);
    camera.layers = 2;
    call.subscribe(bob, 1, high());
    camera.pair(&mut call, KEY);
    let before = call.peers[alice].count(is_pli);
    for _ in 0..60 {
        camera.pair(&mut call, 0);
    }
    assert_eq!(call.peers[alice].count(is_pli), before);
    // It comes back without a keyframe, predicted from the layer below.
    camera.layers = 3;
    camera.pair(&mut call, 0b100);
    let seen = pictures(&call.peers[bob].take_media());
    assert!(seen[..122].iter().all(|(spatial, _)| *spatial == 1));
    assert_eq!(seen[122..], [(2, 0), (2, 1)]);
    assert_eq!(call.peers[alice].count(is_pli), before);
}

#[test]
fn a_repeated_packet_has_the_marker_of_the_first_time() {
    let mut call = Call::new();
    let (alice, bob) = (call.join(), call.join());
    let mut camera = Camera::publish(&mut call, alice, 1);
    call.subscribe(bob, 1, target(0, 7));
    camera.pair(&mut call, KEY);
    let seen = call.peers[bob].take_media();
    call.advance(100);
    let lost = seen[1].header.seq;
    call.report(bob, |writer| writer.nack(1, 0x2001, &[lost]).unwrap());
    let again = call.peers[bob].take_media();
    assert_eq!(again.len(), 1);
    assert!(seen[1].header.marker && again[0].header.marker);
    assert_eq!(again[0].payload[2..], seen[1].payload);
}

#[test]
fn other_shards_and_links_get_the_whole_stream() {
    let mut call = Call::new();
    let alice = call.join();
    let mut camera = Camera::publish(&mut call, alice, 1);
    camera.pair(&mut call, KEY);
    let before = call.peers[alice].count(is_pli);
    call.command(Command::Export {
        track: TrackKey(1),
        streams: 0b11,
    });
    call.advance(1000);
    camera.pair(&mut call, 0);
    assert_eq!(call.peers[alice].count(is_pli), before + 1);
    assert_eq!(call.exported.len(), 12);
    assert!(call.exported.iter().all(|exported| exported.stream == 0));
}
