//! The task that hears what replicas tell each other.

use std::sync::Arc;
use std::time::Duration;

use ::redis::Client;
use ::redis::aio::PubSubStream;
use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::CONNECT_TIMEOUT;
use crate::metrics::Metrics;
use crate::store::Error;
use crate::store::ephemeral::{Event, MISSED};
use crate::store::memory::Memory;

/// Shortest and longest pause between attempts to listen.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A connection without a word for so long may be dead without a sign: it is made anew.
const SILENCE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Listener {
    pub(super) client: Client,
    pub(super) channel: String,
    pub(super) replica: String,
    pub(super) local: Arc<Memory>,
    pub(super) metrics: Metrics,
}

impl Listener {
    /// Starts listening. True when events are heard from now on; otherwise from when Redis is there.
    pub(super) async fn start(self, shutdown: CancellationToken) -> bool {
        let first = self.listen().await.ok();
        let listens = first.is_some();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.keep(first) => {}
            }
        });
        listens
    }

    async fn keep(&self, mut stream: Option<PubSubStream>) {
        let mut pause = PAUSE.0;
        loop {
            if let Some(stream) = stream.take() {
                pause = PAUSE.0;
                self.hear(stream).await;
            }
            match self.listen().await {
                Ok(anew) => {
                    stream = Some(anew);
                    // Whatever was told in between.
                    self.local.hear(Event {
                        from: self.replica.clone(),
                        topic: MISSED.to_owned(),
                        body: serde_json::Value::Null,
                    });
                }
                Err(error) => {
                    self.metrics
                        .stores
                        .redis_failures
                        .with_label_values(&["listen"])
                        .inc();
                    tracing::debug!(%error, "events of other replicas are not heard");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    async fn listen(&self) -> Result<PubSubStream, Error> {
        let subscribing = async {
            let mut pubsub = self.client.get_async_pubsub().await?;
            pubsub.subscribe(&self.channel).await?;
            Ok(pubsub.into_on_message())
        };
        let listening = tokio::time::timeout(CONNECT_TIMEOUT, subscribing).await;
        listening.unwrap_or(Err(Error::TimedOut))
    }

    /// Until the connection ends or is silent for long.
    async fn hear(&self, mut stream: PubSubStream) {
        while let Ok(Some(message)) = tokio::time::timeout(SILENCE_MAX, stream.next()).await {
            match serde_json::from_slice(message.get_payload_bytes()) {
                Ok(event) => self.local.hear(event),
                Err(error) => {
                    self.metrics
                        .stores
                        .redis_failures
                        .with_label_values(&["event"])
                        .inc();
                    tracing::debug!(%error, "event left out: it is malformed");
                }
            }
        }
    }
}
