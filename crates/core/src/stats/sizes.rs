//! [`Sizes`]: how many there were at a time, in Prometheus' shape.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets: powers of two. What is larger counts in none of them but in the sum and the count.
pub const BOUNDS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// How often sizes fell between which bounds.
///
/// ```
/// use larder_core::stats::Sizes;
///
/// let sizes = Sizes::default();
/// sizes.observe(3);
/// sizes.observe(5_000);
/// let snapshot = sizes.snapshot();
/// assert_eq!((snapshot.count, snapshot.sum), (2, 5_003));
/// assert_eq!(snapshot.cumulative[..4], [0, 0, 1, 1]);
/// ```
#[derive(Default, Debug)]
pub struct Sizes {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

/// A histogram of sizes as it was at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SizesSnapshot {
    /// For each bound, how many sizes were at most that.
    pub cumulative: [u64; BOUNDS.len()],
    /// How many there were.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl Sizes {
    /// Counts a size.
    pub fn observe(&self, size: usize) {
        let size = size as u64;
        let bucket = BOUNDS.partition_point(|bound| *bound < size);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(size, Ordering::Relaxed);
    }

    /// As it is now.
    #[must_use]
    pub fn snapshot(&self) -> SizesSnapshot {
        let mut count = 0;
        let cumulative = std::array::from_fn(|at| {
            count += self.buckets[at].load(Ordering::Relaxed);
            count
        });
        count += self.buckets[BOUNDS.len()].load(Ordering::Relaxed);
        SizesSnapshot { cumulative, count, sum: self.sum.load(Ordering::Relaxed) }
    }
}
