//! The sans-IO RTP core: packets, SRTP, RTCP, routing, layers, rewriting, retransmission
