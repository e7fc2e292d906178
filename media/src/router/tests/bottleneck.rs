//! Congestion control and pacing: a bottleneck between the router and a receiver that gives feedback.

use std::time::Instant;

use super::call::{self, Call, Encoder, Path, high, key, publish_audio, publish_video};
use super::*;
use crate::twcc;

/// Time between feedback packets, as Chromium has it at usual rates.
const FEEDBACK_MS: u64 = 50;
/// A frame interval at 30 fps.
const FRAME_MS: u64 = 33;
const MS: Duration = Duration::from_millis(1);

/// A publisher with a microphone and a camera, and a viewer behind a bottleneck.
struct Scene {
    call: Call,
    start: Instant,
    viewer: usize,
    voice: Encoder,
    camera: Encoder,
    feedback: Option<twcc::Receiver>,
    ms: u64,
    frames: u64,
    /// Payload bytes of a frame.
    frame_bytes: usize,
    keyframes_asked: usize,
}

impl Scene {
    fn new(rate_bps: u64, feedback: bool) -> Self {
        let mut call = Call::new();
        let (alice, bob) = (call.join(), call.join());
        let now = call.now;
        call.peers[bob].path = Some(Path::new(now, rate_bps));
        publish_video(&mut call, alice, 1, &[]);
        let camera = Encoder::new(alice, 11, "v", "");
        let carol = call.join();
        publish_audio(&mut call, carol, 7);
        let voice = Encoder::new(carol, 5, "a", "");
        call.subscribe(bob, 7, high());
        call.subscribe(bob, 1, high());
        Self {
            start: call.now,
            call,
            viewer: bob,
            voice,
            camera,
            feedback: feedback.then(|| twcc::Receiver::new(now)),
            ms: 0,
            frames: 0,
            frame_bytes: 0,
            keyframes_asked: 0,
        }
    }

    fn path(&mut self) -> &mut Path {
        self.call.peers[self.viewer].path.as_mut().unwrap()
    }

    /// Time goes on by `ms`, with a voice, the camera, and feedback.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            if self.ms.is_multiple_of(20) {
                self.voice.opus(&mut self.call, 111, &[0x55; 80]);
            }
            if self.ms.is_multiple_of(FRAME_MS) && self.frame_bytes > 0 {
                self.frame();
            }
            self.call.advance(1);
            self.ms += 1;
            self.deliver();
            if self.ms.is_multiple_of(FEEDBACK_MS) {
                self.send_feedback();
            }
        }
    }

    /// The camera's next frame; a keyframe, four times as large, when one was asked for.
    fn frame(&mut self) {
        let publisher = self.camera.peer;
        let asked = self.call.peers[publisher].count(is_pli);
        let key = self.frames == 0 || asked > self.keyframes_asked;
        self.keyframes_asked = asked;
        self.frames += 1;
        let bytes = self.frame_bytes * if key { 4 } else { 1 };
        let packets = bytes.div_ceil(1100);
        let len = bytes.div_ceil(packets);
        let packets = u8::try_from(packets).unwrap();
        for (packet, index) in self.camera.vp8_of(key, 0, packets, len) {
            self.call.send(publisher, packet, index);
        }
    }

    fn deliver(&mut self) {
        let now = self.call.now;
        let peer = &mut self.call.peers[self.viewer];
        while let Some((at, datagram)) = peer.path.as_mut().unwrap().carried.pop_front() {
            if at > now {
                peer.path
                    .as_mut()
                    .unwrap()
                    .carried
                    .push_front((at, datagram));
                return;
            }
            if let (Some(feedback), Some(seq)) = (&mut self.feedback, transport_seq(&datagram)) {
                feedback.record(seq, at);
            }
            call::receive(peer, datagram);
        }
    }

    fn send_feedback(&mut self) {
        let Some(feedback) = self.feedback.as_mut() else {
            return;
        };
        while feedback.is_due() {
            self.call.report(self.viewer, |writer| {
                feedback.write(writer, (1, 2));
            });
        }
    }

    fn estimate(&self) -> Option<u64> {
        self.call.router.estimate_bps(key(self.viewer))
    }
}

/// Extension 5 of a datagram: header extensions are not encrypted.
pub(super) fn transport_seq(datagram: &[u8]) -> Option<u16> {
    if rtp::is_rtcp(datagram) {
        return None;
    }
    // Padding counts are encrypted, so the padding bit says nothing here.
    let mut header = datagram.to_vec();
    header[0] &= !0x20;
    let view = rtp::View::parse(&header).unwrap();
    let value = view.extensions().find(|(id, _)| *id == 5)?.1;
    Some(u16::from_be_bytes(<[u8; 2]>::try_from(value).unwrap()))
}

