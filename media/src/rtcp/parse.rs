//! Reading compound packets without copying.

use super::{ReportBlock, SenderInfo, format, kind};

/// One packet of a compound.
#[derive(Debug, Clone)]
pub enum Packet<'a> {
    /// SR.
    SenderReport {
        /// The sender's part.
        info: SenderInfo,
        /// What it receives.
        blocks: Blocks<'a>,
    },
    /// RR.
    ReceiverReport {
        /// The receiver.
        ssrc: u32,
        /// What it receives.
        blocks: Blocks<'a>,
    },
    /// SDES.
    SourceDescription,
    /// BYE.
    Bye {
        /// Sources that leave.
        ssrcs: Words<'a>,
    },
    /// Generic NACK (RFC 4585 section 6.2.1).
    Nack {
        /// The stream with losses.
        media_ssrc: u32,
        /// What is missing.
        lost: Lost<'a>,
    },
    /// Transport-wide congestion control feedback; see [`crate::twcc`].
    TransportFeedback {
        /// Everything behind the two SSRCs.
        body: &'a [u8],
    },
    /// Picture loss indication (RFC 4585 section 6.3.1).
    Pli {
        /// The stream that needs a keyframe.
        media_ssrc: u32,
    },
    /// Full intra request (RFC 5104 section 4.3.1).
    Fir {
        /// `(ssrc, command sequence number)` per stream.
        entries: Fir<'a>,
    },
    /// Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb).
    Remb {
        /// Bit/s.
        bitrate: u64,
        /// The streams that it covers.
        ssrcs: Words<'a>,
    },
    /// Anything else, skipped by receivers (XR among them).
    Unknown {
        /// Its packet type.
        packet_type: u8,
    },
}

/// Iterator over a compound's packets; stops at the first one that is malformed.
#[derive(Debug, Clone)]
pub struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Packets<'a> {
    /// Over a decrypted compound or reduced-size packet (RFC 5506).
    #[must_use]
    pub fn new(compound: &'a [u8]) -> Self {
        Self { rest: compound }
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Packet<'a>> {
        let (&[first, packet_type, l1, l0], rest) = self.rest.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_be_bytes([l1, l0])) * 4;
        let (body, rest) = rest.split_at_checked(len)?;
        self.rest = &[];
        if first >> 6 != 2 {
            return None;
        }
        let body = if first & 0x20 == 0 {
            body
        } else {
            body.get(..body.len().checked_sub(usize::from(*body.last()?))?)?
        };
        let packet = read(first & 0x1f, packet_type, body)?;
        self.rest = rest;
        Some(packet)
    }
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let bytes = bytes.get(index * 4..index * 4 + 4)?;
    Some(u32::from_be_bytes(<[u8; 4]>::try_from(bytes).ok()?))
}

fn read(count: u8, packet_type: u8, body: &[u8]) -> Option<Packet<'_>> {
    let packet = match (packet_type, count) {
        (kind::SENDER_REPORT, _) => Packet::SenderReport {
            info: SenderInfo {
                ssrc: word(body, 0)?,
                ntp: u64::from(word(body, 1)?) << 32 | u64::from(word(body, 2)?),
                rtp_timestamp: word(body, 3)?,
                packets: word(body, 4)?,
                octets: word(body, 5)?,
            },
            blocks: Blocks::new(body.get(24..)?, count),
        },
        (kind::RECEIVER_REPORT, _) => Packet::ReceiverReport {
            ssrc: word(body, 0)?,
            blocks: Blocks::new(body.get(4..)?, count),
        },
        (kind::SOURCE_DESCRIPTION, _) => Packet::SourceDescription,
        (kind::BYE, _) => {
            let ssrcs = body.get(..usize::from(count) * 4)?;
            Packet::Bye {
                ssrcs: Words { rest: ssrcs },
            }
        }
        (kind::TRANSPORT_FEEDBACK, format::NACK) => Packet::Nack {
            media_ssrc: word(body, 1)?,
            lost: Lost {
                rest: body.get(8..)?,
                base: 0,
                mask: 0,
            },
        },
        (kind::TRANSPORT_FEEDBACK, format::TRANSPORT_CC) => Packet::TransportFeedback {
            body: body.get(8..)?,
        },
        (kind::PAYLOAD_FEEDBACK, format::PLI) => Packet::Pli {
            media_ssrc: word(body, 1)?,
        },
        (kind::PAYLOAD_FEEDBACK, format::FIR) => Packet::Fir {
            entries: Fir {
                rest: body.get(8..)?,
            },
        },
        (kind::PAYLOAD_FEEDBACK, format::APPLICATION) => return remb(body),
        _ => Packet::Unknown { packet_type },
    };
    Some(packet)
}

