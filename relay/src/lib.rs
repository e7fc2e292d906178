//! The cascade between regions: the QUIC link and the relay role
