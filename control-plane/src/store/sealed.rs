//! Secrets at rest: sealed with AES-256-GCM under a master key that the database never sees.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::Secret;

/// Length of a master key in bytes.
const KEY_LENGTH: usize = 32;
/// Marks the format of a sealed secret.
const FORMAT: &str = "v1";

/// Why a secret was not sealed or opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// Not 32 bytes in base64.
    #[error("the master key is not {KEY_LENGTH} bytes in base64")]
    MasterKey,
    /// The library refused.
    #[error("sealing failed")]
    Sealing,
    /// Not in our format.
    #[error("a sealed secret is malformed")]
    Malformed,
    /// Sealed under another master key.
    #[error("a secret is sealed under master key {found}, configured is {configured}")]
    OtherKey {
        /// Id of the key that it needs.
        found: String,
        /// Id of the key there is.
        configured: String,
    },
    /// Changed, or moved from another row.
    #[error("a sealed secret was changed or belongs elsewhere")]
    Forged,
}

/// Seals and opens secrets, and signs the audit log.
pub struct Sealer {
    id: String,
    key: RandomizedNonceKey,
    chain: hmac::Key,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Sealer {
    /// From a master key: 32 bytes in base64.
    ///
    /// # Errors
    /// [`Error::MasterKey`] when it is something else.
    pub fn new(master: &Secret) -> Result<Self, Error> {
        let bytes = STANDARD
            .decode(master.expose().trim())
            .ok()
            .filter(|bytes| bytes.len() == KEY_LENGTH)
            .ok_or(Error::MasterKey)?;
        // Each use has a key of its own; the id tells master keys apart and does not give them away.
        let derive = |label: &str| {
            let master = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
            hmac::sign(&master, label.as_bytes())
        };
        let sealing = derive("antipode sealing v1");
        let key = RandomizedNonceKey::new(&AES_256_GCM, sealing.as_ref())
            .map_err(|_| Error::MasterKey)?;
        let id = digest::digest(&digest::SHA256, derive("antipode key id v1").as_ref());
        let chain = hmac::Key::new(hmac::HMAC_SHA256, derive("antipode audit v1").as_ref());
        Ok(Self {
            id: hex(id.as_ref()).chars().take(8).collect(),
            key,
            chain,
        })
    }

    /// Seals a secret for one place, for example one row: it does not open elsewhere.
    ///
    /// # Errors
    /// [`Error::Sealing`] when the library refuses.
    pub fn seal(&self, place: &str, secret: &Secret) -> Result<String, Error> {
        let mut bytes = secret.expose().as_bytes().to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(place.as_bytes()), &mut bytes)
            .map_err(|_| Error::Sealing)?;
        let sealed = [nonce.as_ref().as_slice(), &bytes].concat();
        Ok(format!("{FORMAT}:{}:{}", self.id, STANDARD.encode(sealed)))
    }

