//! The signalling dialogue of one client: who offers what when.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use livekit_protocol as livekit;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message as Response;
use rtc::rtp_transceiver::rtp_sender::RtpCodecKind;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use url::Url;

use super::connection::{Connection, Event};
use super::publish::{Counting, Track};
use super::{Camera, Error, Microphone, Options, State, local_ip};
use crate::meter::Sent;
use crate::signal::{Join, Signal, Version};

/// Sections of each kind that the first offer of a single connection has room for, as SDKs do.
pub(super) const FIRST_SECTIONS: u32 = 3;
/// Events of peer connections under way; a full queue makes their driver wait.
const EVENTS_MAX: usize = 64;
/// How long goodbye may take.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Session {
    signal: Signal,
    events: mpsc::Receiver<Event>,
    publisher: Connection,
    /// Only with `/rtc`; the single connection of `/rtc/v1` is the publisher.
    subscriber: Option<Connection>,
    /// Whose media decides that we are connected.
    primary: livekit::SignalTarget,
    /// Announced, waiting for `track_published`.
    announced: Vec<Track>,
    /// Negotiated, waiting for the connection.
    ready: Vec<Track>,
    sending: Vec<JoinHandle<()>>,
    publisher_up: bool,
    counting: Counting,
    state: watch::Sender<State>,
}

impl Session {
    pub(super) async fn join(
        options: Options,
        sent: Arc<Sent>,
        state: watch::Sender<State>,
    ) -> Result<(Self, String), Error> {
        let (events_tx, events) = mpsc::channel(EVENTS_MAX);
        let local = local_address(&options.url);
        let connection = |target| {
            let meter = Arc::clone(&options.meter);
            Box::pin(Connection::new(target, local, meter, events_tx.clone()))
        };
        let mut publisher = connection(livekit::SignalTarget::Publisher).await?;
        publisher.create_data_channels().await?;
        let single = options.version == Version::V1;
        let mut offer = None;
        let mut subscriber = None;
        if single {
            publisher
                .add_receivers(RtpCodecKind::Audio, FIRST_SECTIONS)
                .await?;
            publisher
                .add_receivers(RtpCodecKind::Video, FIRST_SECTIONS)
                .await?;
            offer = publisher.offer().await?;
        } else {
            subscriber = Some(connection(livekit::SignalTarget::Subscriber).await?);
        }
        let (signal, response) = Signal::join(&Join {
            url: options.url.clone(),
            token: options.token.clone(),
            version: options.version,
            auto_subscribe: options.subscribe,
            offer,
            tracks: Vec::new(),
        })
        .await?;
        let primary = if single || !response.subscriber_primary {
            livekit::SignalTarget::Publisher
        } else {
            livekit::SignalTarget::Subscriber
        };
        let tracks = tracks(&options)?;
        let mut session = Self {
            signal,
            events,
            publisher,
            subscriber,
            primary,
            announced: tracks,
            ready: Vec::new(),
            sending: Vec::new(),
            publisher_up: false,
            counting: Counting {
                sent,
                window: options.window,
            },
            state,
        };
        for track in &session.announced {
            session
                .signal
                .send(Request::AddTrack(track.request()))
                .await?;
        }
        let identity = response.participant.map(|participant| participant.identity);
        Ok((session, identity.unwrap_or_default()))
    }

