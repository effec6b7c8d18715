//! What tests share: fakes, and a contract suite for each seam that every implementation of it has to pass.
//!
//! Behind the feature `testing`; no part of a running node.

#![expect(clippy::expect_used, reason = "a fake or a suite that can't go on fails its test")]

pub mod clock;
pub mod fake_locks;
pub mod fake_peer;
pub mod fake_records;
pub mod fake_store;
pub mod loader;
pub mod lock;
pub mod membership;
pub mod needs;
pub mod origin;
pub mod peer;
pub mod registry;
pub mod slots;
pub mod store;
pub mod table;
