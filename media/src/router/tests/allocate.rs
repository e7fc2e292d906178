//! A subscriber whose path is too narrow for what it wants, and publishers that are asked for keyframes.

use super::*;

/// A publisher of three streams of about 90 kbit/s, 290 kbit/s and 1.1 Mbit/s, a talker, and a viewer of both.
struct Scene {
    call: Call,
    layers: [Encoder; 3],
    voice: Encoder,
    publisher: usize,
    viewer: usize,
    /// Keyframe requests per stream that were answered.
    answered: usize,
}

impl Scene {
    fn new() -> Self {
        let mut call = Call::new();
        let (alice, carol, bob) = (call.join(), call.join(), call.join());
        publish_video(&mut call, alice, 1, &["q", "h", "f"]);
        publish_audio(&mut call, carol, 7);
        call.subscribe(bob, 7, high());
        call.subscribe(bob, 1, high());
        Self {
            call,
            layers: [
                Encoder::new(alice, 11, "v", "q"),
                Encoder::new(alice, 12, "v", "h"),
                Encoder::new(alice, 13, "v", "f"),
            ],
            voice: Encoder::new(carol, 5, "a", ""),
            publisher: alice,
            viewer: bob,
            answered: 0,
        }
    }

    /// The viewer says what it can receive.
    fn remb(&mut self, bps: u64) {
        self.call.report(self.viewer, |writer| {
            writer.remb(1, bps, &[0x3001]).unwrap();
        });
    }

    /// Pictures for so many seconds; a request is answered with keyframes of all streams, as libwebrtc does for VP8.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 30 {
            let asked = self.call.peers[self.publisher].count(is_pli);
            let key = asked > self.answered || self.layers[0].picture == 37 * 11;
            self.answered = asked;
            for (layer, (packets, len)) in
                self.layers.iter_mut().zip([(1, 300), (1, 1100), (4, 1050)])
            {
                for (packet, index) in layer.vp8_of(key, 0, packets, len) {
                    self.call.send(self.publisher, packet, index);
                }
            }
            self.voice.opus(&mut self.call, 111, &[0x55; 80]);
            self.call.advance(33);
        }
    }

    /// The layer that is sent of the video.
    fn sent(&mut self) -> Option<u8> {
        let now = self.call.now;
        let report = self.call.router.report(now, key(self.viewer))?;
        let mut subscriptions = report.subscriptions.iter();
        let video = subscriptions.find(|sub| sub.track == TrackKey(1))?;
        video.sent.map(|target| target.layer)
    }

    fn states(&mut self) -> Vec<bool> {
        let events = self.call.take_events().into_iter();
        let paused = events.filter_map(|event| {
            if let Event::StreamState { paused, .. } = event {
                Some(paused)
            } else {
                None
            }
        });
        paused.collect()
    }
}

#[test]
fn a_narrow_path_gets_lower_layers_then_audio_alone_and_recovers() {
    let mut scene = Scene::new();
    scene.run(2);
    assert_eq!(scene.sent(), Some(2));
    scene.remb(600_000);
    scene.run(2);
    assert_eq!(scene.sent(), Some(1));
    scene.remb(280_000);
    scene.run(2);
    assert_eq!(scene.sent(), Some(0));
    assert_eq!(scene.states(), []);
    scene.remb(100_000);
    scene.run(1);
    assert_eq!((scene.sent(), scene.states()), (None, vec![true]));
    scene.call.peers[scene.viewer].take_media();
    scene.run(2);
    let heard = scene.call.peers[scene.viewer].take_media();
    assert!(heard.iter().all(|packet| packet.header.ssrc == 0x3007));
    assert_eq!(heard.len(), 60);
    for _ in 0..40 {
        scene.remb(5_000_000);
        scene.run(1);
    }
    assert_eq!((scene.sent(), scene.states()), (Some(2), vec![false]));
    let seen = scene.call.peers[scene.viewer].take_media();
    let video: Vec<_> = seen
        .into_iter()
        .filter(|p| p.header.ssrc == 0x3001)
        .collect();
    assert!(is_gap_free(&video));
}

#[test]
fn a_layer_that_does_not_fit_stays_in_demand_for_a_while() {
    let mut scene = Scene::new();
    scene.run(2);
    let demands = |scene: &mut Scene| -> Vec<u8> {
        let events = scene.call.take_events().into_iter();
        let demands = events.filter_map(|event| {
            if let Event::Demand {
                track: TrackKey(1),
                streams,
            } = event
            {
                Some(streams)
            } else {
                None
            }
        });
        demands.collect()
    };
    assert_eq!(demands(&mut scene).last(), Some(&0b100));
    scene.remb(600_000);
    scene.run(1);
    assert_eq!(demands(&mut scene).last(), Some(&0b110));
    scene.run(2);
    assert_eq!(demands(&mut scene), [0b010]);
}

#[test]
fn at_most_two_keyframe_requests_a_second_reach_a_publisher() {
    let mut scene = Scene::new();
    scene.run(1);
    scene.call.advance(2000);
    let before = scene.call.peers[scene.publisher].count(is_pli);
    let asked = |scene: &Scene| scene.call.peers[scene.publisher].count(is_pli) - before;
    let mut most = 0;
    let mut per_second = std::collections::VecDeque::from([0; 9]);
    for _ in 0..50 {
        for stream in 0..3 {
            let track = TrackKey(1);
            scene
                .call
                .command(Command::RequestKeyframe { track, stream });
        }
        scene.call.advance(100);
        per_second.push_back(asked(&scene));
        most = most.max(asked(&scene) - per_second.pop_front().unwrap());
    }
    assert_eq!(most, 2);
    // None of the streams starves.
    let peer = &scene.call.peers[scene.publisher];
    for ssrc in 11..=13 {
        let of = |packet: &rtcp::Packet<'_>| matches!(packet, rtcp::Packet::Pli { media_ssrc } if *media_ssrc == ssrc);
        assert!(peer.count(of) >= 2, "{ssrc}");
    }
}
