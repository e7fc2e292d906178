//! A LiveKit client that publishes [`crate::synthetic`] media, subscribes to all and counts in a
//! [`Meter`]. Neither of its two stacks shares code with the mesh, so that a call between two of
//! them proves something: [`Stack::WebRtc`] is the complete `webrtc` crate on either signalling
//! path, [`Stack::Light`] is what hundreds of clients in one process can afford.

mod connection;
mod light;
mod observer;
mod publish;
mod published;
mod session;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::meter::{Meter, Sent, Window};
use crate::signal::{self, Version};
use light::LightSession;
use session::Session;

pub use observer::{Arrival, Observer};
pub use published::{Camera, Microphone};

/// What a client's media runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Stack {
    /// The `webrtc` crate, with everything that a browser's client has.
    #[value(name = "webrtc")]
    WebRtc,
    /// ICE, DTLS and SRTP only, `/rtc/v1` only.
    #[default]
    Light,
}

/// What a client is asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Server, `http(s)://` or `ws(s)://`.
    pub url: String,
    /// Access token.
    pub token: String,
    /// Signalling path.
    pub version: Version,
    /// What its media runs on.
    pub stack: Stack,
    /// Subscribe to every track in the room.
    pub subscribe: bool,
    /// Publish a camera.
    pub video: Option<Camera>,
    /// Publish a microphone.
    pub audio: Option<Microphone>,
    /// Stamp source of the camera; a synthetic microphone's is one more.
    pub source: u32,
    /// Which of the sent packets count.
    pub window: Arc<Window>,
    /// Counts what is received.
    pub meter: Arc<Meter>,
    /// Is told what happens (light clients only).
    pub observer: Option<Arc<dyn Observer>>,
}

/// How far a client has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Signalling is up, media is not.
    Connecting,
    /// ICE and DTLS of the primary connection are up.
    Connected,
    /// It has ended; the reason is empty when it was asked to leave.
    Ended(String),
}

/// What goes wrong with a client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Signalling failed.
    #[error(transparent)]
    Signal(#[from] signal::Error),
    /// The WebRTC stack refused something.
    #[error("WebRTC: {0}")]
    WebRtc(#[from] webrtc::error::Error),
    /// The server told us to leave.
    #[error("the server ended the session: {0}")]
    Left(String),
    /// Media did not come up.
    #[error("not connected after {0:?}")]
    TimedOut(Duration),
    /// It ended while it was waited for.
    #[error("the session ended: {0}")]
    Ended(String),
    /// The stack cannot do that.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A socket could not be made.
    #[error("socket: {0}")]
    Io(#[from] std::io::Error),
}

/// A client in a room. Dropping it leaves abruptly; [`Client::close`] says goodbye.
#[derive(Debug)]
pub struct Client {
    state: watch::Receiver<State>,
    stop: mpsc::Sender<()>,
    task: JoinHandle<()>,
    sent: Arc<Sent>,
    meter: Arc<Meter>,
    joined_after: Duration,
    identity: String,
}

impl Client {
    /// Joins; media comes up in the background (see [`Client::connected`]).
    ///
    /// # Errors
    /// When the server refuses or the WebRTC stack cannot start.
    pub async fn join(options: Options) -> Result<Self, Error> {
        let started = Instant::now();
        let sent = Arc::new(Sent::default());
        let meter = Arc::clone(&options.meter);
        let (state_tx, state) = watch::channel(State::Connecting);
        let (stop, stopped) = mpsc::channel(1);
        let counted = Arc::clone(&sent);
        // Joining builds the whole stack: too much to keep on the stack of every caller.
        let (task, identity, joined_after) = match options.stack {
            Stack::WebRtc => {
                let (session, identity) =
                    Box::pin(Session::join(options, counted, state_tx)).await?;
                let joined_after = started.elapsed();
                (tokio::spawn(session.run(stopped)), identity, joined_after)
            }
            Stack::Light => {
                let (session, identity) =
                    Box::pin(LightSession::join(options, counted, state_tx)).await?;
                let joined_after = started.elapsed();
                (tokio::spawn(session.run(stopped)), identity, joined_after)
            }
        };
        Ok(Self {
            state,
            stop,
            task,
            sent,
            meter,
            joined_after,
            identity,
        })
    }

    /// Waits until media is connected.
    ///
    /// # Errors
    /// When the session ends first or `timeout` passes.
    pub async fn connected(&mut self, timeout: Duration) -> Result<(), Error> {
        let wait = self.state.wait_for(|state| *state != State::Connecting);
        let state = match tokio::time::timeout(timeout, wait).await {
            Err(_elapsed) => return Err(Error::TimedOut(timeout)),
            Ok(Err(_closed)) => return Err(Error::Ended("its task is gone".to_owned())),
            Ok(Ok(state)) => state.clone(),
        };
        match state {
            State::Ended(reason) => Err(Error::Ended(reason)),
            State::Connecting | State::Connected => Ok(()),
        }
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Identity that the server confirmed.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Time from the start to the join response.
    pub fn joined_after(&self) -> Duration {
        self.joined_after
    }

    /// What it sent within the window.
    pub fn sent(&self) -> &Sent {
        &self.sent
    }

    /// What it received within the window.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Leaves the room and waits until everything is closed.
    pub async fn close(self) {
        // A full or closed channel means that it is ending already.
        let _asked = self.stop.try_send(()).is_ok();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "client task failed");
        }
    }
}

/// Local address that reaches the server at `host`: candidates must name a real interface.
fn local_ip(host: &str, port: u16) -> IpAddr {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| {
            socket.connect((host, port))?;
            socket.local_addr()
        })
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}
