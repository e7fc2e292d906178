//! The mesh's own certificates. Nodes know each other by a SPIFFE URI in the certificate's subject alternative name
//! (RFC 5280 section 4.2.1.6): `spiffe://<mesh>/region/<region>/<role>/<node>`. Certificates that clients are shown: [`shown`].

pub mod acme;
pub mod listener;
pub mod shown;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

/// How long a certificate is valid before it was made: clocks of nodes differ.
const BACKDATED: Duration = Duration::from_mins(5);

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file holds no usable PEM section of the kind wanted (RFC 7468).
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// A certificate could not be made.
    #[error("certificate could not be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// A name is not of the form `spiffe://<mesh>/region/<region>/<role>/<node>`.
    #[error("{0:?} is not a node's name")]
    Name(String),
}

/// Makes aws-lc-rs the process's rustls provider. To be called first thing in `main` and in tests; later calls do nothing.
pub fn install_provider() {
    // An error says that a provider is installed already, which is what is wanted.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// Who a node is, as its certificate says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeName {
    /// Name of the mesh, the trust domain.
    pub mesh: String,
    /// Region, for example `fra`.
    pub region: String,
    /// `edge`, `relay` or `control`.
    pub role: String,
    /// Node id, for example `edge-fra-0`.
    pub node: String,
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mesh,
            region,
            role,
            node,
        } = self;
        write!(f, "spiffe://{mesh}/region/{region}/{role}/{node}")
    }
}

impl FromStr for NodeName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = text.strip_prefix("spiffe://").map(|rest| rest.split('/'));
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        match parts.as_slice() {
            &[mesh, "region", region, role, node]
                if [mesh, region, role, node].into_iter().all(is_name) =>
            {
                Ok(Self {
                    mesh: mesh.to_owned(),
                    region: region.to_owned(),
                    role: role.to_owned(),
                    node: node.to_owned(),
                })
            }
            _ => Err(Error::Name(text.to_owned())),
        }
    }
}

/// Path segments and trust domains: letters, digits, `-`, `_` and `.` (SPIFFE-ID sections 2.1 and 2.2).
fn is_name(part: &str) -> bool {
    !part.is_empty()
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Where a node finds its certificates, all PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// The authority that signed this node and its peers.
    pub ca: PathBuf,
    /// This node's certificate, followed by intermediates if any.
    pub cert: PathBuf,
    /// This node's private key (PKCS #8).
    pub key: PathBuf,
}

impl Paths {
    /// The customary files of a node in a directory: `ca.pem`, `<node>.pem`, `<node>.key`.
    pub fn in_directory(directory: &Path, node: &str) -> Self {
        Self {
            ca: directory.join("ca.pem"),
            cert: directory.join(format!("{node}.pem")),
            key: directory.join(format!("{node}.key")),
        }
    }

