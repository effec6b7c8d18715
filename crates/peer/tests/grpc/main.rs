//! gRPC between nodes, over real sockets.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail them")]

mod batches;
mod contract;
mod crowd;
mod cuts;
mod deadlines;
mod faults;
mod hostile;
mod long;
mod newer;
#[path = "../shared/node.rs"]
mod node;
#[path = "../shared/proxy.rs"]
mod proxy;
#[path = "../shared/raw.rs"]
#[expect(dead_code, reason = "the fuzzing tests need more of it")]
mod raw;
#[path = "../shared/schema.rs"]
mod schema;
mod slots;
mod views;
