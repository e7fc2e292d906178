-- Several replicas, projects with their own keys, history, prices, the audit log and the queue of webhooks.

-- Which process wrote the row last: it may go on from there when it does not know whether its last write was taken.
ALTER TABLE rooms ADD COLUMN writer TEXT NOT NULL DEFAULT '';
CREATE INDEX rooms_epochs ON rooms (room, epoch);

-- Dead nodes stay in the catalogue.
ALTER TABLE nodes ADD COLUMN gone BOOLEAN NOT NULL DEFAULT FALSE;

CREATE TABLE projects (
    project TEXT PRIMARY KEY,
    label TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL
);
INSERT INTO projects (project, label, created_at_ms) VALUES ('default', 'Default', 0);

-- Until now keys came from the configuration only, and were not sealed. They come back sealed.
DELETE FROM api_keys;
ALTER TABLE api_keys ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
ALTER TABLE api_keys ADD COLUMN label TEXT NOT NULL DEFAULT '';
ALTER TABLE api_keys ADD COLUMN rotated_at_ms BIGINT;
ALTER TABLE api_keys ADD COLUMN revoked_at_ms BIGINT;
CREATE INDEX api_keys_project ON api_keys (project);

-- `keys` grows with every change of keys; replicas that see it grow read the keys again.
CREATE TABLE versions (
    name TEXT PRIMARY KEY,
    version BIGINT NOT NULL
);
INSERT INTO versions (name, version) VALUES ('keys', 1);

CREATE TABLE room_configs (
    project TEXT NOT NULL,
    room TEXT NOT NULL,
    config TEXT NOT NULL, -- JSON object
    updated_at_ms BIGINT NOT NULL,
    PRIMARY KEY (project, room)
);

CREATE TABLE participant_sessions (
    participant_sid TEXT PRIMARY KEY,
    room_sid TEXT NOT NULL,
    room TEXT NOT NULL,
    identity TEXT NOT NULL,
    label TEXT NOT NULL,
    node_id TEXT NOT NULL,
    joined_at_ms BIGINT NOT NULL,
    left_at_ms BIGINT
);
CREATE INDEX participant_sessions_room ON participant_sessions (room_sid, joined_at_ms);
CREATE INDEX participant_sessions_left ON participant_sessions (left_at_ms) WHERE left_at_ms IS NOT NULL;

CREATE TABLE link_prices (
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    microdollars_per_gb BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    PRIMARY KEY (source, destination)
);

CREATE TABLE audit_log (
    seq BIGINT PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL, -- JSON object
    hash TEXT NOT NULL -- of this entry and the hash before
);
-- One row: the end of the chain. Its lock makes appends wait for each other.
CREATE TABLE audit_head (
    name TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,
    hash TEXT NOT NULL
);
INSERT INTO audit_head (name, seq, hash) VALUES ('head', 0, '');

-- What waits to be delivered; delivered rows are deleted. `seq` orders the events of one room.
CREATE TABLE webhooks (
    target TEXT NOT NULL,
    room TEXT NOT NULL,
    seq BIGINT NOT NULL,
    event_id TEXT NOT NULL,
    event TEXT NOT NULL,
    payload TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    due_at_ms BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    leased_by TEXT NOT NULL,
    leased_until_ms BIGINT NOT NULL,
    last_error TEXT NOT NULL,
    PRIMARY KEY (target, room, seq),
    UNIQUE (event_id, target)
);
-- Events that are known: a change that is saved twice enqueues once, also after the first was delivered.
CREATE TABLE webhook_ids (
    event_id TEXT NOT NULL,
    target TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (event_id, target)
);
CREATE INDEX webhook_ids_created ON webhook_ids (created_at_ms);
