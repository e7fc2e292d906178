//! Numbers for rooms, by which routers know whose audio competes with whose.

use proto::RoomId;
use std::collections::BTreeMap;

/// Rooms with tracks.
#[derive(Default)]
pub(super) struct Rooms {
    numbers: BTreeMap<RoomId, u32>,
    /// Name and tracks by number.
    rooms: BTreeMap<u32, (RoomId, usize)>,
    last: u32,
}

impl Rooms {
    /// A track comes into a room; the room's number, at least 1.
    pub(super) fn enter(&mut self, name: &RoomId) -> u32 {
        let number = if let Some(&number) = self.numbers.get(name) {
            number
        } else {
            self.last += 1;
            self.numbers.insert(name.clone(), self.last);
            self.last
        };
        let fresh = || (name.clone(), 0);
        self.rooms.entry(number).or_insert_with(fresh).1 += 1;
        number
    }

    /// A track leaves the room with this number.
    pub(super) fn leave(&mut self, number: u32) {
        let Some((name, tracks)) = self.rooms.get_mut(&number) else {
            return;
        };
        *tracks -= 1;
        if *tracks == 0 {
            self.numbers.remove(name);
            self.rooms.remove(&number);
        }
    }
}
