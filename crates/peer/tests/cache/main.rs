//! What clients ask over gRPC: a node's listener, and tonic's clients.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail them")]

mod calls;
mod channel;
mod limits;
mod locks;
mod node;
mod services;
