//! The shell of a light client: one task with its signalling and its UDP socket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use livekit_protocol as livekit;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message as Response;
use rtc::peer_connection::transport::RTCIceCandidateInit;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::feedback::Feedback;
use super::ice::Credentials;
use super::rtcp::read_feedback;
use super::sdp::{Answer, Offer, Section, Sending, parse_candidate};
use super::send::SendTrack;
use super::source::Source;
use super::transport::{Identity, Received, Transport, arrival, is_repair};
use crate::client::publish::Counting;
use crate::client::published::{add_camera, add_microphone, qualities};
use crate::client::session::{FIRST_SECTIONS, LEAVE_TIMEOUT, local_address, unix_ms};
use crate::client::{Arrival, Camera, Error, Microphone, Observer, Options, State};
use crate::meter::{Meter, Sent};
use crate::signal::{Join, Signal, Version};
use crate::synthetic::monotonic_ns;

/// Datagrams read before the task looks at anything else.
const READ_BATCH: usize = 64;
/// Largest datagram that a path carries.
const DATAGRAM_MAX: usize = 2048;
/// Longest wait with nothing to do.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Kernel receive buffer, bytes: a keyframe of each of twenty tracks.
const SOCKET_BUFFER: usize = 1 << 20;
/// Sections that one client will ever offer; a server that wants more is ignored.
const SECTIONS_MAX: usize = 1000;

/// A track that waits for `track_published`.
struct Announced {
    sending: Sending,
    source: Source,
    /// Of its stamps.
    number: u32,
}

/// A track that is sent.
struct Published {
    sid: String,
    track: SendTrack,
}

pub(in crate::client) struct LightSession {
    signal: Signal,
    identity: Arc<Identity>,
    offer: Offer,
    /// The last offer has no answer yet; a new one has to wait.
    offering: bool,
    offer_again: bool,
    /// The server's side as its answer had it, until a candidate of it is known.
    answer: Option<Answer>,
    local: SocketAddr,
    media: Option<(Arc<UdpSocket>, Transport)>,
    feedback: Feedback,
    announced: Vec<Announced>,
    published: Vec<Published>,
    counting: Counting,
    meter: Arc<Meter>,
    observer: Option<Arc<dyn Observer>>,
    state: watch::Sender<State>,
}

impl LightSession {
    pub(in crate::client) async fn join(
        options: Options,
        sent: Arc<Sent>,
        state: watch::Sender<State>,
    ) -> Result<(Self, String), Error> {
        if options.version != Version::V1 {
            return Err(Error::Unsupported("the light client speaks only /rtc/v1"));
        }
        let identity = Identity::of_process()?;
        let placeholders = [false, true].into_iter().flat_map(|video| {
            std::iter::repeat_n(Section::Receive { video }, FIRST_SECTIONS as usize)
        });
        let offer = Offer {
            credentials: Credentials::random(),
            fingerprint: identity.fingerprint.clone(),
            sections: placeholders.collect(),
            version: 1,
        };
        let (signal, response) = Signal::join(&Join {
            url: options.url.clone(),
            token: options.token.clone(),
            version: options.version,
            auto_subscribe: options.subscribe,
            offer: Some(description(&offer)),
            tracks: Vec::new(),
        })
        .await?;
        let mut session = Self {
            signal,
            identity,
            offer,
            offering: true,
            offer_again: false,
            answer: None,
            local: SocketAddr::new(local_address(&options.url), 0),
            media: None,
            feedback: Feedback::new(Instant::now()),
            announced: Vec::new(),
            published: Vec::new(),
            counting: Counting {
                sent,
                window: options.window,
            },
            meter: options.meter,
            observer: options.observer,
            state,
        };
        if let Some(camera) = &options.video {
            session.announce_camera(options.source, camera).await?;
        }
        if let Some(microphone) = &options.audio {
            session
                .announce_microphone(options.source + 1, microphone)
                .await?;
        }
        let name = response
            .participant
            .as_ref()
            .map(|who| who.identity.clone());
        if let Some(observer) = &session.observer {
            observer.told(monotonic_ns(), &Response::Join(response));
        }
        Ok((session, name.unwrap_or_default()))
    }

