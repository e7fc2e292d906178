//! TLS of listeners that clients connect to. The certificate comes from files and is read again when they change: connections go
//! on, new ones are shown the new certificate.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::shutdown::Shutdown;

/// How often the files are looked at. Whoever renews certificates does so days ahead.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// From when on a certificate that ends is worth a warning: renewals happen earlier.
const ENDS_SOON: Duration = Duration::from_hours(7 * 24);
/// Who looks at the answer to a challenge names this protocol (RFC 8737 section 3).
pub(super) const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";
/// What rustls may hold back of what is written, bytes: a few records, so that a slow client shows.
const BUFFERED: usize = 16 << 10;

/// Why a listener has no certificate. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds no certificate in PEM.
    #[error("{}: no PEM certificate in it ({source})", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// The file holds no private key in PEM.
    #[error("{}: no PEM private key in it ({source})", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// The first certificate is no X.509 certificate.
    #[error("{}: its first certificate cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
    /// The key cannot be used, or is not the certificate's.
    #[error("{} and {} do not go together: {source}", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// TLS could not be configured, or a metric not registered.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Where a listener finds its certificate, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The certificate, followed by intermediates.
    pub cert: PathBuf,
    /// Its private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: PathBuf,
}

/// A certificate that was read, with its key.
struct Loaded {
    key: Arc<CertifiedKey>,
    /// Unix seconds.
    expires_s: i64,
}

/// When the first certificate of a PEM file ends, Unix seconds.
///
/// # Errors
/// When the file cannot be read or its first certificate is none.
pub fn expiry_s(path: &Path) -> Result<i64, Error> {
    expiry_in(&read(path)?, path)
}

/// The same of what a file holds.
pub(super) fn expiry_in(pem: &[u8], path: &Path) -> Result<i64, Error> {
    let certificate = CertificateDer::from_pem_slice(pem);
    let certificate = certificate.map_err(|source| Error::Certificate {
        path: path.to_owned(),
        source,
    })?;
    let parsed = X509Certificate::from_der(&certificate).map_err(|_| Error::Unreadable {
        path: path.to_owned(),
    });
    parsed.map(|(_, parsed)| parsed.validity().not_after.timestamp())
}

impl Files {
    /// Reads both files and says whether they are good.
    ///
    /// # Errors
    /// When one cannot be read or used, or they do not belong together.
    pub fn check(&self) -> Result<(), Error> {
        self.load().map(|_| ())
    }

    fn load(&self) -> Result<Loaded, Error> {
        let cert = read(&self.cert)?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&cert)
            .collect::<Result<_, _>>()
            .map_err(|source| self.no_certificate(source))?;
        let first = chain
            .first()
            .ok_or_else(|| self.no_certificate(rustls_pki_types::pem::Error::NoItemsFound))?;
        let unreadable = |_| Error::Unreadable {
            path: self.cert.clone(),
        };
        let (_, parsed) = X509Certificate::from_der(first).map_err(unreadable)?;
        let expires_s = parsed.validity().not_after.timestamp();
        let key = read(&self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|source| Error::Key {
            path: self.key.clone(),
            source,
        })?;
        let key = CertifiedKey::from_der(chain, key, &provider());
        let key = key.map_err(|source| Error::Pair {
            cert: self.cert.clone(),
            key: self.key.clone(),
            source,
        })?;
        Ok(Loaded {
            key: Arc::new(key),
            expires_s,
        })
    }

    fn no_certificate(&self, source: rustls_pki_types::pem::Error) -> Error {
        Error::Certificate {
            path: self.cert.clone(),
            source,
        }
    }

    /// What changes when somebody writes or replaces a file.
    fn state(&self) -> [Option<FileState>; 2] {
        [&self.cert, &self.key].map(|path| std::fs::metadata(path).ok().map(FileState::from))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FileState {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl From<Metadata> for FileState {
    fn from(metadata: Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

/// The certificate that clients are shown now. Clones are one.
#[derive(Clone)]
pub struct Certificate {
    files: Files,
    current: Arc<Current>,
    metrics: Metrics,
}

struct Current(RwLock<Arc<CertifiedKey>>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current(…)")
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let key = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&key))
    }
}

#[derive(Clone)]
struct Metrics {
    expires: IntGauge,
    reloads: IntCounterVec,
}

impl Metrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            expires: expiry_gauge()?,
            reloads: IntCounterVec::new(
                Opts::new(
                    "antipode_tls_certificate_reloads_total",
                    "Changed certificate files that were read again.",
                ),
                &["result"],
            )?,
        };
        registry.register(Box::new(metrics.expires.clone()))?;
        registry.register(Box::new(metrics.reloads.clone()))?;
        Ok(metrics)
    }
}

