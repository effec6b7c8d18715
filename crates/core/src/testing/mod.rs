//! What tests share: fakes, and a contract suite for each seam that every implementation of it has to pass.
//!
//! Behind the feature `testing`; no part of a running node.

pub mod needs;
