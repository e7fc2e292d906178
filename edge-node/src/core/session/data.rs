//! Data messages from the client.

use bytes::Bytes;
use livekit_protocol as lk;
use prost::Message as _;

use super::Session;
use crate::core::room::FromSession;

/// Largest data message taken from a client, bytes: the clients' own cap of 64,000 and room for the envelope.
const MESSAGE_MAX: usize = 65_535;

impl Session {
    /// A message on one of the client's data channels goes to the room, stamped with who sent it.
    pub(super) fn handle_data(&mut self, label: &str, payload: Bytes) {
        let reliable = match label {
            "_reliable" => true,
            "_lossy" => false,
            _ => return,
        };
        if !self.config.permissions.can_publish_data || payload.len() > MESSAGE_MAX {
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
