//! The task of one transport: DTLS, the check of the client's certificate, and its data channels.

use super::dtls::{self, Dtls};
use super::plane::Plane;
use super::sctp::{self, Sctp};
use super::shard::ShardCommand;
use super::transport::TransportEvent;
use bytes::Bytes;
use media::router::TransportKey;
use media::srtp::SessionKeys;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// SCTP packets kept while the handshake is done but the client's fingerprint is not known yet.
const HELD_MAX: usize = 32;
/// Sleep when no timer runs.
const IDLE: Duration = Duration::from_secs(3600);
/// Inputs handled before what they caused is sent.
const BATCH: usize = 64;

/// From the shard.
#[derive(Debug)]
pub(super) enum Input {
    /// A datagram with DTLS records.
    Dtls(Bytes),
    /// A path was nominated.
    Nominated,
    /// Nothing was heard for too long.
    Expired,
}

/// From the handle.
#[derive(Debug)]
pub(super) enum Control {
    /// The fingerprints that signalling said.
    SetRemote {
        fingerprints: Vec<String>,
        dtls_server: bool,
    },
    /// A data channel is to be opened.
    Open { label: String, reliable: bool },
    /// A message for a data channel.
    Send { label: String, payload: Bytes },
}

/// State of the task.
pub(super) struct Peer {
    key: TransportKey,
    shard: usize,
    plane: Arc<Plane>,
    events: mpsc::Sender<TransportEvent>,
    dtls: Dtls,
    sctp: Sctp,
    fingerprints: Vec<String>,
    /// The client is the DTLS server: we start, once there is a path.
    dtls_server: bool,
    /// A finished handshake whose certificate nobody has vouched for yet.
    unverified: Option<(SessionKeys, Vec<u8>)>,
    verified: bool,
    held: Vec<Bytes>,
    ice_connected: bool,
}

impl Peer {
    pub(super) fn new(
        key: TransportKey,
        shard: usize,
        plane: Arc<Plane>,
        events: mpsc::Sender<TransportEvent>,
    ) -> Self {
        let dtls = Dtls::new(Arc::clone(&plane.identity));
        Self {
            key,
            shard,
            plane,
            events,
            dtls,
            sctp: Sctp::new(),
            fingerprints: Vec::new(),
            dtls_server: false,
            unverified: None,
            verified: false,
            held: Vec::new(),
            ice_connected: false,
        }
    }

    /// Runs until the handle is dropped.
    pub(super) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        mut controls: mpsc::Receiver<Control>,
    ) {
        loop {
            let wake = self.wake();
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.handle_inputs(input, &mut inputs).await,
                    // The shard has ended: so does everything.
                    None => break,
                },
                control = controls.recv() => match control {
                    Some(control) => self.handle_control(control),
                    None => break,
                },
                () = tokio::time::sleep_until(wake.into()) => self.handle_timeout(),
            }
            self.advance().await;
        }
        self.dtls.close(Instant::now());
        self.flush();
    }

    fn wake(&self) -> Instant {
        let timers = [self.dtls.poll_timeout(), self.sctp.poll_timeout()];
        timers
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| Instant::now() + IDLE)
    }

    async fn handle_inputs(&mut self, first: Input, inputs: &mut mpsc::Receiver<Input>) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(input) = next else { break };
            match input {
                Input::Dtls(datagram) => self.dtls.handle_datagram(Instant::now(), &datagram),
                Input::Nominated if self.ice_connected => {}
                Input::Nominated => {
                    self.ice_connected = true;
                    self.connect();
                    tell(&self.events, TransportEvent::IceConnected).await;
                }
                Input::Expired => {
                    self.ice_connected = false;
                    tell(&self.events, TransportEvent::Disconnected).await;
                }
            }
            next = inputs.try_recv().ok();
        }
    }

    fn handle_control(&mut self, control: Control) {
        let now = Instant::now();
        match control {
            Control::SetRemote {
                fingerprints,
                dtls_server,
            } => {
                self.fingerprints = fingerprints;
                self.dtls_server = dtls_server;
                self.connect();
            }
            Control::Open { label, reliable } => self.sctp.open(now, &label, reliable),
            Control::Send { label, payload } => self.sctp.send(now, &label, payload),
        }
    }

    /// Starts DTLS where that is ours to do.
    fn connect(&mut self) {
        if self.dtls_server && self.ice_connected {
            self.dtls.connect(Instant::now());
        }
    }

    fn handle_timeout(&mut self) {
        let now = Instant::now();
        self.dtls.handle_timeout(now);
        self.sctp.handle_timeout(now);
    }

    /// Passes on what the layers have for each other, for the shard and for the session.
    async fn advance(&mut self) {
        while let Some(event) = self.dtls.poll_event() {
            match event {
                dtls::Event::Connected { keys, certificate } => {
                    self.unverified = Some((keys, certificate));
                }
                dtls::Event::Data(packet) => self.handle_packet(packet.freeze()),
                dtls::Event::Closed => tell(&self.events, TransportEvent::Disconnected).await,
                dtls::Event::Failed(reason) => {
                    tell(&self.events, TransportEvent::Failed { reason }).await
                }
            }
        }
        self.verify().await;
        while let Some(event) = self.sctp.poll_event() {
            let event = match event {
                sctp::Event::Open { label } => TransportEvent::DataChannelOpen { label },
                sctp::Event::Data { label, payload } => TransportEvent::Data { label, payload },
            };
            tell(&self.events, event).await;
        }
        self.plane
            .metrics
            .queue_dropped("data_channel", self.sctp.take_dropped());
        self.flush();
    }

    fn handle_packet(&mut self, packet: Bytes) {
        if self.verified {
            self.sctp.handle_packet(Instant::now(), packet);
        } else if self.held.len() < HELD_MAX {
            self.held.push(packet);
        }
    }

    /// Compares the client's certificate with what signalling said, once both are there (RFC 8827 section 6.5).
    async fn verify(&mut self) {
        if self.fingerprints.is_empty() {
            return;
        }
        let Some((keys, certificate)) = self.unverified.take() else {
            return;
        };
        if !dtls::fingerprint_matches(&certificate, &self.fingerprints) {
            self.held.clear();
            self.dtls.close(Instant::now());
            let reason = "the client's certificate does not have its fingerprint".to_owned();
            tell(&self.events, TransportEvent::Failed { reason }).await;
            return;
        }
        self.verified = true;
        self.plane
            .change(|wiring| wiring.transport_ready(self.key, keys));
        tell(&self.events, TransportEvent::DtlsConnected).await;
        for packet in std::mem::take(&mut self.held) {
            self.sctp.handle_packet(Instant::now(), packet);
        }
    }

    fn flush(&mut self) {
        let now = Instant::now();
        while let Some(packet) = self.sctp.poll_transmit() {
            self.dtls.write(now, &packet);
        }
        while let Some(datagram) = self.dtls.poll_transmit() {
            self.plane
                .send_dtls(self.shard, self.key, datagram.freeze());
        }
    }
}

impl Drop for Peer {
    /// However the task ends, the tables forget the transport.
    fn drop(&mut self) {
        self.plane.change(|wiring| wiring.close_transport(self.key));
        self.plane.command(
            self.shard,
            ShardCommand::Close {
                transport: self.key,
            },
        );
    }
}

async fn tell(events: &mpsc::Sender<TransportEvent>, event: TransportEvent) {
    if events.send(event).await.is_err() {
        tracing::debug!("nobody listens to the transport");
    }
}
