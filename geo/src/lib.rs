//! Where things are: region catalogue, distance and RTT model, placement maths
