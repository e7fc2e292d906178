//! RTP on the wire: a zero-copy view and an in-place writer (RFC 3550 section 5.1, RFC 8285).

use thiserror::Error;

mod sequence;

pub use sequence::{extend, low16};

/// Length of the fixed header in bytes (RFC 3550 section 5.1).
pub const FIXED_HEADER_LEN: usize = 12;

/// `defined by profile` value of the one-byte extension form (RFC 8285 section 4.2).
const ONE_BYTE_PROFILE: u16 = 0xBEDE;

/// `defined by profile` value of the two-byte form with appbits zero (RFC 8285 section 4.3).
const TWO_BYTE_PROFILE: u16 = 0x1000;

/// Why bytes are not an RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// Fewer bytes than the header says.
    #[error("truncated RTP packet of {len} bytes")]
    Truncated {
        /// Bytes that were there.
        len: usize,
    },
    /// The version field is not 2.
    #[error("RTP version {version}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// The padding count is zero or exceeds the payload.
    #[error("RTP padding of {padding} bytes")]
    Padding {
        /// The padding count found.
        padding: u8,
    },
}

/// Tells RTCP from RTP on a multiplexed flow (RFC 5761 section 4): the second byte is 192 to 223.
#[must_use]
pub fn is_rtcp(datagram: &[u8]) -> bool {
    datagram
        .get(1)
        .is_some_and(|byte| (192..=223).contains(byte))
}

/// The fields of the fixed header (RFC 3550 section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Marker bit: for video the last packet of a frame.
    pub marker: bool,
    /// Payload type, 0 to 127.
    pub payload_type: u8,
    /// Sequence number.
    pub seq: u16,
    /// Media timestamp in ticks of the codec's clock.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
}

/// A parsed packet that borrows its bytes.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The fixed header.
    pub header: Header,
    profile: u16,
    extension: &'a [u8],
    payload: &'a [u8],
    header_len: usize,
    padding: u8,
}

/// Length in bytes of the header including CSRCs and extension: where encryption starts
/// (RFC 3711 section 3.1).
///
/// # Errors
/// When the bytes end before the header does, or the version is not 2.
pub fn header_len(packet: &[u8]) -> Result<usize, Error> {
    let truncated = Error::Truncated { len: packet.len() };
    let [first, ..] = *packet else {
        return Err(truncated);
    };
    if first >> 6 != 2 {
        return Err(Error::Version {
            version: first >> 6,
        });
    }
    let mut len = FIXED_HEADER_LEN + usize::from(first & 0x0f) * 4;
    if first & 0x10 != 0 {
        let Some(&[_, _, high, low]) = packet.get(len..len + 4) else {
            return Err(truncated);
        };
        len += 4 + usize::from(u16::from_be_bytes([high, low])) * 4;
    }
    if packet.len() < len {
        Err(truncated)
    } else {
        Ok(len)
    }
}

impl<'a> View<'a> {
    /// Parses a plaintext packet.
    ///
    /// # Errors
    /// When the bytes are not a well-formed RTP packet.
    pub fn parse(packet: &'a [u8]) -> Result<Self, Error> {
        let truncated = Error::Truncated { len: packet.len() };
        let header_len = header_len(packet)?;
        let (head, body) = packet.split_at_checked(header_len).ok_or(truncated)?;
        let &[
            first,
            second,
            s1,
            s0,
            t3,
            t2,
            t1,
            t0,
            c3,
            c2,
            c1,
            c0,
            ref rest @ ..,
        ] = head
        else {
            return Err(truncated);
        };
        let csrc_len = usize::from(first & 0x0f) * 4;
        let (profile, extension) = match rest.get(csrc_len..) {
            Some([p1, p0, _, _, data @ ..]) => (u16::from_be_bytes([*p1, *p0]), data),
            Some(_) | None => (0, &[][..]),
        };
        let padding = if first & 0x20 == 0 {
            0
        } else {
            body.last().copied().unwrap_or(0)
        };
        let payload = if first & 0x20 == 0 {
            body
        } else {
            let kept = body
                .len()
                .checked_sub(usize::from(padding))
                .filter(|_| padding > 0);
            kept.and_then(|len| body.get(..len))
                .ok_or(Error::Padding { padding })?
        };
        Ok(Self {
            header: Header {
                marker: second & 0x80 != 0,
                payload_type: second & 0x7f,
                seq: u16::from_be_bytes([s1, s0]),
                timestamp: u32::from_be_bytes([t3, t2, t1, t0]),
                ssrc: u32::from_be_bytes([c3, c2, c1, c0]),
            },
            profile,
            extension,
            payload,
            header_len,
            padding,
        })
    }