/// The metric of when a certificate ends.
pub(super) fn expiry_gauge() -> prometheus::Result<IntGauge> {
    IntGauge::new(
        "antipode_tls_certificate_expiry_timestamp_seconds",
        "When the certificate that clients are shown ends, Unix time.",
    )
}

impl Certificate {
    /// Reads the files now, and again whenever they change until `shutdown`; files that are no good are logged and counted, and
    /// the certificate before stays. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the files are no good now, or a metric is registered already.
    pub fn open(files: &Files, registry: &Registry, shutdown: Shutdown) -> Result<Self, Error> {
        // Looked at before they are read, so that no change is missed.
        let state = files.state();
        let loaded = files.load()?;
        let metrics =
            Metrics::register(registry).map_err(|error| Error::Setup(error.to_string()))?;
        metrics.expires.set(loaded.expires_s);
        warn_of_end(files, loaded.expires_s);
        let certificate = Self {
            files: files.clone(),
            current: Arc::new(Current(RwLock::new(loaded.key))),
            metrics,
        };
        let follower = certificate.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = follower.follow(state) => {}
                () = shutdown.wait() => {}
            }
        });
        Ok(certificate)
    }

    /// Accepts connections with this certificate. `protocols` are offered by ALPN (RFC 7301), preferred first; none for protocols
    /// that have no name.
    ///
    /// # Errors
    /// When rustls cannot be configured.
    pub fn acceptor(&self, protocols: &[&[u8]]) -> Result<Acceptor, Error> {
        Acceptor::new(
            Arc::clone(&self.current) as Arc<dyn ResolvesServerCert>,
            protocols,
        )
    }

    async fn follow(&self, mut seen: [Option<FileState>; 2]) {
        let mut told = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let state = self.files.state();
            if state == seen {
                continue;
            }
            match self.files.load() {
                Ok(loaded) => {
                    seen = state;
                    told.clear();
                    self.take(loaded);
                }
                // Perhaps only one of the two has been replaced so far: looked at again, but told once.
                Err(error) => {
                    let text = error.to_string();
                    if text != told {
                        self.metrics.reloads.with_label_values(&["failed"]).inc();
                        tracing::warn!(error = text, "certificate not replaced");
                        told = text;
                    }
                }
            }
        }
    }

    fn take(&self, loaded: Loaded) {
        *self
            .current
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner) = loaded.key;
        self.metrics.expires.set(loaded.expires_s);
        self.metrics.reloads.with_label_values(&["taken"]).inc();
        tracing::info!(cert = %self.files.cert.display(), "certificate replaced");
        warn_of_end(&self.files, loaded.expires_s);
    }
}

fn warn_of_end(files: &Files, expires_s: i64) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now_s = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let left_s = expires_s.saturating_sub(now_s);
    let cert = files.cert.display();
    if left_s <= 0 {
        tracing::warn!(%cert, "the certificate has ended: clients will refuse it");
    } else if left_s < i64::try_from(ENDS_SOON.as_secs()).unwrap_or(i64::MAX) {
        tracing::warn!(%cert, hours = left_s / 3600, "the certificate ends soon");
    }
}

/// Makes TLS connections of TCP connections.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor(…)")
    }
}

