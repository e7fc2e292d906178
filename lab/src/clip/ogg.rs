//! Opus in Ogg (RFC 3533, RFC 7845).

use std::path::Path;

use bytes::Bytes;

use super::{Error, read};

/// Packets of an Opus file, 20 ms each.
#[derive(Debug, Clone)]
pub struct OpusFile {
    /// Without the two header packets.
    pub packets: Vec<Bytes>,
}

impl OpusFile {
    /// Reads a file with one Opus stream whose packets last 20 ms.
    ///
    /// # Errors
    /// When it cannot be read or is something else.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::parse(&read(path)?).map_err(|reason| Error::Format {
            path: path.to_owned(),
            reason,
        })
    }

    pub(super) fn parse(file: &[u8]) -> Result<Self, &'static str> {
        let mut packets = packets(file)?.into_iter();
        if !packets
            .next()
            .is_some_and(|head| head.starts_with(b"OpusHead"))
        {
            return Err("not Opus in Ogg");
        }
        let packets: Vec<Bytes> = packets
            .skip(1)
            .filter(|packet| !packet.is_empty())
            .map(Bytes::from)
            .collect();
        if packets.is_empty() || !packets.iter().all(|packet| lasts_20_ms(packet)) {
            return Err("its packets are not of 20 ms");
        }
        Ok(Self { packets })
    }
}

/// Joins the segments of all pages (RFC 3533 section 6).
fn packets(mut file: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let mut packets = Vec::new();
    let mut open = Vec::new();
    while !file.is_empty() {
        let (header, rest) = file.split_first_chunk::<27>().ok_or("it is cut off")?;
        if !header.starts_with(b"OggS") {
            return Err("not an Ogg file");
        }
        let [.., segments] = *header;
        let (lacing, mut body) = rest
            .split_at_checked(usize::from(segments))
            .ok_or("it is cut off")?;
        for &len in lacing {
            let (segment, after) = body
                .split_at_checked(usize::from(len))
                .ok_or("it is cut off")?;
            open.extend_from_slice(segment);
            body = after;
            // A shorter segment ends the packet.
            if len < u8::MAX {
                packets.push(std::mem::take(&mut open));
            }
        }
        file = body;
    }
    Ok(packets)
}

/// One frame of 20 ms, by the TOC byte (RFC 6716 section 3.1).
fn lasts_20_ms(packet: &[u8]) -> bool {
    let Some(&toc) = packet.first() else {
        return false;
    };
    let twenty = match toc >> 3 {
        config @ 0..=11 => config % 4 == 1,
        config @ 12..=15 => config % 2 == 1,
        config => config % 4 == 3,
    };
    twenty && toc & 3 == 0
}
