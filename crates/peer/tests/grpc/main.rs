//! gRPC between nodes, over real sockets.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail them")]

mod contract;
mod faults;
mod hostile;
mod proxy;
mod raw;
