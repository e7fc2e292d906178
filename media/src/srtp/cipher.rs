//! Session keys and the transforms that use them, with contexts cached per direction.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

use super::{Error, MasterKey, Profile};

/// Key derivation labels (RFC 3711 section 4.3.1).
#[derive(Debug, Clone, Copy)]
pub(super) struct Labels {
    key: u8,
    auth: u8,
    salt: u8,
}

/// Labels of SRTP.
pub(super) const RTP: Labels = Labels {
    key: 0,
    auth: 1,
    salt: 2,
};

/// Labels of SRTCP.
pub(super) const RTCP: Labels = Labels {
    key: 3,
    auth: 4,
    salt: 5,
};

/// Session authentication key of HMAC-SHA1 in bytes (RFC 3711 section 5.2).
const AUTH_KEY_LEN: usize = 20;

/// HMAC-SHA1 tag kept on the wire in bytes (`_80`).
const HMAC_TAG_LEN: usize = 10;

/// One direction's transform for RTP or RTCP.
pub(super) enum Cipher {
    /// AES-GCM with its 96-bit salt (RFC 7714).
    Gcm(LessSafeKey, [u8; NONCE_LEN]),
    /// AES counter mode and HMAC-SHA1, with the 112-bit salt times 2^16 (RFC 3711 section 4.1.1).
    Cm(Box<Cm>),
}

pub(super) struct Cm {
    key: EncryptingKey,
    salt: [u8; 16],
    auth: hmac::Key,
}

/// What makes a packet's initialization vector.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    pub(super) ssrc: u32,
    /// 48 bits for RTP (ROC and sequence number), 31 bits for RTCP.
    pub(super) index: u64,
}

impl Cipher {
    /// Derives the session keys (RFC 3711 section 4.3, key derivation rate 0).
    pub(super) fn derive(
        profile: Profile,
        master: &MasterKey,
        labels: Labels,
    ) -> Result<Self, Error> {
        let mut key = [0; 32];
        let key = key
            .get_mut(..profile.key_len())
            .ok_or(Error::KeyLength { len: 0 })?;
        prf(master, labels.key, key)?;
        let mut salt = [0; 14];
        let session_salt = salt
            .get_mut(..profile.salt_len())
            .ok_or(Error::KeyLength { len: 0 })?;
        prf(master, labels.salt, session_salt)?;
        let mut auth = [0; AUTH_KEY_LEN];
        prf(master, labels.auth, &mut auth)?;
        Self::from_session(profile, key, &salt, &auth)
    }

    /// From session keys; `salt` is padded with zeros.
    pub(super) fn from_session(
        profile: Profile,
        key: &[u8],
        salt: &[u8; 14],
        auth: &[u8],
    ) -> Result<Self, Error> {
        let wrong = Error::KeyLength { len: key.len() };
        let algorithm = match profile {
            Profile::AeadAes128Gcm => &AES_128_GCM,
            Profile::AeadAes256Gcm => &AES_256_GCM,
            Profile::Aes128CmHmacSha1_80 => {
                let mut padded = [0; 16];
                for (to, from) in padded.iter_mut().zip(salt) {
                    *to = *from;
                }
                return Ok(Self::Cm(Box::new(Cm {
                    key: counter_mode(key)?,
                    salt: padded,
                    auth: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, auth),
                })));
            }
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| wrong)?;
        let salt = salt.first_chunk::<NONCE_LEN>().copied().unwrap_or_default();
        Ok(Self::Gcm(LessSafeKey::new(key), salt))
    }

    /// Encrypts `body` in place and returns the tag. `aad` is what GCM authenticates beside it.
    #[inline]
    pub(super) fn gcm_seal(
        key: &LessSafeKey,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        body: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), Error> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_scatter(nonce, Aad::from(aad), body, &[], tag)
            .map_err(|_| Error::NoRoom { needed: tag.len() })
    }

    /// Checks the tag and decrypts `body` in place.
    #[inline]
    pub(super) fn gcm_open(
        key: &LessSafeKey,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        body: &mut [u8],
        tag: &[u8],
    ) -> Result<(), Error> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, body)
            .map(|_| ())
            .map_err(|_| Error::Authentication)
    }
}

/// RTP nonce: SSRC and 48-bit index, XOR salt (RFC 7714 section 8.1). The SRTCP nonce has the same
/// layout, as its index has but 31 bits (section 9.1).
#[inline]
pub(super) fn gcm_nonce(salt: &[u8; NONCE_LEN], at: Position) -> [u8; NONCE_LEN] {
    let [s3, s2, s1, s0] = at.ssrc.to_be_bytes();
    let [_, _, i5, i4, i3, i2, i1, i0] = at.index.to_be_bytes();
    let mut nonce = [0, 0, s3, s2, s1, s0, i5, i4, i3, i2, i1, i0];
    for (byte, salt) in nonce.iter_mut().zip(salt) {
        *byte ^= salt;
    }
    nonce
}

impl Cm {
    /// XORs the key stream (RFC 3711 section 4.1.1); its own inverse.
    #[inline]
    pub(super) fn crypt(&self, at: Position, body: &mut [u8]) -> Result<(), Error> {
        let [s3, s2, s1, s0] = at.ssrc.to_be_bytes();
        let [_, _, i5, i4, i3, i2, i1, i0] = at.index.to_be_bytes();
        let mut iv = [0, 0, 0, 0, s3, s2, s1, s0, i5, i4, i3, i2, i1, i0, 0, 0];
        for (byte, salt) in iv.iter_mut().zip(&self.salt) {
            *byte ^= salt;
        }
        keystream(&self.key, iv, body)
    }

    /// The truncated tag over `parts` (RFC 3711 section 4.2).
    #[inline]
    pub(super) fn tag(&self, packet: &[u8], trailer: &[u8]) -> [u8; HMAC_TAG_LEN] {
        let mut context = hmac::Context::with_key(&self.auth);
        context.update(packet);
        context.update(trailer);
        context
            .sign()
            .as_ref()
            .first_chunk()
            .copied()
            .unwrap_or_default()
    }

    /// Compares a tag in constant time.
    #[inline]
    pub(super) fn verify(&self, packet: &[u8], trailer: &[u8], tag: &[u8]) -> Result<(), Error> {
        let expected = self.tag(packet, trailer);
        aws_lc_rs::constant_time::verify_slices_are_equal(&expected, tag)
            .map_err(|_| Error::Authentication)
    }
}

fn counter_mode(key: &[u8]) -> Result<EncryptingKey, Error> {
    let algorithm = if key.len() == 32 { &AES_256 } else { &AES_128 };
    UnboundCipherKey::new(algorithm, key)
        .and_then(EncryptingKey::ctr)
        .map_err(|_| Error::KeyLength { len: key.len() })
}

fn keystream(key: &EncryptingKey, iv: [u8; 16], body: &mut [u8]) -> Result<(), Error> {
    key.less_safe_encrypt(body, EncryptionContext::Iv128(FixedLength::from(iv)))
        .map(|_| ())
        .map_err(|_| Error::Malformed { len: body.len() })
}

/// The AES-CM pseudo-random function (RFC 3711 section 4.3.3, RFC 6188 section 3 for 256 bits).
fn prf(master: &MasterKey, label: u8, out: &mut [u8]) -> Result<(), Error> {
    let mut iv = [0; 16];
    for (to, from) in iv.iter_mut().zip(master.salt()) {
        *to = from;
    }
    // The label stands left of the 48-bit index in a 112-bit number: byte 7.
    iv[7] ^= label;
    out.fill(0);
    keystream(&counter_mode(master.key())?, iv, out)
}
