//! Top-N audio on links: two places here, six people who talk in turn.

use media::packet::AudioMeta;

use super::*;

/// Publishers 1 to 6 at `a`, subscribed at `b` and `c` behind the relay.
fn room() -> Net {
    let mut net = Net::new(&["a", "b", "c", "r"]);
    net.plan(1, &["a", "b", "c"], "r", false);
    for person in 1..=6 {
        let sid = format!("TR_{person}");
        net.publish_track("a", person, &sid, (true, 1, 1));
        for edge in ["b", "c"] {
            net.demand_track(edge, "a", (&sid, 100 + person), 1);
        }
    }
    net.run(300);
    net
}

/// Everybody sends a packet every 20 ms, those who talk loud ones. `first` is the sequence number of the first.
fn talk(net: &mut Net, first: u16, packets: u16, talks: impl Fn(u32) -> Option<u8>) {
    for index in 0..packets {
        for person in 1..=6 {
            let meta = PacketMeta {
                audio: AudioMeta {
                    level: talks(person),
                },
                ..PacketMeta::default()
            };
            net.packet("a", person, meta, first.wrapping_add(index));
        }
        net.run(20);
    }
    net.run(60);
}

/// Tracks of which an edge got something, with the number of packets; checks that what was left out explains every gap.
fn heard(net: &mut Net, edge: &str) -> BTreeMap<u32, usize> {
    let mut last: BTreeMap<u32, u16> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for (track, meta, seq) in net.packets(edge) {
        if let Some(before) = last.insert(track.0, seq) {
            assert_eq!(seq.wrapping_sub(before), meta.left_out + 1, "{track:?}");
        }
        *counts.entry(track.0 - 100).or_default() += 1;
    }
    counts
}

fn selected(net: &mut Net, from: &str, to: &str) -> u32 {
    let now = net.now;
    let stats = net.mesh(from).stats(now);
    let link = stats.iter().find(|link| link.peer.as_str() == to);
    link.unwrap().audio_selected
}

#[test]
fn a_link_carries_those_who_talk_and_nobody_misses_the_others() {
    let mut net = room();
    // Numbers wrap on the way.
    let mut first = 65_000;
    for talker in [1, 2, 3, 4, 5, 6, 1, 2] {
        talk(&mut net, first, 100, |person| {
            Some(if person == talker { 25 } else { 90 })
        });
        first = first.wrapping_add(100);
        assert!(selected(&mut net, "a", "r") <= 2);
        for edge in ["b", "c"] {
            assert!(selected(&mut net, "r", edge) <= 2);
        }
    }
    for edge in ["b", "c"] {
        let counts = heard(&mut net, edge);
        for person in 1..=6 {
            // Two seconds each turn, less 40 ms for being let in once; the hop behind does not hesitate again.
            let turns = if person <= 2 { 2 } else { 1 };
            assert!(counts[&person] >= turns * 96, "{edge}: {counts:?}");
        }
        // When a place changes hands both owners may have sent a packet in that 20 ms.
        assert!(
            counts.values().sum::<usize>() <= 2 * 800 + 8,
            "{edge}: {counts:?}"
        );
    }
    assert!(net.sent("a", "r") <= 2 * 800 + 8);
    for (from, to) in [("a", "r"), ("r", "b"), ("r", "c")] {
        assert_eq!(net.lost(to, from), 0, "a filtered packet is no loss");
    }
}

#[test]
fn a_pause_longer_than_the_numbers_is_told() {
    let mut net = room();
    let quiet = |person| Some(if person <= 2 { 25 } else { 90 });
    talk(&mut net, 0, 50, quiet);
    // 6 says nothing for 70,000 packets; only its packets are sent here, so that the test is quick.
    let silent = PacketMeta {
        audio: AudioMeta { level: Some(90) },
        ..PacketMeta::default()
    };
    for seq in 50..70_050_u32 {
        net.packet("a", 6, silent, (seq & 0xffff) as u16);
    }
    net.run(100);
    net.packets("b");
    talk(&mut net, 4514, 100, |person| {
        Some(if person == 6 { 25 } else { 90 })
    });
    let packets = net.packets("b");
    let mut of_six = packets.iter().filter(|(track, ..)| *track == TrackKey(106));
    let (_, meta, seq) = of_six.next().unwrap();
    assert_eq!((meta.left_out, *seq), (u16::MAX, 4516));
    assert!(of_six.all(|(_, meta, _)| meta.left_out == 0));
}

#[test]
fn one_that_does_not_tell_its_level_keeps_its_place() {
    let mut net = room();
    talk(&mut net, 0, 100, |person| match person {
        6 => None,
        1 => Some(25),
        _ => Some(90),
    });
    let counts = heard(&mut net, "b");
    assert!(counts[&6] >= 97 && counts[&1] >= 97, "{counts:?}");
    // Who leaves frees its place, and the last one the room's.
    for person in 1..=6 {
        let track = TrackKey(person);
        net.command("a", MeshCommand::Unpublish { track, room: None });
    }
    net.run(100);
    assert_eq!(selected(&mut net, "a", "r"), 0);
}
