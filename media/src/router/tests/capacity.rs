//! Three simulcast publishers, one with a voice, and a viewer of all behind a path whose capacity changes: what a call on a bad
//! network sounds and looks like, in virtual time.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::call::{self, Call, Encoder, Path, key, publish_audio, publish_video};
use super::*;
use crate::retransmit::NackGenerator;
use crate::rtp::extend;
use crate::twcc;

/// Time between feedback packets, as Chromium has it at usual rates.
const FEEDBACK_MS: u64 = 50;
const FPS: u64 = 15;
/// A frame's largest payload on the wire.
const PAYLOAD_MAX: usize = 1100;
/// Rates of the layers in bit/s.
const LAYERS_BPS: [u64; 3] = [150_000, 500_000, 1_700_000];
/// Temporal layers by frame, and the share of four frames' bits that each has in percent.
const PATTERN: [(u8, u64); 4] = [(0, 40), (2, 20), (1, 20), (2, 20)];
/// A keyframe, in percent of the mean frame (libvpx' `rc_max_intra_target` as libwebrtc sets it for real time).
const KEYFRAME_PERCENT: u64 = 450;
/// IP and UDP.
const DATAGRAM_OVERHEAD: usize = 28;
const VOICE: u32 = 9;

/// A camera with three simulcast streams and three temporal layers.
struct Camera {
    peer: usize,
    streams: [Encoder; 3],
    /// Offset of its frames in milliseconds.
    phase_ms: u64,
    frames: u64,
    answered: usize,
    keyframes: usize,
}

impl Camera {
    fn new(call: &mut Call, track: u32, phase_ms: u64) -> Self {
        let peer = call.join();
        publish_video(call, peer, track, &["q", "h", "f"]);
        let of = |ssrc, rid| Encoder::new(peer, track * 100 + ssrc, "v", rid);
        Self {
            peer,
            streams: [of(1, "q"), of(2, "h"), of(3, "f")],
            phase_ms,
            frames: 0,
            answered: 0,
            keyframes: 0,
        }
    }

    /// Sends the frame that is due at a millisecond; all streams have a keyframe when one was asked for.
    fn step(&mut self, ms: u64, rng: &mut StdRng, call: &mut Call) {
        let due = self.phase_ms + self.frames * 1000 / FPS;
        if ms < due {
            return;
        }
        let asked = call.peers[self.peer].count(is_pli);
        let key = self.frames == 0 || asked > self.answered;
        if key {
            self.frames = self.frames.next_multiple_of(4);
            self.phase_ms = ms - self.frames * 1000 / FPS;
            self.keyframes += 1;
        }
        self.answered = asked;
        let (temporal, percent) = PATTERN[usize::try_from(self.frames % 4).unwrap()];
        self.frames += 1;
        for (stream, bps) in self.streams.iter_mut().zip(LAYERS_BPS) {
            let mean = bps / 8 / FPS;
            let bytes = if key {
                mean * KEYFRAME_PERCENT / 100
            } else {
                mean * 4 * percent / 100
            };
            let bytes = usize::try_from(bytes).unwrap() * rng.random_range(80..120) / 100;
            let packets = bytes.div_ceil(PAYLOAD_MAX);
            // The encoder's own step is for 30 frames per second.
            stream.timestamp = stream.timestamp.wrapping_add(3000);
            let temporal = if key { 0 } else { temporal };
            let len = bytes.div_ceil(packets).max(11);
            let packets = u8::try_from(packets).unwrap();
            for (packet, index) in stream.vp8_of(key, temporal, packets, len) {
                call.send(self.peer, packet, index);
            }
        }
    }
}

/// What the viewer saw of one step.
#[derive(Debug)]
struct Seen {
    /// Estimates, twenty a second.
    estimates: Vec<u64>,
    /// Longest queue from two seconds after the step on.
    queue_max: Duration,
    /// Keyframes of all cameras.
    keyframes: usize,
    /// What was sent of each camera at the end: layer and temporal layer.
    layers: Vec<Option<(u8, u8)>>,
}

