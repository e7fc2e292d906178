//! What a caller's token lets it do.

use proto::{BadName, RoomId};

use super::{Caller, Code, Error};
use crate::token::Grants;

impl Caller<'_> {
    fn grants(&self) -> &Grants {
        &self.bearer.claims.video
    }

    /// May make and end rooms.
    pub(super) fn may_create(&self) -> Result<(), Error> {
        allowed(self.grants().room_create, "roomCreate")
    }

    /// May see all rooms.
    pub(super) fn may_list(&self) -> Result<(), Error> {
        allowed(self.grants().room_list, "roomList")
    }

    /// The room of this name in the caller's project.
    pub(super) fn named(&self, argument: &'static str, name: &str) -> Result<RoomId, Error> {
        RoomId::new(&self.bearer.project, name).map_err(|reason| match reason {
            BadName::Empty => Error::argument(argument, "is missing"),
            BadName::Control => Error::argument(argument, &reason.to_string()),
        })
    }

    /// May manage this room.
    pub(super) fn may_administer(&self, room: &str) -> Result<RoomId, Error> {
        let id = self.named("room", room)?;
        let grants = self.grants();
        let granted = grants.room_admin && grants.room == room;
        allowed(granted, "roomAdmin for this room")?;
        Ok(id)
    }

    /// May take participants of this room to that one, which is of the same project.
    pub(super) fn may_send_to(&self, room: &str, destination: &str) -> Result<RoomId, Error> {
        let id = self.may_administer(room)?;
        if destination.is_empty() {
            return Err(Error::argument("destination_room", "is missing"));
        }
        let granted = self.grants().destination_room == destination;
        allowed(granted, "destinationRoom for that room")?;
        if room == destination {
            let text = "is the room that the participant is in";
            return Err(Error::argument("destination_room", text));
        }
        Ok(id)
    }
}

fn allowed(granted: bool, grant: &str) -> Result<(), Error> {
    if granted {
        return Ok(());
    }
    let text = format!("the token does not grant {grant}");
    Err(Error::new(Code::PermissionDenied, text))
}
