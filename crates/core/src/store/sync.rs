//! What the lock-free parts take from outside, in one place, so that their model (`tests/store_model.rs`) can put a model checker's
//! in its stead.

pub(super) use std::{
    sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
    thread::yield_now,
};

pub(super) use thread_local::ThreadLocal;

/// Stores a value that others see before anything that the caller loads later, in the order of all that is sequentially
/// consistent. An exchange does that faster than a store and a fence.
#[inline]
pub(super) fn announce(at: &AtomicUsize, value: usize) {
    at.swap(value, Ordering::SeqCst);
}