    /// Reads all three files.
    ///
    /// # Errors
    /// When a file is missing or holds no PEM section of its kind.
    pub fn load(&self) -> Result<Credentials, Error> {
        let pem = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Pem { path, source }
        };
        let ca = CertificateDer::from_pem_file(&self.ca).map_err(pem(&self.ca))?;
        let chain = CertificateDer::pem_file_iter(&self.cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(pem(&self.cert))?;
        if chain.is_empty() {
            return Err(pem(&self.cert)(rustls_pki_types::pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(pem(&self.key))?;
        Ok(Credentials { ca, chain, key })
    }
}

/// A node's certificates, ready for rustls.
pub struct Credentials {
    /// The authority that signed this node and its peers.
    pub ca: CertificateDer<'static>,
    /// This node's certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the chain's first certificate.
    pub key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}

/// A new certificate of a node or server in PEM.
pub struct NodeCertificate {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: String,
}

impl fmt::Debug for NodeCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCertificate").finish_non_exhaustive()
    }
}

/// The authority of one mesh: signs its nodes' certificates (ECDSA P-256).
pub struct Authority {
    ca_pem: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority for the mesh of this name, valid from now for `validity`.
    ///
    /// # Errors
    /// When the key or certificate cannot be made.
    pub fn generate(mesh: &str, validity: Duration) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Antipode mesh {mesh}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, validity);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        Ok(Self {
            ca_pem: issuer.pem(),
            issuer,
        })
    }

    /// The authority's certificate, which every node needs.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A certificate for one node, for both sides of TLS, valid from now for `validity`.
    ///
    /// # Errors
    /// When the name does not fit a SPIFFE URI, or the certificate cannot be made.
    pub fn issue(&self, name: &NodeName, validity: Duration) -> Result<NodeCertificate, Error> {
        let uri = name.to_string();
        uri.parse::<NodeName>()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, name.node.as_str());
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, validity);
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(NodeCertificate {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// A certificate for a server that clients reach at these names or addresses, valid from now for `validity`.
    ///
    /// # Errors
    /// When a name is not one, or the certificate cannot be made.
    pub fn issue_server(
        &self,
        names: &[String],
        validity: Duration,
    ) -> Result<NodeCertificate, Error> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(
            DnType::CommonName,
            names.first().map_or("server", String::as_str),
        );
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, validity);
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(NodeCertificate {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// As [`Authority::issue_server`], written to `<name>.pem` and `<name>.key` in `directory`.
    ///
    /// # Errors
    /// As [`Authority::issue_server`], or when a file cannot be written.
    pub fn issue_server_into(
        &self,
        directory: &Path,
        name: &str,
        (names, validity): (&[String], Duration),
    ) -> Result<listener::Files, Error> {
        let issued = self.issue_server(names, validity)?;
        let files = listener::Files {
            cert: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
        };
        write(&files.cert, &issued.cert_pem, 0o644)?;
        write(&files.key, &issued.key_pem, 0o600)?;
        Ok(files)
    }

    /// Issues a certificate and writes it, its key (readable by the owner only) and the authority's certificate to the
    /// customary files in `directory`.
    ///
    /// # Errors
    /// As [`Authority::issue`], or when a file cannot be written.
    pub fn issue_into(
        &self,
        directory: &Path,
        name: &NodeName,
        validity: Duration,
    ) -> Result<Paths, Error> {
        let issued = self.issue(name, validity)?;
        let paths = Paths::in_directory(directory, &name.node);
        write(&paths.ca, &self.ca_pem, 0o644)?;
        write(&paths.cert, &issued.cert_pem, 0o644)?;
        write(&paths.key, &issued.key_pem, 0o600)?;
        Ok(paths)
    }
}

fn set_validity(params: &mut CertificateParams, validity: Duration) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + validity;
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::server::WebPkiClientVerifier;
    use rustls_pki_types::UnixTime;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn edge() -> NodeName {
        "spiffe://dev.mesh/region/fra/edge/edge-fra-0"
            .parse()
            .unwrap()
    }

    #[test]
    fn names_are_parsed_strictly() {
        assert_eq!(edge().node, "edge-fra-0");
        assert_eq!(edge().to_string().parse::<NodeName>().unwrap(), edge());
        for bad in [
            "",
            "spiffe://m/region/fra/edge",
            "spiffe://m/region/fra/edge/n/more",
            "spiffe://m/zone/fra/edge/n",
            "spiffe:///region/fra/edge/n",
            "https://m/region/fra/edge/n",
            "spiffe://m/region/fra/edge/n n",
        ] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn issued_certificates_chain_to_their_authority_only() {
        install_provider();
        let directory = std::env::temp_dir().join(format!("antipode-tls-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let authority = Authority::generate("dev.mesh", HOUR).unwrap();
        let paths = authority.issue_into(&directory, &edge(), HOUR).unwrap();
        let credentials = paths.load().unwrap();
        assert_eq!(credentials.chain.len(), 1);
        let verdict = |ca: CertificateDer<'static>| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(ca).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                .build()
                .unwrap();
            verifier
                .verify_client_cert(&credentials.chain[0], &[], UnixTime::now())
                .is_ok()
        };
        assert!(verdict(credentials.ca.clone()));
        let other = Authority::generate("dev.mesh", HOUR).unwrap();
        assert!(!verdict(
            CertificateDer::from_pem_slice(other.ca_pem().as_bytes()).unwrap()
        ));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_certificate_ends_with_its_validity() {
        install_provider();
        let authority = Authority::generate("dev.mesh", HOUR).unwrap();
        let issued = authority.issue(&edge(), HOUR).unwrap();
        let cert = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap())
            .unwrap();
        let verifier = WebPkiServerVerifier::builder(Arc::new(roots))
            .build()
            .unwrap();
        let name = "edge.example".try_into().unwrap();
        let at = |time: Duration| {
            let when = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + time;
            let when = UnixTime::since_unix_epoch(when);
            verifier
                .verify_server_cert(&cert, &[], &name, &[], when)
                .unwrap_err()
                .to_string()
        };
        // No DNS name is in it: a name check fails, yet only after the dates were found good.
        assert!(
            !at(Duration::ZERO).contains("Expired"),
            "{}",
            at(Duration::ZERO)
        );
        assert!(at(HOUR * 2).contains("expired") || at(HOUR * 2).contains("Expired"));
    }

    #[test]
    fn the_key_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("antipode-key-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let authority = Authority::generate("m", HOUR).unwrap();
        let paths = authority.issue_into(&directory, &edge(), HOUR).unwrap();
        let mode = std::fs::metadata(&paths.key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_missing_file_is_named() {
        let paths = Paths::in_directory(Path::new("nowhere"), "n");
        assert!(paths.load().unwrap_err().to_string().contains("ca.pem"));
    }
}
