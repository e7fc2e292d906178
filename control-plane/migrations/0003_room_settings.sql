-- What applications set a room to, with its version: the message antipode.control.RoomSettings in base64.
ALTER TABLE rooms ADD COLUMN settings TEXT NOT NULL DEFAULT '';
