//! [`Striped`]: a counter that threads seldom meet at.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

const STRIPE_COUNT: usize = 16;

/// A cache line each, so that two threads that count don't wait for each other's.
#[repr(align(64))]
#[derive(Default, Debug)]
struct Stripe(AtomicU64);

/// A counter that is cheap to add to from many threads, and read seldom.
///
/// ```
/// use larder_core::stats::Striped;
///
/// let hits = Striped::default();
/// hits.add(2);
/// assert_eq!(hits.sum(), 2);
/// ```
#[derive(Default, Debug)]
pub struct Striped([Stripe; STRIPE_COUNT]);

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    STRIPE.with(|stripe| {
        if stripe.get() == usize::MAX {
            stripe.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPE_COUNT);
        }
        stripe.get()
    })
}

impl Striped {
    /// Adds `count`.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0[stripe()].0.fetch_add(count, Ordering::Relaxed);
    }

    /// The sum.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }
}
