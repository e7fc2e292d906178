//! What makes several streams look like one to a receiver: sequence numbers, timestamps and VP8
//! picture ids go on without a break when the layer changes or packets are left out on purpose.

use crate::layer::Vp8;

mod pictures;
mod renumber;

use pictures::SuspendedPictures;
pub use pictures::{PictureRewrite, Pictures};
pub use renumber::Renumber;

/// Packets that can still be put in their place when they are late.
const SEQ_WORDS: usize = 16;

/// What a receiver sees of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewritten {
    /// Extended sequence number, which is also the SRTP packet index.
    pub seq: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// New VP8 ids, when the payload has any.
    pub picture: PictureRewrite,
    /// The marker bit, for the caller to set.
    pub marker: bool,
}

/// Where the output of a subscription ended.
#[derive(Debug, Clone, Copy)]
pub struct Suspended {
    next_seq: u64,
    last_timestamp: Option<u32>,
    pictures: SuspendedPictures,
}

/// The rewriting state of one subscription.
#[derive(Debug, Clone)]
pub struct Rewriter {
    seq: Renumber<SEQ_WORDS>,
    /// Next sequence number to use; the last used one plus one.
    next_seq: u64,
    timestamp_offset: u32,
    last_timestamp: Option<u32>,
    pictures: Pictures,
}

impl Rewriter {
    /// The first packet will have extended sequence number `first_seq`.
    #[must_use]
    pub fn new(first_seq: u64) -> Self {
        Self {
            seq: Renumber::default(),
            next_seq: first_seq,
            timestamp_offset: 0,
            last_timestamp: None,
            pictures: Pictures::default(),
        }
    }

    /// What another subscription under the same SSRC needs to go on.
    #[must_use]
    pub fn suspend(&self) -> Suspended {
        Suspended {
            next_seq: self.next_free(),
            last_timestamp: self.last_timestamp,
            pictures: self.pictures.suspend(),
        }
    }

    /// Goes on, with another input.
    #[must_use]
    pub fn resume(suspended: Suspended) -> Self {
        Self {
            last_timestamp: suspended.last_timestamp,
            pictures: Pictures::resume(suspended.pictures),
            ..Self::new(suspended.next_seq)
        }
    }

    /// Extended sequence number that the next packet in order gets.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The lowest extended sequence number that was never given out, not even to a packet that is
    /// missing still.
    #[must_use]
    pub fn next_free(&self) -> u64 {
        self.next_seq.max(self.seq.high_out() + 1)
    }

    /// What is added to the current stream's timestamps.
    #[must_use]
    pub fn timestamp_offset(&self) -> u32 {
        self.timestamp_offset
    }

    /// Timestamp of the newest packet sent.
    #[must_use]
    pub fn last_timestamp(&self) -> Option<u32> {
        self.last_timestamp
    }

    /// Continues with another stream, or with the same after a pause, from its packet `input` on.
    /// `offset` is what its timestamps need; a result that would not go forward is corrected.
    pub fn switch(&mut self, input: u64, timestamp: u32, offset: u32, vp8: Option<&Vp8>) {
        self.seq.start(input, self.next_seq);
        self.timestamp_offset = offset;
        if let Some(last) = self.last_timestamp {
            let ahead = timestamp
                .wrapping_add(offset)
                .wrapping_sub(last)
                .cast_signed();
            if ahead <= 0 {
                self.timestamp_offset = last.wrapping_add(1).wrapping_sub(timestamp);
            }
        }
        if let Some(vp8) = vp8 {
            self.pictures.switch(vp8);
        }
    }

    /// Numbers a packet that is forwarded; `None` when it is too late or its place was closed.
    #[inline]
    pub fn forward(&mut self, input: u64, timestamp: u32, vp8: Option<&Vp8>) -> Option<Rewritten> {
        let seq = self.seq.forward(input)?;
        let picture = match vp8 {
            Some(vp8) => self.pictures.forward(vp8)?,
            None => PictureRewrite::default(),
        };
        let timestamp = timestamp.wrapping_add(self.timestamp_offset);
        if seq >= self.next_seq {
            self.next_seq = seq + 1;
            self.last_timestamp = Some(timestamp);
        }
        Some(Rewritten {
            seq,
            timestamp,
            picture,
            marker: false,
        })
    }

    /// A hop before left out `first` up to `end` (exclusive): the receiver sees no gap.
    pub fn skip_run(&mut self, first: u64, end: u64) {
        self.seq.skip_run(first, end);
    }

    /// Leaves a packet out on purpose: the receiver sees no gap.
    pub fn skip(&mut self, input: u64, vp8: Option<&Vp8>) {
        self.seq.skip(input);
        if let Some(vp8) = vp8 {
            self.pictures.skip(vp8);
        }
    }
}

#[cfg(test)]
mod tests;