impl Acceptor {
    pub(super) fn new(
        certificates: Arc<dyn ResolvesServerCert>,
        protocols: &[&[u8]],
    ) -> Result<Self, Error> {
        let setup = |error: rustls::Error| Error::Setup(error.to_string());
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .map_err(setup)?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(setup)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Shakes hands. Give it a time-out: a client may say nothing.
    ///
    /// # Errors
    /// When the client is gone, does not speak TLS, or only looked at the answer to an ACME challenge.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let mut stream = self.0.accept(stream).await?;
        if stream.get_ref().1.alpn_protocol() == Some(CHALLENGE_PROTOCOL) {
            stream.shutdown().await?;
            return Err(io::Error::other("an ACME challenge, answered"));
        }
        stream.get_mut().1.set_buffer_limit(Some(BUFFERED));
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls_pki_types::ServerName;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::tls::{Authority, install_provider};

    const HOUR: Duration = Duration::from_hours(1);

    struct Scene {
        directory: PathBuf,
        files: Files,
        registry: Registry,
        shutdown: Shutdown,
    }

    impl Scene {
        fn new(name: &str) -> Self {
            install_provider();
            let directory = std::env::temp_dir()
                .join(format!("antipode-listener-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let files = Files {
                cert: directory.join("cert.pem"),
                key: directory.join("key.pem"),
            };
            Self {
                directory,
                files,
                registry: Registry::new(),
                shutdown: Shutdown::new(),
            }
        }

        /// A new authority's certificate for `localhost` in place; returns the authority's certificate.
        fn renew(&self) -> String {
            let authority = Authority::generate("test", HOUR).unwrap();
            let issued = authority
                .issue_server(&["localhost".to_owned(), "127.0.0.1".to_owned()], HOUR)
                .unwrap();
            std::fs::write(&self.files.key, issued.key_pem).unwrap();
            std::fs::write(&self.files.cert, issued.cert_pem).unwrap();
            authority.ca_pem().to_owned()
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            self.shutdown.trigger();
            std::fs::remove_dir_all(&self.directory).unwrap();
        }
    }

    /// Whether a client that trusts `ca` gets through to the listener.
    async fn trusts(ca: &str, acceptor: &Acceptor) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = acceptor.clone();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            acceptor.accept(stream).await.map(drop).is_ok()
        });
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
            .unwrap();
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let client = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await;
        server.await.unwrap();
        client.is_ok()
    }

    #[tokio::test]
    async fn a_replaced_certificate_is_shown_and_a_bad_one_is_not() {
        let scene = Scene::new("reload");
        let old = scene.renew();
        let certificate =
            Certificate::open(&scene.files, &scene.registry, scene.shutdown.clone()).unwrap();
        let acceptor = certificate.acceptor(&[b"http/1.1"]).unwrap();
        assert!(trusts(&old, &acceptor).await);

        std::fs::write(&scene.files.cert, "nothing").unwrap();
        let failed = || {
            certificate
                .metrics
                .reloads
                .with_label_values(&["failed"])
                .get()
        };
        wait_for(|| failed() > 0).await;
        assert!(trusts(&old, &acceptor).await, "the one before stays");

        let new = scene.renew();
        let taken = || {
            certificate
                .metrics
                .reloads
                .with_label_values(&["taken"])
                .get()
        };
        wait_for(|| taken() > 0).await;
        assert!(trusts(&new, &acceptor).await);
        assert!(!trusts(&old, &acceptor).await);
    }

    async fn wait_for(condition: impl Fn() -> bool) {
        for _ in 0..100 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("nothing happened for 10 s");
    }

    #[test]
    fn bad_files_are_named() {
        let scene = Scene::new("bad");
        let told = |what: &str| {
            let error = scene.files.check().unwrap_err().to_string();
            assert!(error.contains(what) && !error.contains('\n'), "{error}");
        };
        told("cert.pem");
        scene.renew();
        scene.files.check().unwrap();
        let key = std::fs::read_to_string(&scene.files.key).unwrap();
        std::fs::write(&scene.files.key, "nothing").unwrap();
        told("key.pem");
        scene.renew();
        std::fs::write(&scene.files.key, key).unwrap();
        told("do not go together");
        std::fs::write(&scene.files.cert, "").unwrap();
        told("no PEM certificate");
        std::fs::remove_file(&scene.files.key).unwrap();
        scene.files.check().unwrap_err();
    }
}