    /// The payload without padding.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Length in bytes of the header including CSRCs and extension.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Bytes of padding that were stripped.
    #[must_use]
    pub fn padding(&self) -> u8 {
        self.padding
    }

    /// The header extension's elements as `(id, value)`; nothing for an unknown form.
    #[must_use]
    pub fn extensions(&self) -> Elements<'a> {
        let form = match self.profile {
            ONE_BYTE_PROFILE => Some(Form::OneByte),
            profile if profile & 0xfff0 == TWO_BYTE_PROFILE => Some(Form::TwoByte),
            _ => None,
        };
        Elements {
            form,
            rest: if form.is_some() { self.extension } else { &[] },
        }
    }
}

/// How extension elements are framed (RFC 8285 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Ids 1 to 14, values of 1 to 16 bytes.
    OneByte,
    /// Ids 1 to 255, values of 0 to 255 bytes.
    TwoByte,
}

/// Iterator over extension elements; stops at the first malformed one.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    form: Option<Form>,
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&first, rest) = self.rest.split_first()?;
            if first == 0 {
                self.rest = rest;
                continue;
            }
            let (id, len, rest) = match self.form? {
                // Id 15 ends the block (RFC 8285 section 4.2).
                Form::OneByte if first >> 4 == 15 => return None,
                Form::OneByte => (first >> 4, usize::from(first & 0x0f) + 1, rest),
                Form::TwoByte => {
                    let (&len, rest) = rest.split_first()?;
                    (first, usize::from(len), rest)
                }
            };
            let Some((value, rest)) = rest.split_at_checked(len) else {
                self.rest = &[];
                return None;
            };
            self.rest = rest;
            return Some((id, value));
        }
    }
}

/// Writes a header with extension elements in place.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
    form: Form,
}

impl<'a> Writer<'a> {
    /// Starts a packet at the beginning of `out`; `None` when it does not fit.
    #[must_use]
    #[inline]
    pub fn new(out: &'a mut [u8], header: &Header, form: Form) -> Option<Self> {
        let fixed = out.first_chunk_mut::<FIXED_HEADER_LEN>()?;
        let [s1, s0] = header.seq.to_be_bytes();
        let [t3, t2, t1, t0] = header.timestamp.to_be_bytes();
        let [c3, c2, c1, c0] = header.ssrc.to_be_bytes();
        let second = (u8::from(header.marker) << 7) | (header.payload_type & 0x7f);
        *fixed = [0x80, second, s1, s0, t3, t2, t1, t0, c3, c2, c1, c0];
        Some(Self {
            out,
            len: FIXED_HEADER_LEN,
            form,
        })
    }

    /// Appends an extension element; `None` when it does not fit the form or the buffer.
    #[inline]
    pub fn extension(&mut self, id: u8, value: &[u8]) -> Option<()> {
        if self.len == FIXED_HEADER_LEN {
            let profile = match self.form {
                Form::OneByte => ONE_BYTE_PROFILE,
                Form::TwoByte => TWO_BYTE_PROFILE,
            };
            let [high, low] = profile.to_be_bytes();
            self.out
                .get_mut(self.len..self.len + 4)?
                .copy_from_slice(&[high, low, 0, 0]);
            *self.out.first_mut()? |= 0x10;
            self.len += 4;
        }
        let count = u8::try_from(value.len()).ok()?;
        match self.form {
            Form::OneByte => {
                if !(1..=14).contains(&id) || !(1..=16).contains(&count) {
                    return None;
                }
                *self.out.get_mut(self.len)? = (id << 4) | (count - 1);
                self.len += 1;
            }
            Form::TwoByte => {
                if id == 0 {
                    return None;
                }
                self.out
                    .get_mut(self.len..self.len + 2)?
                    .copy_from_slice(&[id, count]);
                self.len += 2;
            }
        }
        self.out
            .get_mut(self.len..self.len + value.len())?
            .copy_from_slice(value);
        self.len += value.len();
        Some(())
    }

    /// Pads the extension block to 32 bits and writes its length; returns the header's length in
    /// bytes.
    #[must_use]
    #[inline]
    pub fn finish(self) -> Option<usize> {
        if self.len == FIXED_HEADER_LEN {
            return Some(self.len);
        }
        let end = self.len.next_multiple_of(4);
        self.out.get_mut(self.len..end)?.fill(0);
        let words = u16::try_from((end - FIXED_HEADER_LEN - 4) / 4).ok()?;
        self.out
            .get_mut(FIXED_HEADER_LEN + 2..FIXED_HEADER_LEN + 4)?
            .copy_from_slice(&words.to_be_bytes());
        Some(end)
    }
}

#[cfg(test)]
mod tests;
