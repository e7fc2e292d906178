//! The ways from a room to those that its participants are forwarded to.

use std::collections::BTreeMap;

use proto::{ParticipantSid, RoomId};
use tokio::sync::mpsc;

use super::edge::SharedEdge;
use super::room::Mail;
use crate::core::room::{Input, Mirror};

/// News waiting for one other room. Each says everything about one participant, so what is dropped is made up for by the next.
const WAITING: usize = 256;
/// How often news is tried when its room ends at the same moment.
const TRIES: usize = 3;

/// One way per room; news goes in order.
#[derive(Default)]
pub(super) struct Forwards {
    ways: BTreeMap<RoomId, mpsc::Sender<Box<Mirror>>>,
}

impl Forwards {
    /// Sends news to a room, which is opened here when it is not yet.
    pub(super) fn send(&mut self, edge: &SharedEdge, room: RoomId, mirror: Box<Mirror>) {
        let way = self.ways.entry(room.clone()).or_insert_with(|| {
            let (way, news) = mpsc::channel(WAITING);
            tokio::spawn(carry(edge.clone(), room, news));
            way
        });
        if way.try_send(mirror).is_err() {
            let dropped = &edge.metrics.dropped;
            dropped.with_label_values(&["forward_busy"]).inc();
        }
    }
}

async fn carry(edge: SharedEdge, room: RoomId, mut news: mpsc::Receiver<Box<Mirror>>) {
    while let Some(mirror) = news.recv().await {
        for _ in 0..TRIES {
            let mailbox = match edge.rooms.enter(&edge, &room, &[]).await {
                Ok(mailbox) => mailbox,
                Err(error) => {
                    tracing::info!(%error, "participant not forwarded");
                    break;
                }
            };
            let mail = Mail::Event(Box::new(Input::Mirror(mirror.clone())));
            if mailbox.send(mail).await.is_ok() {
                break;
            }
        }
    }
}

/// Tells a room that one of its participants is shown elsewhere no more.
pub(super) fn ended(edge: &SharedEdge, room: &RoomId, sid: ParticipantSid) {
    let Some(room) = edge.rooms.find(room) else {
        return;
    };
    let mail = Mail::Event(Box::new(Input::ForwardEnded(sid)));
    if room.try_send(mail).is_err() {
        edge.metrics.dropped.with_label_values(&["room_busy"]).inc();
    }
}
