//! How a room goes on that another replica planned meanwhile, and how it ends.

use std::time::Instant;

use livekit_protocol as lk;
use proto::RoomId;

use super::{Membership, Room};
use crate::core::{CONFIRM_WITHIN, Core, Output, Timer};
use crate::store::{Change, Fenced, Update};

impl Core {
    /// Another replica was faster with a room: goes on from what it left, under a later epoch. What both know of members
    /// is joined; who is not there any more is found by the next report.
    pub(in crate::core) fn yield_to(&mut self, now: Instant, fenced: Fenced) {
        let Some(room) = self.rooms.get(&fenced.room) else {
            // It ended here. Should it live elsewhere, it does so without us.
            return;
        };
        if room.sid != fenced.sid || !self.owns(&fenced.room) {
            // About a room of that name that is gone here, or is another replica's by now.
            return;
        }
        let begins = fenced.current.is_none();
        let sid = match &fenced.current {
            Some(current) => current.sid.clone(),
            // It ended there. Those who are still here begin another one.
            None => self.new_sid(),
        };
        let Some(room) = self.rooms.get_mut(&fenced.room) else {
            return;
        };
        room.sid = sid;
        room.epoch = room.epoch.max(fenced.epoch_max);
        if let Some(current) = fenced.current {
            room.created_at_ms = current.created_at_ms;
            for node in current.members {
                if self.registry.get(&node).is_some() {
                    room.members.entry(node).or_insert(Membership::Certain);
                }
            }
        }
        tracing::info!(room_sid = %room.sid, epoch = room.epoch, "another replica planned the room");
        if begins {
            self.tell_started(now, &fenced.room);
        }
        self.plan_again(now, &fenced.room);
    }

    /// Ends a room that nobody came back to.
    pub(in crate::core) fn end_if_empty(&mut self, now: Instant, name: &RoomId) {
        let due = |room: &&mut Room| room.ends_at.is_some_and(|at| at <= now);
        if self.rooms.get_mut(name).filter(due).is_none() {
            return;
        }
        if self.plans(name) {
            self.end(now, name, lk::RoomEndReason::RoomEndIdleTimeout);
        } else if self.owns(name) {
            // Whether it lives is not known yet.
            let later = now + CONFIRM_WITHIN;
            self.timers.insert((later, Timer::Empty(name.clone())));
        } else {
            self.forget_room(name);
        }
    }

    pub(in crate::core) fn end(&mut self, now: Instant, name: &RoomId, reason: lk::RoomEndReason) {
        self.tell_finished(now, name, reason);
        let Some(room) = self.rooms.get(name) else {
            return;
        };
        let (sid, epoch) = (room.sid.clone(), room.epoch);
        tracing::info!(room_sid = %sid, "room ended");
        self.rooms.remove(name);
        self.stood_by(name);
        self.epoch_floor = self.epoch_floor.max(epoch);
        let at_ms = self.wall_ms(now);
        self.outputs
            .push_back(Output::Save(Change::RoomEnded { sid, epoch, at_ms }));
        self.outputs
            .push_back(Output::Update(Update::RoomEnded(name.clone())));
    }
}
