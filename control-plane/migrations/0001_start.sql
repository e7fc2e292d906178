-- Text ids, BIGINT milliseconds since the Unix epoch: the same statements serve SQLite and PostgreSQL.

CREATE TABLE rooms (
    room_sid TEXT PRIMARY KEY,
    room TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    members TEXT NOT NULL, -- JSON array of node ids
    created_at_ms BIGINT NOT NULL,
    ended_at_ms BIGINT
);
CREATE UNIQUE INDEX rooms_living ON rooms (room) WHERE ended_at_ms IS NULL;
CREATE INDEX rooms_ended ON rooms (ended_at_ms) WHERE ended_at_ms IS NOT NULL;

-- No plan ever had an epoch above this or above that of a row of `rooms`.
CREATE TABLE epochs (
    name TEXT PRIMARY KEY,
    epoch BIGINT NOT NULL
);
INSERT INTO epochs (name, epoch) VALUES ('pruned', 0);

CREATE TABLE nodes (
    node_id TEXT PRIMARY KEY,
    incarnation BIGINT NOT NULL,
    role BIGINT NOT NULL,
    region TEXT NOT NULL,
    version TEXT NOT NULL,
    link_addresses TEXT NOT NULL, -- JSON array
    client_url TEXT NOT NULL,
    admin_url TEXT NOT NULL,
    pid BIGINT NOT NULL,
    capacity BIGINT NOT NULL
);

CREATE TABLE api_keys (
    api_key TEXT PRIMARY KEY,
    secret TEXT NOT NULL,
    configured BOOLEAN NOT NULL, -- came from the configuration, and goes when it goes there
    created_at_ms BIGINT NOT NULL
);
