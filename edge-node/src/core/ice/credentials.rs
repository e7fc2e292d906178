//! User fragments and passwords (RFC 8445 section 5.3).

use rand::Rng;
use std::fmt;

/// `ice-char` of RFC 8839 section 5.4: 64 of them, so that one carries 6 bits.
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Shards that the first character of a user fragment can tell apart.
pub const MAX_SHARDS: usize = ICE_CHARS.len();
/// 42 random bits after the shard's character; 24 are the minimum (RFC 8445 section 5.3).
const UFRAG_RANDOM: usize = 7;
/// 144 random bits; 128 are the minimum (RFC 8445 section 5.3).
const PASSWORD: usize = 24;

/// A transport's local user fragment and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User fragment; its first character names the shard.
    pub ufrag: String,
    /// Password: the key of MESSAGE-INTEGRITY.
    pub pwd: String,
}

impl Credentials {
    /// New credentials of a transport on shard `shard` (below [`MAX_SHARDS`]; larger numbers wrap).
    pub fn generate(shard: usize, rng: &mut impl Rng) -> Self {
        let mut ufrag = String::with_capacity(1 + UFRAG_RANDOM);
        ufrag.push(ice_char(shard));
        ufrag.extend((0..UFRAG_RANDOM).map(|_| ice_char(rng.random_range(0..MAX_SHARDS))));
        let pwd = (0..PASSWORD)
            .map(|_| ice_char(rng.random_range(0..MAX_SHARDS)))
            .collect();
        Self { ufrag, pwd }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("ufrag", &self.ufrag)
            .finish_non_exhaustive()
    }
}

/// The shard that a local user fragment was made for; `None` when it is not one of ours.
pub fn shard_of_ufrag(ufrag: &str) -> Option<usize> {
    let first = ufrag.as_bytes().first()?;
    ICE_CHARS.iter().position(|c| c == first)
}

fn ice_char(value: usize) -> char {
    ICE_CHARS
        .get(value % MAX_SHARDS)
        .copied()
        .map_or('A', char::from)
}
