//! Sans-IO state: rooms, sessions, negotiation, ICE, tokens.
pub mod client_hello;
pub mod dcep;
pub mod drain;
pub mod ice;
pub mod join;
pub mod negotiation;
pub mod quality;
pub mod room;
pub mod sdp;
pub mod session;
pub mod signal;
pub mod token;
pub mod track;
pub mod turn;
pub mod whip;