#[test]
fn a_keyframe_is_spread_and_the_audio_behind_it_does_not_wait() {
    let mut scene = Scene::new(3_000_000, true);
    scene.frame_bytes = 3000;
    scene.run(3000);
    let estimate = scene.estimate().unwrap();
    assert!(estimate > 700_000, "{estimate}");
    let since = scene.call.now;
    let paced = scene.call.router.stats().paced_packets;
    scene.call.command(Command::RequestKeyframe {
        track: TrackKey(1),
        stream: 0,
    });
    scene
        .call
        .report(scene.viewer, |writer| writer.pli(1, 0x2001).unwrap());
    scene.frame_bytes = 20_000;
    scene.run(FRAME_MS);
    scene.frame_bytes = 3000;
    scene.run(500);
    // 80 kB at once would be a queue of 213 ms.
    let longest = scene.path().longest_since(since);
    assert!(longest < 170 * MS, "{longest:?}");
    assert!(scene.call.router.stats().paced_packets - paced > 30);
    assert!(scene.path().dropped.is_empty());
    let media = scene.call.peers[scene.viewer].take_media();
    let video: Vec<Received> = media
        .into_iter()
        .filter(|p| p.header.ssrc == 0x2001)
        .collect();
    assert!(is_gap_free(&video), "order within the stream");
}

#[test]
fn probes_find_what_a_path_carries_beyond_what_is_sent() {
    let mut scene = Scene::new(5_000_000, true);
    // 730 kbit/s.
    scene.frame_bytes = 3000;
    scene.run(6000);
    let stats = scene.call.router.stats().clone();
    assert!(stats.probes >= 1 && stats.padding_packets > 0, "{stats:?}");
    let estimate = scene.estimate().unwrap();
    // Half more than all video and audio, and no more: nothing else could use it.
    assert!((1_100_000..=5_500_000).contains(&estimate), "{estimate}");
    // Padding is for probes alone: a part of what media takes.
    assert!(stats.padding_bytes * 4 < stats.forwarded_bytes, "{stats:?}");
    let start = scene.start;
    assert!(scene.path().longest_since(start) < 300 * MS);
}

#[test]
fn a_peer_that_never_gives_feedback_is_not_paced() {
    let mut scene = Scene::new(1_000_000_000, false);
    scene.frame_bytes = 20_000;
    scene.run(2000);
    assert_eq!(scene.estimate(), None);
    let stats = scene.call.router.stats();
    assert_eq!(
        (stats.paced_packets, stats.dropped(DropReason::PacerFull)),
        (0, 0)
    );
}

#[test]
fn too_much_video_is_left_out_by_whole_frames_until_it_is_paused() {
    let mut scene = Scene::new(600_000, true);
    scene.path().queue_max = Duration::from_millis(600);
    // 2 Mbit/s.
    scene.frame_bytes = 8250;
    let mut longest = Duration::ZERO;
    for _ in 0..200 {
        scene.run(50);
        let report = scene.call.router.report(scene.call.now, key(scene.viewer));
        longest = longest.max(report.unwrap().queue);
    }
    // Frames behind a keyframe may wait for 600 ms.
    assert!((50..700).contains(&longest.as_millis()), "{longest:?}");
    // Once the estimate has been found.
    let since = scene.start + Duration::from_secs(2);
    let queued = scene.path().longest_since(since);
    assert!(queued <= 300 * MS, "{queued:?}");
    let lost = scene.path().dropped.iter().filter(|(at, _)| *at >= since);
    assert_eq!(lost.count(), 0);
    let stats = scene.call.router.stats().clone();
    assert!(stats.dropped(DropReason::PacerFull) > 0, "{stats:?}");
    let media = scene.call.peers[scene.viewer].take_media();
    let of = |ssrc| media.iter().filter(move |p| p.header.ssrc == ssrc);
    let heard: Vec<Received> = of(0x2007).skip(100).cloned().collect();
    assert!(heard.len() > 360 && is_gap_free(&heard), "{}", heard.len());
    // Frames are left out as a whole: what is sent begins with a first packet and ends with a marker.
    let video: Vec<&Received> = of(0x2001).collect();
    assert!(!video.is_empty());
    let paused = |event: &Event| matches!(event, Event::StreamState { paused: true, .. });
    assert!(scene.call.take_events().iter().any(paused));
    for pair in video.windows(2) {
        if pair[1].header.seq != pair[0].header.seq.wrapping_add(1) {
            // Lost before the estimate was found.
            continue;
        }
        let begins = pair[1].payload[0] & 0x10 != 0;
        assert_eq!(pair[0].header.marker, begins);
    }
}
