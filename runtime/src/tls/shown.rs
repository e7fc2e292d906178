//! The certificate that clients are shown, wherever it comes from.

use prometheus::Registry;

use super::acme::{self, Acme};
use super::listener::{self, Acceptor, Error, Files};
use crate::shutdown::Shutdown;

/// A certificate from files, or from an ACME authority. Clones are one.
#[derive(Clone, Debug)]
pub enum Certificate {
    /// From files.
    Files(listener::Certificate),
    /// By ACME.
    Acme(acme::Certificate),
}

/// Checks settings of which one at most may be given.
///
/// # Errors
/// What is wrong.
pub fn check(files: Option<&Files>, acme: Option<&Acme>) -> Result<(), Error> {
    match (files, acme) {
        (Some(_), Some(_)) => Err(Error::Setup("files and ACME at once".to_owned())),
        (Some(files), None) => files.check(),
        (None, Some(acme)) => acme.check(),
        (None, None) => Ok(()),
    }
}

impl Certificate {
    /// Opens whichever is given; nothing without either. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// As [`listener::Certificate::open`] and [`acme::Certificate::start`].
    pub fn open(
        files: Option<&Files>,
        acme: Option<&Acme>,
        registry: &Registry,
        shutdown: Shutdown,
    ) -> Result<Option<Self>, Error> {
        check(files, acme)?;
        if let Some(acme) = acme {
            let certificate = acme::Certificate::start(acme, registry, shutdown)?;
            return Ok(Some(Self::Acme(certificate)));
        }
        let opened = files.map(|files| listener::Certificate::open(files, registry, shutdown));
        Ok(opened.transpose()?.map(Self::Files))
    }

    /// Accepts connections with this certificate. `protocols` are offered by ALPN (RFC 7301), preferred first; none for protocols
    /// that have no name.
    ///
    /// # Errors
    /// When rustls cannot be configured.
    pub fn acceptor(&self, protocols: &[&[u8]]) -> Result<Acceptor, Error> {
        match self {
            Self::Files(certificate) => certificate.acceptor(protocols),
            Self::Acme(certificate) => certificate.acceptor(protocols),
        }
    }
}
