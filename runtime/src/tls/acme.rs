//! Certificates by ACME (RFC 8555): asked for, proven and renewed while the listener runs. The proof is TLS-ALPN-01 (RFC 8737): the
//! authority connects to port 443 of each domain, which has to be this listener, or lead to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use rustls::crypto::aws_lc_rs;
use rustls::server::ResolvesServerCert;
use rustls::{ClientConfig, RootCertStore};
use rustls_acme::caches::DirCache;
use rustls_acme::{
    AccountCache, AcmeConfig, AcmeState, CertCache, EventError, EventOk, ResolvesServerCertAcme,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::listener::{Acceptor, CHALLENGE_PROTOCOL, Error, expiry_gauge, expiry_in};
use crate::shutdown::Shutdown;

/// Let's Encrypt.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Where account and certificate are kept, unless it is said.
const FOLDER: &str = "data/acme";

/// Which certificate to ask for, and whom. Whoever sets this agrees to the authority's terms of service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// The names that the certificate is for.
    pub domains: Vec<String>,
    /// Address that the authority may write to; none: it cannot.
    #[serde(default)]
    pub email: Option<String>,
    /// The authority's directory URL [default: Let's Encrypt's].
    #[serde(default = "directory")]
    pub directory: String,
    /// Authorities (PEM) of the directory's own certificate, where they are none of the public ones.
    #[serde(default)]
    pub directory_ca: Option<PathBuf>,
    /// Folder for the account's key and the certificate, for this user only. Authorities limit how often one may ask: it has to
    /// outlive the process.
    #[serde(default = "folder")]
    pub folder: PathBuf,
}

fn directory() -> String {
    DIRECTORY.to_owned()
}

fn folder() -> PathBuf {
    PathBuf::from(FOLDER)
}

impl Acme {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let setup = |text: String| Err(Error::Setup(text));
        if self.domains.is_empty() {
            return setup("acme.domains is empty".to_owned());
        }
        let is_name =
            |name: &String| name.contains('.') && name.parse::<std::net::IpAddr>().is_err();
        if let Some(name) = self
            .domains
            .iter()
            .find(|name| !is_name(name) || name.contains('*'))
        {
            return setup(format!(
                "acme.domains: {name:?} is no domain that can be proven by TLS-ALPN-01"
            ));
        }
        if !self.directory.starts_with("https://") {
            return setup("acme.directory must begin with https://".to_owned());
        }
        Ok(())
    }

    /// Whom to trust for the directory.
    fn client(&self) -> Result<Option<Arc<ClientConfig>>, Error> {
        let Some(path) = &self.directory_ca else {
            return Ok(None);
        };
        let pem = std::fs::read(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        let mut roots = RootCertStore::empty();
        let setup = |error: rustls::Error| Error::Setup(error.to_string());
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|source| Error::Certificate {
                path: path.clone(),
                source,
            })?;
            roots.add(certificate).map_err(setup)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(setup)?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Some(Arc::new(config)))
    }
}

/// The certificate that clients are shown now; until there is one, their handshakes fail. Clones are one.
#[derive(Clone, Debug)]
pub struct Certificate {
    resolver: Arc<ResolvesServerCertAcme>,
}

#[derive(Clone)]
struct Metrics {
    expires: IntGauge,
    events: IntCounterVec,
}

impl Metrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            expires: expiry_gauge()?,
            events: IntCounterVec::new(
                Opts::new(
                    "antipode_tls_acme_total",
                    "Certificates that an ACME authority gave, and tries that failed.",
                ),
                &["result"],
            )?,
        };
        registry.register(Box::new(metrics.expires.clone()))?;
        registry.register(Box::new(metrics.events.clone()))?;
        Ok(metrics)
    }
}

impl Certificate {
    /// Takes the certificate that is kept, asks for one where there is none, and renews it, until `shutdown`. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When the settings are unsound, the folder cannot be made, or a metric is registered already.
    pub fn start(acme: &Acme, registry: &Registry, shutdown: Shutdown) -> Result<Self, Error> {
        acme.check()?;
        private_folder(&acme.folder).map_err(|source| Error::File {
            path: acme.folder.clone(),
            source,
        })?;
        let metrics = Metrics::register(registry);
        let metrics = metrics.map_err(|error| Error::Setup(error.to_string()))?;
        let kept = Kept {
            folder: DirCache::new(acme.folder.clone()),
            path: acme.folder.clone(),
            expires: metrics.expires.clone(),
        };
        let config = match acme.client()? {
            Some(client) => AcmeConfig::new_with_client_config(&acme.domains, client),
            None => {
                let provider = Arc::new(aws_lc_rs::default_provider());
                AcmeConfig::new_with_provider(&acme.domains, provider)
            }
        };
        let contact = acme.email.iter().map(|address| format!("mailto:{address}"));
        let config = config.contact(contact).directory(&acme.directory);
        let state = config.cache(kept).state();
        let resolver = state.resolver();
        let domains = acme.domains.join(", ");
        tokio::spawn(async move {
            tokio::select! {
                () = follow(state, &metrics, &domains) => {}
                () = shutdown.wait() => {}
            }
        });
        Ok(Self { resolver })
    }

