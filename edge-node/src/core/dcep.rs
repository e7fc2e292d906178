//! Data Channel Establishment Protocol (RFC 8832).

use rtc_sctp::ReliabilityType;

const DATA_CHANNEL_ACK: u8 = 0x02;
const DATA_CHANNEL_OPEN: u8 = 0x03;
/// Channel type bit: messages may be delivered out of order.
const UNORDERED: u8 = 0x80;
/// Longest label accepted, in bytes.
const LABEL_MAX: usize = 256;

/// A DCEP message.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// DATA_CHANNEL_OPEN.
    Open(Open),
    /// DATA_CHANNEL_ACK.
    Ack,
}

/// What a channel is to be (RFC 8832 section 5.1).
#[derive(Clone, PartialEq, Debug)]
pub struct Open {
    /// Its name, at most 256 bytes.
    pub label: String,
    /// Messages may be delivered out of order.
    pub unordered: bool,
    /// Whether and how messages may be lost.
    pub reliability: ReliabilityType,
    /// Retransmissions or milliseconds, by `reliability`.
    pub parameter: u32,
}

impl Open {
    /// A channel in order without loss, or in any order without retransmission.
    pub fn new(label: &str, reliable: bool) -> Self {
        let reliability = if reliable {
            ReliabilityType::Reliable
        } else {
            ReliabilityType::Rexmit
        };
        Self {
            label: label.to_owned(),
            unordered: !reliable,
            reliability,
            parameter: 0,
        }
    }

    /// The message on the wire: type, channel type, priority, reliability parameter, lengths, label, no protocol.
    pub fn to_bytes(&self) -> Vec<u8> {
        let kind = match self.reliability {
            ReliabilityType::Rexmit => 1,
            ReliabilityType::Timed => 2,
            // The enum is open; reliable is what the other side takes an unknown kind for.
            ReliabilityType::Reliable | _ => 0,
        };
        let kind = kind | if self.unordered { UNORDERED } else { 0 };
        let label = self.label.as_bytes();
        let length = u16::try_from(label.len()).unwrap_or(0);
        let mut bytes = Vec::with_capacity(12 + label.len());
        bytes.extend([DATA_CHANNEL_OPEN, kind, 0, 0]);
        bytes.extend(self.parameter.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(label.iter().take(usize::from(length)));
        bytes
    }
}

/// DATA_CHANNEL_ACK on the wire.
pub const ACK: [u8; 1] = [DATA_CHANNEL_ACK];

/// Reads a message; `None` when it is none.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    let (kind, rest) = bytes.split_first()?;
    match *kind {
        DATA_CHANNEL_ACK => Some(Message::Ack),
        DATA_CHANNEL_OPEN => {
            let (&[channel, _, _, p0, p1, p2, p3, l0, l1, _, _], rest) =
                rest.split_first_chunk::<11>()?;
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let label = rest
                .get(..length)
                .filter(|label| label.len() <= LABEL_MAX)?;
            Some(Message::Open(Open {
                label: std::str::from_utf8(label).ok()?.to_owned(),
                unordered: channel & UNORDERED != 0,
                reliability: ReliabilityType::from(channel & !UNORDERED),
                parameter: u32::from_be_bytes([p0, p1, p2, p3]),
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_round_trips() {
        for open in [Open::new("_reliable", true), Open::new("_lossy", false)] {
            assert_eq!(parse(&open.to_bytes()), Some(Message::Open(open)));
        }
    }

    #[test]
    fn lossy_is_partial_reliable_rexmit_unordered() {
        let bytes = Open::new("_lossy", false).to_bytes();
        assert_eq!(bytes[..2], [0x03, 0x81]);
        assert_eq!(Open::new("x", true).to_bytes()[1], 0x00);
    }

    #[test]
    fn truncated_and_unknown_messages_are_refused() {
        let bytes = Open::new("_reliable", true).to_bytes();
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), None);
        }
        assert_eq!(parse(&ACK), Some(Message::Ack));
        assert_eq!(parse(&[9]), None);
        let mut not_text = bytes;
        not_text[12] = 0xFF;
        assert_eq!(parse(&not_text), None);
    }
}
