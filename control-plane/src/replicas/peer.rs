//! One other replica: pinged, and found alive or dead.

use std::time::{Duration, Instant};

use proto::control::replicas_client::ReplicasClient;
use proto::control::{PingRequest, PingResponse};
use tonic::transport::Channel;

use super::{PING, PING_AGAIN, PING_TIMEOUT, Replicas, SILENCE_MAX};
use crate::metrics::Metrics;

/// What is known of one.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its id, once it said it.
    pub(super) id: Option<String>,
    pub(super) channel: Channel,
    /// It was asked, whatever came of it.
    pub(super) asked: bool,
    pub(super) lives: bool,
    /// It may own rooms.
    pub(super) ready: bool,
}

impl Peer {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            id: None,
            channel,
            asked: false,
            lives: false,
            ready: false,
        }
    }
}

impl Replicas {
    pub(super) async fn ping_for_ever(&self, url: &str, metrics: &Metrics) {
        let mut refusals = 0;
        let mut heard = Instant::now();
        loop {
            let left = SILENCE_MAX.saturating_sub(heard.elapsed());
            let patience = if left.is_zero() {
                PING_TIMEOUT
            } else {
                PING_TIMEOUT.min(left)
            };
            let answer = self.ping(url, patience).await;
            let pause = match answer {
                Some(Ok(answer)) => {
                    refusals = 0;
                    heard = Instant::now();
                    self.heard(url, &answer, metrics);
                    PING
                }
                Some(Err(())) => {
                    refusals += 1;
                    PING_AGAIN
                }
                None => return,
            };
            if refusals >= 2 || heard.elapsed() >= SILENCE_MAX {
                self.lost(url, metrics);
            }
            let pause = if refusals > 2 { PING } else { pause };
            tokio::time::sleep(pause).await;
        }
    }

    /// Its answer; `None` when it is not there to be asked any more.
    async fn ping(&self, url: &str, patience: Duration) -> Option<Result<PingResponse, ()>> {
        let channel = self.peers().get(url)?.channel.clone();
        let identity = self.identity();
        let request = PingRequest {
            replica: identity.id.clone(),
            mesh: identity.mesh.clone(),
        };
        let mut client = ReplicasClient::new(channel);
        // A late answer is none; how long it has been silent counts.
        let answer = tokio::time::timeout(patience, client.ping(request)).await;
        Some(match answer {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                tracing::debug!(url, %status, "replica does not answer");
                Err(())
            }
            Err(_) => Err(()),
        })
    }

    fn heard(&self, url: &str, answer: &PingResponse, metrics: &Metrics) {
        let identity = self.identity();
        let own = answer.replica == identity.id;
        if own && answer.incarnation != identity.incarnation {
            tracing::warn!(
                url,
                id = answer.replica,
                "another replica has this one's id"
            );
        }
        let ours = !own && answer.mesh == identity.mesh;
        let mut peers = self.peers();
        let Some(peer) = peers.get_mut(url) else {
            return;
        };
        let before = (peer.lives, peer.ready, peer.id.is_some());
        peer.asked = true;
        peer.lives = ours;
        peer.ready = ours && answer.ready;
        peer.id = ours.then(|| answer.replica.clone());
        let now = (peer.lives, peer.ready, peer.id.is_some());
        drop(peers);
        if before != now {
            if before.0 != now.0 && ours {
                tracing::info!(replica = answer.replica, url, "control replica is there");
            }
            self.count(metrics);
            self.form();
        }
    }

    fn lost(&self, url: &str, metrics: &Metrics) {
        let mut peers = self.peers();
        let Some(peer) = peers.get_mut(url) else {
            return;
        };
        peer.asked = true;
        if std::mem::replace(&mut peer.lives, false) {
            let replica = peer.id.clone().unwrap_or_default();
            drop(peers);
            tracing::warn!(replica, url, "control replica is lost");
        } else {
            drop(peers);
        }
        self.count(metrics);
        self.form();
    }

    /// Shows how many replicas live, this one included.
    fn count(&self, metrics: &Metrics) {
        let others = i64::try_from(self.living().len()).unwrap_or(i64::MAX);
        metrics.replicas.set(others.saturating_add(1));
    }
}
