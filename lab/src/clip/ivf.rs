//! IVF: a header of 32 bytes, then frames with headers of 12 (all little endian, as libvpx writes them).

use std::path::Path;

use bytes::Bytes;

use super::{Codec, Error, Frame, Layer};

pub(super) struct Ivf {
    pub(super) codec: Codec,
    pub(super) frames_per_second: u32,
    pub(super) layer: Layer,
}

pub(super) fn parse(path: &Path, file: &[u8]) -> Result<Ivf, Error> {
    let bad = |reason| Error::Format {
        path: path.to_owned(),
        reason,
    };
    let (header, mut rest) = file
        .split_first_chunk::<32>()
        .filter(|(header, _)| header.starts_with(b"DKIF"))
        .ok_or_else(|| bad("not an IVF file"))?;
    let fourcc = header.get(8..12).and_then(|bytes| bytes.first_chunk());
    let codec = fourcc
        .and_then(|fourcc| Codec::of_fourcc(*fourcc))
        .ok_or_else(|| bad("neither VP8, VP9 nor AV1"))?;
    let half = |at: usize| {
        let bytes = header.get(at..at + 2).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
    };
    let word = |at: usize| {
        let bytes = header.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    // Time base: rate at 16, scale at 20.
    let frames_per_second = word(16).checked_div(word(20)).unwrap_or(0);
    if !(1..=120).contains(&frames_per_second) {
        return Err(bad("its frame rate is not within 1 to 120 per second"));
    }
    let mut frames = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<12>() {
        let [a, b, c, d, ..] = *head;
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let (frame, after) = after
            .split_at_checked(len)
            .ok_or_else(|| bad("it is cut off"))?;
        frames.push(Frame {
            bytes: Bytes::copy_from_slice(frame),
            key: codec.is_key(frame),
        });
        rest = after;
    }
    Ok(Ivf {
        codec,
        frames_per_second,
        layer: Layer {
            width: half(12),
            height: half(14),
            frames,
        },
    })
}
