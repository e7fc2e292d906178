//! Which shards want which streams of a track.

use media::router::StreamIndex;

/// Simulcast streams per track.
pub(super) const STREAMS_MAX: usize = 3;

/// One bit per shard, by stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in super::super) struct ShardMasks([u64; STREAMS_MAX]);

impl ShardMasks {
    /// Adds the streams (bit n = stream n) that a shard wants.
    pub(in super::super) fn add(&mut self, shard: usize, streams: u8) {
        for (stream, mask) in self.0.iter_mut().enumerate() {
            if streams & (1 << stream) != 0 && shard < 64 {
                *mask |= 1 << shard;
            }
        }
    }

    /// The shards that want a stream, ascending.
    pub(in super::super) fn shards(self, stream: StreamIndex) -> impl Iterator<Item = usize> {
        let mut mask = self.0.get(usize::from(stream)).copied().unwrap_or(0);
        std::iter::from_fn(move || {
            let shard = (mask != 0).then(|| mask.trailing_zeros())?;
            mask &= mask - 1;
            usize::try_from(shard).ok()
        })
    }

    /// Whether nobody wants anything.
    pub(in super::super) fn is_empty(self) -> bool {
        self.0 == [0; STREAMS_MAX]
    }
}