struct Scene {
    call: Call,
    rng: StdRng,
    cameras: Vec<Camera>,
    voice: Encoder,
    viewer: usize,
    feedback: twcc::Receiver,
    nacks: BTreeMap<u32, (u64, NackGenerator)>,
    ms: u64,
    /// Voice packets sent and received.
    said: usize,
    heard: usize,
    speaks: bool,
}

impl Scene {
    fn new(seed: u64, bps: u64) -> Self {
        let mut call = Call::new();
        let mut rng = StdRng::seed_from_u64(seed);
        let cameras: Vec<Camera> = (1..=3)
            .map(|track| Camera::new(&mut call, track, rng.random_range(0..66)))
            .collect();
        let talker = call.join();
        publish_audio(&mut call, talker, VOICE);
        let viewer = call.join();
        let now = call.now;
        let mut path = Path::new(now, bps);
        path.overhead = DATAGRAM_OVERHEAD;
        call.peers[viewer].path = Some(path);
        call.subscribe(viewer, VOICE, high());
        for track in 1..=3 {
            call.subscribe(viewer, track, high());
        }
        Self {
            rng,
            cameras,
            voice: Encoder::new(talker, 5, "a", ""),
            viewer,
            feedback: twcc::Receiver::new(now),
            nacks: BTreeMap::new(),
            ms: 0,
            said: 0,
            heard: 0,
            speaks: true,
            call,
        }
    }

    fn path(&mut self) -> &mut Path {
        self.call.peers[self.viewer].path.as_mut().unwrap()
    }

    fn layers(&mut self) -> Vec<Option<(u8, u8)>> {
        let now = self.call.now;
        let report = self.call.router.report(now, key(self.viewer)).unwrap();
        let videos = report
            .subscriptions
            .iter()
            .filter(|sub| sub.track.0 < VOICE);
        videos
            .map(|sub| sub.sent.map(|target| (target.layer, target.temporal)))
            .collect()
    }

    fn step(&mut self) {
        if self.speaks && self.ms.is_multiple_of(20) {
            self.voice.opus(&mut self.call, 111, &[0x55; 80]);
            self.said += 1;
        }
        for camera in &mut self.cameras {
            camera.step(self.ms, &mut self.rng, &mut self.call);
        }
        self.call.advance(1);
        self.ms += 1;
        self.deliver();
        if self.ms.is_multiple_of(FEEDBACK_MS) {
            while self.feedback.is_due() {
                let feedback = &mut self.feedback;
                self.call.report(self.viewer, |writer| {
                    feedback.write(writer, (1, 2));
                });
            }
        }
        if self.ms.is_multiple_of(10) {
            self.ask();
        }
    }

    fn deliver(&mut self) {
        let now = self.call.now;
        let peer = &mut self.call.peers[self.viewer];
        let carried = &mut peer.path.as_mut().unwrap().carried;
        let mut arrived = Vec::new();
        while let Some((at, datagram)) = carried.pop_front_if(|(at, _)| *at <= now) {
            arrived.push((at, datagram));
        }
        for (at, datagram) in arrived {
            if let Some(seq) = bottleneck::transport_seq(&datagram) {
                self.feedback.record(seq, at);
            }
            call::receive(peer, datagram);
        }
        for packet in peer.take_media() {
            let ssrc = packet.header.ssrc & 0xfff;
            if ssrc == VOICE {
                self.heard += 1;
            }
            let (ssrc, seq) = if ssrc >= 0x800 {
                let original = [packet.payload[0], packet.payload[1]];
                (packet.header.ssrc - 0x800, u16::from_be_bytes(original))
            } else if ssrc == VOICE {
                continue;
            } else {
                (packet.header.ssrc, packet.header.seq)
            };
            let (highest, nack) = self.nacks.entry(ssrc).or_insert_with(|| {
                let first = 0x1_0000 + u64::from(seq);
                (first, NackGenerator::new(Duration::ZERO))
            });
            let number = extend(*highest, seq);
            *highest = number.max(*highest);
            nack.receive(number, now);
        }
    }

