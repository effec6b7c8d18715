//! [`Histogram`]: durations in fixed buckets, in Prometheus' shape.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets in seconds: 10 µs to 10 s, some three a decade. What is longer counts in none of them but
/// in the sum and the count.
pub const BOUNDS_SECONDS: [f64; 19] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0,
];

/// How often durations fell between which bounds.
///
/// ```
/// use std::time::Duration;
/// use larder_core::stats::Histogram;
///
/// let histogram = Histogram::default();
/// histogram.observe(Duration::from_millis(3));
/// assert_eq!(histogram.snapshot().count, 1);
/// ```
#[derive(Default, Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_SECONDS.len() + 1],
    sum_nanos: AtomicU64,
}

/// A histogram as it was at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct HistogramSnapshot {
    /// For each bound, how many durations were at most that.
    pub cumulative: [u64; BOUNDS_SECONDS.len()],
    /// How many there were.
    pub count: u64,
    /// Their sum in seconds.
    pub sum_seconds: f64,
}

impl Histogram {
    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// As it is now.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut count = 0;
        let mut cumulative = [0; BOUNDS_SECONDS.len()];
        for (sum, bucket) in cumulative.iter_mut().zip(&self.buckets) {
            count += bucket.load(Ordering::Relaxed);
            *sum = count;
        }
        count += self.buckets[BOUNDS_SECONDS.len()].load(Ordering::Relaxed);
        let sum_seconds = Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        HistogramSnapshot { cumulative, count, sum_seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_what_is_longer_counts_too() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_micros(1_001));
        histogram.observe(Duration::from_secs(60));
        let snapshot = histogram.snapshot();
        let at = |bound: f64| snapshot.cumulative[BOUNDS_SECONDS.iter().position(|b| *b == bound).unwrap()];
        assert_eq!((at(0.000_5), at(0.001), at(0.002_5), at(10.0)), (0, 1, 2, 2));
        assert_eq!(snapshot.count, 3);
        assert!((snapshot.sum_seconds - 60.002_001).abs() < 1e-9);
    }
}
