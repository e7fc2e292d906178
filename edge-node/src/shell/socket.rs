//! One signalling WebSocket: frames in, frames out, both bounded.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use livekit_protocol as lk;
use lk::signal_response::Message as Response;
use tokio::sync::mpsc;

use crate::core::signal::{self, Encoding, Frame};

/// Frames waiting for a slow client; a client that lets more pile up is cut off and may resume.
const OUTGOING: usize = 1024;
/// How long one frame may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that says nothing for this long is gone: it pings every 5 s and gives up itself after 15 s.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A client's signalling connection.
#[derive(Debug)]
pub struct Socket {
    incoming: SplitStream<WebSocket>,
    outgoing: mpsc::Sender<Frame>,
    encoding: Encoding,
    /// Name or address that the client reaches the edge at, if it said so.
    pub host: Option<String>,
}

/// What came from a client.
#[derive(Debug)]
pub enum Received {
    /// A request.
    Request(Box<lk::signal_request::Message>),
    /// A frame that is no request: counted, otherwise ignored.
    Garbage,
    /// The connection is over.
    Closed,
}

impl Socket {
    /// Starts writing to a connection that was just upgraded; `host` is what the client reached the edge at.
    pub fn new(socket: WebSocket, host: Option<String>) -> Self {
        let (sink, incoming) = socket.split();
        let (outgoing, frames) = mpsc::channel(OUTGOING);
        tokio::spawn(write(sink, frames));
        Self {
            incoming,
            outgoing,
            encoding: Encoding::default(),
            host,
        }
    }

    /// The next request; cancel-safe.
    pub async fn receive(&mut self) -> Received {
        loop {
            let message = tokio::time::timeout(SILENCE_MAX, self.incoming.next()).await;
            let frame = match message {
                Ok(Some(Ok(Message::Binary(bytes)))) => Frame::Binary(bytes),
                Ok(Some(Ok(Message::Text(text)))) => Frame::Text(text.as_str().to_owned()),
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => {
                    return Received::Closed;
                }
            };
            self.encoding = match frame {
                Frame::Binary(_) => Encoding::Binary,
                Frame::Text(_) => Encoding::Json,
            };
            return match signal::decode(&frame) {
                Ok(lk::SignalRequest {
                    message: Some(request),
                }) => Received::Request(Box::new(request)),
                Ok(lk::SignalRequest { message: None }) | Err(_) => Received::Garbage,
            };
        }
    }

    /// Queues a response; false when the client does not take them any more.
    pub fn send(&self, response: Response) -> bool {
        self.outgoing
            .try_send(signal::encode(response, self.encoding))
            .is_ok()
    }
}

/// Writes until the queue ends, then says goodbye.
async fn write(mut sink: SplitSink<WebSocket, Message>, mut frames: mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        let message = match frame {
            Frame::Binary(bytes) => Message::Binary(bytes),
            Frame::Text(text) => Message::Text(text.into()),
        };
        let written = tokio::time::timeout(WRITE_TIMEOUT, sink.send(message)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
    let goodbye = CloseFrame {
        code: close_code::NORMAL,
        reason: "session over".into(),
    };
    let closed =
        tokio::time::timeout(WRITE_TIMEOUT, sink.send(Message::Close(Some(goodbye)))).await;
    if closed.is_err() {
        tracing::debug!("client did not take the close frame");
    }
}
