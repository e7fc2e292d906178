//! The certificate an edge shows to clients, and the comparison of theirs with what signalling said (RFC 8122).

use aws_lc_rs::digest;
use media::srtp::Profile;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::{Certificate, CryptoPrivateKey};
use rtc_dtls::crypto_provider::{RTCCryptoProvider, default_provider};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Between retransmissions of a flight; `rtc-dtls` gives up after seven. The default of 1 s makes a lost flight the longest
/// part of a join.
const FLIGHT_INTERVAL: Duration = Duration::from_millis(750);

/// Why no identity could be made.
#[derive(Debug, Error)]
pub(in super::super) enum IdentityError {
    /// The key or certificate could not be generated.
    #[error("generating the DTLS certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The DTLS library refused them.
    #[error("configuring DTLS: {0}")]
    Dtls(#[from] rtc_shared::error::Error),
    /// There is no cryptography.
    #[error("no cryptography provider: {0}")]
    Provider(String),
}

/// An edge's ECDSA P-256 key and self-signed certificate: one per process, so that no two edges share one.
pub(in super::super) struct Identity {
    provider: Arc<dyn RTCCryptoProvider>,
    fingerprint: String,
    by_profile: Vec<(Profile, Arc<HandshakeConfig>)>,
    any_profile: Arc<HandshakeConfig>,
    client: Arc<HandshakeConfig>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Generates key and certificate.
    /// Fails when the cryptography library does.
    pub(in super::super) fn generate() -> Result<Self, IdentityError> {
        let provider =
            default_provider().map_err(|error| IdentityError::Provider(error.to_string()))?;
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate =
            rcgen::CertificateParams::new(vec!["antipode".to_owned()])?.self_signed(&key)?;
        let fingerprint = format!("sha-256 {}", hex_pairs(&digest::SHA256, certificate.der()));
        let certificate = Certificate {
            certificate: vec![certificate.der().clone()],
            private_key: CryptoPrivateKey::from_key_pair(&key, provider.crypto())?,
        };
        let profiles = [
            Profile::AeadAes128Gcm,
            Profile::AeadAes256Gcm,
            Profile::Aes128CmHmacSha1_80,
        ];
        let build = |profiles: &[Profile], client: bool| {
            ConfigBuilder::default()
                .with_crypto_provider(provider.clone())
                .with_certificates(vec![certificate.clone()])
                .with_client_auth(ClientAuthType::RequireAnyClientCert)
                .with_extended_master_secret(ExtendedMasterSecretType::Require)
                .with_srtp_protection_profiles(profiles.iter().map(|p| registered(*p)).collect())
                .with_flight_interval(FLIGHT_INTERVAL)
                .with_insecure_skip_verify(true)
                .build(client, None)
                .map(Arc::new)
        };
        let by_profile = profiles
            .iter()
            .map(|profile| Ok((*profile, build(&[*profile], false)?)))
            .collect::<Result<_, IdentityError>>()?;
        let any_profile = build(&profiles, false)?;
        let client = build(&profiles, true)?;
        Ok(Self {
            provider,
            fingerprint,
            by_profile,
            any_profile,
            client,
        })
    }

    /// `sha-256 AB:CD:…`, the value of `a=fingerprint` (RFC 8122 section 5).
    pub(in super::super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The cryptography that DTLS and STUN use.
    pub(in super::super) fn provider(&self) -> &Arc<dyn RTCCryptoProvider> {
        &self.provider
    }

    /// How to handshake with a client that is to use `profile`.
    pub(super) fn config(&self, profile: Option<Profile>) -> Arc<HandshakeConfig> {
        let found = self
            .by_profile
            .iter()
            .find(|(known, _)| Some(*known) == profile);
        Arc::clone(found.map_or(&self.any_profile, |(_, config)| config))
    }

    /// How to handshake as the client. The server picks a profile; ours are listed best first.
    pub(super) fn client_config(&self) -> Arc<HandshakeConfig> {
        Arc::clone(&self.client)
    }
}

/// Whether a certificate (DER) has one of the fingerprints, each `<hash function> <hex pairs>` (RFC 8122 section 5).
pub(in super::super) fn fingerprint_matches(certificate: &[u8], fingerprints: &[String]) -> bool {
    fingerprints.iter().any(|fingerprint| {
        let Some((function, value)) = fingerprint.trim().split_once(' ') else {
            return false;
        };
        let algorithm = match function.to_ascii_lowercase().as_str() {
            "sha-256" => &digest::SHA256,
            "sha-384" => &digest::SHA384,
            "sha-512" => &digest::SHA512,
            _ => return false,
        };
        hex_pairs(algorithm, certificate).eq_ignore_ascii_case(value.trim())
    })
}

fn hex_pairs(algorithm: &'static digest::Algorithm, bytes: &[u8]) -> String {
    let digest = digest::digest(algorithm, bytes);
    let pairs: Vec<String> = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    pairs.join(":")
}

fn registered(profile: Profile) -> SrtpProtectionProfile {
    SrtpProtectionProfile::from(profile.id())
}
