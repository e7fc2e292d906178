//! The regional SFU: clients in, clients out.

pub mod core;
pub mod shell;