fn remb(body: &[u8]) -> Option<Packet<'_>> {
    let Some(rest) = body.get(8..)?.strip_prefix(b"REMB") else {
        return Some(Packet::Unknown {
            packet_type: kind::PAYLOAD_FEEDBACK,
        });
    };
    let (&[count, exponent, m1, m0], ssrcs) = rest.split_first_chunk::<4>()?;
    let mantissa = u64::from(u32::from_be_bytes([0, exponent & 3, m1, m0]));
    let bitrate = mantissa.saturating_mul(1 << (exponent >> 2));
    let ssrcs = ssrcs.get(..usize::from(count) * 4)?;
    Some(Packet::Remb {
        bitrate,
        ssrcs: Words { rest: ssrcs },
    })
}

/// Iterator over report blocks.
#[derive(Debug, Clone)]
pub struct Blocks<'a> {
    rest: &'a [u8],
}

impl<'a> Blocks<'a> {
    fn new(bytes: &'a [u8], count: u8) -> Self {
        let len = (usize::from(count) * 24).min(bytes.len());
        Self {
            rest: bytes.get(..len).unwrap_or_default(),
        }
    }
}

impl Iterator for Blocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let (block, rest) = self.rest.split_first_chunk::<24>()?;
        self.rest = rest;
        let loss = word(block, 1)?;
        Some(ReportBlock {
            ssrc: word(block, 0)?,
            fraction_lost: (loss >> 24) as u8,
            // Sign extension of 24 bits.
            lost: (loss << 8).cast_signed() >> 8,
            highest_seq: word(block, 2)?,
            jitter: word(block, 3)?,
            last_sr: word(block, 4)?,
            delay_since_last_sr: word(block, 5)?,
        })
    }
}

/// Iterator over 32-bit words, mostly SSRCs.
#[derive(Debug, Clone)]
pub struct Words<'a> {
    rest: &'a [u8],
}

impl Iterator for Words<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (bytes, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(u32::from_be_bytes(*bytes))
    }
}

/// Iterator over the sequence numbers of a generic NACK.
#[derive(Debug, Clone)]
pub struct Lost<'a> {
    rest: &'a [u8],
    base: u16,
    /// Bit i: `base + 1 + i` is lost as well.
    mask: u16,
}

impl Iterator for Lost<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.mask != 0 {
            let bit = self.mask.trailing_zeros();
            self.mask &= self.mask - 1;
            // A bit position of 16 bits fits.
            return Some(self.base.wrapping_add(1).wrapping_add((bit & 0xf) as u16));
        }
        let (&[s1, s0, m1, m0], rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        self.base = u16::from_be_bytes([s1, s0]);
        self.mask = u16::from_be_bytes([m1, m0]);
        Some(self.base)
    }
}

/// Iterator over a FIR's entries as `(ssrc, command sequence number)`.
#[derive(Debug, Clone)]
pub struct Fir<'a> {
    rest: &'a [u8],
}

impl Iterator for Fir<'_> {
    type Item = (u32, u8);

    fn next(&mut self) -> Option<(u32, u8)> {
        let (&[a, b, c, d, seq, _, _, _], rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some((u32::from_be_bytes([a, b, c, d]), seq))
    }
}