    /// Opens a secret that was sealed for this place.
    ///
    /// # Errors
    /// When it is malformed, sealed under another master key or for another place, or was changed.
    pub fn open(&self, place: &str, sealed: &str) -> Result<Secret, Error> {
        let mut parts = sealed.splitn(3, ':');
        let (Some(FORMAT), Some(id), Some(text)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Malformed);
        };
        if id != self.id {
            return Err(Error::OtherKey {
                found: id.chars().take(8).collect(),
                configured: self.id.clone(),
            });
        }
        let bytes = STANDARD.decode(text).map_err(|_| Error::Malformed)?;
        let (nonce, body) = bytes
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(Error::Malformed)?;
        let mut body = body.to_vec();
        let opened = self
            .key
            .open_in_place(Nonce::from(nonce), Aad::from(place.as_bytes()), &mut body)
            .map_err(|_| Error::Forged)?;
        let text = std::str::from_utf8(opened).map_err(|_| Error::Malformed)?;
        Ok(Secret::from(text))
    }

    /// Hash of an entry's fields and the hash before, in hexadecimal. Fields are told apart by their lengths.
    pub fn link(&self, before: &str, fields: &[&str]) -> String {
        let mut context = hmac::Context::with_key(&self.chain);
        for field in std::iter::once(&before).chain(fields) {
            let length = u64::try_from(field.len()).unwrap_or(u64::MAX);
            context.update(&length.to_be_bytes());
            context.update(field.as_bytes());
        }
        hex(context.sign().as_ref())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random master key.
///
/// # Errors
/// [`Error::Sealing`] when the system has no randomness.
pub fn generate() -> Result<Secret, Error> {
    let mut bytes = [0; KEY_LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Sealing)?;
    Ok(Secret::from(STANDARD.encode(bytes)))
}

/// The master key in a file; makes one, readable by the owner only, when there is no file.
///
/// # Errors
/// When the file cannot be read or made.
pub fn read_or_create(path: &Path) -> Result<Secret, super::Error> {
    let failed = |source| super::Error::File {
        path: path.display().to_string(),
        source,
    };
    match std::fs::read_to_string(path) {
        Ok(text) => return Ok(Secret::from(text.trim())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let key = generate()?;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let written = file.and_then(|mut file| {
        file.write_all(key.expose().as_bytes())?;
        file.sync_all()
    });
    match written {
        Ok(()) => Ok(key),
        // Another process was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = std::fs::read_to_string(path).map_err(failed)?;
            Ok(Secret::from(text.trim()))
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&Secret::from(STANDARD.encode([byte; KEY_LENGTH]))).expect("32 bytes")
    }

    #[test]
    fn sealed_secrets_open_only_where_they_belong() {
        let (sealer, other) = (sealer(1), sealer(2));
        let secret = Secret::from("hush");
        let sealed = sealer.seal("key/a", &secret).expect("seals");
        assert!(!sealed.contains("hush"));
        assert_ne!(sealed, sealer.seal("key/a", &secret).expect("seals"));
        assert_eq!(sealer.open("key/a", &sealed), Ok(secret));
        assert_eq!(sealer.open("key/b", &sealed), Err(Error::Forged));
        assert!(matches!(
            other.open("key/a", &sealed),
            Err(Error::OtherKey { .. })
        ));
        // Under the other key's name it does not open either.
        let renamed = sealed.replacen(&sealer.id, &other.id, 1);
        assert_eq!(other.open("key/a", &renamed), Err(Error::Forged));
        for bad in ["", "hush", "v1:x", "v2:a:b", "v1::"] {
            assert!(sealer.open("key/a", bad).is_err(), "{bad:?}");
        }
        let short = format!("v1:{}:AAAA", sealer.id);
        assert_eq!(sealer.open("key/a", &short), Err(Error::Malformed));
    }

    #[test]
    fn a_master_key_is_32_bytes() {
        for bad in [
            "",
            "hush",
            "AAAA",
            "not base64 at all, but long enough to be one",
        ] {
            assert_eq!(
                Sealer::new(&Secret::from(bad)).err(),
                Some(Error::MasterKey)
            );
        }
        let (one, two) = (generate().expect("random"), generate().expect("random"));
        assert_ne!(one, two);
        assert!(Sealer::new(&one).is_ok());
    }

    #[test]
    fn the_chain_tells_fields_apart() {
        let sealer = sealer(1);
        assert_ne!(sealer.link("", &["ab", "c"]), sealer.link("", &["a", "bc"]));
        assert_ne!(sealer.link("", &["a"]), sealer.link("x", &["a"]));
        assert_ne!(sealer.link("", &["a"]), self::sealer(2).link("", &["a"]));
    }

    #[test]
    fn the_key_file_is_made_once() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("master.key");
        let key = read_or_create(&path).expect("made");
        assert_eq!(read_or_create(&path).expect("read"), key);
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0);
    }
}
