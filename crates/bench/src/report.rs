//! What a load measured: counts, rates and percentiles, read at any time while it runs.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

use crate::Outcome;

/// Latencies are counted in nanoseconds from 1 to this; a longer one counts as this. No get may take longer: a node
/// answers within 60 s whatever is asked of it.
const LATENCY_NS_MAX: u64 = 100_000_000_000;

/// Latencies are kept to within one in a thousand.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Threads share this many histograms, of some 220 KiB each. More would be memory for nothing: a get holds one for
/// some 20 ns. Callers of one thread share one, of which little is touched then.
const SHARDS: usize = 16;

/// The histogram of the calling thread.
fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    SHARD.with(|shard| *shard)
}

/// Takes the outcomes of many callers without making them wait for each other.
pub(crate) struct Recorder {
    shards: Box<[Mutex<Shard>]>,
}

struct Shard {
    latencies_ns: Histogram<u64>,
    found: u64,
    not_found: u64,
    failures: BTreeMap<&'static str, u64>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect() }
    }

    /// Takes the outcome of `count` gets that took as long as each other.
    pub(crate) fn record(&self, outcome: Outcome, latency: Duration, count: u64) {
        if count == 0 {
            return;
        }
        let mut shard = self.shards[shard()].lock();
        shard.latencies_ns.saturating_record_n(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX), count);
        *match outcome {
            Outcome::Found => &mut shard.found,
            Outcome::NotFound => &mut shard.not_found,
            Outcome::Failed(reason) => shard.failures.entry(reason).or_default(),
        } += count;
    }

    /// Everything recorded, for a load that has been running for `elapsed`.
    pub(crate) fn report(&self, elapsed: Duration) -> Report {
        let mut all = Shard::new();
        for shard in &self.shards {
            all.add(&shard.lock());
        }
        all.report(elapsed)
    }
}

impl Shard {
    #[expect(clippy::expect_used, reason = "the bounds are constants, and fit each other")]
    fn new() -> Self {
        let latencies_ns = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS).expect("fitting bounds");
        Self { latencies_ns, found: 0, not_found: 0, failures: BTreeMap::new() }
    }

    #[expect(clippy::expect_used, reason = "all histograms have the same bounds")]
    fn add(&mut self, other: &Self) {
        self.latencies_ns.add(&other.latencies_ns).expect("equal bounds");
        self.found += other.found;
        self.not_found += other.not_found;
        for (reason, count) in &other.failures {
            *self.failures.entry(reason).or_default() += count;
        }
    }

    fn report(self, elapsed: Duration) -> Report {
        let gets = self.latencies_ns.len();
        let seconds = elapsed.as_secs_f64();
        let at = |quantile| self.latencies_ns.value_at_quantile(quantile) as f64 / 1000.0;
        Report {
            gets,
            found: self.found,
            not_found: self.not_found,
            failed: self.failures.values().sum(),
            failures: self.failures,
            seconds,
            gets_per_second: if seconds > 0.0 { gets as f64 / seconds } else { 0.0 },
            latency: Latency {
                p50_us: at(0.5),
                p90_us: at(0.9),
                p99_us: at(0.99),
                p999_us: at(0.999),
                max_us: at(1.0),
            },
        }
    }
}

/// What a load measured. Serialises to JSON under the names of its fields.
///
/// ```
/// let report = larder_bench::Report { gets: 10, seconds: 2.0, gets_per_second: 5.0, ..Default::default() };
/// let json = serde_json::to_value(&report)?;
/// assert_eq!(json["gets_per_second"], 5.0);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq, Default, Debug, Serialize)]
pub struct Report {
    /// Gets that have ended, however they did.
    pub gets: u64,
    /// Of these, the ones that brought a value.
    pub found: u64,
    /// Of these, the ones answered with "no such key".
    pub not_found: u64,
    /// Of these, the ones that brought no answer.
    pub failed: u64,
    /// How many failed for which reason. Empty if none did.
    pub failures: BTreeMap<&'static str, u64>,
    /// From the start of the load to its last get, or to now while it runs.
    pub seconds: f64,
    /// `gets` by `seconds`.
    pub gets_per_second: f64,
    /// How long gets took.
    pub latency: Latency,
}

/// Percentiles of the time a get took, in microseconds, to within one in a thousand.
///
/// ```
/// let latency = larder_bench::Latency { p50_us: 80.0, p99_us: 900.0, ..Default::default() };
/// assert!(latency.p50_us < latency.p99_us);
/// ```
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
pub struct Latency {
    /// Half of the gets took at most this.
    pub p50_us: f64,
    /// All but one in ten.
    pub p90_us: f64,
    /// All but one in a hundred.
    pub p99_us: f64,
    /// All but one in a thousand.
    pub p999_us: f64,
    /// All.
    pub max_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_counts_are_taken_over_all_threads() {
        let recorder = Recorder::new();
        let record = |caller: usize| {
            let outcome = match caller % 10 {
                0 => Outcome::Failed(if caller.is_multiple_of(50) { "timed-out" } else { "overloaded" }),
                1 | 2 => Outcome::NotFound,
                _ => Outcome::Found,
            };
            recorder.record(outcome, Duration::from_micros(caller as u64 + 1), 1);
        };
        std::thread::scope(|threads| {
            for thread in 0..4 {
                threads.spawn(move || (thread..1000).step_by(4).for_each(record));
            }
        });
        let report = recorder.report(Duration::from_secs(2));
        assert_eq!((report.gets, report.found, report.not_found, report.failed), (1000, 700, 200, 100));
        assert_eq!(report.failures, [("overloaded", 80), ("timed-out", 20)].into());
        assert!((report.gets_per_second - 500.0).abs() < 1e-9);
        let Latency { p50_us, p90_us, p99_us, p999_us, max_us } = report.latency;
        for (measured, exact) in [(p50_us, 500.0), (p90_us, 900.0), (p99_us, 990.0), (p999_us, 999.0), (max_us, 1000.0)]
        {
            assert!((measured - exact).abs() <= exact / 1000.0, "{measured} for {exact}");
        }
    }

    #[test]
    fn a_latency_beyond_the_last_bucket_counts_as_the_longest() {
        let recorder = Recorder::new();
        recorder.record(Outcome::Found, Duration::MAX, 1);
        let max_us = recorder.report(Duration::ZERO).latency.max_us;
        assert!(max_us >= 100_000_000.0, "{max_us}");
    }
}
