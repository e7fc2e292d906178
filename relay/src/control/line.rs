//! The session with one replica: opened, kept, opened again.

use std::sync::Arc;
use std::time::Duration;

use proto::control::control_message::Message as Down;
use proto::control::node_message::Message;
use proto::control::node_session_client::NodeSessionClient;
use proto::control::{Hello, NodeMessage};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Endpoint;

use super::merge::{Gone, Merged};
use super::{Instant, Open, QUEUE, Session, Status};

/// First wait before a replica is tried again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between tries: one that is back has its nodes within this.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long a replica may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to accept a session.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is asked whether it lives. A machine that vanished is seen within this and the next; the end of
/// a process at once.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often load and links are reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What the sessions have in common.
pub(super) struct Lines {
    pub(super) hello: Hello,
    pub(super) status: Box<dyn Fn() -> Status + Send + Sync>,
    pub(super) published: watch::Sender<Open>,
    pub(super) merged: Merged,
}

/// What one task knows of its session.
#[derive(Default)]
struct Own {
    serial: Option<u64>,
    replica: Option<String>,
}

impl Lines {
    /// Completes when nobody takes messages any more.
    pub(super) async fn nobody_listens(&self) {
        self.merged.closed().await;
    }

    /// Keeps a session with the replica at `url`; once `retired`, only while it lasts.
    pub(super) async fn keep(self: Arc<Self>, url: String, retired: CancellationToken) {
        let mut backoff = BACKOFF_MIN;
        let mut failing = false;
        while !retired.is_cancelled() {
            let began = Instant::now();
            let mut own = Own::default();
            let ended = self.session(&url, &mut own).await;
            let had = self.published.send_if_modified(|open| {
                // Somebody else may speak to it by now: DNS forgot its name for a while.
                let is_own = |session: &Session| Some(session.serial) == own.serial;
                let there = open.sessions.get(&url).is_some_and(is_own);
                there && open.sessions.remove(&url).is_some()
            });
            if had && self.merged.ended(&url).await.is_err() {
                return;
            }
            if had || !std::mem::replace(&mut failing, true) {
                tracing::warn!(url, reason = %ended, "no session with this control replica");
            }
            failing = !had;
            if ended.code() == Code::Aborted {
                // The same replica by another URL took over; one session with it is enough.
                self.while_spoken_to(own.replica.as_deref()).await;
            }
            if began.elapsed() > BACKOFF_MAX {
                backoff = BACKOFF_MIN;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = retired.cancelled() => return,
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Waits while there is another session with the replica.
    async fn while_spoken_to(&self, replica: Option<&str>) {
        let mut open = self.published.subscribe();
        let spoken_to = |open: &Open| {
            let mut sessions = open.sessions.values();
            replica.is_some() && sessions.any(|session| session.replica.as_deref() == replica)
        };
        // The sender is our own: it does not close.
        open.wait_for(|open| !spoken_to(open)).await.ok();
    }

    /// One session, until it breaks; returns why it did.
    async fn session(&self, url: &str, own: &mut Own) -> tonic::Status {
        let endpoint = match Endpoint::from_shared(url.to_owned()) {
            Ok(endpoint) => endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .keep_alive_while_idle(true),
            Err(error) => return tonic::Status::invalid_argument(error.to_string()),
        };
        let channel = match endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => return tonic::Status::unavailable(error.to_string()),
        };
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let hello = NodeMessage {
            message: Some(Message::Hello(self.hello.clone())),
        };
        if outgoing.try_send(hello).is_err() {
            return tonic::Status::internal("queue of a new session is full");
        }
        let mut client = NodeSessionClient::new(channel.clone());
        let opening = tokio::time::timeout(OPEN_TIMEOUT, client.open(ReceiverStream::new(queue)));
        let mut messages = match opening.await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return status,
            Err(_) => return tonic::Status::deadline_exceeded("session was not accepted"),
        };
        tracing::info!(url, "session with a control replica");
        self.published.send_modify(|open| {
            open.count += 1;
            own.serial = Some(open.count);
            let session = Session {
                serial: open.count,
                replica: None,
                channel,
                outgoing: outgoing.clone(),
            };
            open.sessions.insert(url.to_owned(), session);
        });

        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.message() => match message {
                    Ok(Some(message)) => {
                        if let Some(Down::Welcome(welcome)) = &message.message {
                            own.replica = Some(welcome.control_id.clone());
                            self.name(url, &welcome.control_id);
                        }
                        if let Err(Gone) = self.merged.take(url, message).await {
                            return tonic::Status::cancelled("nobody takes messages");
                        }
                    }
                    Ok(None) => return tonic::Status::unavailable("closed"),
                    Err(status) => return status,
                },
                _ = ticks.tick() => report(&outgoing, (self.status)()),
            }
        }
    }

    /// The replica at `url` said its name.
    fn name(&self, url: &str, replica: &str) {
        self.published.send_modify(|open| {
            if let Some(session) = open.sessions.get_mut(url) {
                session.replica = Some(replica.to_owned());
            }
        });
    }
}

/// Reports are of the moment: when the queue is full this one is left out.
fn report(outgoing: &mpsc::Sender<NodeMessage>, status: Status) {
    for message in [Message::Load(status.load), Message::Links(status.links)] {
        if outgoing
            .try_send(NodeMessage {
                message: Some(message),
            })
            .is_err()
        {
            tracing::debug!("report left out: queue to a control replica is full");
        }
    }
}
