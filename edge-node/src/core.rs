//! Sans-IO state: rooms, sessions, negotiation, ICE, tokens.
pub mod ice;
pub mod join;
pub mod sdp;
pub mod token;
pub mod negotiation;
pub mod room;
pub mod session;
pub mod signal;
pub mod track;
