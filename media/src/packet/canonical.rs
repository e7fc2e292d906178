//! RTP as links carry it: one table of payload types and extension ids for the whole mesh.

use std::time::Instant;

use super::{Codec, Error, ExtensionIds, Extensions, Head, LayerMeta, Packet, PacketRef, Pool};
use crate::rtp::{Form, Header, View, Writer};

/// The mesh's extension ids; those that are per hop or per receiver have none.
pub const CANONICAL_IDS: ExtensionIds = ExtensionIds {
    mid: None,
    rid: None,
    repaired_rid: None,
    transport_cc: None,
    abs_send_time: None,
    audio_level: Some(1),
    orientation: Some(2),
    playout_delay: Some(3),
    abs_capture_time: Some(4),
    dependency_descriptor: Some(5),
};

/// Longest value of the one-byte form (RFC 8285 section 4.2).
const ONE_BYTE_VALUE_MAX: usize = 16;

/// The form that a packet with this dependency descriptor needs.
#[inline]
pub(crate) fn form_for(descriptor: Option<&[u8]>) -> Form {
    match descriptor {
        Some(value) if value.len() > ONE_BYTE_VALUE_MAX => Form::TwoByte,
        Some(_) | None => Form::OneByte,
    }
}

/// Writes the extensions that are passed on end to end, in a receiver's numbering.
#[inline]
pub(crate) fn write_extensions(
    writer: &mut Writer<'_>,
    ids: &ExtensionIds,
    ext: &Extensions,
    descriptor: Option<&[u8]>,
) -> Option<()> {
    if let (Some(id), Some(level)) = (ids.audio_level, ext.audio_level) {
        writer.extension(id, &[level])?;
    }
    if let (Some(id), Some(orientation)) = (ids.orientation, ext.orientation) {
        writer.extension(id, &[orientation])?;
    }
    if let (Some(id), Some(delay)) = (ids.playout_delay, ext.playout_delay) {
        writer.extension(id, &delay)?;
    }
    if let (Some(id), Some(time)) = (ids.abs_capture_time, ext.abs_capture_time) {
        let (bytes, len) = time.to_bytes();
        writer.extension(id, bytes.get(..len)?)?;
    }
    if let (Some(id), Some(value)) = (ids.dependency_descriptor, descriptor) {
        writer.extension(id, value)?;
    }
    Some(())
}

pub(super) fn write(packet: &Packet, out: &mut [u8]) -> Option<usize> {
    let header = Header {
        marker: packet.marker,
        payload_type: packet.codec.payload_type(),
        seq: packet.seq,
        timestamp: packet.timestamp,
        ssrc: 0,
    };
    let descriptor = packet.dependency_descriptor();
    let mut writer = Writer::new(out, &header, form_for(descriptor))?;
    write_extensions(&mut writer, &CANONICAL_IDS, &packet.ext, descriptor)?;
    let start = writer.finish()?;
    let payload = packet.payload();
    out.get_mut(start..start + payload.len())?
        .copy_from_slice(payload);
    Some(start + payload.len())
}

impl Pool {
    /// Reads canonical RTP that came over a link into a slot. `hop` is what the hop header says of it: its layer, and how many
    /// numbers before it were left out on purpose.
    ///
    /// # Errors
    /// When the bytes are not RTP, the payload type is unknown or the packet exceeds a slot.
    pub fn from_canonical(
        &mut self,
        rtp: &[u8],
        hop: (LayerMeta, u16),
        now: Instant,
    ) -> Result<PacketRef, Error> {
        let view = View::parse(rtp)?;
        let payload_type = view.header.payload_type;
        let codec =
            Codec::from_payload_type(payload_type).ok_or(Error::PayloadType { payload_type })?;
        let mut ext = Extensions::default();
        let mut descriptor: &[u8] = &[];
        for (id, value) in view.extensions() {
            if Some(id) == CANONICAL_IDS.dependency_descriptor {
                descriptor = value;
            } else {
                ext.absorb(&CANONICAL_IDS, id, value);
            }
        }
        let head = Head {
            arrival: now,
            codec,
            marker: view.header.marker,
            seq: view.header.seq,
            left_out: hop.1,
            timestamp: view.header.timestamp,
            layer: hop.0,
            ext,
        };
        self.build(head, view.payload(), descriptor)
    }
}
