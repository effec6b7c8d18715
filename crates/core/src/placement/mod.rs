//! Which node owns which key.

mod slot;

pub use slot::{SLOT_COUNT, Slot};
