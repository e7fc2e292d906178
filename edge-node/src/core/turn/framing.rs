//! TURN over a stream: STUN messages and ChannelData follow each other without more framing (RFC 8656 sections 3.1 and 12.5).

/// Largest message taken or sent, bytes: an Ethernet packet in a Send indication and room for attributes.
pub const FRAME_MAX: usize = 4096;
/// Length of a STUN header (RFC 8489 section 5).
const STUN_HEADER: usize = 20;
/// Length of a ChannelData header (RFC 8656 section 12.4).
const CHANNEL_HEADER: usize = 4;

/// What a stream begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unframed {
    /// More bytes are needed.
    Incomplete,
    /// A message of `length` bytes; the next one begins after `consumed`.
    Message {
        /// Bytes of the message.
        length: usize,
        /// Those and the padding that follows.
        consumed: usize,
    },
    /// Neither STUN nor ChannelData, or longer than [`FRAME_MAX`]: the stream cannot be read any further.
    Broken,
}

/// Finds the first message of a stream.
pub fn split(bytes: &[u8]) -> Unframed {
    let Some((&[first, second, high, low], _)) = bytes.split_first_chunk::<4>() else {
        return Unframed::Incomplete;
    };
    let body = usize::from(u16::from_be_bytes([high, low]));
    let (length, consumed) = match first >> 6 {
        0b00 => (STUN_HEADER + body, STUN_HEADER + body),
        // On streams ChannelData is padded to a multiple of four, which its length does not count.
        0b01 => (
            CHANNEL_HEADER + body,
            CHANNEL_HEADER + body.next_multiple_of(4),
        ),
        _ => return Unframed::Broken,
    };
    // RFC 8489 section 5: the length of a STUN message is a multiple of four.
    let odd = first >> 6 == 0 && body % 4 != 0;
    if odd || consumed > FRAME_MAX || (first, second) == (0, 0) {
        Unframed::Broken
    } else if bytes.len() < consumed {
        Unframed::Incomplete
    } else {
        Unframed::Message { length, consumed }
    }
}

/// The channel and payload of a ChannelData message; `None` when it is none, or shorter than it says.
pub(super) fn read_channel_data(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (&[n0, n1, l0, l1], rest) = bytes.split_first_chunk::<4>()?;
    let number = u16::from_be_bytes([n0, n1]);
    let payload = rest.get(..usize::from(u16::from_be_bytes([l0, l1])))?;
    Some((number, payload))
}

/// Appends a ChannelData message to `out`, padded to a multiple of four as streams need it if `padded`.
pub fn write_channel_data(number: u16, payload: &[u8], padded: bool, out: &mut Vec<u8>) {
    let Ok(length) = u16::try_from(payload.len()) else {
        return;
    };
    out.extend(number.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend_from_slice(payload);
    if padded {
        let padding = payload.len().next_multiple_of(4) - payload.len();
        out.extend(std::iter::repeat_n(0, padding));
    }
}
