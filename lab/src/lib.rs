//! Load generator, WAN emulator and scenarios: how the mesh is put under stress and measured.

pub mod client;
pub mod clip;
pub mod load;
pub mod meter;
pub mod services;
pub mod signal;
pub mod speech;
pub mod synthetic;
pub mod token;
pub mod wan;
