//! `wan`: a network namespace behind a path with delay, loss and a bottleneck.

use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Parser;
use lab::wan::{Change, Direction, Namespace, Path, Tunnel, TunnelStats};
use nix::sys::signal::{SigSet, Signal};
use serde::Deserialize;
use serde_json::json;

/// Puts a network namespace behind a bad network.
///
/// Makes the namespace (or uses one that is there) and a link between it and this host: 10.77.N.1 here, 10.77.N.2 and the
/// default route inside. Every IP packet (IPv4, MTU 1500) passes one emulated path per direction: `down` into the
/// namespace, `up` out of it. Run clients inside with `ip netns exec NAME …`; servers on this host must listen on
/// 10.77.N.1 or 0.0.0.0. Nothing is forwarded further, ip_forward and netem are not needed. Needs root and iproute2.
///
/// A path starts perfect. SETTINGS are NAME=VALUE, comma separated: rate=600k (bit/s of IP packets, `none`),
/// queue=300ms (depth of the bottleneck's drop-tail queue), delay=20ms, jitter=5ms, loss=5%, reorder=1%,
/// burst=ENTER/LEAVE/LOSS (Gilbert–Elliott, shares), seed=7.
///
/// Standard output has JSON lines: `{"ready":true,…}`, then per direction and interval `{"direction":"down",
/// "rate_bps":…,"packets":…,"queue_ms":…,"queue_ms_max":…,"lost":…,"dropped":…,…}`: what was delivered, how long packets
/// waited for the bottleneck, what was lost at random (or in bursts) and dropped by the full queue in the interval.
///
/// Standard input takes changes as JSON lines, each answered by `{"set":…}` or `{"error":…}`:
/// `{"down":{"rate":"600k","loss":0.05,"delay":"20ms","queue":"300ms"},"up":{"rate":"none"}}`; what is not named stays.
/// The end of standard input, SIGTERM or SIGINT ends it and removes what it made.
#[derive(Debug, Parser)]
#[command(name = "wan", version)]
struct Cli {
    /// N of 10.77.N.0/30, unique on this host
    #[arg(long, default_value_t = 1)]
    network: u8,
    /// Name of the namespace [default: wanN]
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Path into the namespace
    #[arg(long, value_name = "SETTINGS", default_value = "", value_parser = settings)]
    down: Change,
    /// Path out of the namespace
    #[arg(long, value_name = "SETTINGS", default_value = "", value_parser = settings)]
    up: Change,
    /// Time between statistics, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    report_ms: u64,
}

fn settings(text: &str) -> Result<Change, String> {
    let change = Change::from_pairs(text).map_err(|error| error.to_string())?;
    // Values are read when they are applied; a bad one is to be told here.
    let applied = change.apply(&Path::default());
    applied.map(|_| change).map_err(|error| error.to_string())
}

/// A line of standard input.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    #[serde(default)]
    down: Change,
    #[serde(default)]
    up: Change,
}

/// What happens outside the tunnel.
enum Event {
    Line(String),
    End,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let cli = Cli::parse();
    // Before any thread, so that all of them leave the signals to the one that waits for them.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block()?;
    let (events, incoming) = channel();
    let of_signals = events.clone();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            // Nobody listens any more when it is ending already.
            drop(of_signals.send(Event::End));
        }
    });
    std::thread::spawn(move || read(&events));
    let name = cli.namespace.clone();
    let name = name.unwrap_or_else(|| format!("wan{}", cli.network));
    let namespace = Namespace::open(&name).with_context(|| format!("namespace {name}"))?;
    let path = |change: &Change, seed| {
        let path = Path {
            seed,
            ..Path::default()
        };
        change.apply(&path)
    };
    let tunnel = Tunnel::start(
        &namespace,
        cli.network,
        path(&cli.down, 1)?,
        path(&cli.up, 2)?,
    );
    let tunnel = tunnel.with_context(|| format!("tunnel 10.77.{}.0/30", cli.network))?;
    print(&json!({
        "ready": true,
        "namespace": namespace.name(),
        "here": tunnel.here(),
        "there": tunnel.there(),
        "pid": std::process::id(),
    }))?;
    serve(&tunnel, &incoming, Duration::from_millis(cli.report_ms))
}

fn read(events: &Sender<Event>) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if events.send(Event::Line(line)).is_err() {
            return;
        }
    }
    drop(events.send(Event::End));
}

/// Takes changes and prints statistics until the end.
fn serve(tunnel: &Tunnel, incoming: &Receiver<Event>, every: Duration) -> anyhow::Result<()> {
    let mut meters = [Direction::Down, Direction::Up].map(Meter::new);
    let mut due = Instant::now() + every;
    loop {
        match incoming.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(Event::Line(line)) => print(&change(tunnel, &line))?,
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                due += every;
                for meter in &mut meters {
                    print(&meter.take(tunnel))?;
                }
            }
        }
    }
}

fn change(tunnel: &Tunnel, line: &str) -> serde_json::Value {
    let apply = || -> anyhow::Result<()> {
        let command: Command = serde_json::from_str(line)?;
        let down = command.down.apply(&tunnel.path(Direction::Down))?;
        let up = command.up.apply(&tunnel.path(Direction::Up))?;
        tunnel.set(Direction::Down, down);
        tunnel.set(Direction::Up, up);
        Ok(())
    };
    match apply() {
        Ok(()) => json!({"set": {
            "down": describe(&tunnel.path(Direction::Down)),
            "up": describe(&tunnel.path(Direction::Up)),
        }, "at_ms": unix_ms()}),
        Err(error) => json!({"error": format!("{error:#}")}),
    }
}

fn describe(path: &Path) -> serde_json::Value {
    json!({
        "rate_bps": path.rate_bps,
        "queue_ms": path.queue_ms,
        "delay_ms": path.delay.as_secs_f64() * 1e3,
        "jitter_ms": path.jitter.as_secs_f64() * 1e3,
        "loss": path.loss,
        "reorder": path.reorder,
        "bursts": path.burst_loss.is_some(),
    })
}

/// Statistics of one direction, from one interval to the next.
struct Meter {
    direction: Direction,
    since: Instant,
    last: TunnelStats,
}

impl Meter {
    fn new(direction: Direction) -> Self {
        Self {
            direction,
            since: Instant::now(),
            last: TunnelStats::default(),
        }
    }

    fn take(&mut self, tunnel: &Tunnel) -> serde_json::Value {
        let stats = tunnel.take_stats(self.direction);
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        let last = std::mem::replace(&mut self.last, stats);
        let (now, then) = (stats.pipe, last.pipe);
        let bits = (now.delivered_bytes - then.delivered_bytes).saturating_mul(8);
        let random = |pipe: lab::wan::PipeStats| pipe.dropped_loss + pipe.dropped_burst;
        let full = |pipe: lab::wan::PipeStats| pipe.dropped_queue + pipe.dropped_in_flight;
        #[expect(clippy::cast_precision_loss, reason = "bits of a second, for people")]
        let rate_bps = (bits as f64 / seconds).round();
        json!({
            "direction": match self.direction {
                Direction::Down => "down",
                Direction::Up => "up",
            },
            "at_ms": unix_ms(),
            "rate_bps": rate_bps,
            "packets": now.delivered - then.delivered,
            "queue_ms": milliseconds(stats.queue),
            "queue_ms_max": milliseconds(stats.queue_max),
            "lost": random(now) - random(then),
            "dropped": full(now) - full(then),
            "send_errors": stats.send_errors - last.send_errors,
        })
    }
}

/// With one decimal.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn print(line: &serde_json::Value) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()?;
    Ok(())
}