    pub(in crate::client) async fn run(mut self, mut stop: mpsc::Receiver<()>) {
        let reason = match self.serve(&mut stop).await {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        if let Some((socket, transport)) = &mut self.media {
            let _closing = transport.close(Instant::now()).is_ok();
            flush(socket, transport);
        }
        // The server may be gone; then there is nobody to say goodbye to.
        let _left = tokio::time::timeout(LEAVE_TIMEOUT, self.signal.leave())
            .await
            .is_ok();
        self.state.send_replace(State::Ended(reason));
    }

    async fn serve(&mut self, stop: &mut mpsc::Receiver<()>) -> Result<(), Error> {
        let mut ping = tokio::time::interval(self.signal.ping_interval());
        let mut buffer = vec![0_u8; DATAGRAM_MAX];
        loop {
            let socket = self.media.as_ref().map(|(socket, _)| Arc::clone(socket));
            let due = tokio::time::Instant::from_std(self.poll_timeout(Instant::now()));
            tokio::select! {
                () = readable(socket.as_deref()) => self.read(&mut buffer)?,
                () = tokio::time::sleep_until(due) => {}
                message = self.signal.next() => self.handle_message(message?).await?,
                _ = ping.tick() => self.signal.ping(unix_ms()).await?,
                _ = stop.recv() => return Ok(()),
            }
            self.handle_timeout(Instant::now())?;
        }
    }

    fn poll_timeout(&self, now: Instant) -> Instant {
        let media = self
            .media
            .as_ref()
            .map(|(_, transport)| transport.poll_timeout());
        let connected = self
            .media
            .as_ref()
            .is_some_and(|(_, media)| media.is_connected());
        let tracks = self
            .published
            .iter()
            .filter(|_| connected)
            .map(|published| published.track.poll_timeout());
        tracks
            .chain(media)
            .chain(self.feedback.poll_timeout())
            .min()
            .map_or(now + WAIT_MAX, |due| due.min(now + WAIT_MAX))
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        let Some((socket, transport)) = &mut self.media else {
            return Ok(());
        };
        transport.handle_timeout(now)?;
        if transport.is_expired(now) {
            return Err(Error::Ended("the server's media port is silent".to_owned()));
        }
        if transport.is_connected() {
            while let Some(packet) = self.feedback.poll(now) {
                transport.send_rtcp(&packet)?;
            }
            for Published { track, .. } in &mut self.published {
                if track.poll_timeout() <= now {
                    track.handle_timeout(now, transport)?;
                }
            }
        }
        flush(socket, transport);
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let Some((socket, transport)) = &mut self.media else {
            return Ok(());
        };
        let was_connected = transport.is_connected();
        for _ in 0..READ_BATCH {
            let len = match socket.try_recv(buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error of an earlier send.
                Err(_) => continue,
            };
            let datagram = buffer.get(..len).unwrap_or_default();
            match transport.handle_datagram(Instant::now(), datagram)? {
                Received::Nothing => {}
                Received::Rtp(packet) => {
                    self.feedback.receive(&packet, Instant::now());
                    // Empty payloads and repairs, which nobody asks for here, are padding of probes.
                    let news =
                        |arrival: &Arrival<'_>| !arrival.payload.is_empty() && !is_repair(&packet);
                    if let Some(arrival) = arrival(&packet).filter(news) {
                        let now_ns = monotonic_ns();
                        self.meter.receive_at(arrival.payload, now_ns);
                        if let Some(observer) = &self.observer {
                            observer.received(now_ns, &arrival);
                        }
                    }
                }
                Received::Rtcp(compound) => {
                    let mut feedback = Vec::new();
                    read_feedback(&compound, &mut feedback);
                    for feedback in &feedback {
                        for Published { track, .. } in &mut self.published {
                            track.handle_feedback(feedback, transport)?;
                        }
                    }
                }
                Received::Closed => return Err(Error::Ended("DTLS was closed".to_owned())),
            }
        }
        if !was_connected && transport.is_connected() {
            if let Some(observer) = &self.observer {
                observer.connected(monotonic_ns());
            }
            self.state.send_replace(State::Connected);
        }
        Ok(())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the protocol grows; a client skips news"
    )]
    async fn handle_message(&mut self, message: Response) -> Result<(), Error> {
        if let Some(observer) = &self.observer {
            observer.told(monotonic_ns(), &message);
        }
        match message {
            Response::Answer(answer) => self.handle_answer(&answer).await,
            Response::Trickle(trickle) => self.handle_trickle(&trickle.candidate_init).await,
            Response::TrackPublished(published) => {
                let sid = published.track.map(|track| track.sid);
                self.publish(&published.cid, sid.unwrap_or_default()).await
            }
            Response::SubscribedQualityUpdate(update) => {
                self.handle_quality(&update);
                Ok(())
            }
            Response::MediaSectionsRequirement(more) => {
                for (video, count) in [(false, more.num_audios), (true, more.num_videos)] {
                    let room = SECTIONS_MAX.saturating_sub(self.offer.sections.len());
                    let count = usize::try_from(count).unwrap_or(usize::MAX).min(room);
                    let sections = std::iter::repeat_n(Section::Receive { video }, count);
                    self.offer.sections.extend(sections);
                }
                self.send_offer().await
            }
            Response::Leave(leave) => Err(Error::Left(leave.reason().as_str_name().to_owned())),
            _ => Ok(()),
        }
    }

    async fn handle_answer(&mut self, answer: &livekit::SessionDescription) -> Result<(), Error> {
        if answer.id != 0 && answer.id != self.offer.version {
            return Ok(());
        }
        self.offering = false;
        if self.media.is_none() && self.answer.is_none() {
            let Some(parsed) = Answer::parse(&answer.sdp) else {
                return Err(Error::Left(
                    "its answer has no ICE or DTLS parameters".to_owned(),
                ));
            };
            let remote = parsed.candidates.first().copied();
            self.answer = Some(parsed);
            if let Some(remote) = remote {
                self.connect(remote).await?;
            }
        }
        if std::mem::take(&mut self.offer_again) {
            self.send_offer().await
        } else {
            Ok(())
        }
    }

