//! What was sent to one subscriber, in 16 bytes per packet.

use crate::rewrite::{PictureRewrite, Rewritten};
use crate::rtp::low16;

const HAS_PICTURE: u8 = 1;
const HAS_TL0: u8 = 2;
const USED: u8 = 4;
const MARKER: u8 = 8;

/// How a packet was rewritten, so that it can be made again from the stream's cache.
#[derive(Debug, Clone, Copy, Default)]
pub struct SentRecord {
    timestamp: u32,
    out_seq: u16,
    in_seq: u16,
    picture_id: u16,
    /// When it was last sent or sent again, milliseconds modulo 2^16.
    sent_ms: u16,
    tl0_picture: u8,
    stream: u8,
    flags: u8,
    /// Retransmissions so far.
    resent: u8,
}

const _: () = assert!(
    size_of::<SentRecord>() == 16,
    "the design's budget per packet"
);

impl SentRecord {
    /// Stream of the track.
    #[must_use]
    pub fn stream(&self) -> u8 {
        self.stream
    }

    /// The publisher's sequence number.
    #[must_use]
    pub fn in_seq(&self) -> u16 {
        self.in_seq
    }

    /// The subscriber's sequence number.
    #[must_use]
    pub fn out_seq(&self) -> u16 {
        self.out_seq
    }

    /// The subscriber's timestamp.
    #[must_use]
    pub fn timestamp(&self) -> u32 {
        self.timestamp
    }

    /// The marker bit that the subscriber got.
    #[must_use]
    pub fn marker(&self) -> bool {
        self.flags & MARKER != 0
    }

    /// New VP8 ids.
    #[must_use]
    pub fn picture(&self) -> PictureRewrite {
        PictureRewrite {
            picture_id: (self.flags & HAS_PICTURE != 0).then_some(self.picture_id),
            tl0_picture: (self.flags & HAS_TL0 != 0).then_some(self.tl0_picture),
        }
    }
}

/// A ring of the last packets sent.
#[derive(Debug)]
pub struct SendHistory {
    ring: Box<[SentRecord]>,
}

impl SendHistory {
    /// Room for `packets`, rounded up to a power of two between 16 and 32768.
    #[must_use]
    pub fn new(packets: usize) -> Self {
        let len = packets.clamp(16, 1 << 15).next_power_of_two();
        Self {
            ring: vec![SentRecord::default(); len].into_boxed_slice(),
        }
    }

    /// Remembers a packet sent at `now_ms` (any origin).
    #[inline]
    pub fn record(&mut self, sent: &Rewritten, stream: u8, in_seq: u16, now_ms: u64) {
        let out_seq = low16(sent.seq);
        let index = self.index(out_seq);
        let picture = &sent.picture;
        if let Some(record) = self.ring.get_mut(index) {
            *record = SentRecord {
                timestamp: sent.timestamp,
                out_seq,
                in_seq,
                picture_id: picture.picture_id.unwrap_or(0),
                sent_ms: low16(now_ms),
                tl0_picture: picture.tl0_picture.unwrap_or(0),
                stream,
                flags: USED
                    | if picture.picture_id.is_some() {
                        HAS_PICTURE
                    } else {
                        0
                    }
                    | if picture.tl0_picture.is_some() {
                        HAS_TL0
                    } else {
                        0
                    }
                    | if sent.marker { MARKER } else { 0 },
                resent: 0,
            };
        }
    }

    /// The record of a sequence number asked for again, unless it went out less than
    /// `interval_ms` ago or `resends_max` times already; counts the retransmission.
    pub fn ask(
        &mut self,
        out_seq: u16,
        now_ms: u64,
        interval_ms: u16,
        resends_max: u8,
    ) -> Option<SentRecord> {
        let index = self.index(out_seq);
        let record = self.ring.get_mut(index)?;
        if record.flags & USED == 0 || record.out_seq != out_seq || record.resent >= resends_max {
            return None;
        }
        if low16(now_ms).wrapping_sub(record.sent_ms) < interval_ms {
            return None;
        }
        record.sent_ms = low16(now_ms);
        record.resent += 1;
        Some(*record)
    }

    /// The record of a sequence number, when it is still there.
    #[must_use]
    pub fn find(&self, out_seq: u16) -> Option<SentRecord> {
        let record = self.ring.get(self.index(out_seq))?;
        (record.flags & USED != 0 && record.out_seq == out_seq).then_some(*record)
    }

    fn index(&self, seq: u16) -> usize {
        usize::from(seq) & (self.ring.len() - 1)
    }
}
