//! Protection profiles and the layout of DTLS-exported key material (RFC 5764 section 4.2).

use super::Error;

/// An SRTP protection profile (DTLS-SRTP registry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// `SRTP_AEAD_AES_128_GCM` (RFC 7714), preferred.
    AeadAes128Gcm,
    /// `SRTP_AEAD_AES_256_GCM` (RFC 7714).
    AeadAes256Gcm,
    /// `SRTP_AES128_CM_HMAC_SHA1_80` (RFC 5764).
    Aes128CmHmacSha1_80,
}

impl Profile {
    /// By the value on the wire of the `use_srtp` extension.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        match id {
            0x0001 => Some(Self::Aes128CmHmacSha1_80),
            0x0007 => Some(Self::AeadAes128Gcm),
            0x0008 => Some(Self::AeadAes256Gcm),
            _ => None,
        }
    }

    /// The value on the wire of the `use_srtp` extension.
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Self::Aes128CmHmacSha1_80 => 0x0001,
            Self::AeadAes128Gcm => 0x0007,
            Self::AeadAes256Gcm => 0x0008,
        }
    }

    /// Master key length in bytes.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::Aes128CmHmacSha1_80 => 16,
            Self::AeadAes256Gcm => 32,
        }
    }

    /// Master salt length in bytes.
    #[must_use]
    pub fn salt_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
            Self::Aes128CmHmacSha1_80 => 14,
        }
    }

    /// Authentication tag length in bytes.
    #[must_use]
    pub fn tag_len(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 16,
            Self::Aes128CmHmacSha1_80 => 10,
        }
    }

    /// Bytes to export from DTLS: both keys and both salts (RFC 5764 section 4.2).
    #[must_use]
    pub fn keying_material_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }
}

/// Master key and salt of one direction.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    key: [u8; 32],
    key_len: usize,
    /// Padded with zeros to the 112 bits of RFC 3711 (RFC 7714 section 11).
    salt: [u8; 14],
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(redacted)")
    }
}

impl MasterKey {
    /// Takes key and salt of the lengths that `profile` says.
    ///
    /// # Errors
    /// When a length is wrong.
    pub fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Result<Self, Error> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return Err(Error::KeyLength {
                len: key.len() + salt.len(),
            });
        }
        let mut master = Self {
            key: [0; 32],
            key_len: key.len(),
            salt: [0; 14],
        };
        for (to, from) in master.key.iter_mut().zip(key) {
            *to = *from;
        }
        for (to, from) in master.salt.iter_mut().zip(salt) {
            *to = *from;
        }
        Ok(master)
    }

    pub(super) fn key(&self) -> &[u8] {
        self.key.get(..self.key_len).unwrap_or_default()
    }

    pub(super) fn salt(&self) -> [u8; 14] {
        self.salt
    }
}

/// What a DTLS handshake yields for media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionKeys {
    /// The negotiated profile.
    pub profile: Profile,
    /// What we protect with.
    pub local: MasterKey,
    /// What the peer protects with.
    pub remote: MasterKey,
}

impl SessionKeys {
    /// Splits exported key material (label `EXTRACTOR-dtls_srtp`): client key, server key, client
    /// salt, server salt. `is_server` says which DTLS role is ours.
    ///
    /// # Errors
    /// When the length is not [`Profile::keying_material_len`].
    pub fn from_keying_material(
        profile: Profile,
        material: &[u8],
        is_server: bool,
    ) -> Result<Self, Error> {
        let wrong = Error::KeyLength {
            len: material.len(),
        };
        if material.len() != profile.keying_material_len() {
            return Err(wrong);
        }
        let (keys, salts) = material
            .split_at_checked(2 * profile.key_len())
            .ok_or(wrong)?;
        let (client_key, server_key) = keys.split_at_checked(profile.key_len()).ok_or(wrong)?;
        let (client_salt, server_salt) = salts.split_at_checked(profile.salt_len()).ok_or(wrong)?;
        let client = MasterKey::new(profile, client_key, client_salt)?;
        let server = MasterKey::new(profile, server_key, server_salt)?;
        let (local, remote) = if is_server {
            (server, client)
        } else {
            (client, server)
        };
        Ok(Self {
            profile,
            local,
            remote,
        })
    }
}
