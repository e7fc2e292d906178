//! SVC across hops: one flow, of which every receiver gets the layers it wants.

use media::packet::LayerMeta;

use super::*;

/// Three spatial layers a frame, one packet each, 50 frames a second.
fn frames(net: &mut Net, edge: &str, first: u16, count: u16) {
    for frame in 0..count {
        for spatial in 0..3 {
            let layer = LayerMeta {
                spatial,
                frame_start: true,
                frame_end: true,
                ..LayerMeta::default()
            };
            let meta = PacketMeta {
                layer,
                ..PacketMeta::default()
            };
            let seq = first.wrapping_add(3 * frame + u16::from(spatial));
            net.packet(edge, 1, meta, seq);
        }
        net.run(20);
    }
    net.run(100);
}

/// Layers received, and whether what was left out explains every gap.
fn received(net: &mut Net, edge: &str) -> (Vec<u8>, bool) {
    let packets = net.packets(edge);
    let mut layers: Vec<u8> = packets
        .iter()
        .map(|(_, meta, _)| meta.layer.spatial)
        .collect();
    layers.sort_unstable();
    layers.dedup();
    let explained = packets.windows(2).all(|pair| {
        let (meta, seq) = (pair[1].1, pair[1].2);
        seq.wrapping_sub(pair[0].2) == meta.left_out + 1
    });
    (layers, explained)
}

fn svc(nodes: &[&'static str], edges: &[&'static str]) -> Net {
    let mut net = Net::new(nodes);
    net.plan(1, edges, "r", false);
    net.publish_track("a", 1, "TR_v", (false, 1, 3));
    net
}

#[test]
fn every_receiver_gets_its_layers_and_hears_what_was_left_out() {
    let mut net = svc(&["a", "b", "c", "r"], &["a", "b", "c"]);
    net.demand("b", "a", 0b001);
    net.demand("c", "a", 0b111);
    net.run(200);
    assert_eq!(demands(&net.events("a")).last(), Some(&0b111));
    assert_eq!((net.flows("a", "r"), net.flows("r", "c")), (1, 1));
    // The numbers wrap.
    frames(&mut net, "a", 65_500, 50);
    assert_eq!(received(&mut net, "b"), (vec![0], true));
    assert_eq!(received(&mut net, "c"), (vec![0, 1, 2], true));
    assert_eq!((net.sent("a", "r"), net.sent("r", "b")), (150, 50));

    // What two hops leave out adds up.
    net.demand("c", "a", 0b011);
    net.run(100);
    frames(&mut net, "a", 200, 50);
    assert_eq!(received(&mut net, "b"), (vec![0], true));
    assert_eq!(received(&mut net, "c"), (vec![0, 1], true));
    assert_eq!((net.sent("a", "r"), net.sent("r", "b")), (250, 100));
    for (from, to) in [("a", "r"), ("r", "b"), ("r", "c")] {
        assert_eq!(net.lost(to, from), 0, "{from} to {to}");
    }

    // A keyframe is asked for on the one flow, whichever layer wants it.
    net.events("a");
    let (track, stream) = (TrackKey(100), 1);
    net.command("c", MeshCommand::KeyframeNeeded { track, stream });
    net.run(100);
    let wanted = net.events("a").into_iter().find_map(|event| match event {
        MeshEvent::KeyframeNeeded { stream, .. } => Some(stream),
        _ => None,
    });
    assert_eq!(wanted, Some(0));
}

#[test]
fn a_peer_that_cannot_be_told_gets_everything() {
    let mut net = svc(&["a", "b", "r"], &["a", "b"]);
    let now = net.now;
    let mesh = net.mesh("a");
    let peer = mesh.peer(&NodeId::from("r"));
    let hello = LinkHello {
        version_min: 1,
        version_max: 1,
        node_id: "r".to_owned(),
        incarnation: 1,
        capabilities: Vec::new(),
    };
    let message = Message::Hello(hello);
    mesh.handle_input(now, Input::Message { peer, message });
    net.demand("b", "a", 0b001);
    net.run(200);
    frames(&mut net, "a", 0, 50);
    assert_eq!(net.sent("a", "r"), 150);
    assert_eq!(received(&mut net, "b"), (vec![0], true));
}