    /// Accepts connections with this certificate, and answers challenges. `protocols` as for files.
    ///
    /// # Errors
    /// When rustls cannot be configured.
    pub fn acceptor(&self, protocols: &[&[u8]]) -> Result<Acceptor, Error> {
        let resolver = Arc::clone(&self.resolver) as Arc<dyn ResolvesServerCert>;
        let with_challenges: Vec<_> = protocols
            .iter()
            .copied()
            .chain([CHALLENGE_PROTOCOL])
            .collect();
        Acceptor::new(resolver, &with_challenges)
    }
}

/// Tells what happens. The library waits longer after each failure, up to 18 hours.
async fn follow<E: fmt::Debug + 'static>(
    mut state: AcmeState<E, E>,
    metrics: &Metrics,
    domains: &str,
) {
    while let Some(event) = state.next().await {
        match event {
            Ok(EventOk::DeployedNewCert) => {
                metrics.events.with_label_values(&["issued"]).inc();
                tracing::info!(domains, "certificate issued by ACME");
            }
            Ok(EventOk::DeployedCachedCert) => tracing::info!(domains, "kept certificate in use"),
            Ok(EventOk::CertCacheStore | EventOk::AccountCacheStore) => {}
            Err(EventError::Order(error)) => {
                metrics.events.with_label_values(&["failed"]).inc();
                tracing::warn!(domains, %error, "no certificate from the ACME authority; asked again later");
            }
            Err(error) => {
                metrics.events.with_label_values(&["failed"]).inc();
                tracing::warn!(
                    domains,
                    ?error,
                    "ACME: what is kept cannot be used or written"
                );
            }
        }
    }
}

/// A folder that holds private keys.
fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

/// Account and certificate in a folder; shows when the certificate ends.
struct Kept {
    folder: DirCache<PathBuf>,
    path: PathBuf,
    expires: IntGauge,
}

impl Kept {
    fn show(&self, pem: &[u8]) {
        // What cannot be read is not used either, and told of by whoever tries.
        if let Ok(expires_s) = expiry_in(pem, &self.path) {
            self.expires.set(expires_s);
        }
    }
}

#[async_trait]
impl CertCache for Kept {
    type EC = io::Error;

    async fn load_cert(&self, domains: &[String], directory: &str) -> io::Result<Option<Vec<u8>>> {
        let pem = self.folder.load_cert(domains, directory).await?;
        pem.iter().for_each(|pem| self.show(pem));
        Ok(pem)
    }

    async fn store_cert(&self, domains: &[String], directory: &str, pem: &[u8]) -> io::Result<()> {
        self.show(pem);
        self.folder.store_cert(domains, directory, pem).await
    }
}

#[async_trait]
impl AccountCache for Kept {
    type EA = io::Error;

    async fn load_account(
        &self,
        contact: &[String],
        directory: &str,
    ) -> io::Result<Option<Vec<u8>>> {
        self.folder.load_account(contact, directory).await
    }

    async fn store_account(
        &self,
        contact: &[String],
        directory: &str,
        account: &[u8],
    ) -> io::Result<()> {
        self.folder.store_account(contact, directory, account).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_proven_is_refused() {
        let acme = |domains: &[&str]| Acme {
            domains: domains.iter().map(|name| (*name).to_owned()).collect(),
            email: None,
            directory: directory(),
            directory_ca: None,
            folder: folder(),
        };
        acme(&["call.example.org", "eu.call.example.org"])
            .check()
            .unwrap();
        for bad in [&[][..], &["localhost"], &["10.0.0.1"], &["*.example.org"]] {
            acme(bad).check().unwrap_err();
        }
        let plain = Acme {
            directory: "http://ca.internal/directory".to_owned(),
            ..acme(&["call.example.org"])
        };
        plain.check().unwrap_err();
    }
}
