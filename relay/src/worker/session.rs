//! One connection with a neighbour: making it, and the tasks that move its bytes.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use proto::NodeId;
use proto::link::Data;
use proto::link::link_message::Message;
use quinn::{Connection, RecvStream, SendDatagramError, SendStream, VarInt};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;

use super::endpoint;
use super::node::Node;
use crate::link::message::{self, Decoder};
use crate::mesh::{Input, PeerKey};

/// First wait before a neighbour is dialled again.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long a handshake may take: several round trips of the longest path.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Handshakes going on at a time. A mesh that starts anew has one per node, and those refused come again.
const HANDSHAKES_MAX: usize = 64;
/// Of those, with who has not shown yet that it is where it says.
const HANDSHAKES_UNPROVEN: usize = 16;
/// Messages waiting for the control stream; a neighbour that lets more pile up is cut off.
const CONTROL_QUEUE: usize = 16_384;
/// Messages of one participant waiting for their stream; then new ones are dropped.
const DATA_QUEUE: usize = 256;
/// A participant's stream is closed after this long without a message.
const DATA_IDLE: Duration = Duration::from_secs(30);
/// Datagrams handled in one go.
const BATCH: usize = 64;
/// Bytes read from a stream in one go.
const READ_LEN: usize = 64 << 10;
/// Name in the handshake; certificates have none (who the node is stands in their URI).
const SERVER_NAME: &str = "antipode";

/// Which session: the neighbour, and a number that no other session has.
type SessionKey = (PeerKey, u64);

/// The sending side of a session.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) connection: Connection,
    /// There may be datagrams to send.
    pub(super) wake: Rc<Notify>,
    control: mpsc::Sender<Bytes>,
    /// By participant.
    data: BTreeMap<String, mpsc::Sender<Bytes>>,
}

impl Session {
    /// Queues bytes for the control stream; false when too much is waiting.
    pub(super) fn send(&self, message: Bytes) -> bool {
        !matches!(
            self.control.try_send(message),
            Err(mpsc::error::TrySendError::Full(_))
        )
    }

    /// Queues a message on the participant's own stream, so that one participant's lost packet holds up nobody else.
    pub(super) fn send_data(&mut self, data: Data) {
        let participant = data.participant_sid.clone();
        let message = message::encode(Message::Data(data));
        self.data.retain(|_, stream| !stream.is_closed());
        let connection = &self.connection;
        let stream = self.data.entry(participant).or_insert_with(|| {
            let (stream, queue) = mpsc::channel(DATA_QUEUE);
            spawn_local(write_data(connection.clone(), queue));
            stream
        });
        if stream.try_send(message).is_err() {
            tracing::debug!("data message dropped: the participant's stream is full");
        }
    }

    pub(super) fn close(&self, reason: &'static str) {
        tracing::info!(reason, "link closed");
        self.connection
            .close(VarInt::from_u32(1), reason.as_bytes());
    }
}

