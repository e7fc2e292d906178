//! QUIC as links need it: transport parameters, TLS, and who a connection is with.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use runtime::tls::NodeName;
use rustls_pki_types::CertificateDer;

use super::{Config, Error, congestion, tls};

/// Smallest MTU of a provisioned path, in bytes. At quinn's default of 1,200 its black-hole detector takes random loss for a
/// shrunken path, and video no longer fits.
const MTU_MIN: u16 = 1300;
/// Assumed before discovery.
const MTU_INITIAL: u16 = 1350;
/// Room in quinn for datagrams, in bytes: enough for one batch. What does not fit waits in our queue, by priority.
const DATAGRAM_BUFFER_LEN: usize = 16 << 10;
/// Datagrams that wait for us to read them, in bytes: 100 ms at 160 Mbps.
const DATAGRAM_RECEIVE_LEN: usize = 2 << 20;
/// Reordering below this many packets is no loss; long paths reorder, and the default of 3 would see loss everywhere.
const PACKET_THRESHOLD: u32 = 64;
/// Streams a peer may have open: one per participant that sends reliable data.
const UNI_STREAMS_MAX: u32 = 4096;
/// A connection without a word is given up, in ms. Death is found earlier, by heartbeats.
const IDLE_TIMEOUT_MS: u32 = 5_000;
/// Before the first measurement: so that a lost first packet is repeated soon.
const RTT_INITIAL: Duration = Duration::from_millis(100);

/// Configurations of both sides.
#[derive(Clone, Debug)]
pub(super) struct Quic {
    pub(super) client: ClientConfig,
    pub(super) server: ServerConfig,
}

impl Quic {
    /// # Errors
    /// When the certificates are unusable or belong to another node.
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let expected = NodeName {
            mesh: config.mesh.clone(),
            region: config.region.as_str().to_owned(),
            role: config.role.as_str().to_owned(),
            node: config.node.as_str().to_owned(),
        };
        let found = config.credentials.chain.first().and_then(tls::node_name);
        if found.as_ref() != Some(&expected) {
            let found = found.map(|name| name.to_string());
            return Err(Error::Identity {
                expected: expected.to_string(),
                found,
            });
        }
        let (client, server) = tls::configs(&config.credentials)?;
        let no_suite = |error: quinn::crypto::rustls::NoInitialCipherSuite| {
            Error::Tls(rustls::Error::General(error.to_string()))
        };
        let client = QuicClientConfig::try_from(client).map_err(no_suite)?;
        let server = QuicServerConfig::try_from(server).map_err(no_suite)?;
        let transport = Arc::new(transport(config.rate_bps_max));
        let mut client = ClientConfig::new(Arc::new(client));
        client.transport_config(Arc::clone(&transport));
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(transport);
        Ok(Self { client, server })
    }
}

fn transport(rate_bps_max: u64) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(MTU_INITIAL)
        .min_mtu(MTU_MIN)
        .packet_threshold(PACKET_THRESHOLD)
        .datagram_send_buffer_size(DATAGRAM_BUFFER_LEN)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_LEN))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS_MAX))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(Duration::from_secs(1)))
        .initial_rtt(RTT_INITIAL)
        .congestion_controller_factory(Arc::new(congestion::Factory { rate_bps_max }));
    transport
}

/// Who the other side of a connection proved to be.
pub(super) fn peer_name(connection: &Connection) -> Option<NodeName> {
    let identity = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    tls::node_name(identity.first()?)
}
