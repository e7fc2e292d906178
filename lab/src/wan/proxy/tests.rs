//! Real datagrams on loopback.

use super::*;

fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn pair(forward: Path, backward: Path) -> (UdpSocket, Proxy, UdpSocket) {
    let target = UdpSocket::bind(any()).unwrap();
    target
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let proxy = Proxy::start(any(), target.local_addr().unwrap(), forward, backward).unwrap();
    let client = UdpSocket::bind(any()).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    client.connect(proxy.local_addr()).unwrap();
    (client, proxy, target)
}

#[test]
fn a_round_trip_takes_the_delay_of_both_directions() {
    let (client, proxy, target) = pair(
        Path::with_delay(Duration::from_millis(30)),
        Path::with_delay(Duration::from_millis(50)),
    );
    let mut buffer = [0_u8; 2048];
    let mut round_trips = Vec::new();
    for index in 0..10_u8 {
        let sent = Instant::now();
        client.send(&[index; 1200]).unwrap();
        let (len, from) = target.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[..len], [index; 1200]);
        target.send_to(&buffer[..len], from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 1200);
        round_trips.push(sent.elapsed());
    }
    round_trips.sort_unstable();
    assert!(
        round_trips[0] >= Duration::from_millis(80),
        "{round_trips:?}"
    );
    assert!(
        round_trips[2] < Duration::from_millis(85),
        "{round_trips:?}"
    );
    std::thread::sleep(WAIT_MAX * 2);
    assert_eq!(proxy.stats().forward.delivered, 10);
    assert_eq!(proxy.stats().backward.delivered, 10);
    assert_eq!(proxy.stats().clients, 1);
}

#[test]
fn clients_have_mappings_of_their_own() {
    let (client, proxy, target) = pair(Path::default(), Path::default());
    let other = UdpSocket::bind(any()).unwrap();
    other
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    other.connect(proxy.local_addr()).unwrap();
    let mut buffer = [0_u8; 64];
    client.send(b"one").unwrap();
    let (_, from_client) = target.recv_from(&mut buffer).unwrap();
    other.send(b"two").unwrap();
    let (_, from_other) = target.recv_from(&mut buffer).unwrap();
    assert_ne!(from_client, from_other);
    target.send_to(b"for other", from_other).unwrap();
    assert_eq!(other.recv(&mut buffer).unwrap(), 9);
    target.send_to(b"for client", from_client).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 10);
}

#[test]
fn settings_change_while_it_runs() {
    let (client, proxy, target) = pair(Path::default(), Path::default());
    target
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let mut buffer = [0_u8; 64];
    client.send(b"before").unwrap();
    assert_eq!(target.recv(&mut buffer).unwrap(), 6);
    proxy.set(
        Path {
            loss: 1.0,
            ..Path::default()
        },
        Path::default(),
    );
    std::thread::sleep(Duration::from_millis(50));
    client.send(b"lost").unwrap();
    assert!(target.recv(&mut buffer).is_err());
    proxy.set(Path::default(), Path::default());
    std::thread::sleep(Duration::from_millis(50));
    client.send(b"after").unwrap();
    assert_eq!(target.recv(&mut buffer).unwrap(), 5);
}

#[test]
fn fifty_megabits_pass_without_loss_and_on_time() {
    let (client, _proxy, target) =
        pair(Path::with_delay(Duration::from_millis(20)), Path::default());
    let epoch = Instant::now();
    let sender = std::thread::spawn(move || {
        // 1,250 bytes x 5 per ms = 50 Mbps for 600 ms.
        for tick in 0..600_u32 {
            let at = epoch + Duration::from_millis(u64::from(tick));
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            for _ in 0..5 {
                let mut payload = [0_u8; 1250];
                let sent = u64::try_from(epoch.elapsed().as_nanos()).unwrap();
                payload[..8].copy_from_slice(&sent.to_be_bytes());
                client.send(&payload).unwrap();
            }
        }
    });
    let mut buffer = [0_u8; 2048];
    let mut delays = Vec::new();
    for _ in 0..3000 {
        target.recv(&mut buffer).unwrap();
        let sent = u64::from_be_bytes(buffer[..8].try_into().unwrap());
        delays.push(epoch.elapsed() - Duration::from_nanos(sent));
    }
    sender.join().unwrap();
    delays.sort_unstable();
    assert!(delays[0] >= Duration::from_millis(20));
    // Other tests share the cores: the median tells the emulator's own precision.
    assert!(
        delays[1500] < Duration::from_millis(22),
        "median {:?}",
        delays[1500]
    );
}

#[test]
fn dropping_it_frees_the_port() {
    let (_client, proxy, _target) = pair(Path::default(), Path::default());
    let address = proxy.local_addr();
    drop(proxy);
    UdpSocket::bind(address).unwrap();
}
