//! The client's side of the LiveKit signalling protocol: one WebSocket, protobuf frames.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use livekit_protocol as livekit;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message as Response;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::{self, Message as Frame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use url::Url;

/// Protocol version that current SDKs announce.
const PROTOCOL: i32 = 17;
/// A server must answer a join within this.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Which of the two signalling paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// `/rtc`: a connection to publish and one, offered by the server, to subscribe.
    V0,
    /// `/rtc/v1`: one connection, always offered by the client.
    #[default]
    V1,
}

/// What goes wrong with signalling.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is none, or not `http(s)` or `ws(s)`.
    #[error("bad URL {url}: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// The token cannot stand in a header.
    #[error("the token has characters that a header cannot carry")]
    Token,
    /// The WebSocket failed, or the server refused it.
    #[error("signalling: {0}")]
    WebSocket(#[from] Box<tungstenite::Error>),
    /// The server closed the connection.
    #[error("the server closed signalling")]
    Closed,
    /// A frame is no signalling message.
    #[error("bad signalling frame: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The server sent this instead of the join response.
    #[error("expected a join response, got {0}")]
    NoJoin(String),
    /// Nothing came in time.
    #[error("no join response within {JOIN_TIMEOUT:?}")]
    TimedOut,
}

impl From<tungstenite::Error> for Error {
    fn from(error: tungstenite::Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

/// How to join.
#[derive(Debug, Clone)]
pub struct Join {
    /// Server, `http(s)://` or `ws(s)://`.
    pub url: String,
    /// Access token.
    pub token: String,
    /// Signalling path.
    pub version: Version,
    /// Subscribe to everything in the room.
    pub auto_subscribe: bool,
    /// First offer of the single connection (v1 only).
    pub offer: Option<livekit::SessionDescription>,
    /// Tracks announced together with the first offer (v1 only).
    pub tracks: Vec<livekit::AddTrackRequest>,
}

/// An open signalling connection.
#[derive(Debug)]
pub struct Signal {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    ping_interval: Duration,
}

impl Signal {
    /// Connects and waits for the join response.
    ///
    /// # Errors
    /// When the URL is bad, the server refuses, or its first message is not the join response.
    pub async fn join(join: &Join) -> Result<(Self, livekit::JoinResponse), Error> {
        let mut request = url_of(join)?.as_str().into_client_request()?;
        let bearer = HeaderValue::from_str(&format!("Bearer {}", join.token))
            .map_err(|_invalid| Error::Token)?;
        request.headers_mut().insert(AUTHORIZATION, bearer);
        let joining = async {
            let (socket, _) = tokio_tungstenite::connect_async(request).await?;
            let mut signal = Self {
                socket,
                ping_interval: Duration::from_secs(5),
            };
            let message = signal.next().await?;
            let kind = kind_of(&message);
            let Response::Join(response) = message else {
                return Err(Error::NoJoin(kind));
            };
            if let Ok(seconds @ 1..) = u64::try_from(response.ping_interval) {
                signal.ping_interval = Duration::from_secs(seconds);
            }
            Ok((signal, response))
        };
        tokio::time::timeout(JOIN_TIMEOUT, joining)
            .await
            .map_err(|_elapsed| Error::TimedOut)?
    }

    /// How often the server wants to hear from us.
    pub fn ping_interval(&self) -> Duration {
        self.ping_interval
    }

    /// The server's next message. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the connection ends or a frame cannot be read.
    pub async fn next(&mut self) -> Result<Response, Error> {
        loop {
            let frame = self.socket.next().await.ok_or(Error::Closed)??;
            let bytes = match frame {
                Frame::Binary(bytes) => bytes,
                Frame::Close(_) => return Err(Error::Closed),
                Frame::Text(_) | Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => continue,
            };
            // A kind that this version of the protocol does not know decodes to nothing.
            if let Some(message) = livekit::SignalResponse::decode(bytes)?.message {
                return Ok(message);
            }
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&mut self, message: Request) -> Result<(), Error> {
        let bytes = livekit::SignalRequest {
            message: Some(message),
        }
        .encode_to_vec();
        Ok(self.socket.send(Frame::Binary(bytes.into())).await?)
    }

    /// Sends both kinds of ping, as the SDKs do.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn ping(&mut self, unix_ms: i64) -> Result<(), Error> {
        self.send(Request::Ping(unix_ms)).await?;
        self.send(Request::PingReq(livekit::Ping {
            timestamp: unix_ms,
            rtt: 0,
        }))
        .await
    }

    /// Says goodbye and closes.
    ///
    /// # Errors
    /// When the connection has already ended.
    pub async fn leave(&mut self) -> Result<(), Error> {
        let leave = livekit::LeaveRequest {
            reason: livekit::DisconnectReason::ClientInitiated.into(),
            ..Default::default()
        };
        self.send(Request::Leave(leave)).await?;
        Ok(self.socket.close(None).await?)
    }
}

/// Name of a message's kind, for errors and logs.
pub fn kind_of(message: &Response) -> String {
    let text = format!("{message:?}");
    text.split(['(', ' ', '{'])
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn url_of(join: &Join) -> Result<Url, Error> {
    let bad = |reason: &str| Error::Url {
        url: join.url.clone(),
        reason: reason.to_owned(),
    };
    let mut url = Url::parse(&join.url).map_err(|error| bad(&error.to_string()))?;
    let scheme = match url.scheme() {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        _ => return Err(bad("the scheme is not http, https, ws or wss")),
    };
    url.set_scheme(scheme).map_err(|()| bad("it has no host"))?;
    let path = match join.version {
        Version::V0 => "rtc",
        Version::V1 => "rtc/v1",
    };
    let base = url.path().trim_end_matches('/').to_owned();
    url.set_path(&format!("{base}/{path}"));
    let auto_subscribe = if join.auto_subscribe { "1" } else { "0" };
    match join.version {
        Version::V0 => {
            url.query_pairs_mut()
                .append_pair("auto_subscribe", auto_subscribe)
                .append_pair("adaptive_stream", "0")
                .append_pair("sdk", "rust")
                .append_pair("version", env!("CARGO_PKG_VERSION"))
                .append_pair("protocol", &PROTOCOL.to_string());
        }
        Version::V1 => {
            url.query_pairs_mut()
                .append_pair("join_request", &join_request(join));
        }
    }
    Ok(url)
}

fn join_request(join: &Join) -> String {
    let request = livekit::JoinRequest {
        client_info: Some(livekit::ClientInfo {
            sdk: livekit::client_info::Sdk::Rust.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            os: "linux".to_owned(),
            ..Default::default()
        }),
        connection_settings: Some(livekit::ConnectionSettings {
            auto_subscribe: join.auto_subscribe,
            ..Default::default()
        }),
        add_track_requests: join.tracks.clone(),
        publisher_offer: join.offer.clone(),
        ..Default::default()
    };
    let wrapped = livekit::WrappedJoinRequest {
        compression: livekit::wrapped_join_request::Compression::None.into(),
        join_request: request.encode_to_vec(),
    };
    URL_SAFE_NO_PAD.encode(wrapped.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(url: &str, version: Version) -> Join {
        Join {
            url: url.to_owned(),
            token: "t".to_owned(),
            version,
            auto_subscribe: true,
            offer: None,
            tracks: Vec::new(),
        }
    }

    #[test]
    fn urls_take_the_path_of_the_version() {
        let url = url_of(&join("http://127.0.0.1:7880", Version::V0)).unwrap();
        assert_eq!((url.scheme(), url.path()), ("ws", "/rtc"));
        assert!(url.query().unwrap().contains("auto_subscribe=1"));
        let url = url_of(&join("wss://example.org/edge/", Version::V1)).unwrap();
        assert_eq!((url.scheme(), url.path()), ("wss", "/edge/rtc/v1"));
        assert!(url_of(&join("ftp://example.org", Version::V1)).is_err());
        assert!(url_of(&join("nonsense", Version::V1)).is_err());
    }

    #[test]
    fn a_join_request_unwraps() {
        let mut join = join("http://127.0.0.1", Version::V1);
        join.offer = Some(livekit::SessionDescription {
            r#type: "offer".to_owned(),
            sdp: "v=0".to_owned(),
            ..Default::default()
        });
        let bytes = URL_SAFE_NO_PAD.decode(join_request(&join)).unwrap();
        let wrapped = livekit::WrappedJoinRequest::decode(bytes.as_slice()).unwrap();
        let request = livekit::JoinRequest::decode(wrapped.join_request.as_slice()).unwrap();
        assert_eq!(request.publisher_offer.unwrap().sdp, "v=0");
        assert!(request.connection_settings.unwrap().auto_subscribe);
    }
}
