//! Data messages from the client.

use bytes::Bytes;
use livekit_protocol as lk;
use prost::Message as _;

use super::Session;
use crate::core::room::{FromSession, RpcReply};

/// Largest data message taken from a client, bytes: the clients' own cap of 64,000 and room for the envelope.
const MESSAGE_MAX: usize = 65_535;

/// Of the errors of calls, as the SDKs count them.
const UNSUPPORTED_VERSION: u32 = 1_404;

impl Session {
    /// A message on one of the client's data channels goes to the room, stamped with who sent it.
    pub(super) fn handle_data(&mut self, label: &str, payload: Bytes) {
        let reliable = match label {
            "_reliable" => true,
            "_lossy" => false,
            _ => return,
        };
        if payload.len() > MESSAGE_MAX {
            return;
        }
        let Ok(mut packet) = lk::DataPacket::decode(payload) else {
            return;
        };
        if reliable && packet.sequence > self.last_data_sequence {
            self.last_data_sequence = packet.sequence;
        } else if reliable && packet.sequence > 0 {
            // Replayed after a resume, and already delivered.
            return;
        }
        if let Some((call, reply)) = reply(&packet) {
            self.tell_room(FromSession::Reply(call, reply));
            return;
        }
        if !self.config.permissions.can_publish_data {
            return;
        }
        let destinations = self.stamp(&mut packet);
        self.tell_room(FromSession::Data {
            reliable,
            destinations,
            payload: packet.encode_to_vec().into(),
        });
    }

    /// Writes the sender into the packet and returns the identities it is for; none means everybody.
    #[expect(
        deprecated,
        reason = "older clients read and write the fields of the inner packet"
    )]
    fn stamp(&self, packet: &mut lk::DataPacket) -> Vec<String> {
        packet.participant_sid = self.config.sid.to_string();
        packet.participant_identity = self.config.identity.to_string();
        let mut destinations = packet.destination_identities.clone();
        if let Some(lk::data_packet::Value::User(user)) = &mut packet.value {
            user.participant_sid = self.config.sid.to_string();
            user.participant_identity = self.config.identity.to_string();
            if destinations.is_empty() {
                destinations.clone_from(&user.destination_identities);
            }
        }
        destinations
    }
}

/// What a packet says to a call of an application's server: those call under the call's id, so that the answer goes there.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "other packets are no replies"
)]
fn reply(packet: &lk::DataPacket) -> Option<(String, RpcReply)> {
    use lk::data_packet::Value;
    use lk::rpc_response::Value as Response;
    let [caller] = packet.destination_identities.as_slice() else {
        return None;
    };
    let (id, reply) = match packet.value.as_ref()? {
        Value::RpcAck(ack) => (&ack.request_id, RpcReply::Ack),
        Value::RpcResponse(response) => {
            let reply = match response.value.clone() {
                Some(Response::Payload(payload)) => RpcReply::Payload(payload),
                Some(Response::Error(error)) => RpcReply::Failed(error),
                Some(Response::CompressedPayload(_)) | None => RpcReply::Failed(lk::RpcError {
                    code: UNSUPPORTED_VERSION,
                    message: "the participant's answer is of a later version".to_owned(),
                    data: String::new(),
                }),
            };
            (&response.request_id, reply)
        }
        _ => return None,
    };
    (id == caller).then(|| (id.clone(), reply))
}
