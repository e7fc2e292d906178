//! Signalling messages on the wire: protobuf in binary frames, JSON in text frames, each answered in kind.

use bytes::Bytes;
use livekit_protocol as lk;
use lk::signal_response::Message;
use prost::Message as _;

/// Largest frame accepted from a client, bytes.
pub const FRAME_MAX: usize = 2 << 20;

/// How a client frames its messages; it is answered the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Binary frames of protobuf.
    #[default]
    Binary,
    /// Text frames of JSON.
    Json,
}

/// A frame of the signalling WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Protobuf.
    Binary(Bytes),
    /// JSON.
    Text(String),
}

/// Why a client's frame was not understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a `livekit.SignalRequest`.
    #[error("not a SignalRequest in protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// Not the JSON form of one.
    #[error("not a SignalRequest in JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Reads a client's frame.
///
/// # Errors
/// When the bytes are no `SignalRequest`.
pub fn decode(frame: &Frame) -> Result<lk::SignalRequest, Error> {
    match frame {
        Frame::Binary(bytes) => Ok(lk::SignalRequest::decode(bytes.clone())?),
        Frame::Text(text) => Ok(serde_json::from_str(text)?),
    }
}

/// Writes a frame for a client.
pub fn encode(message: Message, encoding: Encoding) -> Frame {
    let response = lk::SignalResponse {
        message: Some(message),
    };
    match encoding {
        Encoding::Binary => Frame::Binary(response.encode_to_vec().into()),
        // A response is plain data: its JSON form always exists.
        Encoding::Json => Frame::Text(serde_json::to_string(&response).unwrap_or_default()),
    }
}

/// Ends a session: what the client should do next, and why.
pub fn leave(action: lk::leave_request::Action, reason: lk::DisconnectReason) -> Message {
    Message::Leave(lk::LeaveRequest {
        can_reconnect: action != lk::leave_request::Action::Disconnect,
        reason: reason as i32,
        action: action as i32,
        regions: None,
    })
}

/// Sends a client elsewhere, where it joins anew.
pub fn depart(regions: lk::RegionSettings) -> Message {
    Message::Leave(lk::LeaveRequest {
        can_reconnect: true,
        reason: lk::DisconnectReason::Migration as i32,
        action: lk::leave_request::Action::Reconnect as i32,
        regions: Some(regions),
    })
}

/// Participants that changed.
pub fn update(participants: Vec<lk::ParticipantInfo>) -> Message {
    Message::Update(lk::ParticipantUpdate { participants })
}

/// The answer to a request that carried an id.
pub fn request_response(
    request_id: u32,
    reason: lk::request_response::Reason,
    text: &str,
    request: Option<lk::request_response::Request>,
) -> Message {
    Message::RequestResponse(lk::RequestResponse {
        request_id,
        reason: reason as i32,
        message: text.to_owned(),
        request,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_answered_in_json() {
        let frame = Frame::Text(r#"{"pingReq":{"timestamp":"5","rtt":"7"}}"#.to_owned());
        let request = decode(&frame).unwrap();
        let Some(lk::signal_request::Message::PingReq(ping)) = request.message else {
            panic!("expected a ping, got {request:?}")
        };
        assert_eq!((ping.timestamp, ping.rtt), (5, 7));
        let Frame::Text(text) = encode(Message::Pong(9), Encoding::Json) else {
            panic!("text expected")
        };
        assert_eq!(text, r#"{"pong":"9"}"#);
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(decode(&Frame::Binary(Bytes::from_static(b"\xff\xff\xff"))).is_err());
        assert!(decode(&Frame::Text("{".to_owned())).is_err());
    }
}
