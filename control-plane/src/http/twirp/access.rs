//! What a caller's token lets it do.

use super::{Caller, Code, Error};
use crate::token::Grants;

impl Caller<'_> {
    fn grants(&self) -> &Grants {
        &self.claims.video
    }

    /// May make and end rooms.
    pub(super) fn may_create(&self) -> Result<(), Error> {
        allowed(self.grants().room_create, "roomCreate")
    }

    /// May see all rooms.
    pub(super) fn may_list(&self) -> Result<(), Error> {
        allowed(self.grants().room_list, "roomList")
    }

    /// May manage this room.
    pub(super) fn may_administer(&self, room: &str) -> Result<(), Error> {
        if room.is_empty() {
            return Err(Error::argument("room", "is missing"));
        }
        let grants = self.grants();
        let granted = grants.room_admin && grants.room == room;
        allowed(granted, "roomAdmin for this room")
    }

    /// May take participants of this room to that one.
    pub(super) fn may_send_to(&self, room: &str, destination: &str) -> Result<(), Error> {
        self.may_administer(room)?;
        if destination.is_empty() {
            return Err(Error::argument("destination_room", "is missing"));
        }
        let granted = self.grants().destination_room == destination;
        allowed(granted, "destinationRoom for that room")?;
        if room == destination {
            let text = "is the room that the participant is in";
            return Err(Error::argument("destination_room", text));
        }
        Ok(())
    }
}

fn allowed(granted: bool, grant: &str) -> Result<(), Error> {
    if granted {
        return Ok(());
    }
    let text = format!("the token does not grant {grant}");
    Err(Error::new(Code::PermissionDenied, text))
}
