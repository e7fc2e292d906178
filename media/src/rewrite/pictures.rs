//! VP8 picture ids and TL0PICIDX without a break (RFC 7741 section 4.2).

use super::Renumber;
use crate::layer::{PictureId, Vp8};
use crate::rtp::low16;

/// Pictures whose late packets still find their id.
const PICTURE_WORDS: usize = 4;

/// New values for one payload; `None` = the payload has no such field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PictureRewrite {
    /// New picture id; as many low bits count as the payload's form has.
    pub picture_id: Option<u16>,
    /// New TL0PICIDX.
    pub tl0_picture: Option<u8>,
}

impl PictureRewrite {
    /// Writes the new values into a payload that `vp8` describes.
    #[inline]
    pub fn apply(&self, vp8: &Vp8, payload: &mut [u8]) {
        if let (Some(id), Some(at)) = (self.picture_id, vp8.picture_id) {
            let [high, low] = id.to_be_bytes();
            if at.wide {
                if let Some(bytes) = payload.get_mut(at.offset..at.offset + 2) {
                    bytes.copy_from_slice(&[0x80 | high, low]);
                }
            } else if let Some(byte) = payload.get_mut(at.offset) {
                *byte = low & 0x7f;
            }
        }
        if let (Some(tl0), Some((_, offset))) = (self.tl0_picture, vp8.tl0_picture)
            && let Some(byte) = payload.get_mut(offset)
        {
            *byte = tl0;
        }
    }
}

/// The picture numbering of one subscription.
#[derive(Debug, Clone, Default)]
pub struct Pictures {
    ids: Renumber<PICTURE_WORDS>,
    next_id: u64,
    tl0_offset: u8,
    last_tl0: u8,
    running: bool,
}

/// Where the output ended; nothing when there was none.
#[derive(Debug, Clone, Copy)]
pub(super) struct SuspendedPictures {
    next_id: u64,
    last_tl0: u8,
    running: bool,
}

impl Pictures {
    pub(super) fn suspend(&self) -> SuspendedPictures {
        SuspendedPictures {
            next_id: self.next_id,
            last_tl0: self.last_tl0,
            running: self.running,
        }
    }

    pub(super) fn resume(suspended: SuspendedPictures) -> Self {
        Self {
            next_id: suspended.next_id,
            last_tl0: suspended.last_tl0,
            running: suspended.running,
            ..Self::default()
        }
    }

    /// Continues with the picture that `vp8` belongs to.
    pub fn switch(&mut self, vp8: &Vp8) {
        if let Some(id) = vp8.picture_id {
            // Far enough from zero that reordering cannot go below.
            let input = 1 << 32 | u64::from(id.value);
            let output = if self.running { self.next_id } else { input };
            self.ids.start(input, output);
            self.next_id = output;
        }
        if let Some((tl0, _)) = vp8.tl0_picture {
            let output = if self.running {
                self.last_tl0.wrapping_add(1)
            } else {
                tl0
            };
            self.tl0_offset = output.wrapping_sub(tl0);
        }
        self.running = true;
    }

    /// New ids of a packet that is forwarded; `None` when its picture was left out.
    #[inline]
    pub fn forward(&mut self, vp8: &Vp8) -> Option<PictureRewrite> {
        let mut rewrite = PictureRewrite::default();
        if let Some(id) = vp8.picture_id {
            let output = self.ids.forward(self.extend(id))?;
            self.next_id = self.next_id.max(output + 1);
            let mask = if id.wide { 0x7fff } else { 0x7f };
            rewrite.picture_id = Some(low16(output) & mask);
        }
        if let Some((tl0, _)) = vp8.tl0_picture {
            let output = tl0.wrapping_add(self.tl0_offset);
            if output.wrapping_sub(self.last_tl0).cast_signed() > 0 {
                self.last_tl0 = output;
            }
            rewrite.tl0_picture = Some(output);
        }
        Some(rewrite)
    }

    /// Leaves a picture out.
    pub fn skip(&mut self, vp8: &Vp8) {
        if let Some(id) = vp8.picture_id {
            let input = self.extend(id);
            self.ids.skip(input);
        }
    }

    /// The extended id nearest to the highest seen.
    fn extend(&self, id: PictureId) -> u64 {
        let Some(reference) = self.ids.high_in() else {
            return 1 << 32 | u64::from(id.value);
        };
        let span = 1u64 << id.bits();
        let ahead = u64::from(id.value).wrapping_sub(reference) & (span - 1);
        if ahead < span / 2 {
            reference + ahead
        } else {
            (reference + ahead).saturating_sub(span)
        }
    }
}