    async fn handle_trickle(&mut self, json: &str) -> Result<(), Error> {
        let init = serde_json::from_str::<RTCIceCandidateInit>(json).ok();
        let text = init
            .as_ref()
            .map(|init| init.candidate.trim_start_matches("candidate:"));
        if let Some((_, remote)) = text.and_then(parse_candidate) {
            self.connect(remote).await?;
        }
        Ok(())
    }

    /// Takes the first UDP address of the server that becomes known.
    async fn connect(&mut self, remote: SocketAddr) -> Result<(), Error> {
        if self.media.is_some() {
            return Ok(());
        }
        let Some(answer) = self.answer.take() else {
            return Ok(());
        };
        let socket = UdpSocket::bind(self.local).await?;
        socket2::SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER)?;
        socket.connect(remote).await?;
        let local = (socket.local_addr()?, self.offer.credentials.clone());
        let identity = Arc::clone(&self.identity);
        let transport = Transport::new(Instant::now(), identity, local, (remote, answer))?;
        self.media = Some((Arc::new(socket), transport));
        Ok(())
    }

    async fn announce_camera(&mut self, number: u32, camera: &Camera) -> Result<(), Error> {
        let cid = self.announce(number, Source::camera(camera, Instant::now()));
        let request = add_camera(&cid, camera);
        Ok(self.signal.send(Request::AddTrack(request)).await?)
    }

    async fn announce_microphone(
        &mut self,
        number: u32,
        microphone: &Microphone,
    ) -> Result<(), Error> {
        let number = match microphone {
            Microphone::Synthetic => number,
            Microphone::Talker { number, .. } => *number,
        };
        let cid = self.announce(number, Source::microphone(microphone, Instant::now()));
        let request = add_microphone(&cid, microphone);
        Ok(self.signal.send(Request::AddTrack(request)).await?)
    }

    /// Returns the track's `cid`.
    fn announce(&mut self, number: u32, source: Source) -> String {
        let cid = format!("lab-{number}-{:08x}", rand::random::<u32>());
        let sending = Sending {
            format: source.format(),
            cid: cid.clone(),
            ssrcs: (0..source.streams()).map(|_| rand::random()).collect(),
        };
        self.announced.push(Announced {
            sending,
            source,
            number,
        });
        cid
    }

    /// The server knows the track `cid`: offer it and start to send.
    async fn publish(&mut self, cid: &str, sid: String) -> Result<(), Error> {
        let announced = &mut self.announced;
        let Some(at) = announced.iter().position(|track| track.sending.cid == cid) else {
            return Ok(());
        };
        let Announced {
            sending,
            source,
            number,
        } = announced.remove(at);
        let mid = self.offer.sections.len().to_string();
        let counting = self.counting.clone();
        let track = SendTrack::new(Instant::now(), source, (number, &mid), &sending, counting)
            .observed_by(self.observer.clone());
        self.published.push(Published { sid, track });
        self.offer.sections.push(Section::Send(sending));
        self.send_offer().await
    }

    /// Which layers anybody watches; those that are not named stay as they are.
    fn handle_quality(&mut self, update: &livekit::SubscribedQualityUpdate) {
        let named = |published: &&mut Published| published.sid == update.track_sid;
        let Some(Published { track, .. }) = self.published.iter_mut().find(named) else {
            return;
        };
        // A track of ours has one codec.
        let Some(codec) = update.subscribed_codecs.first() else {
            return;
        };
        for (index, quality) in qualities(track.layers()).iter().enumerate() {
            let said = codec
                .qualities
                .iter()
                .find(|said| said.quality() == *quality);
            if let Some(said) = said {
                track.set_watched(index, said.enabled);
            }
        }
    }

    async fn send_offer(&mut self) -> Result<(), Error> {
        if self.offering {
            self.offer_again = true;
            return Ok(());
        }
        self.offering = true;
        self.offer.version += 1;
        Ok(self
            .signal
            .send(Request::Offer(description(&self.offer)))
            .await?)
    }
}

fn description(offer: &Offer) -> livekit::SessionDescription {
    livekit::SessionDescription {
        r#type: "offer".to_owned(),
        sdp: offer.to_sdp(),
        id: offer.version,
        ..Default::default()
    }
}

/// Waits for the socket; for ever without one.
async fn readable(socket: Option<&UdpSocket>) {
    match socket {
        // An error shows again, and is told apart, when the socket is read.
        Some(socket) => {
            let _ready = socket.readable().await.is_ok();
        }
        None => std::future::pending().await,
    }
}

/// Hands queued datagrams to the kernel; what it does not take is dropped, as a NIC would.
fn flush(socket: &UdpSocket, transport: &mut Transport) {
    while let Some(datagram) = transport.poll_transmit() {
        if socket.try_send(&datagram).is_err() {
            transport.dropped += 1;
        }
    }
}
