//! Data messages between participants, here and at other edges.

use bytes::Bytes;
use livekit_protocol as lk;
use prost::Message as _;
use proto::ParticipantSid;

use super::{Home, Output, Room, ToSession};

impl Room {
    /// A message of one of ours: to those here that it is for, and to the other edges if somebody there is concerned.
    pub(super) fn send_data(
        &mut self,
        sender: &ParticipantSid,
        reliable: bool,
        destinations: &[String],
        payload: &Bytes,
    ) {
        self.deliver(sender.as_str(), reliable, destinations, payload);
        let concerned = |p: &super::Participant| {
            matches!(p.home, Home::Remote { .. })
                && (destinations.is_empty()
                    || destinations.iter().any(|d| d == p.identity.as_str()))
        };
        if !self.participants.values().any(concerned) {
            return;
        }
        self.outputs.push_back(Output::Data(proto::link::Data {
            room: self.config.name.to_string(),
            origin: self.config.node.to_string(),
            destinations: Vec::new(),
            reliable,
            payload: payload.to_vec(),
            participant_sid: sender.to_string(),
        }));
    }

    /// A message from another edge.
    pub(super) fn deliver_remote_data(&mut self, data: &proto::link::Data) {
        let payload = Bytes::from(data.payload.clone());
        let Ok(packet) = lk::DataPacket::decode(payload.clone()) else {
            return;
        };
        let destinations = destinations(&packet);
        self.deliver(
            &data.participant_sid,
            data.reliable,
            &destinations,
            &payload,
        );
    }

    fn deliver(&mut self, sender: &str, reliable: bool, destinations: &[String], payload: &Bytes) {
        for (sid, participant) in &self.participants {
            let addressed = destinations.is_empty()
                || destinations
                    .iter()
                    .any(|d| d == participant.identity.as_str());
            if !addressed || sid.as_str() == sender || !matches!(participant.home, Home::Local(_)) {
                continue;
            }
            let message = ToSession::Data {
                reliable,
                payload: payload.clone(),
            };
            self.outputs
                .push_back(Output::Session(sid.clone(), message));
        }
    }
}

/// The identities a packet is for; none means everybody.
#[expect(deprecated, reason = "older clients address the inner packet")]
fn destinations(packet: &lk::DataPacket) -> Vec<String> {
    if !packet.destination_identities.is_empty() {
        return packet.destination_identities.clone();
    }
    match &packet.value {
        Some(lk::data_packet::Value::User(user)) => user.destination_identities.clone(),
        _ => Vec::new(),
    }
}
