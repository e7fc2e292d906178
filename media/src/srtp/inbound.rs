//! Unprotecting what we receive.

use std::collections::HashMap;

use super::cipher::{self, Cipher, Position, gcm_nonce};
use super::outbound::rollover;
use super::{Error, ReplayWindow, SRTCP_ENCRYPTED, SessionKeys};
use crate::rtp;

/// SSRCs that one peer may use over the life of a transport.
const SSRCS_MAX: usize = 1024;

/// One transport's receiving context: rollover counter and replay window per SSRC.
pub struct Inbound {
    rtp: Cipher,
    rtcp: Cipher,
    rtp_windows: HashMap<u32, ReplayWindow>,
    rtcp_windows: HashMap<u32, ReplayWindow>,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound")
            .field("ssrcs", &self.rtp_windows.len())
            .finish_non_exhaustive()
    }
}

impl Inbound {
    /// Derives the session keys of the peer's direction.
    ///
    /// # Errors
    /// When the keys do not fit the profile.
    pub fn new(keys: &SessionKeys) -> Result<Self, Error> {
        let rtp = Cipher::derive(keys.profile, &keys.remote, cipher::RTP)?;
        let rtcp = Cipher::derive(keys.profile, &keys.remote, cipher::RTCP)?;
        Ok(Self::from_ciphers(rtp, rtcp))
    }

    pub(super) fn from_ciphers(rtp: Cipher, rtcp: Cipher) -> Self {
        Self {
            rtp,
            rtcp,
            rtp_windows: HashMap::new(),
            rtcp_windows: HashMap::new(),
        }
    }

    /// Authenticates and decrypts an SRTP packet in place; returns the plaintext packet with its
    /// header.
    ///
    /// # Errors
    /// When the packet is malformed, replayed or not authentic.
    pub fn open_rtp<'a>(&mut self, datagram: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let malformed = Error::Malformed {
            len: datagram.len(),
        };
        let header_len = rtp::header_len(datagram).map_err(|_| malformed)?;
        let &mut [_, _, s1, s0, _, _, _, _, c3, c2, c1, c0, ..] = datagram else {
            return Err(malformed);
        };
        let ssrc = u32::from_be_bytes([c3, c2, c1, c0]);
        let seq = u16::from_be_bytes([s1, s0]);
        let window = self.rtp_windows.get(&ssrc);
        let index = match window.and_then(ReplayWindow::highest) {
            Some(highest) => rtp::extend(highest, seq),
            None => u64::from(seq),
        };
        if window.is_some_and(|window| !window.is_fresh(index)) {
            return Err(Error::Replay { index });
        }
        let at = Position { ssrc, index };
        let tag_len = match &self.rtp {
            Cipher::Gcm(..) => 16,
            Cipher::Cm(_) => 10,
        };
        let len = datagram.len().checked_sub(tag_len).ok_or(malformed)?;
        let (packet, tag) = datagram.split_at_mut_checked(len).ok_or(malformed)?;
        let (header, body) = packet.split_at_mut_checked(header_len).ok_or(malformed)?;
        match &self.rtp {
            Cipher::Gcm(key, salt) => {
                Cipher::gcm_open(key, gcm_nonce(salt, at), header, body, tag)?;
            }
            Cipher::Cm(cm) => {
                cm.verify(packet, &rollover(index), tag)?;
                let (_, body) = packet.split_at_mut_checked(header_len).ok_or(malformed)?;
                cm.crypt(at, body)?;
            }
        }
        accept(&mut self.rtp_windows, ssrc, index)?;
        Ok(packet)
    }

    /// Authenticates and decrypts an SRTCP packet in place; returns the plaintext compound packet.
    ///
    /// # Errors
    /// When the packet is malformed, replayed or not authentic.
    pub fn open_rtcp<'a>(&mut self, datagram: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let malformed = Error::Malformed {
            len: datagram.len(),
        };
        let &mut [_, _, _, _, c3, c2, c1, c0, ..] = datagram else {
            return Err(malformed);
        };
        let ssrc = u32::from_be_bytes([c3, c2, c1, c0]);
        let trailer_len = match &self.rtcp {
            Cipher::Gcm(..) => 20,
            Cipher::Cm(_) => 14,
        };
        let len = datagram.len().checked_sub(trailer_len).ok_or(malformed)?;
        let (packet, trailer) = datagram.split_at_mut_checked(len).ok_or(malformed)?;
        let (word, tag) = match &self.rtcp {
            Cipher::Gcm(..) => trailer
                .split_last_chunk::<4>()
                .map(|(tag, word)| (*word, tag)),
            Cipher::Cm(_) => trailer
                .split_first_chunk::<4>()
                .map(|(word, tag)| (*word, tag)),
        }
        .ok_or(malformed)?;
        let encrypted = u32::from_be_bytes(word) & SRTCP_ENCRYPTED != 0;
        let index = u64::from(u32::from_be_bytes(word) & !SRTCP_ENCRYPTED);
        if self
            .rtcp_windows
            .get(&ssrc)
            .is_some_and(|window| !window.is_fresh(index))
        {
            return Err(Error::Replay { index });
        }
        let at = Position { ssrc, index };
        match &self.rtcp {
            // Unencrypted SRTCP is never negotiated by DTLS-SRTP in WebRTC.
            Cipher::Gcm(..) if !encrypted => return Err(malformed),
            Cipher::Gcm(key, salt) => {
                let (header, body) = packet.split_at_mut_checked(8).ok_or(malformed)?;
                let mut aad = [0; 12];
                for (to, from) in aad.iter_mut().zip(header.iter().chain(&word)) {
                    *to = *from;
                }
                Cipher::gcm_open(key, gcm_nonce(salt, at), &aad, body, tag)?;
            }
            Cipher::Cm(cm) => {
                cm.verify(packet, &word, tag)?;
                if encrypted {
                    let (_, body) = packet.split_at_mut_checked(8).ok_or(malformed)?;
                    cm.crypt(at, body)?;
                }
            }
        }
        accept(&mut self.rtcp_windows, ssrc, index)?;
        Ok(packet)
    }
}

fn accept(windows: &mut HashMap<u32, ReplayWindow>, ssrc: u32, index: u64) -> Result<(), Error> {
    if windows.len() >= SSRCS_MAX && !windows.contains_key(&ssrc) {
        return Err(Error::TooManySsrcs);
    }
    windows.entry(ssrc).or_default().accept(index);
    Ok(())
}
