//! HTTP over connections: what the listener does with good ones, slow ones, broken ones and hostile ones, and what the
//! API answers.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail them")]

mod admin;
mod answer;
mod api;
mod broken;
mod client;
mod cluster;
mod fuzz;
mod limits;
mod locks;
mod peers;
mod shapes;
mod stopping;
