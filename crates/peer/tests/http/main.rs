//! HTTP between nodes, over real sockets.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail them")]

mod contract;
mod foreign;
