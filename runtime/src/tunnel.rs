//! Hands an HTTP request on to another server and its answer back, through an upgrade (RFC 9110 section 7.8) as well: what comes
//! after that is copied as it is.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that are handed on at a time.
const TUNNELS_MAX: usize = 10_000;
/// How long the other server may take to be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take to answer: it may have to ask for a room first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// What a refusal may say, bytes.
const REFUSAL_MAX: usize = 16 << 10;
/// Fields of a request that the other server has to see.
const REQUEST_FIELDS: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::UPGRADE,
    header::ORIGIN,
    header::USER_AGENT,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];
/// Fields of its answer that the client has to see.
const RESPONSE_FIELDS: [HeaderName; 7] = [
    header::CONNECTION,
    header::UPGRADE,
    header::CONTENT_TYPE,
    header::RETRY_AFTER,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// Why there is no way to other servers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file with certificate authorities cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds no certificate.
    #[error("{}: no certificate in it", .0.display())]
    NoCertificate(PathBuf),
    /// The HTTP client cannot be made.
    #[error("HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why a request was not answered by the other server.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Too many connections are handed on.
    #[error("too many connections go through here")]
    Full,
    /// It cannot be reached.
    #[error("not reached: {0}")]
    Unreachable(reqwest::Error),
    /// It says nothing.
    #[error("no answer in {} s", ANSWER_TIMEOUT.as_secs())]
    Silent,
}

/// Reaches other servers as their clients do. Clones share the limit of connections.
#[derive(Clone)]
pub struct Tunnels {
    http: reqwest::Client,
    slots: Arc<Semaphore>,
    open: IntGauge,
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels")
            .field("open", &self.open.get())
            .finish_non_exhaustive()
    }
}

impl Tunnels {
    /// Trusts the system's certificate authorities, or, where a PEM file is given, those in it and no others. `open` shows how
    /// many upgraded connections there are.
    ///
    /// # Errors
    /// When the file is no good.
    pub fn new(ca: Option<&Path>, open: IntGauge) -> Result<Self, Error> {
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT);
        if let Some(path) = ca {
            let pem = std::fs::read(path).map_err(|source| Error::File {
                path: path.to_owned(),
                source,
            })?;
            let ca = reqwest::Certificate::from_pem_bundle(&pem)?;
            if ca.is_empty() {
                return Err(Error::NoCertificate(path.to_owned()));
            }
            builder = builder.tls_certs_only(ca);
        }
        Ok(Self {
            http: builder.build()?,
            slots: Arc::new(Semaphore::new(TUNNELS_MAX)),
            open,
        })
    }

    /// Upgraded connections at the moment.
    pub fn open(&self) -> u32 {
        u32::try_from(self.open.get()).unwrap_or(0)
    }

    /// Hands a GET request on to where `base` takes it, with further fields, and the answer back.
    ///
    /// # Errors
    /// When the other server does not answer.
    pub async fn forward(
        &self,
        base: &str,
        mut request: Request,
        further: &HeaderMap,
    ) -> Result<Response, Refused> {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot.map_err(|_| Refused::Full)?;
        let mut asked = self.http.get(target(base, request.uri()));
        for name in REQUEST_FIELDS {
            for value in request.headers().get_all(&name) {
                asked = asked.header(&name, value);
            }
        }
        for (name, value) in further {
            asked = asked.header(name, value);
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, asked.send()).await;
        let answer = answer.map_err(|_| Refused::Silent)?;
        // The URL has the client's token in it, and errors are logged.
        let answer = answer.map_err(|error| Refused::Unreachable(error.without_url()))?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        for name in RESPONSE_FIELDS {
            for value in answer.headers().get_all(&name) {
                response.headers_mut().append(&name, value.clone());
            }
        }
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            tokio::spawn(tunnel(upgrade, answer, (self.open.clone(), slot)));
        } else {
            *response.body_mut() = Body::from(short_text(answer).await);
        }
        Ok(response)
    }
}

/// Where a server takes the same request. WebSocket URLs begin with an HTTP request (RFC 6455 section 4.1).
pub fn target(base: &str, uri: &Uri) -> String {
    let base = base.trim_end_matches('/');
    let base = match base.strip_prefix("ws") {
        Some(rest) => format!("http{rest}"),
        None => base.to_owned(),
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{base}{path}")
}

/// The same as a field of a response; `None` when it cannot stand in one.
pub fn location(base: &str, uri: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(&target(base, uri)).ok()
}

async fn short_text(mut answer: reqwest::Response) -> Vec<u8> {
    let mut text = Vec::new();
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(ANSWER_TIMEOUT, answer.chunk()).await {
        let room = REFUSAL_MAX - text.len();
        text.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        if text.len() >= REFUSAL_MAX {
            break;
        }
    }
    text
}

/// Copies both ways until either side closes. Nothing is understood, and nothing waits but what fits two buffers.
async fn tunnel(
    upgrade: hyper::upgrade::OnUpgrade,
    answer: reqwest::Response,
    (open, slot): (IntGauge, OwnedSemaphorePermit),
) {
    let ends = async {
        let server = answer.upgrade().await.map_err(io::Error::other)?;
        let client = upgrade.await.map_err(io::Error::other)?;
        Ok::<_, io::Error>((TokioIo::new(client), server))
    };
    match ends.await {
        Ok((client, server)) => {
            open.inc();
            copy(client, server).await;
            open.dec();
        }
        Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
    }
    drop(slot);
}

async fn copy(
    client: impl AsyncRead + AsyncWrite + Unpin,
    server: impl AsyncRead + AsyncWrite + Unpin,
) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let ended = tokio::select! {
        up = tokio::io::copy(&mut from_client, &mut to_server) => up,
        down = tokio::io::copy(&mut from_server, &mut to_client) => down,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection that is handed on broke");
    }
    // The other side learns of it; whether it still listens does not matter.
    drop(tokio::join!(to_client.shutdown(), to_server.shutdown()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_http_urls() {
        let path = "/rtc/v1?join_request=x&access_token=y";
        let told = |base: &str, uri: &'static str| target(base, &Uri::from_static(uri));
        assert_eq!(
            told("ws://127.0.0.1:7880", path),
            format!("http://127.0.0.1:7880{path}")
        );
        assert_eq!(
            told("wss://fra.example.org/", "/rtc"),
            "https://fra.example.org/rtc"
        );
        assert_eq!(
            told("https://fra.example.org", "/whip/a"),
            "https://fra.example.org/whip/a"
        );
    }
}
