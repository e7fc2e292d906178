//! Finds the SRTP profiles in a ClientHello that may span several datagrams.

use media::srtp::Profile;

/// Largest ClientHello accepted, in bytes; browsers send about 1,400 with a post-quantum key share.
const HELLO_MAX: usize = 8192;
/// Fragments accepted.
const FRAGMENTS_MAX: usize = 32;
/// Record content type of handshake messages.
const HANDSHAKE: u8 = 22;
/// Handshake type of ClientHello.
const CLIENT_HELLO: u8 = 1;
/// Extension type `use_srtp` (RFC 5764 section 4.1.1).
const USE_SRTP: u16 = 14;
/// Best first: GCM-128 costs a fifth of AES-CM with HMAC-SHA1.
const PREFERENCE: [Profile; 3] = [
    Profile::AeadAes128Gcm,
    Profile::AeadAes256Gcm,
    Profile::Aes128CmHmacSha1_80,
];

/// The first ClientHello of an association, as far as it has arrived.
#[derive(Debug, Default)]
pub struct ClientHello {
    body: Vec<u8>,
    /// Half-open ranges that have arrived.
    arrived: Vec<(usize, usize)>,
}

impl ClientHello {
    /// Takes the fragments out of one datagram; what is not one is ignored.
    pub fn push(&mut self, datagram: &[u8]) {
        let mut reader = Reader(datagram);
        while let Some((kind, record)) = reader.record() {
            let mut messages = Reader(record);
            while kind == HANDSHAKE
                && let Some(fragment) = messages.fragment()
            {
                self.add(&fragment);
            }
        }
    }

    /// Whether all of it has arrived.
    pub fn is_complete(&self) -> bool {
        let mut end = 0;
        for &(from, to) in &self.arrived {
            if from > end {
                return false;
            }
            end = end.max(to);
        }
        !self.body.is_empty() && end >= self.body.len()
    }

    /// The profile to use; `None` when the client offers none that we know.
    pub fn best_profile(&self) -> Option<Profile> {
        let offered = offered(&self.body)?;
        PREFERENCE
            .into_iter()
            .find(|profile| offered.contains(&profile.id()))
    }

    fn add(&mut self, fragment: &Fragment<'_>) {
        let acceptable = fragment.kind == CLIENT_HELLO
            && fragment.sequence == 0
            && (1..=HELLO_MAX).contains(&fragment.length)
            && self.arrived.len() < FRAGMENTS_MAX
            && (self.body.is_empty() || self.body.len() == fragment.length);
        if !acceptable {
            return;
        }
        self.body.resize(fragment.length, 0);
        let end = fragment.offset + fragment.bytes.len();
        let Some(target) = self.body.get_mut(fragment.offset..end) else {
            return;
        };
        target.copy_from_slice(fragment.bytes);
        let at = self
            .arrived
            .partition_point(|range| *range < (fragment.offset, end));
        self.arrived.insert(at, (fragment.offset, end));
    }
}

/// A handshake message or a part of one (RFC 6347 section 4.2.2).
struct Fragment<'a> {
    kind: u8,
    /// Of the whole message.
    length: usize,
    sequence: u64,
    offset: usize,
    bytes: &'a [u8],
}

/// The profile ids of `use_srtp` in the body of a ClientHello.
fn offered(body: &[u8]) -> Option<Vec<u16>> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    let session_id = reader.number(1)?;
    reader.take(session_id)?;
    let cookie = reader.number(1)?;
    reader.take(cookie)?;
    let suites = reader.number(2)?;
    reader.take(suites)?;
    let compression = reader.number(1)?;
    reader.take(compression)?;
    let length = reader.number(2)?;
    let mut extensions = Reader(reader.take(length)?);
    loop {
        let kind = extensions.number(2)?;
        let length = extensions.number(2)?;
        let mut content = Reader(extensions.take(length)?);
        if kind == usize::from(USE_SRTP) {
            let length = content.number(2)?;
            let profiles = content.take(length)?;
            return Some(
                profiles
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|bytes| u16::from_be_bytes(*bytes))
                    .collect(),
            );
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A big-endian number of `length` bytes.
    fn number(&mut self, length: usize) -> Option<usize> {
        let bytes = self.take(length)?;
        Some(
            bytes
                .iter()
                .fold(0, |number, byte| (number << 8) | usize::from(*byte)),
        )
    }

    /// Content type and content of the next record.
    fn record(&mut self) -> Option<(u8, &'a [u8])> {
        let kind = *self.take(1)?.first()?;
        self.take(2 + 2 + 6)?;
        let length = self.number(2)?;
        Some((kind, self.take(length)?))
    }

    fn fragment(&mut self) -> Option<Fragment<'a>> {
        let kind = *self.take(1)?.first()?;
        let length = self.number(3)?;
        let sequence = u64::try_from(self.number(2)?).ok()?;
        let offset = self.number(3)?;
        let size = self.number(3)?;
        Some(Fragment {
            kind,
            length,
            sequence,
            offset,
            bytes: self.take(size)?,
        })
    }
}
