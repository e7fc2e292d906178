//! The media-blind I/O shell: sockets, clock, telemetry, admin HTTP, configuration, shutdown
