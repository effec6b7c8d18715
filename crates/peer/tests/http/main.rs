//! HTTP between nodes, over real sockets.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail them")]

mod contract;
mod foreign;
#[path = "../shared/proxy.rs"]
#[expect(dead_code, reason = "the tests of the other transport need more of it")]
mod proxy;