    /// Runs until it is stopped or fails; the state says which.
    pub(super) async fn run(mut self, mut stop: mpsc::Receiver<()>) {
        let mut ping = tokio::time::interval(self.signal.ping_interval());
        let ended = loop {
            let step = tokio::select! {
                _ = stop.recv() => break Ok(()),
                message = self.signal.next() => match message {
                    Ok(message) => self.handle_message(message).await,
                    Err(error) => Err(error.into()),
                },
                Some(event) = self.events.recv() => self.handle_event(event).await,
                _ = ping.tick() => self.signal.ping(unix_ms()).await.map_err(Error::from),
            };
            if let Err(error) = step {
                break Err(error);
            }
        };
        for task in self.sending.drain(..) {
            task.abort();
        }
        let reason = match ended {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        self.close().await;
        self.state.send_replace(State::Ended(reason));
    }

    async fn close(&mut self) {
        // The server may be gone; then there is nobody to say goodbye to.
        let _left = tokio::time::timeout(LEAVE_TIMEOUT, self.signal.leave())
            .await
            .is_ok();
        for connection in std::iter::once(&self.publisher).chain(&self.subscriber) {
            if let Err(error) = connection.pc.close().await {
                tracing::debug!(%error, "closing a peer connection");
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the protocol grows; a client skips news"
    )]
    async fn handle_message(&mut self, message: Response) -> Result<(), Error> {
        match message {
            Response::Answer(answer) => {
                if let Some(offer) = self.publisher.answered(answer).await? {
                    self.signal.send(Request::Offer(offer)).await?;
                }
            }
            Response::Offer(offer) => {
                if let Some(subscriber) = &mut self.subscriber {
                    let answer = subscriber.answer(offer).await?;
                    self.signal.send(Request::Answer(answer)).await?;
                }
            }
            Response::Trickle(trickle) => self.handle_trickle(trickle).await?,
            Response::TrackPublished(published) => self.publish(&published.cid).await?,
            Response::MediaSectionsRequirement(more) => {
                self.publisher
                    .add_receivers(RtpCodecKind::Audio, more.num_audios)
                    .await?;
                self.publisher
                    .add_receivers(RtpCodecKind::Video, more.num_videos)
                    .await?;
                self.offer().await?;
            }
            Response::Leave(leave) => {
                return Err(Error::Left(leave.reason().as_str_name().to_owned()));
            }
            _ => {}
        }
        Ok(())
    }

    async fn handle_trickle(&mut self, trickle: livekit::TrickleRequest) -> Result<(), Error> {
        if trickle.candidate_init.is_empty() {
            return Ok(());
        }
        let connection = match (trickle.target(), &mut self.subscriber) {
            (livekit::SignalTarget::Subscriber, Some(subscriber)) => subscriber,
            _ => &mut self.publisher,
        };
        Ok(connection.add_candidate(&trickle.candidate_init).await?)
    }

    async fn handle_event(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Candidate(target, candidate_init) => {
                let trickle = livekit::TrickleRequest {
                    candidate_init,
                    target: target.into(),
                    r#final: false,
                };
                self.signal.send(Request::Trickle(trickle)).await?;
            }
            Event::Connected(target) => {
                if target == self.primary {
                    self.state.send_replace(State::Connected);
                }
                self.publisher_up |= target == livekit::SignalTarget::Publisher;
                self.start_ready();
            }
            Event::Failed(target) => {
                return Err(Error::Left(format!("{} failed", target.as_str_name())));
            }
        }
        Ok(())
    }

    /// The server knows the track `cid`: offer it and start to send.
    async fn publish(&mut self, cid: &str) -> Result<(), Error> {
        let Some(at) = self.announced.iter().position(|track| track.cid == cid) else {
            return Ok(());
        };
        let track = self.announced.remove(at);
        track.add_to(&self.publisher).await?;
        self.ready.push(track);
        self.offer().await?;
        self.start_ready();
        Ok(())
    }

    /// Sends what can be sent: the stack drops packets, noisily, before it has keys.
    fn start_ready(&mut self) {
        if !self.publisher_up {
            return;
        }
        for track in self.ready.drain(..) {
            let wanted = Arc::clone(&self.publisher.keyframe_wanted);
            self.sending
                .push(track.start(wanted, self.counting.clone()));
        }
    }

    async fn offer(&mut self) -> Result<(), Error> {
        if let Some(offer) = self.publisher.offer().await? {
            self.signal.send(Request::Offer(offer)).await?;
        }
        Ok(())
    }
}

/// The tracks that are asked for.
fn tracks(options: &Options) -> Result<Vec<Track>, Error> {
    let unsupported = Error::Unsupported("only light clients publish clips and talkers");
    let mut tracks = Vec::new();
    match &options.video {
        Some(Camera::Clip { .. }) => return Err(unsupported),
        Some(Camera::Synthetic(video)) => tracks.push(Track::new(options.source, Some(*video))),
        None => {}
    }
    match &options.audio {
        Some(Microphone::Talker { .. }) => return Err(unsupported),
        Some(Microphone::Synthetic) => tracks.push(Track::new(options.source + 1, None)),
        None => {}
    }
    Ok(tracks)
}

pub(super) fn local_address(url: &str) -> std::net::IpAddr {
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or("127.0.0.1");
    let port = url
        .as_ref()
        .and_then(Url::port_or_known_default)
        .unwrap_or(80);
    local_ip(host.trim_matches(['[', ']']), port)
}

/// Milliseconds since 1970, as pings carry them.
pub(super) fn unix_ms() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
