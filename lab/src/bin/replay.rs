//! Publishers that replay files at next to no CPU, and listeners that judge scripted speech. Events are JSON lines on
//! standard output, `at_ms` in Unix time.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use futures_util::StreamExt;
use futures_util::stream;
use lab::client::{self, Camera, Client, Microphone, Observer, Stack};
use lab::clip::{self, Clip};
use lab::meter::{Meter, Window};
use lab::signal::Version;
use lab::speech::{self, Hearing, Script, Turn, Voice};
use lab::synthetic::monotonic_ns;
use lab::token::{self, ApiKey};
use livekit_protocol::signal_response::Message as Response;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// A client must be connected within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Clients that join at the same time.
const JOINING: usize = 8;
/// The script starts this much after everybody is there, when tracks have reached everybody.
const LEAD: Duration = Duration::from_millis(1500);
/// What is under way when the script ends.
const TAIL: Duration = Duration::from_millis(1000);
/// Events that wait for standard output; more are dropped.
const EVENTS_MAX: usize = 4096;
/// Streams of a track.
const LAYERS_MAX: usize = 3;

/// Replays media files to a mesh.
///
/// Ends after `--seconds`, when the script has ended, when standard input is closed, or on SIGINT and SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "replay")]
struct Cli {
    /// Edge, http(s):// or ws(s)://; repeat to spread the clients of a room over several
    #[arg(long, required = true)]
    url: Vec<String>,
    /// Room; with several, their names end in -0, -1, …
    #[arg(long)]
    room: String,
    /// Rooms
    #[arg(long, default_value_t = 1)]
    rooms: u32,
    /// Publishers per room
    #[arg(long, default_value_t = 1)]
    publishers: u32,
    /// Publishers are called this and a number
    #[arg(long, default_value = "replay-")]
    prefix: String,
    /// IVF file (VP8, VP9, AV1) to publish; repeat for the simulcast layers of VP8
    #[arg(long)]
    video: Vec<PathBuf>,
    /// Temporal layers that the files were encoded with: 1, 2 (0 1) or 3 (0 2 1 2)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    temporal_layers: u8,
    /// Pause layers that nobody watches
    #[arg(long)]
    dynacast: bool,
    /// Opus in Ogg to publish, with its levels beside it (.levels: one byte of −dBov per 20 ms)
    #[arg(long)]
    voice: Option<PathBuf>,
    /// Who speaks when (JSON); without it everybody speaks all the time
    #[arg(long, requires = "voice")]
    script: Option<PathBuf>,
    /// Send next to nothing in the pauses of speech
    #[arg(long)]
    dtx: bool,
    /// Subscribers per room that judge the script
    #[arg(long, default_value_t = 0, requires = "script")]
    listeners: u32,
    /// How long to publish
    #[arg(long)]
    seconds: Option<u64>,
    /// API key that signs the tokens
    #[arg(long, env = "ANTIPODE_API_KEY", default_value = "devkey")]
    api_key: String,
    /// Secret of the API key
    #[arg(
        long,
        env = "ANTIPODE_API_SECRET",
        default_value = "secret",
        hide_env_values = true
    )]
    api_secret: String,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Clip(#[from] clip::Error),
    #[error(transparent)]
    Speech(#[from] speech::Error),
    #[error(transparent)]
    Token(#[from] token::Error),
    #[error("{identity} cannot join: {error}")]
    Join {
        identity: String,
        error: client::Error,
    },
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run(Cli::parse())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when the terminal is gone.
            drop(writeln!(std::io::stderr(), "replay: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Where events go; they are dropped when standard output does not keep up.
#[derive(Debug, Clone)]
struct Events(mpsc::Sender<Value>);

impl Events {
    fn start() -> Self {
        let (sender, mut events) = mpsc::channel::<Value>(EVENTS_MAX);
        tokio::task::spawn_blocking(move || {
            let mut out = std::io::stdout().lock();
            while let Some(event) = events.blocking_recv() {
                if writeln!(out, "{event}").and_then(|()| out.flush()).is_err() {
                    return;
                }
            }
        });
        Self(sender)
    }

    fn tell(&self, event: &str, fields: Value) {
        let mut line = json!({"event": event, "at_ms": unix_ms()});
        if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
            line.extend(fields);
        }
        let _kept = self.0.try_send(line).is_ok();
    }
}

/// Counts what a publisher sends and tells what it is asked for.
#[derive(Debug)]
struct Publisher {
    identity: String,
    events: Events,
    bytes: [AtomicU64; LAYERS_MAX],
    repaired: [AtomicU64; LAYERS_MAX],
}

impl Publisher {
    fn new(identity: String, events: Events) -> Self {
        Self {
            identity,
            events,
            bytes: Default::default(),
            repaired: Default::default(),
        }
    }

    fn figures(&self) -> Value {
        let read = |counters: &[AtomicU64; LAYERS_MAX]| {
            counters
                .each_ref()
                .map(|count| count.load(Ordering::Relaxed))
        };
        json!({"identity": self.identity, "bytes": read(&self.bytes), "repaired": read(&self.repaired)})
    }
}

impl Observer for Publisher {
    fn told(&self, _now_ns: u64, message: &Response) {
        let Response::SubscribedQualityUpdate(update) = message else {
            return;
        };
        let codecs = update.subscribed_codecs.iter().map(|codec| {
            let enabled = codec.qualities.iter().filter(|quality| quality.enabled);
            let enabled = enabled.map(|quality| quality.quality().as_str_name());
            json!({"codec": codec.codec, "enabled": enabled.collect::<Vec<_>>()})
        });
        let codecs: Vec<_> = codecs.collect();
        self.events.tell(
            "qualities",
            json!({"identity": self.identity, "codecs": codecs}),
        );
    }

    fn keyframe_requested(&self, _now_ns: u64, _source: u32, stream: usize) {
        self.events.tell(
            "keyframe_requested",
            json!({"identity": self.identity, "layer": stream}),
        );
    }

    fn sent(&self, _source: u32, stream: usize, bytes: usize, repair: bool) {
        let counters = if repair { &self.repaired } else { &self.bytes };
        if let Some(counter) = counters.get(stream) {
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

/// What is played.
struct Media {
    clip: Option<Arc<Clip>>,
    voice: Option<(Arc<Voice>, Arc<Script>)>,
}

impl Media {
    fn open(cli: &Cli) -> Result<Self, Error> {
        let clip = if cli.video.is_empty() {
            None
        } else {
            Some(Arc::new(Clip::open(&cli.video, cli.temporal_layers)?))
        };
        let script = match &cli.script {
            Some(path) => Script::open(path)?,
            None => Script::new((0..cli.publishers).map(speaks_always).collect()),
        };
        let voice = match &cli.voice {
            Some(path) => Some((Voice::open(path)?, Arc::new(script))),
            None => None,
        };
        Ok(Self { clip, voice })
    }
}

fn speaks_always(talker: u32) -> Turn {
    Turn {
        talker,
        from_ms: 0,
        to_ms: u64::MAX,
    }
}

struct Listener {
    identity: String,
    url: String,
    hearing: Arc<Hearing>,
}

struct Run {
    cli: Cli,
    media: Media,
    key: ApiKey,
    window: Arc<Window>,
    events: Events,
}

async fn run(cli: Cli) -> Result<(), Error> {
    let mut end = End::new()?;
    let run = Run {
        media: Media::open(&cli)?,
        key: ApiKey {
            key: cli.api_key.clone(),
            secret: cli.api_secret.clone(),
        },
        window: Arc::new(Window::closed()),
        events: Events::start(),
        cli,
    };
    let (clients, publishers, listeners) = run.join_all().await?;
    run.events.tell(
        "ready",
        json!({"publishers": publishers.len(), "listeners": listeners.len()}),
    );
    let start = Instant::now() + LEAD;
    let start_ns = monotonic_ns() + u64::try_from(LEAD.as_nanos()).unwrap_or(0);
    let mut length = run.cli.seconds.map(Duration::from_secs);
    if let Some((_, script)) = &run.media.voice {
        script.begin(start);
        let starts_ms = unix_ms() + u64::try_from(LEAD.as_millis()).unwrap_or(0);
        run.events.tell("script", json!({"starts_ms": starts_ms}));
        if run.cli.script.is_some() {
            length = Some(LEAD + script.length() + TAIL);
        }
    }
    let ended = length.map(|length| Instant::now() + length);
    loop {
        let second = Duration::from_secs(1);
        let wait = ended.map_or(second, |at| {
            at.saturating_duration_since(Instant::now()).min(second)
        });
        tokio::select! {
            () = end.come() => break,
            () = tokio::time::sleep(wait) => {}
        }
        let figures: Vec<_> = publishers
            .iter()
            .map(|publisher| publisher.figures())
            .collect();
        run.events.tell("sent", json!({"publishers": figures}));
        if ended.is_some_and(|at| at <= Instant::now()) {
            run.judge(&listeners, start_ns);
            break;
        }
    }
    let closing: Vec<_> = clients.into_iter().map(Client::close).collect();
    futures_util::future::join_all(closing).await;
    Ok(())
}

impl Run {
    async fn join_all(&self) -> Result<(Vec<Client>, Vec<Arc<Publisher>>, Vec<Listener>), Error> {
        let (mut publishers, mut listeners) = (Vec::new(), Vec::new());
        let mut joining = Vec::new();
        for room in 0..self.cli.rooms {
            for number in 0..self.cli.publishers {
                let identity = format!("{}{number}", self.cli.prefix);
                let publisher = Arc::new(Publisher::new(identity.clone(), self.events.clone()));
                let mut options = self.client(room, number, &identity)?;
                options.video = self.media.clip.clone().map(|clip| Camera::Clip {
                    clip,
                    dynacast: self.cli.dynacast,
                });
                options.audio =
                    self.media
                        .voice
                        .clone()
                        .map(|(voice, script)| Microphone::Talker {
                            script,
                            voice,
                            number,
                            dtx: self.cli.dtx,
                        });
                options.observer = Some(Arc::clone(&publisher) as Arc<dyn Observer>);
                publishers.push(publisher);
                joining.push((identity, options));
            }
            for number in 0..self.cli.listeners {
                let identity = format!("listener-{number}");
                let hearing = Arc::new(Hearing::default());
                let mut options = self.client(room, number, &identity)?;
                options.subscribe = true;
                options.observer = Some(Arc::clone(&hearing) as Arc<dyn Observer>);
                listeners.push(Listener {
                    identity: identity.clone(),
                    url: options.url.clone(),
                    hearing,
                });
                joining.push((identity, options));
            }
        }
        let joins = stream::iter(joining).map(|(identity, options)| self.join(identity, options));
        let mut joins = std::pin::pin!(joins.buffer_unordered(JOINING));
        let mut clients = Vec::new();
        while let Some(client) = joins.next().await {
            clients.push(client?);
        }
        Ok((clients, publishers, listeners))
    }

    fn client(&self, room: u32, number: u32, identity: &str) -> Result<client::Options, Error> {
        let room = if self.cli.rooms > 1 {
            format!("{}-{room}", self.cli.room)
        } else {
            self.cli.room.clone()
        };
        let urls = &self.cli.url;
        let at = usize::try_from(number).unwrap_or(0).checked_rem(urls.len());
        Ok(client::Options {
            url: at.and_then(|at| urls.get(at)).cloned().unwrap_or_default(),
            token: self.key.mint(&room, identity)?,
            version: Version::V1,
            stack: Stack::Light,
            subscribe: false,
            video: None,
            audio: None,
            source: number,
            window: Arc::clone(&self.window),
            meter: Arc::new(Meter::new(Arc::clone(&self.window))),
            observer: None,
        })
    }

    async fn join(&self, identity: String, options: client::Options) -> Result<Client, Error> {
        let started = Instant::now();
        let url = options.url.clone();
        let joining = async {
            let mut client = Client::join(options).await?;
            client.connected(CONNECT_TIMEOUT).await?;
            Ok(client)
        };
        let joined = joining.await;
        let client = joined.map_err(|error| Error::Join {
            identity: identity.clone(),
            error,
        })?;
        let took_ms = started.elapsed().as_secs_f64() * 1000.0;
        self.events.tell(
            "joined",
            json!({"identity": identity, "url": url, "took_ms": took_ms}),
        );
        Ok(client)
    }

    fn judge(&self, listeners: &[Listener], start_ns: u64) {
        let Some((_, script)) = &self.media.voice else {
            return;
        };
        for listener in listeners {
            let listened = listener.hearing.judge(script, start_ns, &self.cli.prefix);
            let mut fields = json!({"identity": listener.identity, "url": listener.url});
            if let (Value::Object(fields), Ok(Value::Object(listened))) =
                (&mut fields, serde_json::to_value(listened))
            {
                fields.extend(listened);
            }
            self.events.tell("heard", fields);
        }
    }
}

/// What ends the run from outside.
struct End {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    stdin: oneshot::Receiver<()>,
}

impl End {
    fn new() -> Result<Self, Error> {
        let (closed, stdin) = oneshot::channel();
        // A thread of its own: the runtime would wait for a blocking read at its end.
        std::thread::spawn(move || {
            let _read = std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).is_ok();
            let _waited_for = closed.send(()).is_ok();
        });
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            stdin,
        })
    }

    async fn come(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = &mut self.stdin => {}
        }
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
