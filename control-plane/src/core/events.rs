//! What happens in rooms, as applications are told of it. Every event is made here, once, and has an id that follows from what
//! happened: a control plane that starts anew and learns the same again makes the same event.

use std::time::Instant;

use aws_lc_rs::digest::{SHA256, digest};
use livekit_protocol as lk;
use proto::{RoomId, RoomSid};

use super::Core;
use super::presence::Happening;
use crate::view;

/// Bytes of the digest that an id shows.
const ID_BYTES: usize = 12;

/// Something that happened in a room.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Follows from the room's session, the kind of event, and the participant or track that it is about.
    pub id: String,
    /// The room.
    pub room: RoomId,
    /// Which of the rooms of that name. Events of one are told in the order in which they come.
    pub room_sid: RoomSid,
    /// When it was noticed, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What applications are told.
    pub content: Box<lk::WebhookEvent>,
}

impl Event {
    fn new(
        (id_of_room, room): (&RoomId, &lk::Room),
        name: &str,
        subject: &str,
        at_ms: u64,
    ) -> Self {
        let text = format!("{}\n{name}\n{subject}", room.sid);
        let digest = digest(&SHA256, text.as_bytes());
        let bytes = digest.as_ref().iter().take(ID_BYTES);
        let id = bytes.fold("EV_".to_owned(), |id, byte| format!("{id}{byte:02x}"));
        let content = lk::WebhookEvent {
            event: name.to_owned(),
            room: Some(room.clone()),
            id: id.clone(),
            created_at: i64::try_from(at_ms / 1_000).unwrap_or(i64::MAX),
            ..lk::WebhookEvent::default()
        };
        Self {
            id,
            room: id_of_room.clone(),
            room_sid: RoomSid::from(room.sid.as_str()),
            at_ms,
            content: Box::new(content),
        }
    }

    fn of(room: (&RoomId, &lk::Room), happening: Happening, at_ms: u64) -> Self {
        let (name, participant, track) = match happening {
            Happening::Joined(participant) => ("participant_joined", participant, None),
            Happening::Left(participant) => ("participant_left", participant, None),
            Happening::Aborted(participant) => {
                ("participant_connection_aborted", participant, None)
            }
            Happening::Published(participant, track) => {
                ("track_published", participant, Some(track))
            }
            Happening::Unpublished(participant, track) => {
                ("track_unpublished", participant, Some(track))
            }
        };
        let subject = match &track {
            Some(track) => format!("{}/{}", participant.sid, track.sid),
            None => participant.sid.clone(),
        };
        let mut event = Self::new(room, name, &subject, at_ms);
        event.content.participant = Some(participant);
        event.content.track = track;
        event
    }
}

impl Core {
    /// Tells of a room's beginning.
    pub(super) fn tell_started(&mut self, now: Instant, name: &RoomId) {
        let at_ms = self.wall_ms(now);
        if let Some(room) = self.rooms.get(name) {
            let shown = view::room(&room.summary(name), room.presence.counts());
            let event = Event::new((name, &shown), "room_started", "", at_ms);
            self.tell_event(event);
        }
    }

    /// Tells of a room's end.
    pub(super) fn tell_finished(&mut self, now: Instant, name: &RoomId, reason: lk::RoomEndReason) {
        let at_ms = self.wall_ms(now);
        if let Some(room) = self.rooms.get(name) {
            let shown = view::room(&room.summary(name), room.presence.counts());
            let mut event = Event::new((name, &shown), "room_finished", "", at_ms);
            event.content.room_end_reason = reason as i32;
            self.tell_event(event);
        }
    }

    /// Tells of what happened to participants.
    pub(super) fn tell(&mut self, now: Instant, name: &RoomId, news: Vec<Happening>) {
        let at_ms = self.wall_ms(now);
        let Some(room) = self.rooms.get(name).filter(|_| !news.is_empty()) else {
            return;
        };
        let shown = view::room(&room.summary(name), room.presence.counts());
        for happening in news {
            self.tell_event(Event::of((name, &shown), happening, at_ms));
        }
    }
}
