//! Real workers over loopback: real QUIC, real certificates, several threads.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "tests pick the events they mean"
)]

mod node;
mod path;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use media::packet::{Codec, Pool};
use media::router::TrackKey;
use prometheus::Registry;
use proto::link::Data;
use proto::{NodeId, RegionId};
use relay::worker::{self, spawn};
use relay::{MeshCommand, MeshEvent, Role};
use runtime::tls::Authority;
use tokio_util::sync::CancellationToken;

use node::{
    HOUR, MESH, News, Node, PATIENCE, Sink, credentials, demand, introduce, packet, plan, publish,
    state,
};
use path::Path;

#[test]
fn wanted_media_crosses_a_link_both_ways_and_nothing_else() {
    let authority = Authority::generate(MESH, HOUR).unwrap();
    let a = Node::start(&authority, "edge-a", &[]);
    let b = Node::start(&authority, "edge-b", &[]);
    introduce(&[&a, &b]);
    plan(&[&a, &b], &["edge-a", "edge-b"], "");
    for (node, other, key) in [(&a, &b, 1), (&b, &a, 2)] {
        let sid = format!("TR_{key}");
        publish(node, &sid, key, false);
        demand(other, &sid, node.name, 100 + key, 0b100);
        node.wait_demand(0b100);
    }
    let mut pool = Pool::new(64);
    let mut senders = [
        (a.handle.media(), TrackKey(1)),
        (b.handle.media(), TrackKey(2)),
    ];
    // 1,200-byte payloads, 2 × 10 Mbps, in bursts of ten.
    for burst in 0..100 {
        for (sender, track) in &mut senders {
            for index in 0..10 {
                sender.push(
                    *track,
                    2,
                    packet(&mut pool, Codec::Vp8, burst * 10 + index, 1200),
                );
                // Not wanted by anybody: must not cross.
                sender.push(
                    *track,
                    0,
                    packet(&mut pool, Codec::Vp8, burst * 10 + index, 300),
                );
            }
            sender.flush();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for (node, key) in [(&b, 101), (&a, 102)] {
        let mut seqs = Vec::new();
        while seqs.len() < 1000
            && let Ok(news) = node.news.recv_timeout(Duration::from_secs(2))
        {
            let News::Media(track, stream, received, _) = news else {
                continue;
            };
            assert_eq!(
                (track, stream, received.codec),
                (TrackKey(key), 2, Codec::Vp8)
            );
            let expected = packet(&mut pool, Codec::Vp8, received.seq, 1200);
            assert_eq!(received.payload(), expected.payload());
            seqs.push(received.seq);
        }
        seqs.sort_unstable();
        assert_eq!(seqs, (0..1000).collect::<Vec<u16>>(), "at {}", node.name);
    }

    one_copy(&a);
}

/// Stats and metrics of the sender say that every packet crossed once.
fn one_copy(a: &Node) {
    std::thread::sleep(Duration::from_millis(600));
    let stats = a.handle.stats();
    let link = stats.first().unwrap();
    assert!(link.up && link.rtt > Duration::ZERO, "{link:?}");
    assert!(link.rtt < Duration::from_millis(20), "{link:?}");
    assert_eq!((link.packets_received, link.flows_out), (1000, 1));
    // A busy machine may make a repair or two.
    assert!((1000..1010).contains(&link.packets_sent), "{link:?}");
    let peer = ("peer", "edge-b");
    let flows = a.metric("antipode_link_flows", &[peer, ("direction", "out")]);
    let sent = a.metric("antipode_link_packets_sent_total", &[peer]);
    let up = a.metric("antipode_link_up", &[peer]);
    assert!(
        flows > 0.9 && flows < 1.1 && sent > 999.0 && up > 0.9,
        "{flows} {sent} {up}"
    );
}

#[test]
fn room_state_and_data_cross_a_link_both_ways() {
    let authority = Authority::generate(MESH, HOUR).unwrap();
    let a = Node::start(&authority, "edge-a", &[]);
    let b = Node::start(&authority, "edge-b", &[]);
    introduce(&[&a, &b]);
    plan(&[&a, &b], &["edge-a", "edge-b"], "");
    for (node, other) in [(&a, &b), (&b, &a)] {
        // Larger than any packet.
        node.handle.command(state(1, 100_000));
        let (received, _) = other.wait("room state", |event| match event {
            MeshEvent::RoomState(state) => Some(state.clone()),
            _ => None,
        });
        assert_eq!(
            (received.origin.as_str(), received.participants[0].len()),
            (node.name, 100_000)
        );
        for index in 0..200_u32 {
            node.handle.command(MeshCommand::Data(Data {
                room: "room".to_owned(),
                reliable: true,
                payload: index.to_be_bytes().repeat(500),
                participant_sid: "PA_1".to_owned(),
                ..Data::default()
            }));
        }
        for index in 0..200_u32 {
            let (payload, _) = other.wait("data", |event| match event {
                MeshEvent::Data(data) => Some(data.payload.clone()),
                _ => None,
            });
            assert_eq!(payload, index.to_be_bytes().repeat(500), "order is kept");
        }
        let lossy = Data {
            room: "room".to_owned(),
            payload: vec![9; 800],
            ..Data::default()
        };
        node.handle.command(MeshCommand::Data(lossy));
        other.wait("lossy data", |event| match event {
            MeshEvent::Data(data) => (data.payload.len() == 800).then_some(()),
            _ => None,
        });
    }
}

#[test]
fn a_process_that_comes_back_is_taken_in_again() {
    let authority = Authority::generate(MESH, HOUR).unwrap();
    let a = Node::start(&authority, "edge-a", &[]);
    let b = Node::start(&authority, "edge-b", &[]);
    introduce(&[&a, &b]);
    // A process that ends says so; one that comes back is taken in again.
    drop(b);
    a.wait("link down", |event| {
        matches!(event, MeshEvent::LinkDown { .. }).then_some(())
    });
    let b = Node::start(&authority, "edge-b", &[]);
    a.handle.command(MeshCommand::SetPeers(vec![b.info()]));
    b.handle.command(MeshCommand::SetPeers(vec![a.info()]));
    b.wait_up("edge-a");
    a.wait_up("edge-b");
}

#[test]
fn a_killed_relay_is_noticed_and_bypassed() {
    let authority = Authority::generate(MESH, HOUR).unwrap();
    let r = Node::start(&authority, "relay-r", &[]);
    let paths = [
        Path::to(r.handle.local_addr()),
        Path::to(r.handle.local_addr()),
    ];
    let a = Node::start(&authority, "edge-a", &[("relay-r", paths[0].address)]);
    let b = Node::start(&authority, "edge-b", &[("relay-r", paths[1].address)]);
    introduce(&[&a, &b, &r]);
    plan(&[&a, &b, &r], &["edge-a", "edge-b"], "relay-r");
    publish(&a, "TR_a", 1, true);
    demand(&b, "TR_a", "edge-a", 101, 1);
    a.wait_demand(1);

    let ended = Arc::new(AtomicBool::new(false));
    let mut sender = a.handle.media();
    let stop = Arc::clone(&ended);
    let publisher = std::thread::spawn(move || {
        let mut pool = Pool::new(64);
        let mut seq = 0;
        while !stop.load(Ordering::Relaxed) {
            sender.push(TrackKey(1), 0, packet(&mut pool, Codec::Opus, seq, 80));
            sender.flush();
            seq = seq.wrapping_add(1);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    std::thread::sleep(Duration::from_secs(1));
    assert!(r.metric("antipode_link_packets_sent_total", &[("peer", "edge-b")]) > 20.0);
    assert!(a.metric("antipode_link_packets_sent_total", &[("peer", "edge-b")]) < 0.5);

    let killed = Instant::now();
    for path in &paths {
        path.cut.store(true, Ordering::Relaxed);
    }
    let down = |event: &MeshEvent| {
        matches!(event, MeshEvent::LinkDown { peer } if peer.as_str() == "relay-r").then_some(())
    };
    let (mut noticed, mut last, mut resumed) = (None, killed, None);
    while resumed.is_none() && killed.elapsed() < PATIENCE {
        match b.news.recv_timeout(PATIENCE) {
            Ok(News::Event(event, at)) => noticed = noticed.or_else(|| down(&event).map(|()| at)),
            Ok(News::Media(.., at)) if noticed.is_none() => last = at,
            Ok(News::Media(.., at)) => resumed = Some(at),
            Err(_) => break,
        }
    }
    ended.store(true, Ordering::Relaxed);
    publisher.join().unwrap();
    let (_, noticed_a) = a.wait("link down", down);
    let (noticed, resumed) = (noticed.unwrap(), resumed.unwrap());
    let gap = resumed - last;
    println!(
        "noticed after {:?} and {:?}, media again after {:?}, gap {gap:?}",
        noticed_a - killed,
        noticed - killed,
        resumed - killed,
    );
    let limit = Duration::from_millis(360);
    assert!(noticed - killed <= limit && noticed_a - killed <= limit);
    assert!(resumed - killed <= Duration::from_millis(600));

    for path in &paths {
        path.cut.store(false, Ordering::Relaxed);
    }
    a.wait_up("relay-r");
    b.wait_up("relay-r");
}

#[test]
fn random_loss_slows_nothing_and_is_repaired() {
    let authority = Authority::generate(MESH, HOUR).unwrap();
    let b = Node::start(&authority, "edge-b", &[]);
    let path = Path::to(b.handle.local_addr());
    let a = Node::start(&authority, "edge-a", &[("edge-b", path.address)]);
    introduce(&[&a, &b]);
    plan(&[&a, &b], &["edge-a", "edge-b"], "");
    publish(&a, "TR_a", 1, false);
    demand(&b, "TR_a", "edge-a", 101, 1);
    a.wait_demand(1);
    path.loss.store(5, Ordering::Relaxed);
    // About 10 Mbps for five seconds.
    let (mut pool, mut sender) = (Pool::new(64), a.handle.media());
    for burst in 0..500 {
        for index in 0..10 {
            sender.push(
                TrackKey(1),
                0,
                packet(&mut pool, Codec::Vp8, burst * 10 + index, 1200),
            );
        }
        sender.flush();
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut received = 0;
    while let Ok(news) = b.news.recv_timeout(Duration::from_secs(1)) {
        received += u32::from(matches!(news, News::Media(..)));
    }
    let stats = b.handle.stats();
    let link = stats.first().unwrap();
    println!(
        "{received} of 5000 arrived, {} lost, {} repaired",
        link.packets_lost, link.packets_repaired
    );
    assert!(link.up && link.packets_lost > 150);
    assert_eq!(received, 5000);
}

#[test]
fn strangers_are_refused() {
    let authority = Authority::generate(MESH, HOUR).unwrap();
    let a = Node::start(&authority, "edge-a", &[]);
    // Another authority; a region other than the peer list says.
    let foreign = Node::start(&Authority::generate(MESH, HOUR).unwrap(), "edge-b", &[]);
    let moved = Node::start_in(&authority, "edge-c", &[], "syd");
    a.handle
        .command(MeshCommand::SetPeers(vec![foreign.info(), moved.info()]));
    foreign
        .handle
        .command(MeshCommand::SetPeers(vec![a.info()]));
    moved.handle.command(MeshCommand::SetPeers(vec![a.info()]));
    std::thread::sleep(Duration::from_secs(1));
    let up = |node: &Node| node.handle.stats().iter().any(|link| link.up);
    assert!(!up(&a) && !up(&foreign));

    // A certificate of another node is refused at the start.
    let config = worker::Config {
        node: NodeId::from("edge-x"),
        role: Role::Edge,
        region: RegionId::from("fra"),
        mesh: MESH.to_owned(),
        incarnation: 1,
        listen: "127.0.0.1:0".parse().unwrap(),
        via: BTreeMap::new(),
        rate_bps_max: worker::DEFAULT_RATE_BPS,
        audio_streams: worker::DEFAULT_AUDIO_STREAMS,
        credentials: credentials(&authority, "edge-y", "fra"),
    };
    let (sink, _news) = mpsc::channel();
    let refused = spawn(
        config,
        Box::new(Sink(sink)),
        &Registry::new(),
        CancellationToken::new(),
    );
    assert!(matches!(refused, Err(worker::Error::Identity { .. })));
}
