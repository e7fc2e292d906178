//! Sans-IO state: rooms, sessions, negotiation, ICE, tokens.
