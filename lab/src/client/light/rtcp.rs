//! The few RTCP messages that a sender must know (RFC 3550, 4585, 5104).

/// What a receiver asks a sender for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Feedback {
    /// PLI or FIR for the stream of this SSRC.
    Keyframe(u32),
    /// Generic NACK: one lost packet of a stream.
    Nack { ssrc: u32, sequence_number: u16 },
}

/// Reads the feedback in a compound packet into `out`; what is malformed or unknown is skipped.
pub(super) fn read_feedback(mut compound: &[u8], out: &mut Vec<Feedback>) {
    while let Some((header, _)) = compound.split_first_chunk::<4>() {
        let [first, packet_type, high, low] = *header;
        let len = (usize::from(u16::from_be_bytes([high, low])) + 1) * 4;
        let Some((packet, rest)) = compound.split_at_checked(len) else {
            return;
        };
        compound = rest;
        read_packet(first & 0x1f, packet_type, packet, out);
    }
}

fn read_packet(format: u8, packet_type: u8, packet: &[u8], out: &mut Vec<Feedback>) {
    let word = |at: usize| {
        let bytes = packet.get(at..at + 4)?.first_chunk::<4>()?;
        Some(u32::from_be_bytes(*bytes))
    };
    match (packet_type, format) {
        (206, 1) => out.extend(word(8).map(Feedback::Keyframe)),
        (206, 4) => out.extend(word(12).map(Feedback::Keyframe)),
        (205, 1) => {
            let Some(ssrc) = word(8) else { return };
            for entry in packet.get(12..).unwrap_or_default().chunks_exact(4) {
                let [id_high, id_low, mask_high, mask_low] = *entry else {
                    return;
                };
                let first = u16::from_be_bytes([id_high, id_low]);
                let mask = u16::from_be_bytes([mask_high, mask_low]);
                let lost = (0..16)
                    .filter(|bit| mask >> bit & 1 == 1)
                    .map(|bit| bit + 1);
                out.extend(std::iter::once(0).chain(lost).map(|offset| Feedback::Nack {
                    ssrc,
                    sequence_number: first.wrapping_add(offset),
                }));
            }
        }
        _ => {}
    }
}

/// What a sender report says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SenderReport {
    pub(super) ssrc: u32,
    /// NTP time, 32.32 fixed point.
    pub(super) ntp: u64,
    pub(super) rtp_timestamp: u32,
    pub(super) packets: u32,
    pub(super) bytes: u32,
}

impl SenderReport {
    /// The report without blocks (RFC 3550, section 6.4.1).
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(28);
        out.extend_from_slice(&[0x80, 200, 0, 6]);
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        out.extend_from_slice(&self.ntp.to_be_bytes());
        for word in [self.rtp_timestamp, self.packets, self.bytes] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<Feedback> {
        let mut out = Vec::new();
        read_feedback(bytes, &mut out);
        out
    }

    #[test]
    fn keyframe_requests_and_losses_are_read_from_a_compound() {
        let mut compound = vec![0x80, 201, 0, 1, 0, 0, 0, 9];
        compound.extend_from_slice(&[0x81, 206, 0, 2, 0, 0, 0, 9, 0, 0, 0, 7]);
        compound.extend_from_slice(&[0x84, 206, 0, 4, 0, 0, 0, 9, 0, 0, 0, 0]);
        compound.extend_from_slice(&[0, 0, 0, 8, 1, 0, 0, 0]);
        compound.extend_from_slice(&[0x81, 205, 0, 3, 0, 0, 0, 9, 0, 0, 0, 7, 0xff, 0xff, 0, 5]);
        let nack = |sequence_number| Feedback::Nack {
            ssrc: 7,
            sequence_number,
        };
        assert_eq!(
            read(&compound),
            [
                Feedback::Keyframe(7),
                Feedback::Keyframe(8),
                nack(0xffff),
                nack(0),
                nack(2)
            ]
        );
    }

    #[test]
    fn broken_packets_give_nothing() {
        assert!(read(&[]).is_empty());
        assert!(read(&[0x81, 206, 0, 2, 0, 0]).is_empty());
        assert!(read(&[0x81, 206, 0, 0]).is_empty());
        assert!(read(&[0x81, 205, 0, 1, 0, 0, 0, 9]).is_empty());
    }
}