impl Node {
    /// Keeps a connection with a neighbour, for as long as this task lives.
    pub(super) async fn dial(self: Rc<Self>, node: NodeId) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let via = self.config.via.get(&node).copied();
            let addresses = match (via, self.known(&node)) {
                (_, None) => return,
                (Some(via), Some(_)) => vec![via],
                (None, Some(peer)) => peer.addresses,
            };
            for address in addresses {
                let made =
                    tokio::time::timeout(HANDSHAKE_TIMEOUT, self.dial_once(&node, address)).await;
                match made {
                    Ok(Ok(connection)) => {
                        backoff = BACKOFF_MIN;
                        connection.closed().await;
                    }
                    Ok(Err(error)) => tracing::debug!(peer = %node, %error, "link not made"),
                    Err(_) => tracing::debug!(peer = %node, "link not made in time"),
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn dial_once(
        self: &Rc<Self>,
        node: &NodeId,
        address: std::net::SocketAddr,
    ) -> anyhow::Result<Connection> {
        let connecting = self
            .endpoint
            .connect_with(self.client.clone(), address, SERVER_NAME)?;
        let connection = connecting.await?;
        let name = endpoint::peer_name(&connection);
        if name.and_then(|name| self.admit(&name)).as_ref() != Some(node) {
            connection.close(VarInt::from_u32(2), b"not who was dialled");
            anyhow::bail!("another node answered");
        }
        let (send, recv) = connection.open_bi().await?;
        self.start(node, &connection, (send, recv));
        Ok(connection)
    }

    /// Answers a neighbour that dials.
    /// Somebody wants to make a link; why it is refused. Handshakes cost signatures, on the thread that media waits for: while
    /// many are going on, others have to show first that they are where they say (RFC 9000 section 8.1.2).
    pub(super) fn receive(self: &Rc<Self>, incoming: quinn::Incoming) -> Option<&'static str> {
        let open = self.handshakes.get();
        if open >= HANDSHAKES_MAX {
            incoming.refuse();
            return Some("handshake_limit");
        }
        if open >= HANDSHAKES_UNPROVEN
            && incoming.may_retry()
            && !incoming.remote_address_validated()
        {
            let retried = incoming.retry();
            return Some(retried.map_or("handshake_limit", |()| "unproven_address"));
        }
        self.handshakes.set(open + 1);
        let node = Rc::clone(self);
        spawn_local(async move {
            Rc::clone(&node).accept(incoming).await;
            node.handshakes.set(node.handshakes.get().saturating_sub(1));
        });
        None
    }

    async fn accept(self: Rc<Self>, incoming: quinn::Incoming) {
        let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
            let connection = incoming.await?;
            let name = endpoint::peer_name(&connection);
            let Some(node) = name.and_then(|name| self.admit(&name)) else {
                connection.close(VarInt::from_u32(2), b"not in the peer list");
                anyhow::bail!("not in the peer list");
            };
            let streams = connection.accept_bi().await?;
            self.start(&node, &connection, streams);
            Ok(())
        });
        match accepted.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "incoming link refused"),
            Err(_) => tracing::debug!("incoming link was not made in time"),
        }
    }

    fn start(
        self: &Rc<Self>,
        node: &NodeId,
        connection: &Connection,
        streams: (SendStream, RecvStream),
    ) {
        let (send, recv) = streams;
        let (control, queue) = mpsc::channel(CONTROL_QUEUE);
        let wake = Rc::new(Notify::new());
        let mut key = None;
        self.open(node, |session| {
            key = Some(session);
            Session {
                id: session.1,
                connection: connection.clone(),
                wake: Rc::clone(&wake),
                control,
                data: BTreeMap::new(),
            }
        });
        let Some(key) = key else { return };
        tracing::info!(peer = %node, remote = %connection.remote_address(), "link connected");
        spawn_local(write_stream(send, queue));
        let (reader, on) = (Rc::clone(self).read_stream(key, recv), connection.clone());
        spawn_local(async move {
            reader.await;
            on.close(VarInt::from_u32(3), b"control stream ended");
        });
        spawn_local(Rc::clone(self).read_data(key, connection.clone()));
        spawn_local(Rc::clone(self).read_datagrams(key, connection.clone()));
        spawn_local(Rc::clone(self).write_datagrams(key, connection.clone(), wake));
        let (this, connection) = (Rc::clone(self), connection.clone());
        spawn_local(async move {
            let reason = connection.closed().await;
            tracing::debug!(%reason, "connection closed");
            this.closed(key);
        });
    }

    async fn read_datagrams(self: Rc<Self>, key: SessionKey, connection: Connection) {
        while let Ok(first) = connection.read_datagram().await {
            let more = std::iter::from_fn(|| connection.read_datagram().now_or_never()?.ok());
            let batch = std::iter::once(first).chain(more).take(BATCH);
            let inputs = batch.map(|datagram| Input::Datagram {
                peer: key.0,
                datagram,
            });
            if !self.session_input(key, inputs) {
                return;
            }
        }
    }

    async fn write_datagrams(
        self: Rc<Self>,
        key: SessionKey,
        connection: Connection,
        wake: Rc<Notify>,
    ) {
        loop {
            tokio::select! {
                () = wake.notified() => {}
                _ = connection.closed() => return,
            }
            while let Some(datagram) = self.next_datagram(key) {
                match connection.send_datagram_wait(datagram).await {
                    Ok(()) => {}
                    // Only a path below 1,300 bytes does that; the peer sees loss.
                    Err(SendDatagramError::TooLarge) => {
                        tracing::debug!("datagram exceeds the path's MTU")
                    }
                    Err(_) => return,
                }
            }
        }
    }

    /// Reads messages until the stream ends or makes no sense.
    async fn read_stream(self: Rc<Self>, key: SessionKey, mut stream: RecvStream) {
        let mut decoder = Decoder::default();
        while let Ok(Some(chunk)) = stream.read_chunk(READ_LEN, true).await {
            decoder.push(&chunk.bytes);
            let mut broken = false;
            let messages = std::iter::from_fn(|| {
                decoder.next_message().unwrap_or_else(|_| {
                    broken = true;
                    None
                })
            });
            let inputs: Vec<Input> = messages
                .map(|message| Input::Message {
                    peer: key.0,
                    message,
                })
                .collect();
            if !self.session_input(key, inputs) || broken {
                return;
            }
        }
    }

    /// Takes the streams of participants that send reliable data.
    async fn read_data(self: Rc<Self>, key: SessionKey, connection: Connection) {
        while let Ok(stream) = connection.accept_uni().await {
            spawn_local(Rc::clone(&self).read_stream(key, stream));
        }
    }
}

/// Writes messages until the session lets go of the queue or the stream breaks.
async fn write_stream(mut stream: SendStream, mut queue: mpsc::Receiver<Bytes>) {
    // Feedback and media are datagrams, which QUIC sends first; among streams, control is first.
    drop(stream.set_priority(1));
    while let Some(message) = queue.recv().await {
        if stream.write_chunk(message).await.is_err() {
            return;
        }
    }
}

/// Writes one participant's messages, in order, to a stream of their own.
async fn write_data(connection: Connection, mut queue: mpsc::Receiver<Bytes>) {
    let Ok(mut stream) = connection.open_uni().await else {
        return;
    };
    while let Ok(Some(message)) = tokio::time::timeout(DATA_IDLE, queue.recv()).await {
        if stream.write_chunk(message).await.is_err() {
            return;
        }
    }
    drop(stream.finish());
}
