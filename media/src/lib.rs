//! The sans-IO RTP core: packets, SRTP, RTCP, routing, layers, rewriting, retransmission

pub mod allocation;
pub mod audio;
pub mod congestion;
pub mod layer;
pub mod pacer;
pub mod packet;
pub mod retransmit;
pub mod rewrite;
pub mod router;
pub mod rtcp;
pub mod rtp;
pub mod srtp;
pub mod twcc;
