//! The handle to one transport.

use super::peer::{self, Control};
use super::plane::Plane;
use super::shard::ShardCommand;
use crate::core::ice::{Candidate, CandidateKind, Credentials};
use bytes::Bytes;
use media::router::TransportKey;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Orders that a transport's task may have waiting; beyond that, data is dropped and counted.
const CONTROLS: usize = 1024;
/// Datagrams and ICE news that a transport's task may have waiting.
pub(super) const INPUTS: usize = 256;

/// What signalling tells the client about our side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalParameters {
    /// `a=ice-ufrag`.
    pub ufrag: String,
    /// `a=ice-pwd`.
    pub pwd: String,
    /// `a=fingerprint`: `sha-256 AB:CD:…`.
    pub fingerprint: String,
    /// The values of the `a=candidate:` lines.
    pub candidates: Vec<String>,
}

/// What signalling said about the client's side. The client's ICE credentials are not needed: a lite agent sends no checks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RemoteParameters {
    /// `a=ice-ufrag`.
    pub ufrag: String,
    /// `a=ice-pwd`.
    pub pwd: String,
    /// `a=fingerprint` values, `<hash function> <hex pairs>`.
    pub fingerprints: Vec<String>,
    /// `a=setup:passive`: we start the DTLS handshake once a path is nominated.
    pub dtls_server: bool,
}

/// What happened to a transport.
#[derive(Clone, PartialEq, Debug)]
pub enum TransportEvent {
    /// The client nominated a path for the first time, or again after it had been gone.
    IceConnected,
    /// Handshake done and certificate verified: media and data flow.
    DtlsConnected,
    /// A data channel can be used, whoever opened it.
    DataChannelOpen {
        /// Its label.
        label: Arc<str>,
    },
    /// A message on a data channel.
    Data {
        /// Label of the channel.
        label: Arc<str>,
        /// The message.
        payload: Bytes,
    },
    /// It will not work any more.
    Failed {
        /// Why, for logs.
        reason: String,
    },
    /// Nothing was heard for 15 s, or the client closed DTLS. Checks may bring a silent client back.
    Disconnected,
}

/// One peer connection. Dropping it closes it: DTLS close_notify, and the tables forget it.
#[derive(Debug)]
pub struct Transport {
    /// Its key in the tables.
    pub key: TransportKey,
    shard: usize,
    plane: Arc<Plane>,
    credentials: Mutex<Credentials>,
    control: mpsc::Sender<Control>,
}

impl Transport {
    pub(super) fn open(plane: &Arc<Plane>, events: mpsc::Sender<TransportEvent>) -> Self {
        let (key, shard) = plane.allocate_transport();
        let credentials = Credentials::generate(shard, &mut rand::rng());
        let (control, controls) = mpsc::channel(CONTROLS);
        let (inputs, input) = mpsc::channel(INPUTS);
        plane.command(
            shard,
            ShardCommand::Open {
                transport: key,
                credentials: credentials.clone(),
                peer: inputs,
            },
        );
        let peer = peer::Peer::new(key, shard, Arc::clone(plane), events);
        plane.runtime.spawn(peer.run(input, controls));
        let plane = Arc::clone(plane);
        Self {
            key,
            shard,
            plane,
            credentials: Mutex::new(credentials),
            control,
        }
    }

    /// What the client has to know.
    pub fn local(&self) -> LocalParameters {
        let credentials = self
            .credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        LocalParameters {
            ufrag: credentials.ufrag,
            pwd: credentials.pwd,
            fingerprint: self.plane.identity.fingerprint().to_owned(),
            candidates: self.candidates(),
        }
    }

    /// What the client said. Again after an ICE restart or with a new certificate.
    pub fn set_remote(&self, remote: RemoteParameters) {
        self.order(Control::SetRemote {
            fingerprints: remote.fingerprints,
            dtls_server: remote.dtls_server,
        });
    }

    /// New local credentials, user fragment and password; the old ones stay valid until a pair is nominated with the new ones.
    pub fn restart_ice(&self) -> (String, String) {
        let credentials = Credentials::generate(self.shard, &mut rand::rng());
        self.plane.command(
            self.shard,
            ShardCommand::Restart {
                transport: self.key,
                credentials: credentials.clone(),
            },
        );
        let answer = (credentials.ufrag.clone(), credentials.pwd.clone());
        *self
            .credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = credentials;
        answer
    }

    /// Opens a data channel: in order and reliable, or unordered without retransmission. Waits for SCTP if need be; nothing
    /// happens when there is one with this label.
    pub fn open_data_channel(&self, label: &str, reliable: bool) {
        self.order(Control::Open {
            label: label.to_owned(),
            reliable,
        });
    }

    /// Sends a binary message of up to [`super::MESSAGE_MAX`] bytes; it waits for the channel to open. Dropped and counted when
    /// the queues are full.
    pub fn send_data(&self, label: &str, payload: Bytes) {
        self.order(Control::Send {
            label: label.to_owned(),
            payload,
        });
    }

    fn order(&self, control: Control) {
        if self.control.try_send(control).is_err() {
            self.plane.metrics.queue_dropped("transport_control", 1);
        }
    }

    fn candidates(&self) -> Vec<String> {
        let port = self
            .plane
            .shards
            .get(self.shard)
            .map_or(0, |shard| shard.address.port());
        let of = |kind, port| {
            (0..).zip(&self.plane.external).map(move |(rank, ip)| {
                Candidate {
                    kind,
                    address: (*ip, port).into(),
                    rank,
                }
                .to_string()
            })
        };
        let tcp = of(CandidateKind::TcpPassive, self.plane.tcp.port());
        of(CandidateKind::Udp, port).chain(tcp).collect()
    }
}
