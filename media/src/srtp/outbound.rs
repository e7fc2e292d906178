//! Protecting what we send.

use aws_lc_rs::aead::{Aad, Nonce};

use super::cipher::{self, Cipher, Position, gcm_nonce};
use super::{Error, MasterKey, Profile, SRTCP_ENCRYPTED, SessionKeys};

/// One transport's sending context. The caller owns each stream's 48-bit packet index (rollover
/// counter and sequence number) and must never use one twice with an SSRC.
pub struct Outbound {
    rtp: Cipher,
    rtcp: Cipher,
    rtcp_index: u32,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound")
            .field("rtcp_index", &self.rtcp_index)
            .finish_non_exhaustive()
    }
}

impl Outbound {
    /// Derives the session keys of our direction.
    ///
    /// # Errors
    /// When the keys do not fit the profile.
    pub fn new(keys: &SessionKeys) -> Result<Self, Error> {
        Self::with_master(keys.profile, &keys.local)
    }

    fn with_master(profile: Profile, master: &MasterKey) -> Result<Self, Error> {
        let rtp = Cipher::derive(profile, master, cipher::RTP)?;
        let rtcp = Cipher::derive(profile, master, cipher::RTCP)?;
        Ok(Self {
            rtp,
            rtcp,
            rtcp_index: 0,
        })
    }

    #[cfg(test)]
    pub(super) fn from_ciphers(rtp: Cipher, rtcp: Cipher, rtcp_index: u32) -> Self {
        Self {
            rtp,
            rtcp,
            rtcp_index,
        }
    }

    /// Whether a packet index may be used again for the same payload under a different header:
    /// never with GCM (RFC 7714 section 10.1).
    #[must_use]
    pub fn may_repeat_index(&self) -> bool {
        matches!(self.rtp, Cipher::Cm(_))
    }

    /// Protects an RTP packet in place: `buffer` holds header and payload of `len` bytes and room
    /// for the tag. Returns the length in bytes on the wire.
    ///
    /// # Errors
    /// When the buffer is too short.
    #[inline]
    pub fn seal_rtp(
        &self,
        buffer: &mut [u8],
        header_len: usize,
        len: usize,
        index: u64,
    ) -> Result<usize, Error> {
        let ssrc = match buffer.get(8..12) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            Some(_) | None => return Err(Error::Malformed { len }),
        };
        let at = Position { ssrc, index };
        let tag_len = match &self.rtp {
            Cipher::Gcm(..) => 16,
            Cipher::Cm(_) => 10,
        };
        let no_room = Error::NoRoom {
            needed: len + tag_len,
        };
        let (packet, rest) = buffer.split_at_mut_checked(len).ok_or(no_room)?;
        let tag = rest.get_mut(..tag_len).ok_or(no_room)?;
        let (header, body) = packet.split_at_mut_checked(header_len).ok_or(no_room)?;
        match &self.rtp {
            Cipher::Gcm(key, salt) => {
                Cipher::gcm_seal(key, gcm_nonce(salt, at), header, body, tag)?;
            }
            Cipher::Cm(cm) => {
                cm.crypt(at, body)?;
                tag.copy_from_slice(&cm.tag(packet, &rollover(index)));
            }
        }
        Ok(len + tag_len)
    }

    /// Protects an RTP packet whose payload lies elsewhere: `buffer` holds the header and has room
    /// for payload and tag. Spares a copy of the payload where the cipher can write out of place.
    /// Returns the length in bytes on the wire.
    ///
    /// # Errors
    /// When the buffer is too short.
    #[inline]
    pub fn seal_rtp_from(
        &self,
        buffer: &mut [u8],
        header_len: usize,
        payload: &[u8],
        index: u64,
    ) -> Result<usize, Error> {
        let len = header_len + payload.len();
        let no_room = Error::NoRoom {
            needed: len + super::OVERHEAD_MAX,
        };
        let Cipher::Gcm(key, salt) = &self.rtp else {
            buffer
                .get_mut(header_len..len)
                .ok_or(no_room)?
                .copy_from_slice(payload);
            return self.seal_rtp(buffer, header_len, len, index);
        };
        let (header, rest) = buffer.split_at_mut_checked(header_len).ok_or(no_room)?;
        let ssrc = match header.get(8..12) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            Some(_) | None => return Err(Error::Malformed { len }),
        };
        let (body, rest) = rest.split_at_mut_checked(payload.len()).ok_or(no_room)?;
        let tag = rest.get_mut(..16).ok_or(no_room)?;
        let nonce = Nonce::assume_unique_for_key(gcm_nonce(salt, Position { ssrc, index }));
        key.seal_out_of_place_scatter(nonce, Aad::from(&*header), payload, body, &[], tag)
            .map_err(|_| no_room)?;
        Ok(len + 16)
    }

    /// Protects a compound RTCP packet in place and returns its length in bytes on the wire
    /// (RFC 3711 section 3.4, RFC 7714 section 9).
    ///
    /// # Errors
    /// When the buffer is too short.
    pub fn seal_rtcp(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, Error> {
        let ssrc = match buffer.get(4..8) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            Some(_) | None => return Err(Error::Malformed { len }),
        };
        let index = self.rtcp_index;
        self.rtcp_index = (index + 1) & (SRTCP_ENCRYPTED - 1);
        let at = Position {
            ssrc,
            index: u64::from(index),
        };
        let word = (SRTCP_ENCRYPTED | index).to_be_bytes();
        let no_room = Error::NoRoom {
            needed: len + super::OVERHEAD_MAX,
        };
        let (packet, rest) = buffer.split_at_mut_checked(len).ok_or(no_room)?;
        let (header, body) = packet.split_at_mut_checked(8).ok_or(no_room)?;
        match &self.rtcp {
            Cipher::Gcm(key, salt) => {
                let (tag, rest) = rest.split_at_mut_checked(16).ok_or(no_room)?;
                let mut aad = [0; 12];
                for (to, from) in aad.iter_mut().zip(header.iter().chain(&word)) {
                    *to = *from;
                }
                Cipher::gcm_seal(key, gcm_nonce(salt, at), &aad, body, tag)?;
                rest.get_mut(..4).ok_or(no_room)?.copy_from_slice(&word);
                Ok(len + 20)
            }
            Cipher::Cm(cm) => {
                cm.crypt(at, body)?;
                let tag = cm.tag(packet, &word);
                let (word_out, rest) = rest.split_at_mut_checked(4).ok_or(no_room)?;
                word_out.copy_from_slice(&word);
                rest.get_mut(..10).ok_or(no_room)?.copy_from_slice(&tag);
                Ok(len + 14)
            }
        }
    }
}

/// The rollover counter as it is authenticated (RFC 3711 section 4.2).
pub(super) fn rollover(index: u64) -> [u8; 4] {
    ((index >> 16 & 0xffff_ffff) as u32).to_be_bytes()
}
