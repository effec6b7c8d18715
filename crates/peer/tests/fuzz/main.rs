//! Frames that do harm: made of a corpus by chance, from a seed, and sent to a real node and to a real link.
//!
//! A case is a [script](script::Script): what one end of an exchange sends. Whatever it is, the other end answers
//! properly or ends the exchange with a reason, serves others as before, does not panic and stays small.
//!
//! `cargo xtask fuzz peer` runs more cases than the tests do. A case that fails is printed as it would stand in the
//! corpus, with the seed that makes it.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail them")]

mod answerer;
mod asker;
mod flipped;
mod memory;
mod mutate;

mod run;
mod script;

#[path = "../shared/node.rs"]
mod node;
#[path = "../shared/raw.rs"]
#[expect(dead_code, reason = "the other tests need more of it")]
mod raw;
#[path = "../shared/schema.rs"]
mod schema;

#[global_allocator]
static ALLOCATOR: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;
