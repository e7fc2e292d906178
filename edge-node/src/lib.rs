//! The regional SFU: clients in, clients out.

pub mod config;
pub mod core;
pub mod shell;

pub use config::Config;
pub use shell::run;
