//! Mutual TLS between nodes: a chain to the mesh's authority, and one SPIFFE URI that says who the peer is.

use std::sync::Arc;

use runtime::tls::{Credentials, NodeName};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// Protocol name and version of the link (RFC 7301).
const ALPN: &[u8] = b"antipode-link/1";

/// AES-128-GCM first: fastest where there is hardware for it.
fn provider() -> CryptoProvider {
    let cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    CryptoProvider {
        cipher_suites,
        ..aws_lc_rs::default_provider()
    }
}

/// The TLS configurations of both sides.
///
/// # Errors
/// When the certificates or the key are unusable.
pub(super) fn configs(credentials: &Credentials) -> Result<(ClientConfig, ServerConfig), Error> {
    let provider = Arc::new(provider());
    let mut roots = RootCertStore::empty();
    roots.add(credentials.ca.clone())?;
    let roots = Arc::new(roots);
    let verifier = MeshVerifier {
        roots: Arc::clone(&roots),
        provider: Arc::clone(&provider),
    };
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    client.alpn_protocols = vec![ALPN.to_vec()];

    let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    Ok((client, server))
}

/// Who a certificate belongs to: the only URI in its subject alternative names (RFC 5280 section 4.2.1.6).
pub(super) fn node_name(certificate: &CertificateDer<'_>) -> Option<NodeName> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some(*uri)
        } else {
            None
        }
    });
    let uri = uris.next()?;
    uris.next().is_none().then(|| uri.parse().ok())?
}

/// Accepts a server by its chain alone. Nodes have no host names; who the node is gets checked once the handshake is done.
#[derive(Debug)]
struct MeshVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for MeshVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        node_name(end_entity).ok_or(CertificateError::ApplicationVerificationFailure)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC has no TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
