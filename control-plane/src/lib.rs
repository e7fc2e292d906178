//! The control plane: node sessions, room assignment, planner, stores, HTTP gateway
