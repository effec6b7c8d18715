//! What the listener does with connections: good ones, slow ones, broken ones and hostile ones.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail them")]

mod client;
mod fuzz;
mod limits;
mod shapes;
mod stopping;
