//! A real network namespace behind the emulated path. Needs root, as CI has; says so and passes without.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::wan::{Direction, Namespace, Path, Tunnel};

const PACKET: usize = 1000;
/// IPv4 and UDP headers, which the bottleneck counts.
const HEADERS: usize = 28;

/// A tunnel in the upper half of the numbers (scenarios take the lower one), and a socket at each end.
struct Net {
    tunnel: Tunnel,
    near: UdpSocket,
    far: UdpSocket,
    /// Last, so that it is removed after the tunnel.
    namespace: Namespace,
}

#[expect(clippy::print_stdout, reason = "who runs it should know")]
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("left out: network namespaces need root");
    }
    root
}

/// A free network; tests of one run differ whether they share a process or not.
fn number(test: u32) -> u8 {
    let first = std::process::id() * 5 + test;
    let numbers = (0..120).map(|step| u8::try_from(128 + (first + step) % 120).unwrap());
    let is_free =
        |number: &u8| !std::path::Path::new(&format!("/sys/class/net/wan{number}")).exists();
    numbers.into_iter().find(is_free).unwrap()
}

fn open(test: u32, down: Path, up: Path) -> Net {
    let network = number(test);
    let name = format!("antipode-test-{network}");
    let namespace = Namespace::open(&name).unwrap();
    let tunnel = Tunnel::start(&namespace, network, down, up).unwrap();
    let near = UdpSocket::bind((tunnel.here(), 0)).unwrap();
    let far = namespace
        .run(|| UdpSocket::bind((tunnel.there(), 0)))
        .unwrap();
    for socket in [&near, &far] {
        let wait = Duration::from_millis(500);
        socket.set_read_timeout(Some(wait)).unwrap();
        socket2::SockRef::from(socket)
            .set_recv_buffer_size(4 << 20)
            .unwrap();
    }
    Net {
        tunnel,
        near,
        far,
        namespace,
    }
}

/// Numbered packets from here into the namespace.
fn send(net: &Net, count: u32, pause: Duration) {
    let to = net.far.local_addr().unwrap();
    for number in 0..count {
        let mut packet = [0_u8; PACKET];
        packet[..4].copy_from_slice(&number.to_be_bytes());
        net.near.send_to(&packet, to).unwrap();
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

/// Numbers and times of what arrives, until nothing does for half a second.
fn receive(socket: &UdpSocket) -> Vec<(u32, Instant)> {
    let mut got = Vec::new();
    let mut packet = [0_u8; 2 * PACKET];
    while let Ok(len) = socket.recv(&mut packet) {
        assert_eq!(len, PACKET);
        let number = u32::from_be_bytes(packet[..4].try_into().unwrap());
        got.push((number, Instant::now()));
    }
    got
}

fn round_trip(net: &Net) -> io::Result<Duration> {
    let to: SocketAddr = net.far.local_addr()?;
    let mut buffer = [0_u8; 64];
    let sent = Instant::now();
    net.near.send_to(b"ping", to)?;
    let (len, from) = net.far.recv_from(&mut buffer)?;
    net.far.send_to(&buffer[..len], from)?;
    net.near.recv(&mut buffer)?;
    Ok(sent.elapsed())
}

#[test]
fn a_round_trip_takes_both_delays() {
    if !is_root() {
        return;
    }
    let way = |ms| Path::with_delay(Duration::from_millis(ms));
    let net = open(0, way(20), way(35));
    let mut trips: Vec<_> = (0..21).map(|_| round_trip(&net).unwrap()).collect();
    trips.sort_unstable();
    // The median, for another process may have the core for a while.
    let (shortest, median) = (trips[0], trips[10]);
    assert!(shortest >= Duration::from_millis(55), "{shortest:?}");
    assert!(median < Duration::from_millis(57), "{median:?}");
    net.tunnel.set(Direction::Up, way(0));
    let trip = (0..5).map(|_| round_trip(&net).unwrap()).min().unwrap();
    assert!(trip < Duration::from_millis(30), "{trip:?}");
}

#[test]
fn a_burst_leaves_at_the_rate_and_the_queue_drops_its_tail() {
    if !is_root() {
        return;
    }
    let narrow = Path {
        rate_bps: Some(2_000_000),
        queue_ms: 200,
        ..Path::default()
    };
    let net = open(1, narrow, Path::default());
    send(&net, 300, Duration::ZERO);
    let got = receive(&net.far);
    // 200 ms at 2 Mbps are 48.6 packets; what was sent while the burst was going on comes on top.
    assert!((49..=60).contains(&got.len()), "{} packets", got.len());
    let took = got[got.len() - 1].1 - got[0].1;
    let bits = ((got.len() - 1) * (PACKET + HEADERS) * 8) as f64;
    let rate = bits / took.as_secs_f64();
    assert!((1.8e6..2.2e6).contains(&rate), "{rate} bit/s");
    let stats = net.tunnel.take_stats(Direction::Down);
    assert_eq!(stats.pipe.delivered, got.len() as u64);
    assert_eq!(stats.pipe.dropped_queue, 300 - got.len() as u64);
    let wait = stats.queue_max.as_millis();
    assert!((190..=200).contains(&wait), "{wait} ms");
    assert_eq!(
        net.tunnel.take_stats(Direction::Down).queue_max,
        Duration::ZERO
    );
}

#[test]
fn loss_is_the_share_asked_for_and_nothing_is_reordered() {
    if !is_root() {
        return;
    }
    let lossy = Path {
        loss: 0.1,
        ..Path::with_delay(Duration::from_millis(5))
    };
    let net = open(2, lossy, Path::default());
    send(&net, 3000, Duration::from_micros(100));
    let got = receive(&net.far);
    // Ten standard deviations are 164 packets.
    assert!((2536..=2864).contains(&got.len()), "{} packets", got.len());
    assert!(got.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let stats = net.tunnel.take_stats(Direction::Down).pipe;
    assert_eq!(stats.dropped_loss, 3000 - got.len() as u64);
}

#[test]
fn the_namespace_goes_with_its_owner() {
    if !is_root() {
        return;
    }
    let net = open(3, Path::default(), Path::default());
    let at = format!("/run/netns/{}", net.namespace.name());
    assert!(std::path::Path::new(&at).exists());
    drop(net);
    assert!(!std::path::Path::new(&at).exists());
}

#[test]
fn the_program_takes_changes_and_cleans_up() {
    if !is_root() {
        return;
    }
    let network = number(4).to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_wan"))
        .args(["--network", &network, "--down", "delay=3ms"])
        .args(["--report-ms", "50"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines =
        lines.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    assert_eq!(lines.next().unwrap()["ready"], true);
    let mut ask = |text: &str| {
        writeln!(stdin, "{text}").unwrap();
        lines.find(|line| line.get("direction").is_none()).unwrap()
    };
    let set = ask(r#"{"down":{"rate":"600k"},"up":{"loss":"5%"}}"#);
    assert_eq!(set["set"]["down"]["rate_bps"], 600_000);
    assert_eq!(set["set"]["down"]["delay_ms"], 3.0);
    assert_eq!(set["set"]["up"]["loss"], 0.05);
    let refused = ask(r#"{"down":{"rate":"fast"}}"#);
    assert!(refused["error"].as_str().unwrap().contains("rate"));
    let line = lines.next().unwrap();
    assert_eq!(line["direction"], "down");
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert!(!std::path::Path::new(&format!("/run/netns/wan{network}")).exists());
}
