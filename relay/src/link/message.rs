//! Framing of a link's streams: a varint with the length in bytes (protobuf's base 128), then a `LinkMessage`.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;
use proto::link::LinkMessage;
use proto::link::link_message::Message;

/// Longest message in bytes: a room state of some thousand participants.
pub const LEN_MAX: usize = 4 << 20;

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A message is announced to be longer than [`LEN_MAX`], or its length is not a varint.
    #[error("message is too long")]
    TooLong,
}

/// A message with its length in front.
pub fn encode(message: Message) -> Bytes {
    LinkMessage {
        message: Some(message),
    }
    .encode_length_delimited_to_vec()
    .into()
}

/// Cuts a stream's bytes into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    skipped: u64,
}

impl Decoder {
    /// Appends what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Messages skipped so far because they were malformed or of a kind unknown here.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next whole message, `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`Error::TooLong`]: the stream is of no more use.
    pub fn next_message(&mut self) -> Result<Option<Message>, Error> {
        loop {
            let Some((len, prefix_len)) = self.announced()? else {
                return Ok(None);
            };
            if self.buffer.len() < prefix_len + len {
                return Ok(None);
            }
            self.buffer.advance(prefix_len);
            let body = self.buffer.split_to(len).freeze();
            match LinkMessage::decode(body) {
                Ok(LinkMessage {
                    message: Some(message),
                }) => return Ok(Some(message)),
                Ok(LinkMessage { message: None }) | Err(_) => self.skipped += 1,
            }
        }
    }

    /// Length of the next message and of its prefix, in bytes.
    fn announced(&self) -> Result<Option<(usize, usize)>, Error> {
        let mut len = 0_usize;
        // Four groups of seven bits reach 256 MiB, beyond what is allowed anyway.
        for (index, byte) in self.buffer.iter().take(4).enumerate() {
            len |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return if len > LEN_MAX {
                    Err(Error::TooLong)
                } else {
                    Ok(Some((len, index + 1)))
                };
            }
        }
        if self.buffer.len() >= 4 {
            Err(Error::TooLong)
        } else {
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::link::UnbindFlow;

    use super::*;

    #[test]
    fn messages_survive_any_cutting_and_unknown_ones_are_skipped() {
        let mut bytes = encode(Message::UnbindFlow(UnbindFlow { flow_id: 7 })).to_vec();
        // Field 200 of a later version, then bytes that are no protobuf at all.
        bytes.extend_from_slice(&[3, 0xc2, 0x0c, 0x00]);
        bytes.extend_from_slice(&[2, 0xff, 0xff]);
        bytes.extend_from_slice(&encode(Message::UnbindFlow(UnbindFlow { flow_id: 300 })));
        let mut decoder = Decoder::default();
        let mut flows = Vec::new();
        for byte in bytes {
            decoder.push(&[byte]);
            while let Some(message) = decoder.next_message().unwrap() {
                let Message::UnbindFlow(unbind) = message else {
                    panic!("{message:?}")
                };
                flows.push(unbind.flow_id);
            }
        }
        assert_eq!((flows, decoder.skipped()), (vec![7, 300], 2));
    }

    #[test]
    fn absurd_lengths_are_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0xff]);
        assert_eq!(decoder.next_message(), Err(Error::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_message() {}
        }
    }
}
