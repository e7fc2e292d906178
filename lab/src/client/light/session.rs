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

use super::ice::Credentials;
use super::rtcp::read_feedback;
use super::sdp::{Answer, Offer, Section, parse_candidate};
use super::send::SendStream;
use super::transport::{Identity, Received, Transport, rtp_payload};
use crate::client::publish::{Counting, add_track_request};
use crate::client::session::{FIRST_SECTIONS, LEAVE_TIMEOUT, local_address, unix_ms};
use crate::client::{Error, Options, State};
use crate::meter::{Meter, Sent};
use crate::signal::{Join, Signal, Version};
use crate::synthetic::VideoConfig;

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
    cid: String,
    ssrc: u32,
    source: u32,
    video: Option<VideoConfig>,
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
    announced: Vec<Announced>,
    streams: Vec<SendStream>,
    counting: Counting,
    meter: Arc<Meter>,
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
            announced: Vec::new(),
            streams: Vec::new(),
            counting: Counting {
                sent,
                window: options.window,
            },
            meter: options.meter,
            state,
        };
        let video = options.video.map(|video| (options.source, Some(video)));
        let audio = options.audio.then_some((options.source + 1, None));
        for (source, video) in video.into_iter().chain(audio) {
            session.announce(source, video).await?;
        }
        let name = response.participant.map(|participant| participant.identity);
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
        let streams = self
            .streams
            .iter()
            .filter(|_| connected)
            .map(SendStream::poll_timeout);
        streams
            .chain(media)
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
            for stream in &mut self.streams {
                if stream.poll_timeout() <= now {
                    stream.handle_timeout(now, transport)?;
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
                    // Empty payloads are padding, which probes send.
                    if let Some(payload @ [_, ..]) = rtp_payload(&packet) {
                        self.meter.receive(payload);
                    }
                }
                Received::Rtcp(compound) => {
                    let mut feedback = Vec::new();
                    read_feedback(&compound, &mut feedback);
                    for feedback in &feedback {
                        for stream in &mut self.streams {
                            stream.handle_feedback(feedback, transport);
                        }
                    }
                }
                Received::Closed => return Err(Error::Ended("DTLS was closed".to_owned())),
            }
        }
        if !was_connected && transport.is_connected() {
            self.state.send_replace(State::Connected);
        }
        Ok(())
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the protocol grows; a client skips news"
    )]
    async fn handle_message(&mut self, message: Response) -> Result<(), Error> {
        match message {
            Response::Answer(answer) => self.handle_answer(&answer).await,
            Response::Trickle(trickle) => self.handle_trickle(&trickle.candidate_init).await,
            Response::TrackPublished(published) => self.publish(&published.cid).await,
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

    async fn announce(&mut self, source: u32, video: Option<VideoConfig>) -> Result<(), Error> {
        let ssrc = rand::random::<u32>();
        let cid = format!("lab-{source}-{ssrc:08x}");
        let request = add_track_request(&cid, video.as_ref());
        self.announced.push(Announced {
            cid,
            ssrc,
            source,
            video,
        });
        Ok(self.signal.send(Request::AddTrack(request)).await?)
    }

    /// The server knows the track `cid`: offer it and start to send.
    async fn publish(&mut self, cid: &str) -> Result<(), Error> {
        let Some(at) = self.announced.iter().position(|track| track.cid == cid) else {
            return Ok(());
        };
        let Announced {
            cid,
            ssrc,
            source,
            video,
        } = self.announced.remove(at);
        self.offer.sections.push(Section::Send {
            video: video.is_some(),
            cid,
            ssrc,
        });
        let counting = self.counting.clone();
        self.streams.push(SendStream::new(
            Instant::now(),
            (source, ssrc),
            video,
            counting,
        ));
        self.send_offer().await
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
