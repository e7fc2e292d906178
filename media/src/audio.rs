//! Whose audio is worth forwarding.

pub mod selector;

pub use selector::{Counters, Selector, TalkerKey};
