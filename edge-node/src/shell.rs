//! Sockets, tasks and threads around the cores.
