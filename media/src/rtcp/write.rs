//! Writing compound packets in place.

use super::{ReportBlock, SenderInfo, format, kind};

/// Report blocks of one packet (RFC 3550 section 6.4.1: five bits of count).
const BLOCKS_MAX: usize = 31;

/// Builds a compound packet in a buffer. A packet that does not fit is left out whole, and its
/// method returns `None`.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Starts at the beginning of `out`.
    #[must_use]
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// SR with up to 31 blocks.
    pub fn sender_report(&mut self, info: &SenderInfo, blocks: &[ReportBlock]) -> Option<()> {
        let blocks = blocks.get(..blocks.len().min(BLOCKS_MAX))?;
        self.packet(count(blocks)?, kind::SENDER_REPORT, |w| {
            w.u32(info.ssrc)?;
            w.put(&info.ntp.to_be_bytes())?;
            w.u32(info.rtp_timestamp)?;
            w.u32(info.packets)?;
            w.u32(info.octets)?;
            blocks.iter().try_for_each(|block| w.block(block))
        })
    }

    /// RR with up to 31 blocks.
    pub fn receiver_report(&mut self, ssrc: u32, blocks: &[ReportBlock]) -> Option<()> {
        let blocks = blocks.get(..blocks.len().min(BLOCKS_MAX))?;
        self.packet(count(blocks)?, kind::RECEIVER_REPORT, |w| {
            w.u32(ssrc)?;
            blocks.iter().try_for_each(|block| w.block(block))
        })
    }

    /// SDES with a CNAME of at most 255 bytes (RFC 3550 section 6.5.1).
    pub fn source_description(&mut self, ssrc: u32, cname: &str) -> Option<()> {
        let cname = cname.as_bytes();
        let len = u8::try_from(cname.len()).ok()?;
        self.packet(1, kind::SOURCE_DESCRIPTION, |w| {
            w.u32(ssrc)?;
            w.put(&[1, len])?;
            w.put(cname)?;
            // One to four zeros end the chunk on a word boundary.
            let zeros = 4 - (cname.len() + 2) % 4;
            w.put([0; 4].get(..zeros)?)
        })
    }

    /// BYE of one source.
    pub fn bye(&mut self, ssrc: u32) -> Option<()> {
        self.packet(1, kind::BYE, |w| w.u32(ssrc))
    }

    /// Generic NACK of ascending sequence numbers (RFC 4585 section 6.2.1).
    pub fn nack(&mut self, sender: u32, media: u32, lost: &[u16]) -> Option<()> {
        self.packet(format::NACK, kind::TRANSPORT_FEEDBACK, |w| {
            w.u32(sender)?;
            w.u32(media)?;
            let mut rest = lost;
            while let Some((&base, after)) = rest.split_first() {
                let mut mask = 0u16;
                rest = after;
                while let Some((&next, after)) = rest.split_first() {
                    let distance = next.wrapping_sub(base);
                    if !(1..=16).contains(&distance) {
                        break;
                    }
                    mask |= 1 << (distance - 1);
                    rest = after;
                }
                w.put(&base.to_be_bytes())?;
                w.put(&mask.to_be_bytes())?;
            }
            Some(())
        })
    }

    /// PLI (RFC 4585 section 6.3.1).
    pub fn pli(&mut self, sender: u32, media: u32) -> Option<()> {
        self.packet(format::PLI, kind::PAYLOAD_FEEDBACK, |w| {
            w.u32(sender)?;
            w.u32(media)
        })
    }

    /// FIR of one stream with its command sequence number (RFC 5104 section 4.3.1).
    pub fn fir(&mut self, sender: u32, media: u32, seq: u8) -> Option<()> {
        self.packet(format::FIR, kind::PAYLOAD_FEEDBACK, |w| {
            w.u32(sender)?;
            w.u32(0)?;
            w.u32(media)?;
            w.put(&[seq, 0, 0, 0])
        })
    }

    /// REMB in bit/s over up to 255 streams (draft-alvestrand-rmcat-remb section 2.2).
    pub fn remb(&mut self, sender: u32, bitrate: u64, ssrcs: &[u32]) -> Option<()> {
        let listed = u8::try_from(ssrcs.len()).ok()?;
        // 18 bits of mantissa.
        let exponent = (64 - bitrate.leading_zeros()).saturating_sub(18);
        let [_, m2, m1, m0] = ((bitrate >> exponent & 0x3_ffff) as u32).to_be_bytes();
        self.packet(format::APPLICATION, kind::PAYLOAD_FEEDBACK, |w| {
            w.u32(sender)?;
            w.u32(0)?;
            w.put(b"REMB")?;
            w.put(&[listed, (exponent & 0x3f) as u8 * 4 + m2, m1, m0])?;
            ssrcs.iter().try_for_each(|&ssrc| w.u32(ssrc))
        })
    }

    /// Transport-wide feedback whose body [`crate::twcc`] wrote, padded to words by the caller.
    pub(crate) fn transport_feedback(&mut self, ssrcs: (u32, u32), body: &[u8]) -> Option<()> {
        self.packet(format::TRANSPORT_CC, kind::TRANSPORT_FEEDBACK, |w| {
            w.u32(ssrcs.0)?;
            w.u32(ssrcs.1)?;
            w.put(body)
        })
    }

    fn packet(
        &mut self,
        count: u8,
        packet_type: u8,
        body: impl FnOnce(&mut Self) -> Option<()>,
    ) -> Option<()> {
        let start = self.len;
        let write = || {
            self.put(&[0x80 | count, packet_type, 0, 0])?;
            body(self)?;
            let words = u16::try_from((self.len - start) / 4 - 1).ok()?;
            self.out
                .get_mut(start + 2..start + 4)?
                .copy_from_slice(&words.to_be_bytes());
            Some(())
        };
        let written = write();
        if written.is_none() {
            self.len = start;
        }
        written
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.out
            .get_mut(self.len..self.len + bytes.len())?
            .copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }

    fn u32(&mut self, value: u32) -> Option<()> {
        self.put(&value.to_be_bytes())
    }

    fn block(&mut self, block: &ReportBlock) -> Option<()> {
        let [_, l2, l1, l0] = block.lost.clamp(-0x80_0000, 0x7f_ffff).to_be_bytes();
        self.u32(block.ssrc)?;
        self.put(&[block.fraction_lost, l2, l1, l0])?;
        self.u32(block.highest_seq)?;
        self.u32(block.jitter)?;
        self.u32(block.last_sr)?;
        self.u32(block.delay_since_last_sr)
    }
}

fn count(blocks: &[ReportBlock]) -> Option<u8> {
    u8::try_from(blocks.len()).ok()
}