    fn ask(&mut self) {
        let now = self.call.now;
        for (&ssrc, (_, nack)) in &mut self.nacks {
            let mut lost = [0; 64];
            let count = nack.collect(now, &mut lost);
            if count > 0 {
                let mut buffer = [0; 1500];
                let mut writer = rtcp::Writer::new(&mut buffer);
                writer.nack(1, ssrc, &lost[..count]).unwrap();
                let len = writer.len();
                self.call.raw_report(self.viewer, &mut buffer, len);
            }
        }
    }

    fn keyframes(&self) -> usize {
        self.cameras.iter().map(|camera| camera.keyframes).sum()
    }

    /// Goes on for so many seconds at a capacity.
    fn at(&mut self, bps: u64, seconds: u64) -> Seen {
        self.path().rate_bps = bps;
        let begun = self.call.now;
        let keyframes = self.keyframes();
        let mut estimates = Vec::new();
        for ms in 1..=seconds * 1000 {
            self.step();
            if ms % 50 == 0 {
                let estimate = self.call.router.estimate_bps(key(self.viewer));
                estimates.push(estimate.unwrap_or_default());
            }
        }
        Seen {
            estimates,
            queue_max: self.path().longest_since(begun + Duration::from_secs(2)),
            keyframes: self.keyframes() - keyframes,
            layers: self.layers(),
        }
    }
}

/// Median of the second half in percent of `bps`.
fn steady(seen: &Seen, bps: u64) -> u64 {
    let mut half = seen.estimates[seen.estimates.len() / 2..].to_vec();
    half.sort_unstable();
    half[half.len() / 2] * 100 / bps
}

#[test]
fn the_estimate_follows_steps_of_the_capacity_and_the_voice_goes_on() {
    for seed in 0..5 {
        let mut scene = Scene::new(seed, 3_000_000);
        for bps in [3_000_000, 600_000, 200_000, 3_000_000] {
            let seen = scene.at(bps, 30);
            let what = format!(
                "seed {seed}, {bps} bit/s: {:?}, keyframes {}",
                seen.layers, seen.keyframes
            );
            println!(
                "{what}, {} %, queue {:?}",
                steady(&seen, bps),
                seen.queue_max
            );
            let estimate = steady(&seen, bps);
            assert!((75..=105).contains(&estimate), "{what}: {estimate} %");
            assert!(
                seen.queue_max < Duration::from_millis(250),
                "{what}: {:?}",
                seen.queue_max
            );
            let enough = |estimate: &u64| *estimate >= bps / 10 * 9;
            if bps > 600_000 {
                let recovered = seen.estimates.iter().position(enough).unwrap();
                assert!(recovered < 200, "{what}: {} s", recovered / 20);
            }
            // A keyframe costs as much as ten other frames: not one in three seconds on average.
            assert!(seen.keyframes <= 30, "{what}");
        }
        let lost = scene.said - scene.heard;
        println!("seed {seed}: voice lost {lost} of {}", scene.said);
        assert!(
            lost * 100 < scene.said,
            "seed {seed}: {lost} of {}",
            scene.said
        );
    }
}

/// Feedback comes only for what is sent: a path that carries nothing at all of what is wanted must be tried all the same.
#[test]
fn a_path_too_narrow_for_any_picture_is_tried_again() {
    for seed in 0..5 {
        let mut scene = Scene::new(seed, 3_000_000);
        scene.speaks = false;
        scene.at(3_000_000, 10);
        let narrow = scene.at(40_000, 20);
        assert_eq!(narrow.layers, [None; 3], "seed {seed}");
        let wide = scene.at(3_000_000, 15);
        println!("seed {seed}: {:?}", wide.layers);
        assert!(
            wide.layers.iter().all(Option::is_some),
            "seed {seed}: {:?}",
            wide.layers
        );
        assert!(
            steady(&wide, 3_000_000) > 75,
            "seed {seed}: {:?}",
            wide.layers
        );
    }
}
